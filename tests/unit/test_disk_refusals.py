"""A disk that refuses something now, though nothing of it is broken: nobody takes that for damage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from holdfast_node.core.errors import StoreFull, Unavailable
from holdfast_node.core.messages import ShardName
from holdfast_node.services.log.volume import volume_name
from holdfast_node.services.store import Entry, Store
from tests.sim.disk import SimDisk
from tests.sim.index import SimIndex
from tests.support import stores
from tests.support.compacting import give_back, no_rest
from tests.support.stores import BUCKET, Bench, register

SEED = stores.blob_id(7)
NAME = ShardName(SEED, 0, 0)


class PoorDisk(SimDisk):
    """Of a host that runs out of descriptors."""

    poor = False
    full = False
    reads_left = -1
    """So many reads go well before one does not."""

    async def read(self, name: str, offset: int, length: int, *, fresh: bool = False) -> bytes:
        self.reads_left -= 1
        if self.poor or self.reads_left == -1:
            raise Unavailable(f"cannot read {name} at {offset}: Too many open files")
        return await super().read(name, offset, length, fresh=fresh)

    async def remove(self, name: str) -> None:
        """Some filesystems need room to make room."""
        if self.full:
            raise StoreFull(f"cannot remove {name}: No space left on device")
        await super().remove(name)


def run(scenario: Callable[[Bench], Coroutine[None, None, None]]) -> None:
    asyncio.run(scenario(Bench()))


def poor_disk(bench: Bench) -> PoorDisk:
    return PoorDisk(bench.platter, chooser=bench.random)


async def opened(bench: Bench, disk: SimDisk) -> Store:
    return await stores.open_store(disk, SimIndex(bench.rows), events=bench.events)


async def fill(bench: Bench) -> None:
    """A register and a shard, as a run left them that is over; the register is in no cache."""
    store = await opened(bench, poor_disk(bench))
    await store.append([Entry(register(b"k", 1)), stores.cell(SEED, 0, b"x"), stores.seal(SEED, [b"x"])])
    await store.close()


async def check_whole(store: Store) -> None:
    assert store.rotten() == ()
    assert await store.register(BUCKET, b"k") == register(b"k", 1)
    assert await store.cells(NAME, 0, 1) == [b"x"]
    assert not (await store.verifier.step(None)).suspects


def test_a_store_that_cannot_read_calls_nothing_broken() -> None:
    async def scenario(bench: Bench) -> None:
        await fill(bench)
        disk = poor_disk(bench)
        store = await opened(bench, disk)
        disk.poor = True
        for read in (
            store.register(BUCKET, b"k"),
            store.manifest(BUCKET, b"k", stores.blob_id(1)),
            store.shard_header(NAME),
            store.origin(NAME),
            store.cells(NAME, 0, 1),
            store.verifier.step(None),
            store.check_superblock(),
        ):
            with pytest.raises(Unavailable):
                await read
        disk.poor = False
        await check_whole(store)
        await store.close()

    run(scenario)


@pytest.mark.parametrize("index", ["kept", "gone"])
def test_a_store_that_cannot_be_read_does_not_open_and_is_as_it_was(index: str) -> None:
    async def scenario(bench: Bench) -> None:
        await fill(bench)
        refused = 0
        while True:
            if index == "gone":
                bench.forget_index()
            disk = poor_disk(bench)
            disk.reads_left = refused
            try:
                store = await opened(bench, disk)
            except Unavailable:
                refused += 1
                assert refused < 100, "it reads only so much"
                continue
            disk.reads_left = -1
            await check_whole(store)
            await store.close()
            break
        assert refused > 1

    run(scenario)


def test_a_volume_that_cannot_be_removed_is_out_of_the_log_all_the_same() -> None:
    async def scenario(bench: Bench) -> None:
        disk = poor_disk(bench)
        store = await opened(bench, disk)
        version = 0
        while store.compactor.end.volume < 6:
            version += 1
            await store.append([Entry(register(b"k", version))])
        disk.full = True
        with pytest.raises(StoreFull):
            _ = await give_back(store, lambda _: [2])
        assert volume_name(2) in disk.names()
        disk.full = False
        usage = await store.compactor.survey(rest_s=no_rest)
        assert [each.number for each in usage] == [1, 3, 4, 5]
        assert await give_back(store, lambda _: [3]) == [3]
        assert len(store.superblock.holes) == 1
        await store.close()
        store = await opened(bench, poor_disk(bench))
        assert not {volume_name(2), volume_name(3)}.intersection(bench.platter.files)
        assert await store.register(BUCKET, b"k") == register(b"k", version)
        await store.close()

    run(scenario)
