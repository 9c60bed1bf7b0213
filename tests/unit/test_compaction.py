"""Compaction gives back what nobody needs, and nothing else changes, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Final

import pytest

from holdfast_node.core import holes
from holdfast_node.core.acceptance import blank
from holdfast_node.core.errors import ShardMissing, StoreFailed, StoreFull
from holdfast_node.core.index_keys import BLANK_ROWS, register_row_key
from holdfast_node.core.messages import ShardName
from holdfast_node.core.records import DropRecord, Hole, LinkRecord, MapRecord, StageRecord
from holdfast_node.services.compaction import AT_ONCE_MAX, Compaction, _chosen
from holdfast_node.services.foreground import Foreground
from holdfast_node.services.log.committer import Pending
from holdfast_node.services.log.compactor import Usage
from holdfast_node.services.log.volume import volume_name
from holdfast_node.services.store import Entry, Store, StoreSettings
from holdfast_node.services.worker import Work
from tests.support import stores
from tests.support.compacting import no_rest, overwrite, put, remove_all, volumes_of
from tests.support.stores import BUCKET, KIB, Bench, blob_id, register

# pyright: reportPrivateUsage=false

DATA: Final = random.Random(1).randbytes(3000)


def run(story: Coroutine[None, None, None]) -> None:
    asyncio.run(story)


async def compact(store: Store) -> int:
    """Until the worker finds nothing more to do; how many volumes went."""
    worker = Compaction(store=store, foreground=Foreground())
    for _ in range(50):
        if await worker.work_once() is Work.IDLE:
            return worker.status().done
    raise AssertionError("it does not come to rest")


@pytest.mark.parametrize("index", ["kept", "lost"])
def test_garbage_goes_and_what_is_needed_stays(index: str) -> None:
    async def story() -> None:
        bench, seed, staged = Bench(), blob_id(7), blob_id(8)
        async with bench.store() as store:
            await put(store, b"kept", 1)
            await put(store, b"kept", 2, retained=(1,))
            await store.append([Entry(stores.promise(b"promised", 9))])
            await store.append([stores.cell(seed, 0, DATA), stores.seal(seed, [DATA])], bulk=True)
            await store.append([Entry(LinkRecord(seed, blob_id(9))), Entry(MapRecord(b"a map"))])
            begun = Entry(StageRecord(BUCKET, b"k", staged, 0, 0, stores.ballot(1), 0))
            await store.append([begun, stores.cell(staged, 0, DATA)], bulk=True)
            last = await overwrite(store, 6)
            before = store.used_bytes
            assert await compact(store) >= 5
            assert store.used_bytes < before / 2
            assert volume_name(1) not in volumes_of(bench)
        if index == "lost":
            bench.forget_index()
        async with bench.store() as store:
            assert not store.lost_records
            assert await store.register(BUCKET, b"kept") == register(b"kept", 2, retained=(1,))
            assert await store.manifest(BUCKET, b"kept", blob_id(1)) == stores.manifest(1)
            assert await store.register(BUCKET, b"promised") == stores.promise(b"promised", 9)
            assert await store.register(BUCKET, b"churn") == register(b"churn", last)
            assert await store.cells(ShardName(seed, 0, 0), 0, 1) == [DATA]
            assert await store.shard_header(ShardName(seed, 0, 0)) is not None
            state = store.shard(ShardName(staged, 0, 0))
            assert state is not None
            assert not state.sealed
            assert await store.cells(ShardName(staged, 0, 0), 0, 1) == [DATA]
            assert store.map() == b"a map"
            step = await store.verifier.step(None, bytes_max=1 << 30)
            assert step.at_end
            assert not step.suspects

    run(story())


def test_the_rows_of_what_is_gone_go_too() -> None:
    """Links have no reader yet: their row is what can be seen."""

    async def story() -> None:
        bench = Bench()
        async with bench.store() as store:
            await store.append([Entry(LinkRecord(blob_id(1), blob_id(2)))])
            seal = [stores.cell(blob_id(3), 0, DATA), stores.seal(blob_id(3), [DATA])]
            await store.append(seal)
            await store.append([Entry(DropRecord(blob_id(3), 0, 0))])
            await put(store, b"forgotten", 1)
            await store.append([Entry(blank(register(b"forgotten", 1)))])
            _ = await overwrite(store, 3)
            _ = await compact(store)
            _ = await store.compactor.survey(rest_s=no_rest)
        rows = [key[:1] for key in bench.rows.keys]
        assert register_row_key(BUCKET, b"churn") in bench.rows.keys
        assert BLANK_ROWS + BUCKET + b"forgotten" not in bench.rows.keys
        assert b"l" in rows
        assert b"s" not in rows
        assert b"c" not in rows

    run(story())


@pytest.mark.parametrize("index", ["kept", "lost"])
@pytest.mark.parametrize("first", [True, False], ids=["in one batch", "before"])
def test_a_copy_never_wins_over_what_is_younger(
    index: str, monkeypatch: pytest.MonkeyPatch, *, first: bool
) -> None:
    async def story() -> None:
        bench = Bench()
        async with bench.store() as store:
            await put(store, b"k", 1)
            _ = await overwrite(store, 1)
            _ = await store.compactor.survey(rest_s=no_rest)
            younger: list[asyncio.Future[None]] = []
            write = store._committer.copy

            def raced(record: Pending, wanted: Callable[[], bool]) -> asyncio.Future[None]:
                """Somebody changes the key in the moment between the look at its row and the copy."""
                if first:
                    younger.append(store.append([Entry(register(b"k", 2))]))
                copied = write(record, wanted)
                if not first:
                    younger.append(store.append([Entry(register(b"k", 3))]))
                return copied

            with monkeypatch.context() as patch:
                patch.setattr(store._committer, "copy", raced)
                _ = await store.compactor.copy(1, rest_s=no_rest)
            await asyncio.gather(*younger)
            assert younger
            await remove_all(store, 1)
        if index == "lost":
            bench.forget_index()
        async with bench.store() as store:
            assert await store.register(BUCKET, b"k") == register(b"k", 2 if first else 3)

    run(story())


def test_a_copy_is_left_out_once_its_row_rests_on_something_younger(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, with the younger record durable before the copy's turn comes."""

    async def story() -> None:
        async with Bench().store() as store:
            await put(store, b"k", 1)
            _ = await overwrite(store, 1)
            _ = await store.compactor.survey(rest_s=no_rest)
            write = store._committer.copy

            def late(record: Pending, wanted: Callable[[], bool]) -> asyncio.Future[None]:
                async def after() -> None:
                    await put(store, b"k", 2)
                    await write(record, wanted)

                return asyncio.ensure_future(after())

            monkeypatch.setattr(store._committer, "copy", late)
            _ = await store.compactor.copy(1, rest_s=no_rest)
            assert await store.register(BUCKET, b"k") == register(b"k", 2)

    run(story())


