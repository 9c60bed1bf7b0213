"""What was forgotten stays so as long as anything of it is left in the log, with the index or without."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from holdfast_node.core.acceptance import blank
from holdfast_node.core.index_keys import BLANK_ROWS
from holdfast_node.services.log.volume import volume_name
from holdfast_node.services.store import Entry
from tests.support.compacting import no_rest, overwrite, put, remove_all, volumes_of
from tests.support.stores import BUCKET, Bench, register


def run(story: Coroutine[None, None, None]) -> None:
    asyncio.run(story)


@pytest.mark.parametrize("again", [True, False], ids=["copied twice", "copied once"])
def test_what_was_forgotten_stays_forgotten_without_the_index(*, again: bool) -> None:
    """The blank register is in a volume that goes, and what it is about in one that stays."""

    async def story() -> None:
        bench = Bench()
        async with bench.store() as store:
            await put(store, b"k", 1)
            _ = await overwrite(store, 1)
            await store.append([Entry(blank(register(b"k", 1)))])
            _ = await overwrite(store, 1)
            await remove_all(store, 2)
            if again:
                copied = store.compactor.end.volume
                _ = await overwrite(store, 1)
                await remove_all(store, copied)
        bench.forget_index()
        async with bench.store() as store:
            assert volume_name(1) in volumes_of(bench)
            assert await store.register(BUCKET, b"k") is None
            found = store.inventory.blank(BUCKET, b"k")
            assert found is not None
            assert 0 < found.before < store.durable_sequence

    run(story())


def test_a_forgotten_key_that_was_copied_goes_with_what_it_kept_away() -> None:
    """Its copy is young. What counts is how old that is of which it tells."""

    async def story() -> None:
        bench = Bench()
        async with bench.store() as store:
            await put(store, b"k", 1)
            _ = await overwrite(store, 1)
            await store.append([Entry(blank(register(b"k", 1)))])
            _ = await overwrite(store, 2)
            await remove_all(store, 2)
            await remove_all(store, 1)
            _ = await store.compactor.survey(rest_s=no_rest)
            assert BLANK_ROWS + BUCKET + b"k" not in bench.rows.keys

    run(story())


def test_a_forgotten_key_that_rots_beside_what_it_keeps_away_is_missed() -> None:
    """Both are in the oldest volume: the record is garbage, and all the same nothing else says that the key is gone."""

    async def story() -> None:
        bench, name = Bench(), volume_name(1)
        async with bench.store() as store:
            await put(store, b"a key to find", 1)
            await store.append([Entry(blank(register(b"a key to find", 1)))])
            _ = await overwrite(store, 1)
            _ = await store.compactor.survey(rest_s=no_rest)
            bench.platter.flip(name, bytes(bench.platter.files[name].durable).rindex(b"a key to find"))
            step = await store.verifier.step(None, bytes_max=1 << 30)
            found = await store.verifier.survey(step.suspects, rest_s=no_rest)
            assert [row_key for row_key, _ in found.resting] == [BLANK_ROWS + BUCKET + b"a key to find"]

    run(story())
