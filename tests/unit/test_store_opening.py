"""Opening a store: whose directory it is, what replay makes of torn and rotten logs, and what stays refused."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from typing import Final

import pytest

from holdfast_node.core import log_format
from holdfast_node.core.errors import (
    IntegrityError,
    NotVoting,
    ShardMissing,
    StoreFailed,
    StoreRefused,
)
from holdfast_node.core.ids import BootId, BucketId, ClusterId, NodeName, StoreId
from holdfast_node.core.index_keys import POSITION_ROW
from holdfast_node.core.messages import ShardName
from holdfast_node.services.log import store_time
from holdfast_node.services.log.volume import volume_name
from holdfast_node.services.store import Entry, Store
from tests.sim.disk import SECTOR, SimDisk
from tests.sim.entropy import SimEntropy, SimEvents
from tests.sim.index import SimIndex
from tests.support import stores
from tests.support.stores import BODIES, BUCKET, Bench, register

PARTITIONS: Final = frozenset({(0, 0)})
FIRST_VOLUME: Final = volume_name(1)


def run(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(scenario())


async def put(store: Store, key: bytes, version: int, *, retained: tuple[int, ...] = ()) -> None:
    await store.append([Entry(register(key, version, retained=retained))])


# --- whose directory --------------------------------------------------------------------------------------


def open_as(bench: Bench, *, node: str = "n1", format_if_empty: bool = False) -> Coroutine[None, None, Store]:
    return Store.open(
        disk=SimDisk(bench.platter, chooser=bench.random),
        index=SimIndex(bench.rows),
        bodies=BODIES,
        entropy=SimEntropy("refused"),
        events=SimEvents(),
        node=NodeName(node),
        settings=stores.SMALL,
        format_if_empty=format_if_empty,
    )


def used_bench() -> Bench:
    bench = Bench()

    async def use() -> None:
        async with bench.store() as store:
            await put(store, b"k", 1)

    run(use)
    return bench


def test_an_empty_directory_may_be_an_unmounted_disk() -> None:
    with pytest.raises(StoreRefused, match="empty"):
        _ = asyncio.run(open_as(Bench()))


def test_another_nodes_directory_is_refused() -> None:
    with pytest.raises(StoreRefused, match="belongs to node n1"):
        _ = asyncio.run(open_as(used_bench(), node="n2", format_if_empty=True))


def test_a_log_without_a_superblock_is_refused() -> None:
    bench = used_bench()
    del bench.platter.files["superblock"]
    with pytest.raises(StoreRefused, match="no superblock"):
        _ = asyncio.run(open_as(bench, format_if_empty=True))


def test_a_superblock_without_its_log_is_refused() -> None:
    bench = used_bench()
    del bench.platter.files[FIRST_VOLUME]
    with pytest.raises(StoreRefused, match="log is gone"):
        _ = asyncio.run(open_as(bench, format_if_empty=True))


def test_a_broken_superblock_is_refused() -> None:
    bench = used_bench()
    bench.platter.flip("superblock", 50)
    with pytest.raises(StoreRefused, match="broken"):
        _ = asyncio.run(open_as(bench, format_if_empty=True))


def test_each_start_raises_the_boot_number_under_a_fresh_id() -> None:
    async def scenario() -> None:
        bench = Bench()
        seen: list[tuple[int, BootId]] = []
        identity = StoreId(b"")
        for clean in (True, False, True):
            async with bench.store(clean=clean) as store:
                seen.append((store.superblock.boot, store.superblock.boot_id))
                identity = store.superblock.store
        async with bench.store() as store:
            assert store.superblock.store == identity
        assert [boot for boot, _ in seen] == [1, 2, 3]
        assert len({boot_id for _, boot_id in seen}) == 3

    run(scenario)


def test_a_store_remembers_its_cluster() -> None:
    async def scenario() -> None:
        bench = Bench()
        async with bench.store(clean=False) as store:
            assert store.superblock.cluster_id == b""
            await store.join(ClusterId(b"C" * 16))
        async with bench.store() as store:
            assert store.superblock.cluster_id == b"C" * 16

    run(scenario)


def test_an_index_of_another_store_or_format_is_not_believed() -> None:
    bench = used_bench()

    async def scenario() -> None:
        for key in (b"!store", b"!format", b"!position"):
            bench.rows.put(key, b"other")
            async with bench.store() as store:
                assert await store.register(BUCKET, b"k") == register(b"k", 1)

    run(scenario)


def test_a_log_rolled_back_under_its_index_is_noticed() -> None:
    async def scenario() -> None:
        bench = Bench()
        async with bench.store() as store:
            await put(store, b"k", 1)
        earlier = bench.platter.snapshot()
        async with bench.store() as store:
            await put(store, b"k", 2)
        bench.platter.roll_back(earlier)
        async with bench.store() as store:
            assert await store.register(BUCKET, b"k") == register(b"k", 1)

    run(scenario)


def test_a_broken_index_stops_the_store_and_the_next_start_rebuilds_it() -> None:
    async def scenario() -> None:
        bench = Bench()
        index = SimIndex(bench.rows)
        store = await stores.open_store(
            SimDisk(bench.platter, chooser=bench.random), index, events=bench.events
        )
        await put(store, b"k", 1)
        index.broken = "a bad block"
        assert not store.index_gone.is_set()
        with pytest.raises(StoreFailed, match="index"):
            await put(store, b"k", 2)
        assert store.index_gone.is_set(), "the node starts again by that"
        await store.close()
        async with bench.store() as again:
            assert await again.register(BUCKET, b"k") in (register(b"k", 1), register(b"k", 2))

    run(scenario)


def test_nothing_is_answered_once_the_index_broke_while_a_batch_was_on_its_way() -> None:
    async def scenario() -> None:
        bench = Bench()
        index = SimIndex(bench.rows)
        written = asyncio.Event()

        def delay_s() -> float:
            if bench.platter.unsynced():
                written.set()
            return 0.001

        disk = SimDisk(bench.platter, chooser=bench.random, delay_s=delay_s)
        store = await stores.open_store(disk, index, events=bench.events)
        await put(store, b"k", 1)
        written.clear()
        syncs = disk.syncs
        pending = store.append([Entry(register(b"k", 2))])
        await written.wait()
        index.broken = "a bad block"
        with pytest.raises(StoreFailed, match="index"):
            store.register_rows(PARTITIONS, BUCKET, b"", b"", 10)
        assert not index.broken, "it was cleared, so that the next start rebuilds it"
        with pytest.raises(StoreFailed, match="index"):
            await pending
        assert disk.syncs > syncs
        await store.close()
        async with bench.store() as again:
            assert await again.register(BUCKET, b"k") == register(b"k", 2), "durable all the same"

    run(scenario)


def test_the_index_never_knows_a_batch_that_may_still_be_lost() -> None:
    """A process died between write and sync: replay reads the batch, and then the power goes."""

    async def scenario() -> None:
        bench = Bench()
        async with bench.store(clean=False) as store:
            await put(store, b"k", 1)
        durable = bytearray(bench.platter.files[FIRST_VOLUME].durable)
        rows, before = bench.rows.copy(), store.durable_sequence
        async with bench.store(clean=False) as store:
            await put(store, b"k", 2)
        content = bytes(bench.platter.files[FIRST_VOLUME].durable)
        offset, header = list(log_format.batch_headers(content, 0))[-1]
        written = content[offset : offset + log_format.padded(header.length)]
        sectors = {
            (offset + at) // SECTOR: written[at : at + SECTOR] for at in range(0, len(written), SECTOR)
        }
        bench.platter.lay(FIRST_VOLUME, durable, sectors)
        disk = SimDisk(bench.platter, chooser=bench.random)
        disk.fail_syncs = True
        with pytest.raises(StoreFailed):
            _ = await stores.open_store(disk, SimIndex(rows))
        position = log_format.decode_position(rows.rows[POSITION_ROW])
        assert position is not None
        assert position.sequence - 1 == before

    run(scenario)


# --- time -------------------------------------------------------------------------------------------------


def test_store_time_only_counts_running_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_time, "TIME_RECORD_EVERY_S", 0.001)

    async def scenario() -> None:
        bench = Bench()
        async with bench.store() as store:
            assert store.store_time_s == 0
            before = store.durable_sequence
            while store.durable_sequence < before + 3:
                await asyncio.get_running_loop().run_in_executor(None, int)

    run(scenario)


def flip_in(bench: Bench, needle: bytes, *, occurrence: int = 0, offset: int = 0) -> None:
    content = bytes(bench.platter.files[FIRST_VOLUME].durable)
    at = -1
    for _ in range(occurrence + 1):
        at = content.index(needle, at + 1)
    bench.platter.flip(FIRST_VOLUME, at + offset)


async def fill(store: Store, versions: int) -> None:
    """So many versions of one key, and a cell with each."""
    for version in range(1, versions + 1):
        cell = stores.cell(stores.blob_id(1), version, bytes(4000))
        await store.append([Entry(register(b"k", version)), cell])


def test_a_torn_tail_is_cut_off_and_overwritten() -> None:
    async def scenario() -> None:
        bench = Bench()
        async with bench.store(clean=False) as store:
            await put(store, b"k", 1)
            await put(store, b"k", 2)
        flip_in(bench, BODIES.encode(stores.head(2)))
        bench.forget_index()
        async with bench.store() as store:
            assert await store.register(BUCKET, b"k") == register(b"k", 1)
            assert not store.rotten()
            assert not store.partition(0, 0).not_voting
            await put(store, b"k", 3)
        bench.forget_index()
        async with bench.store() as store:
            assert await store.register(BUCKET, b"k") == register(b"k", 3)

    run(scenario)


@pytest.mark.parametrize("index", ["kept", "lost"])
def test_a_rotten_register_does_not_vote_until_it_is_learned_again(index: str) -> None:
    async def scenario() -> None:
        bench = Bench()
        async with bench.store() as store:
            await put(store, b"k", 1)
            await put(store, b"other", 1)
        flip_in(bench, BODIES.encode(register(b"k", 1)), offset=70)
        for _ in range(2):
            if index == "lost":
                bench.forget_index()
            async with bench.store() as store:
                with pytest.raises(NotVoting):
                    _ = await store.register(BUCKET, b"k")
                assert store.rotten_keys() == ((BUCKET, b"k"),)
                assert await store.register(BUCKET, b"other") == register(b"other", 1)
                assert store.forgotten_keys() == (store.rotten_keys() if index == "lost" else ())
                with pytest.raises(NotVoting) if index == "lost" else contextlib.nullcontext():
                    _ = store.register_rows(PARTITIONS, BUCKET, b"", b"", 10)
                with pytest.raises(NotVoting):
                    _ = await store.register_copies(PARTITIONS, BucketId(b""), b"", 10)
        async with bench.store() as store:
            await put(store, b"k", 5)
        for _ in range(2):
            bench.forget_index()
            async with bench.store() as store:
                assert await store.register(BUCKET, b"k") == register(b"k", 5)
                assert store.rotten_keys() == ()

    run(scenario)


def test_the_end_of_a_closed_log_rots_and_does_not_tear() -> None:
    """The superblock knows how far the log was durable."""

    async def scenario() -> None:
        bench = Bench()
        async with bench.store() as store:
            await put(store, b"k", 1)
        content = bench.platter.files[FIRST_VOLUME].durable
        headers = list(log_format.batch_headers(content, 0))
        for at, _ in headers[1:]:
            content[at : at + log_format.BLOCK] = bytes(log_format.BLOCK)
        bench.forget_index()
        async with bench.store() as store:
            assert store.rotten()
            assert await store.register(BUCKET, b"k") == register(b"k", 1)
            await put(store, b"k", 2)
        bench.forget_index()
        async with bench.store() as store:
            assert await store.register(BUCKET, b"k") == register(b"k", 2)

    run(scenario)


def test_unreadable_rot_takes_the_vote_from_every_partition_for_good() -> None:
    async def scenario() -> None:
        bench = Bench()
        async with bench.store() as store:
            await store.append([Entry(stores.partition(1, version_floor=3))])
            await put(store, b"k", 1)
            await put(store, b"other", 1)
        flip_in(bench, BUCKET + b"k", offset=3)
        bench.forget_index()
        async with bench.store() as store:
            assert store.rotten()
            assert store.partition(0, 1).not_voting
            assert store.partition(0, 1).version_floor == 3
            assert store.partition(0, 77).not_voting
            with pytest.raises(NotVoting):
                _ = await store.map_vote(1)
            assert await store.register(BUCKET, b"other") == register(b"other", 1)
            await store.append([Entry(stores.partition(1, version_floor=4))])
        for forget in (False, True):
            if forget:
                bench.forget_index()
            async with bench.store() as store:
                assert not store.partition(0, 1).not_voting, "learned again, and found once only"
                assert store.partition(0, 77).not_voting
                with pytest.raises(NotVoting):
                    _ = await store.map_vote(1)

    run(scenario)


def test_rot_is_found_again_if_its_consequences_were_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies between finding rot and writing down what it means leaves an index; it must not hide it."""

    async def die(store: Store, opened: object) -> None:
        raise StoreFailed("the power is gone")

    async def scenario() -> None:
        bench = Bench()
        async with bench.store() as store:
            await put(store, b"k", 1)
            await put(store, b"other", 1)
        flip_in(bench, BUCKET + b"k", offset=3)
        bench.forget_index()
        with monkeypatch.context() as patch:
            patch.setattr(Store, "_start", die)
            with pytest.raises(StoreFailed):
                _ = await stores.open_store(
                    SimDisk(bench.platter, chooser=bench.random), SimIndex(bench.rows)
                )
        async with bench.store() as store:
            assert store.partition(0, 0).not_voting
            with pytest.raises(NotVoting):
                _ = await store.map_vote(1)

    run(scenario)