@pytest.mark.parametrize("again", [True, False], ids=["came again", "stayed away"])
def test_what_was_dropped_stays_dropped_without_the_index(*, again: bool) -> None:
    """The record that says so is in a volume that goes, and what it is about in one that stays."""
    name, cells = ShardName(blob_id(7), 0, 0), [DATA, DATA[:100]]

    async def story() -> None:
        bench = Bench()
        async with bench.store() as store:
            entries = [stores.cell(blob_id(7), stripe, data) for stripe, data in enumerate(cells)]
            await store.append([*entries, stores.seal(blob_id(7), cells)])
            _ = await overwrite(store, 1)
            await store.append([Entry(DropRecord(blob_id(7), 0, 0))])
            if again:
                await store.append([stores.cell(blob_id(7), 0, DATA)])
            _ = await overwrite(store, 1)
            await remove_all(store, 2)
        bench.forget_index()
        async with bench.store() as store:
            assert volume_name(1) in volumes_of(bench)
            assert store.shard(name) is None
            if again:
                assert await store.cells(name, 0, 1) == [DATA]
            with pytest.raises(ShardMissing):
                _ = await store.cells(name, 1, 1)

    run(story())


def test_a_volume_with_something_broken_that_is_needed_stays() -> None:
    async def story() -> None:
        bench = Bench()
        async with bench.store() as store:
            await store.append([stores.cell(blob_id(7), 0, DATA), stores.seal(blob_id(7), [DATA])])
            _ = await overwrite(store, 2)
            at = bytes(bench.platter.files[volume_name(1)].durable).index(DATA[:50])
            bench.platter.flip(volume_name(1), at)
            _ = await compact(store)
            assert volume_name(1) in volumes_of(bench)
            bench.platter.flip(volume_name(1), at)
            assert await compact(store)
            assert volume_name(1) not in volumes_of(bench)

    run(story())


