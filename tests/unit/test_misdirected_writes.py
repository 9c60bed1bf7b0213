"""A batch that the disk wrote whole, somewhere else in its volume: what it was laid over is lost, and so is what ought
to be where it is not; nothing else is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Final

from holdfast_node.core import log_format
from holdfast_node.core.index_keys import manifest_row_key, register_row_key
from holdfast_node.services.log.verifier import Suspect, Verifier
from holdfast_node.services.log.volume import volume_name
from holdfast_node.services.store import Entry, Store
from tests.support import stores
from tests.support.stores import BUCKET, Bench, register

FIRST_VOLUME: Final = volume_name(1)
KEYS: Final = [b"key %d" % number for number in range(12)]


def run(story: Coroutine[None, None, None]) -> None:
    asyncio.run(story)


async def fill(store: Store) -> None:
    """One batch each."""
    for key in KEYS:
        await store.append([Entry(register(key, 1))])


def batch_of(bench: Bench, key: bytes) -> tuple[int, int]:
    """Where the batch with this key's register is, and its length."""
    content = memoryview(bytes(bench.platter.files[FIRST_VOLUME].durable))
    for at, header in log_format.batch_headers(content, 0):
        records, _ = log_format.read_batch(content[at : at + header.length], at, header)
        if any(record.key == BUCKET + key for record in records):
            return at, log_format.padded(header.length)
    raise AssertionError(key)


def misdirect(bench: Bench, key: bytes, *, over: bytes) -> None:
    """The batch with `key` was written over the one with another key, and not where it belongs."""
    content = bench.platter.files[FIRST_VOLUME].durable
    (at, length), (there, as_long) = batch_of(bench, key), batch_of(bench, over)
    assert length == as_long
    content[there : there + length] = content[at : at + length]
    content[at : at + length] = bytes(length)


async def suspects_of(verifier: Verifier) -> dict[int, Suspect]:
    step = await verifier.step(None, bytes_max=1 << 20)
    assert step.at_end
    return dict(step.suspects)


def sequence_of(store: Store, key: bytes) -> int:
    return store.verifier.rests_on(register_row_key(BUCKET, key))


async def resting(store: Store, suspects: dict[int, Suspect]) -> set[bytes]:
    survey = await store.verifier.survey(suspects, rest_s=lambda _: 0.0)
    return {row_key for row_key, _ in survey.resting}


def rows_of(key: bytes) -> set[bytes]:
    return {register_row_key(BUCKET, key), manifest_row_key(BUCKET, key, stores.blob_id(1))}


def test_a_batch_brought_forward_costs_only_what_it_was_laid_over_and_itself() -> None:
    async def story() -> None:
        bench = Bench()
        async with bench.store() as store:
            await fill(store)
            misdirect(bench, KEYS[9], over=KEYS[2])
            suspects = await suspects_of(store.verifier)
            assert set(suspects) == {sequence_of(store, KEYS[2]), sequence_of(store, KEYS[9])}
            assert await resting(store, suspects) == rows_of(KEYS[2]) | rows_of(KEYS[9])

    run(story())


def test_what_lies_whole_where_its_row_does_not_point_is_broken() -> None:
    async def story() -> None:
        bench = Bench()
        async with bench.store() as store:
            await fill(store)
            misdirect(bench, KEYS[5], over=KEYS[6])
            suspects = await suspects_of(store.verifier)
            assert suspects[sequence_of(store, KEYS[5])].found, "the case is not the one meant"
            assert await resting(store, suspects) == rows_of(KEYS[5]) | rows_of(KEYS[6])

    run(story())


def test_what_lies_whole_where_its_row_points_is_not_broken() -> None:
    """Of a batch whose header is broken."""

    async def story() -> None:
        bench = Bench()
        async with bench.store() as store:
            await fill(store)
            at, _ = batch_of(bench, KEYS[5])
            bench.platter.flip(FIRST_VOLUME, at + 8)
            suspects = await suspects_of(store.verifier)
            assert set(suspects) == {sequence_of(store, KEYS[5])}
            assert await resting(store, suspects) == set()

    run(story())


def test_the_index_made_anew_finds_a_misdirected_batch_where_it_is() -> None:
    async def story() -> None:
        bench = Bench()
        async with bench.store() as store:
            await fill(store)
        misdirect(bench, KEYS[5], over=KEYS[6])
        bench.forget_index()
        async with bench.store() as store:
            assert store.verifier.rests_on(register_row_key(BUCKET, KEYS[5]))
            assert await store.manifest(BUCKET, KEYS[5], stores.blob_id(1)) is not None
            suspects = await suspects_of(store.verifier)
            assert register_row_key(BUCKET, KEYS[5]) not in await resting(store, suspects)

    run(story())