def test_a_log_whose_file_was_cut_in_its_padding_opens() -> None:
    async def scenario() -> None:
        bench = Bench()
        async with bench.store() as store:
            await put(store, b"k", 1)
        content = bench.platter.files[FIRST_VOLUME].durable
        offset, header = list(log_format.batch_headers(bytes(content), 0))[-1]
        del content[offset + header.length :]
        bench.forget_index()
        async with bench.store() as store:
            assert await store.register(BUCKET, b"k") == register(b"k", 1)
            await put(store, b"k", 2)

    run(scenario)


def test_a_lost_volume_is_noticed() -> None:
    async def scenario() -> None:
        bench = Bench()
        async with bench.store() as store:
            for version in range(1, 200):
                await store.append(
                    [Entry(register(b"k", version)), stores.cell(stores.blob_id(1), version, bytes(4000))]
                )
        del bench.platter.files[volume_name(2)]
        bench.forget_index()
        async with bench.store() as store:
            assert store.partition(0, 0).not_voting
            assert await store.register(BUCKET, b"k") == register(b"k", 199)

    run(scenario)


def test_a_volume_whose_first_block_rotted_is_read_all_the_same() -> None:
    async def scenario() -> None:
        bench = Bench()
        async with bench.store() as store:
            for version in range(1, 100):
                await store.append(
                    [Entry(register(b"k", version)), stores.cell(stores.blob_id(1), version, bytes(4000))]
                )
        for name in (FIRST_VOLUME, volume_name(2)):
            bench.platter.flip(name, 40)
        bench.forget_index()
        async with bench.store() as store:
            assert await store.register(BUCKET, b"k") == register(b"k", 99)
            assert not store.partition(0, 0).not_voting
            await put(store, b"k", 100)
        bench.forget_index()
        async with bench.store() as store:
            assert await store.register(BUCKET, b"k") == register(b"k", 100)

    run(scenario)