def test_copies_that_cannot_be_read_back_keep_the_originals() -> None:
    async def story() -> None:
        bench = Bench()
        async with bench.store() as store:
            await store.append([stores.cell(blob_id(7), 0, DATA), stores.seal(blob_id(7), [DATA])])
            _ = await overwrite(store, 1)
            worker = Compaction(store=store, foreground=Foreground())
            assert await worker.work_once() is Work.BUSY  # chosen
            assert await worker.work_once() is Work.BUSY  # copied
            at = bytes(bench.platter.files[volume_name(2)].durable).index(DATA[:50])
            bench.platter.flip(volume_name(2), at)
            assert await worker.work_once() is Work.IDLE
            assert volume_name(1) in volumes_of(bench)

    run(story())


def test_a_volume_waits_for_who_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        bench = Bench()
        async with bench.store() as store:
            await put(store, b"k", 1)
            _ = await overwrite(store, 1)
            _ = await store.compactor.survey(rest_s=no_rest)
            _ = await store.compactor.copy(1, rest_s=no_rest)
            _ = await store.compactor.survey(rest_s=no_rest)
            written, make_hole = asyncio.Event(), store.compactor._make_hole

            async def made(holes: tuple[Hole, ...]) -> None:
                await make_hole(holes)
                written.set()

            monkeypatch.setattr(store.compactor, "_make_hole", made)
            with store._log.reading():
                removal = asyncio.ensure_future(store.compactor.remove(1))
                async with asyncio.timeout(10):
                    await written.wait()
                for _ in range(100):
                    await asyncio.sleep(0)
                assert volume_name(1) in volumes_of(bench)
            await removal
            assert volume_name(1) not in volumes_of(bench)

    run(story())


def test_a_volume_that_is_lost_beside_a_hole_is_noticed() -> None:
    async def story() -> None:
        bench = Bench()
        async with bench.store() as store:
            await put(store, b"k", 1)
            _ = await overwrite(store, 4)
            await remove_all(store, 2)
        del bench.platter.files[volume_name(3)]
        bench.forget_index()
        async with bench.store() as store:
            assert store.lost_records

    run(story())


def test_what_a_crash_left_of_a_removed_volume_is_not_read_again() -> None:
    async def story() -> None:
        bench = Bench()
        async with bench.store() as store:
            await store.append([stores.cell(blob_id(7), 0, DATA), stores.seal(blob_id(7), [DATA])])
            await store.append([Entry(DropRecord(blob_id(7), 0, 0))])
            _ = await overwrite(store, 2)
            was = bench.platter.files[volume_name(1)].copy()
            await remove_all(store, 1, 2)
        bench.platter.files[volume_name(1)] = was
        bench.forget_index()
        async with bench.store() as store:
            assert volume_name(1) not in volumes_of(bench)
            assert store.shard(ShardName(blob_id(7), 0, 0)) is None

    run(story())


