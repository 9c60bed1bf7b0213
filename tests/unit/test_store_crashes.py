"""A store after a crash: what one start has shown no later start takes back, and a crash is not an excuse for rot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence

import pytest

from holdfast_node.core import log_format
from holdfast_node.core.errors import NotVoting
from holdfast_node.core.records import BucketRecord
from holdfast_node.ports import Buffer
from holdfast_node.services.log.tables import Tables
from holdfast_node.services.log.volume import volume_name
from holdfast_node.services.store import Entry, Store
from tests.sim.disk import SimDisk
from tests.sim.index import SimIndex
from tests.support import stores
from tests.support.stores import BODIES, BUCKET, Bench, register

FIRST_VOLUME = volume_name(1)


class GatedDisk(SimDisk):
    """While `shut`, each commit waits to be let through."""

    shut = False

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench.platter, chooser=bench.random)
        self.waiting = 0
        self.through = asyncio.Semaphore(0)

    async def commit(self, name: str, offset: int, buffers: Sequence[Buffer]) -> None:
        if self.shut:
            self.waiting += 1
            await self.through.acquire()
        await super().commit(name, offset, buffers)


async def steps() -> None:
    """Whatever can go on has gone on."""
    for _ in range(50):
        await asyncio.sleep(0)


def run(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(scenario())


async def put(store: Store, key: bytes, version: int) -> None:
    await store.append([Entry(register(key, version))])


def batches(bench: Bench) -> list[int]:
    """Where each batch of the first volume begins."""
    return [at for at, _ in log_format.batch_headers(bench.platter.files[FIRST_VOLUME].durable, 0)]


def test_a_batch_that_was_read_back_is_not_lost_to_a_later_power_cut() -> None:
    """The process died between write and sync: its last batch is in the page cache, and nowhere else."""

    async def scenario() -> None:
        bench = Bench()
        async with bench.store(clean=False) as store:
            await put(store, b"k", 1)
            earlier = bytes(bench.platter.files[FIRST_VOLUME].durable)
            await put(store, b"k", 2)
        volume = bench.platter.files[FIRST_VOLUME]
        later, volume.durable = bytes(volume.durable), bytearray(earlier)
        changed = [
            at for at in range(0, len(later), 4096) if later[at : at + 4096] != earlier[at : at + 4096]
        ]
        for at in changed:
            volume.write(at, later[at : at + 4096])
        bench.forget_index()
        async with bench.store(clean=False) as store:
            assert await store.register(BUCKET, b"k") == register(b"k", 2)
            volume.dirty.clear()
        bench.forget_index()
        async with bench.store() as store:
            assert await store.register(BUCKET, b"k") == register(b"k", 2)

    run(scenario)


def test_rot_with_whole_batches_behind_it_is_no_torn_tail_after_a_crash_either() -> None:
    async def scenario() -> None:
        bench = Bench()
        async with bench.store(clean=False) as store:
            await put(store, b"k", 1)
            await put(store, b"other", 1)
            await put(store, b"other", 2)
        content = bytes(bench.platter.files[FIRST_VOLUME].durable)
        bench.platter.flip(FIRST_VOLUME, content.index(BODIES.encode(register(b"k", 1))) + 70)
        bench.forget_index()
        async with bench.store() as store:
            with pytest.raises(NotVoting):
                await store.register(BUCKET, b"k")
            assert await store.register(BUCKET, b"other") == register(b"other", 2)

    run(scenario)


def test_the_first_batch_after_a_start_may_be_torn() -> None:
    async def scenario() -> None:
        bench = Bench()
        async with bench.store() as store:
            await put(store, b"k", 1)
        async with bench.store(clean=False) as store:
            await put(store, b"k", 2)
        bench.platter.flip(FIRST_VOLUME, batches(bench)[-1] + 100)
        bench.forget_index()
        async with bench.store() as store:
            assert not store.rotten()
            assert await store.register(BUCKET, b"k") == register(b"k", 1)

    run(scenario)


def test_a_torn_batch_is_unreadable_for_good_once_the_store_was_opened() -> None:
    """What read as torn may read whole the next time; by then the store has answered without it."""

    async def scenario() -> None:
        bench = Bench()
        async with bench.store(clean=False) as store:
            await put(store, b"k", 1)
            await put(store, b"k", 2)
        torn = BODIES.encode(stores.head(2))
        at = bytes(bench.platter.files[FIRST_VOLUME].durable).index(torn)
        for _ in range(2):
            bench.platter.flip(FIRST_VOLUME, at)
            bench.forget_index()
            async with bench.store(clean=False) as store:
                assert await store.register(BUCKET, b"k") == register(b"k", 1)

    run(scenario)


def test_a_batch_does_not_follow_one_that_it_was_not_written_after() -> None:
    """A write that the disk said it had made and had not: an earlier try of the same batch is still there."""

    async def scenario() -> None:
        bench, other = Bench(), Bench()
        for tried, key in ((bench, b"what was written"), (other, b"an earlier try..")):
            async with tried.store(clean=False) as store:
                await put(store, key, 1)
                await put(store, b"k", 1)
                await put(store, b"k", 2)
        at = batches(bench)[0]
        first, earlier = (each.platter.files[FIRST_VOLUME].durable for each in (bench, other))
        first[at : at + 4096] = earlier[at : at + 4096]
        bench.forget_index()
        bench.events.seen.clear()
        async with bench.store() as store:
            assert await store.register(BUCKET, b"k") == register(b"k", 2), "what can be read is kept"
        told = [fields for event, fields in bench.events.seen if event == "log_replayed"]
        assert [fields["rot"] for fields in told] == [1]

    run(scenario)


def test_whoever_queues_during_a_commit_waits_for_the_next() -> None:
    async def scenario() -> None:
        bench = Bench()
        disk = GatedDisk(bench)
        store = await stores.open_store(disk, SimIndex(bench.rows))
        await put(store, b"j", 1)
        disk.shut = True
        first = store.append([Entry(register(b"k", 1))])
        await steps()
        second = store.append([Entry(register(b"k", 2))])
        disk.through.release()
        await first
        await steps()
        assert disk.waiting == 2
        assert not second.done()
        assert await store.register(BUCKET, b"k") == register(b"k", 1)
        disk.shut = False
        disk.through.release()
        await second
        assert await store.register(BUCKET, b"k") == register(b"k", 2)
        await store.close()

    run(scenario)


def test_the_newest_fact_wins_in_whatever_order_records_are_found() -> None:
    for order in ((3, 5, 4), (5, 4, 3), (4, 3, 5)):
        tables = Tables()
        for sequence in order:
            tables.put(BUCKET, BucketRecord(BUCKET, closing=sequence == 5), sequence=sequence, flags=0)
        assert tables.bucket_closing(BUCKET), order