FLIPPED_BLOBS: Final = {number: random.Random(number).randbytes(700) for number in range(5)}


async def fill_with_blobs(store: Store) -> None:
    for number, data in FLIPPED_BLOBS.items():
        for version in (1, 2):
            await put(store, b"key %d" % number, version)
        seed = stores.blob_id(number)
        await store.append([stores.cell(seed, 0, data), stores.seal(seed, [data])])


async def check_blobs(store: Store) -> None:
    """Every answer is the right one, or a refusal by register, partition or cell."""
    for number, data in FLIPPED_BLOBS.items():
        if not store.partition(0, 0).not_voting:
            with contextlib.suppress(NotVoting):
                found = await store.register(BUCKET, b"key %d" % number)
                assert found == register(b"key %d" % number, 2)
        with contextlib.suppress(IntegrityError, ShardMissing):
            assert await store.cells(ShardName(stores.blob_id(number), 0, 0), 0, 1) == [data]


@pytest.mark.parametrize("seed", range(8))
def test_no_flipped_bit_ever_gives_a_wrong_or_older_answer(seed: int) -> None:
    async def scenario() -> None:
        chooser = random.Random(seed)
        bench = Bench(seed)
        async with bench.store() as store:
            await fill_with_blobs(store)
        platter, rows = bench.platter.snapshot(), bench.rows.copy()
        end = max(at for at, _ in log_format.batch_headers(platter.files[FIRST_VOLUME].durable, 0)) + 4096
        for _ in range(40):
            bench.platter.roll_back(platter)
            bench.rows = rows.copy()
            bench.platter.flip(FIRST_VOLUME, chooser.randrange(end), 1 << chooser.randrange(8))
            if chooser.random() < 0.7:
                bench.forget_index()
            async with bench.store() as store:
                await check_blobs(store)

    run(scenario)