@pytest.mark.parametrize("beside_kib", [0, 200])
@pytest.mark.parametrize("needed_one_in", [2, 4])
def test_a_store_that_is_full_of_garbage_recovers_by_itself(*, beside_kib: int, needed_one_in: int) -> None:
    """Compaction has the last volume for itself: everything else fills up the others only. What is left of the disk
    beside whole volumes is no room."""
    settings = StoreSettings(volume_bytes=256 * KIB, batch_bytes_max=64 * KIB, reserve_volumes=2)

    async def story() -> None:
        bench = Bench(capacity_bytes=6 * 256 * KIB + beside_kib * KIB)
        async with bench.store(settings=settings) as store:
            version = 0
            with pytest.raises(StoreFull):  # noqa: PT012 - it has to fill up first
                while True:
                    if version % needed_one_in == 0:  # in every volume something is needed
                        await store.append([stores.cell(blob_id(2), version, DATA)])
                    await put(store, b"k", version + 1)
                    version += 1
            cells = range(0, version, needed_one_in)
            with pytest.raises(StoreFull):
                await put(store, b"k", version + 1)
            assert await compact(store) >= 2
            for _ in range(30):
                version += 1
                await put(store, b"k", version)
            await store.append([stores.cell(blob_id(1), 0, bytes(20 * KIB))], bulk=True)
        bench.forget_index()
        async with bench.store(settings=settings) as store:
            assert await store.register(BUCKET, b"k") == register(b"k", version)
            for stripe in cells:
                assert await store.cells(ShardName(blob_id(2), 0, 0), stripe, 1) == [DATA]

    run(story())


def test_volumes_that_were_copied_go_although_there_was_no_room_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        async with Bench().store() as store:
            await store.append([stores.cell(blob_id(7), 0, DATA), stores.seal(blob_id(7), [DATA])])
            _ = await overwrite(store, 4)
            copy, copied = store.compactor.copy, list[int]()

            async def once(number: int, *, rest_s: Callable[[float], float]) -> int:
                copied.append(number)
                if len(copied) == 2:
                    raise StoreFull("somebody else was quicker")
                return await copy(number, rest_s=rest_s)

            monkeypatch.setattr(store.compactor, "copy", once)
            assert await compact(store) >= 1

    run(story())


def test_a_store_in_its_last_volume_still_learns_of_new_maps_and_drops_shards() -> None:
    """Or it could not be told of the nodes that are to help it. Half of the volume stays for copies."""
    settings = StoreSettings(volume_bytes=256 * KIB, batch_bytes_max=64 * KIB, reserve_volumes=2)

    async def story() -> None:
        async with Bench(capacity_bytes=6 * 256 * KIB).store(settings=settings) as store:
            version = 0
            with pytest.raises(StoreFull):  # noqa: PT012 - it has to fill up first
                while True:
                    version += 1
                    await put(store, b"k", version)
            _ = await store.compactor.survey(rest_s=no_rest)
            _ = await store.compactor.copy(1, rest_s=no_rest)
            with pytest.raises(StoreFull):
                await put(store, b"k", version)
            before = store.used_bytes
            await store.append([Entry(DropRecord(blob_id(2), 0, 0))])
            with pytest.raises(StoreFull):  # noqa: PT012 - so many are refused in the end
                for number in range(100):
                    await store.append([Entry(MapRecord(bytes([number]) * 4000))])
            assert store.map()
            assert store.used_bytes - before <= 128 * KIB

    run(story())


