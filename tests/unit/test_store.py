"""The store on simulated disk and index: what is appended is there, after any end; what is broken is said to be."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Final

import pytest

from holdfast_node.core import log_format
from holdfast_node.core.errors import (
    IntegrityError,
    NotVoting,
    Overloaded,
    ShardMissing,
    StoreFailed,
    StoreFull,
    TooLarge,
)
from holdfast_node.core.head import Head, HeadKind, Retained
from holdfast_node.core.ids import RESERVED_BUCKET, BootId, BucketId, StoreId, Version
from holdfast_node.core.messages import ShardName
from holdfast_node.core.records import (
    BucketRecord,
    DropRecord,
    LinkRecord,
    ManifestRecord,
    MapRecord,
    MapVoteRecord,
    PeerRecord,
    RegisterRecord,
    StageRecord,
)
from holdfast_node.services.link.limits import BULK_FRAME_BYTES_MAX
from holdfast_node.services.log import committer as committer_module
from holdfast_node.services.log.volume import volume_name
from holdfast_node.services.store import Entry, Store, StoreSettings
from tests.sim.disk import SimDisk
from tests.sim.index import SimIndex
from tests.support import stores
from tests.support.stores import BODIES, BUCKET, KIB, Bench, register

PARTITIONS: Final = frozenset({(0, 0)})
FIRST_VOLUME: Final = volume_name(1)


def run(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(scenario())


async def put(store: Store, key: bytes, version: int, *, retained: tuple[int, ...] = ()) -> None:
    await store.append([Entry(register(key, version, retained=retained))])


# --- reading back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("clean", [True, False], ids=["closed", "killed"])
@pytest.mark.parametrize("index", ["kept", "lost"])
def test_everything_resolved_is_there_after_a_restart(*, clean: bool, index: str) -> None:
    seed, cells = stores.blob_id(1), [b"a" * 5000, b"b" * 5000]

    async def scenario() -> None:
        bench = Bench()
        async with bench.store(clean=clean) as store:
            await put(store, b"k", 1)
            await put(store, b"k", 2)
            entries = [stores.cell(seed, stripe, data) for stripe, data in enumerate(cells)]
            await store.append([*entries, stores.seal(seed, cells)], bulk=True)
            await store.append([Entry(MapRecord(b"map")), Entry(stores.partition(3, version_floor=7))])
            await store.append([Entry(BucketRecord(BUCKET, closing=True))])
            await store.append([Entry(PeerRecord(StoreId(b"p" * 16), 2, BootId(b"q" * 16), 9))])
            await store.append([Entry(MapVoteRecord(4, stores.ballot(1), None, b""))])
            await store.append([Entry(LinkRecord(seed, stores.blob_id(2)))])
            durable = store.durable_sequence
        if index == "lost":
            bench.forget_index()
        async with bench.store() as store:
            assert await store.register(BUCKET, b"k") == register(b"k", 2)
            assert await store.manifest(BUCKET, b"k", stores.blob_id(1)) == stores.manifest(1)
            name = ShardName(seed, 0, 0)
            assert await store.cells(name, 0, 2) == cells
            assert store.shards_of(seed) == (name,)
            header = await store.shard_header(name)
            assert header is not None
            assert header.cell_checksums[1] == store.cell_checksum(seed, 0, 0, 1)
            assert store.map() == b"map"
            assert store.partition(0, 3).version_floor == 7
            assert store.closed_buckets() == (BUCKET,)
            assert store.bucket_closing(BUCKET)
            peer = store.peer(StoreId(b"p" * 16))
            assert peer is not None
            assert peer.sequence == 9
            vote = await store.map_vote(4)
            assert vote is not None
            assert vote.promised == stores.ballot(1)
            assert store.recovered_sequence >= durable
            assert not store.rotten()

    run(scenario)


@pytest.mark.parametrize("index", ["kept", "lost"])
def test_counts_follow_writes_overwrites_and_deletes(index: str) -> None:
    tombstone = Head(version=Version(9), kind=HeadKind.TOMBSTONE)
    size = stores.manifest(1).size

    async def scenario() -> None:
        bench = Bench()
        async with bench.store() as store:
            for key, version in ((b"a", 1), (b"b", 1), (b"b", 2), (b"c", 1)):
                await put(store, key, version)
            assert store.count(0, 0) == (3, 3 * size)
            deleted = replace(register(b"c", 9), head=BODIES.encode(tombstone))
            await store.append([Entry(deleted), Entry(register(b"d", 1, partition=1))])
            await store.append([Entry(register(b"bucket record", 1, bucket=RESERVED_BUCKET))])
        if index == "lost":
            bench.forget_index()
        async with bench.store() as store:
            assert store.count(0, 0) == (2, 2 * size)
            assert store.count(0, 1) == (1, size)
            assert store.count(0, 2) == (0, 0)
            await store.append([Entry(register(b"a", 1, bucket=BucketId(b"another bucket!!")))])
            assert store.count(0, 0) == (3, 3 * size)
            assert store.count(0, 0, BucketId(b"another bucket!!")) == (1, size)
            assert store.count(0, 0, register(b"a", 1).bucket) == (2, 2 * size)
            assert store.count(0, 1, BucketId(b"another bucket!!")) == (0, 0)

    run(scenario)


def test_many_volumes_and_restarts_lose_nothing() -> None:
    async def scenario() -> None:
        bench = Bench(3)
        chooser = random.Random(3)
        versions: dict[bytes, int] = {}
        for life in range(6):
            async with bench.store(clean=chooser.random() < 0.5) as store:
                for key, version in versions.items():
                    assert await store.register(BUCKET, key) == register(key, version)
                for _ in range(120):
                    key = f"key {chooser.randrange(40)}".encode()
                    versions[key] = versions.get(key, 0) + 1
                    cell = stores.cell(stores.blob_id(life), chooser.randrange(1000), chooser.randbytes(3000))
                    await store.append([Entry(register(key, versions[key])), cell])
            if chooser.random() < 0.3:
                bench.forget_index()
        assert len([name for name in bench.platter.files if name.startswith("volume")]) > 5

    run(scenario)


def test_a_register_read_never_returns_what_was_replaced_meanwhile() -> None:
    async def scenario() -> None:
        bench = Bench()
        async with bench.store() as store:
            await put(store, b"k", 1)
        async with bench.store() as store:
            slow = asyncio.ensure_future(store.register(BUCKET, b"k"))
            await put(store, b"k", 2)
            assert await slow in (register(b"k", 1), register(b"k", 2))
            assert await store.register(BUCKET, b"k") == register(b"k", 2)

    run(scenario)


def test_the_cache_is_bounded_and_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from holdfast_node.services.log import register_reader

    monkeypatch.setattr(register_reader, "REGISTERS_CACHED_MAX", 4)

    async def scenario() -> None:
        async with Bench().store() as store:
            for number in range(20):
                await put(store, b"%d" % number, number + 1)
            for number in range(20):
                assert await store.register(BUCKET, b"%d" % number) == register(b"%d" % number, number + 1)

    run(scenario)


# --- listing and copies -----------------------------------------------------------------------------------


def test_pages_are_in_key_order_and_know_prefix_start_and_limit() -> None:
    async def scenario() -> None:
        async with Bench().store() as store:
            for key in (b"a", b"b/1", b"b/2", b"b/3", b"c"):
                await put(store, key, 1)
            await store.append([Entry(stores.promise(b"b/0", 1))])
            await store.append([Entry(register(b"b/2x", 1, partition=5))])
            await store.append([Entry(register(b"b/2", 1, bucket=BucketId(b"Z" * 16)))])
            page = store.register_rows(PARTITIONS, BUCKET, b"b/", b"", 10)
            assert [row.key for row in page.rows] == [b"b/1", b"b/2", b"b/3"]
            assert page.complete
            page = store.register_rows(PARTITIONS, BUCKET, b"b/", b"b/2", 1)
            assert [row.key for row in page.rows] == [b"b/2"]
            assert not page.complete
            assert store.register_rows(PARTITIONS, BUCKET, b"", b"", 5).complete
            everything = store.register_rows(frozenset({(0, 0), (0, 5)}), BUCKET, b"", b"", 100)
            assert [row.key for row in everything.rows] == [b"a", b"b/1", b"b/2", b"b/2x", b"b/3", b"c"]

    run(scenario)


def test_copies_are_whole_registers_with_retained_manifests() -> None:
    async def scenario() -> None:
        async with Bench().store() as store:
            await put(store, b"k", 1)
            await put(store, b"k", 2, retained=(1,))
            learned = ManifestRecord(BUCKET, b"l", BODIES.encode(stores.manifest(8)))
            await store.append([Entry(learned), Entry(register(b"l", 9, retained=(8, 7)))])
            await store.append([Entry(stores.promise(b"promised", 1))])
            other = BucketId(b"Z" * 16)
            await store.append([Entry(register(b"a", 1, bucket=other))])
            copies = await store.register_copies(PARTITIONS, BucketId(b""), b"", 2)
            assert [(copy.bucket, copy.key) for copy in copies.copies] == [(BUCKET, b"k"), (BUCKET, b"l")]
            assert not copies.complete
            assert copies.copies[0].manifests == (stores.manifest(1),)
            assert copies.copies[1].manifests == (stores.manifest(8),)
            rest = await store.register_copies(PARTITIONS, BUCKET, b"l", 2)
            assert [copy.key for copy in rest.copies] == [b"a"]
            assert rest.complete

    run(scenario)


# --- shards -----------------------------------------------------------------------------------------------


def test_a_shard_is_staged_sealed_dropped_and_sealed_again() -> None:
    seed, data = stores.blob_id(1), b"x" * 100
    name = ShardName(seed, 0, 0)

    async def scenario() -> None:
        async with Bench().store() as store:
            assert store.shard(name) is None
            await store.append([Entry(StageRecord(BUCKET, b"k", seed, 0, 0, stores.ballot(1), 0))])
            await store.append([stores.cell(seed, 0, data)])
            state = store.shard(name)
            assert state is not None
            assert not state.sealed
            assert store.shards_of(seed) == ()
            await store.append([stores.seal(seed, [data])])
            state = store.shard(name)
            assert state is not None
            assert state.sealed
            await store.append([Entry(DropRecord(seed, 0, 0))])
            assert store.shard(name) is None
            assert await store.shard_header(name) is None
            with pytest.raises(ShardMissing):
                _ = await store.cells(name, 0, 1)
            await store.append([stores.cell(seed, 0, data), stores.seal(seed, [data])])
            assert await store.cells(name, 0, 1, fresh=True) == [data]

    run(scenario)


def test_a_broken_cell_is_an_error_and_never_bytes() -> None:
    seed, data = stores.blob_id(1), random.Random(1).randbytes(2000)

    async def scenario() -> None:
        bench = Bench()
        async with bench.store() as store:
            await store.append([stores.cell(seed, 0, data)])
            at = bytes(bench.platter.files[FIRST_VOLUME].durable).index(data[1000:1050])
            bench.platter.flip(FIRST_VOLUME, at)
            with pytest.raises(IntegrityError):
                _ = await store.cells(ShardName(seed, 0, 0), 0, 1)

    run(scenario)


def test_an_older_record_in_the_place_of_a_newer_one_is_no_answer() -> None:
    """A misdirected write: whole, of the right key and length, and not what the index knows to be there."""

    async def scenario() -> None:
        bench = Bench()
        async with bench.store() as store:
            await put(store, b"k", 1)
            await put(store, b"k", 2)
        content = bench.platter.files[FIRST_VOLUME].durable
        at, length = _records_of(bytes(content), BUCKET + b"k")
        content[at[1] : at[1] + length] = content[at[0] : at[0] + length]
        async with bench.store() as store:
            with pytest.raises(NotVoting):
                _ = await store.register(BUCKET, b"k")
            with pytest.raises(IntegrityError):
                _ = await store.manifest(BUCKET, b"k", stores.blob_id(2))

    run(scenario)


def _records_of(content: bytes, key: bytes) -> tuple[list[int], int]:
    """Where the records of this key lie, and how long each is."""
    found: list[log_format.Record] = []
    for at, header in log_format.batch_headers(content, 0):
        records, _ = log_format.read_batch(memoryview(content)[at:], at, header)
        found += [record for record in records if record.key == key]
    lengths = {record.extent.length for record in found}
    assert len(lengths) == 1
    return [record.extent.offset for record in found], lengths.pop()


# --- groups, limits, failure ------------------------------------------------------------------------------


def test_control_goes_before_bulk_and_whatever_queues_is_one_batch() -> None:
    async def scenario() -> None:
        bench = Bench()
        async with bench.store() as store:
            await put(store, b"k", 1)
            order: list[str] = []
            first = store.append([stores.cell(stores.blob_id(1), 0, b"x" * 100)], bulk=True)
            second = store.append([Entry(register(b"k", 2))])
            first.add_done_callback(lambda _: order.append("bulk"))
            second.add_done_callback(lambda _: order.append("control"))
            before = store.durable_sequence
            await asyncio.gather(first, second)
            assert order == ["control", "bulk"]
            assert store.durable_sequence == before + 2

    run(scenario)


def test_a_failed_sync_is_final_and_loud() -> None:
    async def scenario() -> None:
        bench = Bench()
        disk = SimDisk(bench.platter, chooser=bench.random)
        store = await stores.open_store(disk, SimIndex(bench.rows), events=bench.events)
        await put(store, b"k", 1)
        disk.fail_syncs = True
        failing = store.append([Entry(register(b"k", 2))])
        queued = store.append([Entry(register(b"j", 1))])
        for future in (failing, queued):
            with pytest.raises(StoreFailed):
                await future
        assert store.failure
        with pytest.raises(StoreFailed):
            _ = store.append([Entry(register(b"k", 3))])
        with pytest.raises(StoreFailed):
            _ = await store.register(BUCKET, b"k")
        assert "store_failed" in [event for event, _ in bench.events.seen]
        await store.close()

    run(scenario)


def test_bulk_stops_at_the_reserve_and_control_goes_on() -> None:
    settings = StoreSettings(volume_bytes=256 * KIB, batch_bytes_max=64 * KIB, reserve_volumes=2)

    async def scenario() -> None:
        bench = Bench(capacity_bytes=6 * 256 * KIB)
        async with bench.store(settings=settings) as store:
            written = 0
            with pytest.raises(StoreFull):  # noqa: PT012 - it has to fill up first
                for stripe in range(1000):
                    await store.append([stores.cell(stores.blob_id(1), stripe, bytes(20 * KIB))], bulk=True)
                    written += 1
            assert written > 20
            for version in range(1, 51):
                await put(store, b"k", version)
            assert not store.failure
            assert await store.register(BUCKET, b"k") == register(b"k", 50)
            assert store.used_bytes <= store.capacity_bytes

    run(scenario)


def test_what_is_mended_may_take_a_part_of_the_reserve() -> None:
    settings = StoreSettings(volume_bytes=256 * KIB, batch_bytes_max=64 * KIB, reserve_volumes=3)

    async def fill(store: Store, first: int, *, reserve: bool) -> int:
        for stripe in range(first, 1000):
            cell = stores.cell(stores.blob_id(1), stripe, bytes(20 * KIB))
            try:
                await store.append([cell], bulk=True, reserve=reserve)
            except StoreFull:
                return stripe
        raise AssertionError("it never fills up")

    async def scenario() -> None:
        bench = Bench(capacity_bytes=8 * 256 * KIB)
        async with bench.store(settings=settings) as store:
            first = await fill(store, 0, reserve=False)
            mended = await fill(store, first, reserve=True) - first
            assert 8 <= mended <= 12, "one volume of three"
            assert await fill(store, first + mended, reserve=False) == first + mended
            for version in range(1, 51):
                await put(store, b"k", version)

    run(scenario)


def test_a_disk_without_any_room_refuses_and_recovers_when_there_is_some() -> None:
    async def scenario() -> None:
        bench = Bench(capacity_bytes=2 * 256 * KIB + 8 * KIB)
        async with bench.store() as store:
            version = 0
            with pytest.raises(StoreFull):  # noqa: PT012 - it has to fill up first
                for version in range(1, 2000):
                    await put(store, b"k", version)
            assert not store.failure
            bench.platter.capacity_bytes *= 4
            await put(store, b"k", version + 1)
            assert await store.register(BUCKET, b"k") == register(b"k", version + 1)

    run(scenario)


def test_what_is_too_large_or_too_much_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer_module, "QUEUE_BYTES_MAX", 30 * KIB)
    monkeypatch.setattr(committer_module, "CONTROL_QUEUE_BYTES_MAX", 3 * KIB)

    async def scenario() -> None:
        async with Bench().store() as store:
            with pytest.raises(TooLarge):
                _ = store.append([stores.cell(stores.blob_id(1), 0, bytes(300 * KIB))])
            with pytest.raises(TooLarge):
                _ = store.append([stores.cell(stores.blob_id(1), 0, bytes(5 * KIB * KIB))])
            futures = [store.append([stores.cell(stores.blob_id(1), 0, bytes(20 * KIB))], bulk=True)]
            with pytest.raises(Overloaded):
                _ = store.append([stores.cell(stores.blob_id(1), 1, bytes(20 * KIB))], bulk=True)
            futures += [store.append([Entry(register(b"k", 1))]) for _ in range(2)]
            with pytest.raises(Overloaded):  # noqa: PT012 - it has to fill up first
                for _ in range(20):
                    futures.append(store.append([Entry(register(b"k", 1))]))
            await asyncio.gather(*futures)

    run(scenario)


def test_a_head_that_cannot_be_decoded_is_refused_before_it_is_written() -> None:
    async def scenario() -> None:
        bad = register(b"k", 1)
        bad = type(bad)(bad.bucket, bad.key, bad.pool, bad.partition, bad.promised, bad.accepted, b"\xff\xff")
        async with Bench().store() as store:
            with pytest.raises(IntegrityError):
                _ = store.append([Entry(bad)])

    run(scenario)


@pytest.mark.parametrize("index", ["kept", "lost"])
def test_votes_on_maps_are_forgotten_with_the_map_they_led_to(index: str) -> None:
    """Each holds a whole map, and there is one for each epoch there ever was."""

    async def scenario() -> None:
        bench = Bench()
        async with bench.store() as store:
            for epoch in range(1, 30):
                await store.append([Entry(MapVoteRecord(epoch, stores.ballot(1), None, b"a map"))])
                await store.append([Entry(MapRecord(b"a map", epoch - 1))])
        if index == "lost":
            bench.forget_index()
        async with bench.store() as store:
            votes = [await store.map_vote(epoch) for epoch in range(1, 30)]
            assert votes[:-1] == [None] * 28
            assert votes[-1] is not None, "its map is not adopted"

    run(scenario)


def test_a_page_of_copies_fits_a_frame_whatever_its_versions_weigh() -> None:
    """Deleted keys that keep versions with as much metadata as a caller may give them: their heads are tiny."""
    bodies, settings = BODIES, StoreSettings(volume_bytes=8 << 20, batch_bytes_max=1 << 20)

    async def story() -> None:
        async with Bench().store(settings=settings) as store:
            for number in range(64):
                key = b"k%02d" % number
                kept = [
                    replace(stores.manifest(number * 100 + version), metadata=(("x", "y" * 8000),))
                    for version in range(1, 9)
                ]
                await store.append([Entry(ManifestRecord(BUCKET, key, bodies.encode(each))) for each in kept])
                retained = tuple(
                    Retained(Version(8 - at), HeadKind.BLOB, each.blob_id, each.size, 0)
                    for at, each in enumerate(reversed(kept))
                )
                head = bodies.encode(Head(Version(9), HeadKind.TOMBSTONE, retained=retained))
                ballot = stores.ballot(9)
                await store.append([Entry(RegisterRecord(BUCKET, key, 0, 0, ballot, ballot, head))])
            page = await store.register_copies(frozenset({(0, 0)}), RESERVED_BUCKET, b"", 64)
            assert page.copies
            assert not page.complete
            assert len(bodies.encode(page)) < BULK_FRAME_BYTES_MAX - 1024

    run(story)