@pytest.mark.parametrize("bulk", [True, False])
def test_room_that_comes_back_is_seen_at_once(*, bulk: bool) -> None:
    """By a store in its last volume, to which nobody may write, and so nothing happens that would have it look."""
    settings = StoreSettings(volume_bytes=256 * KIB, batch_bytes_max=64 * KIB, reserve_volumes=2)

    async def story() -> None:
        bench = Bench(capacity_bytes=6 * 256 * KIB)
        async with bench.store(settings=settings) as store:
            version = 0
            with pytest.raises(StoreFull):  # noqa: PT012 - it has to fill up first
                while True:
                    await store.append([stores.cell(blob_id(2), version, DATA)])
                    version += 1
            with pytest.raises(StoreFull):
                _ = store.append([stores.cell(blob_id(3), 0, DATA)], bulk=True)
            _ = await store.compactor.survey(rest_s=no_rest)
            _ = await store.compactor.copy(1, rest_s=no_rest)
            with pytest.raises(StoreFull):
                await put(store, b"k", 1)
            bench.platter.capacity_bytes *= 2
            await store.append([stores.cell(blob_id(3), 0, DATA)], bulk=bulk)

    run(story())


def test_whoever_waits_hears_of_an_index_that_breaks_when_a_copy_is_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        async with Bench().store(clean=False) as store:
            await put(store, b"k", 1)
            _ = await overwrite(store, 1)
            _ = await store.compactor.survey(rest_s=no_rest)
            due: list[asyncio.Future[None]] = []
            write = store._committer.copy

            def broken(record: Pending, wanted: Callable[[], bool]) -> asyncio.Future[None]:
                due.append(write(record, wanted))
                store._ports.index.write([(register_row_key(BUCKET, b"k"), b"no row")])
                return due[-1]

            monkeypatch.setattr(store._committer, "copy", broken)
            with pytest.raises(StoreFailed):
                _ = await store.compactor.copy(1, rest_s=no_rest)
            assert due
            assert all(each.done() and isinstance(each.exception(), StoreFailed) for each in due)
            with pytest.raises(StoreFailed):
                await put(store, b"k", 2)

    run(story())


def test_holes_are_as_many_as_a_start_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holes, "HOLES_MAX", 1)

    async def story() -> None:
        bench = Bench()
        async with bench.store() as store:
            _ = await overwrite(store, 7)
            await remove_all(store, 3)
            worth = {each.number for each in await store.compactor.survey(rest_s=no_rest)}
            assert worth == {2, 4}
            await remove_all(store, 4)
            assert len(store.superblock.holes) == 1

    run(story())


def usage(number: int, garbage: float, *, drops: float = 0.0) -> Usage:
    live = round(1000 * (1 - garbage))
    return Usage(number, 1000, live, live, round(1000 * drops))


def test_the_volumes_with_the_most_garbage_go_first() -> None:
    all_of_them = [usage(1, 0.2), usage(2, 0.6), usage(3, 0.9), usage(4, 0.5)]
    assert _chosen(all_of_them, room_bytes=10_000, least=0.5) == [3, 2, 4]
    assert _chosen(all_of_them, room_bytes=10_000, least=0.1) == [3, 2, 4, 1]
    assert _chosen(all_of_them, room_bytes=550, least=0.5) == [3, 2]
    assert _chosen([], room_bytes=0, least=0.1) == []
    many = [usage(number, 1) for number in range(20)]
    assert len(_chosen(many, room_bytes=0, least=0.5)) == AT_ONCE_MAX


def test_the_oldest_volume_goes_when_the_dropped_take_too_much_room() -> None:
    some = [usage(1, 0.1), usage(2, 0.2, drops=0.01)]
    assert _chosen(some, room_bytes=10_000, least=0.5) == []
    more = [usage(1, 0.1), usage(2, 0.2, drops=0.3)]
    assert _chosen(more, room_bytes=10_000, least=0.5) == [1]


def test_room_for_copies_is_in_whole_volumes() -> None:
    settings = StoreSettings(volume_bytes=256 * KIB, batch_bytes_max=64 * KIB)

    async def story() -> None:
        async with Bench(capacity_bytes=6 * 256 * KIB + 200 * KIB).store(settings=settings) as store:
            assert store.compactor.room_bytes <= 6 * 256 * KIB

    run(story())
