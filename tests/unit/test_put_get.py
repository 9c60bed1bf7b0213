"""Bytes in, the same bytes out; and nothing left behind by what failed."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import cast

import pytest

from holdfast_node.core.api import Call, Condition, PutOptions, Range
from holdfast_node.core.checksums import blob_digest
from holdfast_node.core.errors import (
    AlreadyExists,
    BlobNotFound,
    ChecksumMismatch,
    DeadlineExceeded,
    IntegrityError,
    InvalidArgument,
    StoreFailed,
    TooLarge,
    Unavailable,
    VersionNotFound,
)
from holdfast_node.core.head import Manifest
from holdfast_node.core.ids import BucketId, RequestId
from holdfast_node.core.messages import ReadCells, ReadCellsReply, Reply, Request, Seal, StageCell, StageWhole
from holdfast_node.services.blobs import Blobs
from holdfast_node.services.budget import CoordinateMemory
from holdfast_node.services.coordinator import Coordinator
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.get import READER_IDLE_S
from holdfast_node.services.reading import Reading
from tests.support.small_clusters import (
    BUCKET,
    KIB,
    TWELVE,
    Serve,
    SmallCluster,
    chunked,
    pass_time,
    payload_of,
    read_all,
    run_story,
)

SIZES = [0, 1, 511, 512, 513, 8 * KIB - 1, 8 * KIB, 8 * KIB + 1, 32 * KIB - 1, 32 * KIB, 32 * KIB + 1, 64 * KIB - 1,
         64 * KIB, 64 * KIB + 1, 100_000]  # fmt: skip


def test_blobs_of_every_shape_come_back_from_any_node() -> None:
    async def story(small: SmallCluster) -> None:
        for size in SIZES:
            for declared in (size, -1):
                data, key = payload_of(size), b"%d %d" % (size, declared)
                receipt = await small.put(key, data, at="n2", options=PutOptions(size=declared))
                assert (receipt.size, receipt.hash) == (size, blob_digest(data))
                assert receipt.margin.full, (size, receipt.margin)
                assert dict(receipt.margin.entries)["san"] == 1
                assert await small.get(key, at="n5") == data
        assert small.memory_taken() == 0

    run_story(story)


def test_every_part_is_sealed_on_all_its_homes() -> None:
    async def story(small: SmallCluster) -> None:
        await small.put(b"k", payload_of(100_000))
        manifest = (await small.head(b"k")).manifest
        assert manifest is not None
        assert len(manifest.parts) == 4
        held = small.sealed(manifest.seed_id)
        assert sum(len(names) for names in held.values()) == 4 * 6
        assert all(len({name.part for name in names}) == 4 for names in held.values())

    run_story(story)


def test_ranges_come_back_and_one_byte_costs_one_cell() -> None:
    async def story(small: SmallCluster) -> None:
        data = payload_of(100_000)
        await small.put(b"k", data)
        for first, last in (
            (0, 1),
            (1, 2),
            (4095, 4097),
            (8191, 8193),
            (32767, 32769),
            (5, 99_000),
            (99_999, -1),
        ):
            assert (
                await small.get(b"k", range=Range(first, last)) == data[first : last if last != -1 else None]
            )
        assert await small.get(b"k", range=Range(100_000, -1)) == b""
        small.watch(ReadCells)
        assert await small.get(b"k", range=Range(70_000, 70_001)) == data[70_000:70_001]
        assert small.served[ReadCells] == 1
        with pytest.raises(InvalidArgument):
            await small.get(b"k", range=Range(100_001, -1))
        assert small.memory_taken() == 0

    run_story(story)


def test_a_small_blob_is_read_in_one_round() -> None:
    async def story(small: SmallCluster) -> None:
        small.watch(ReadCells)
        for size in (100, 8 * KIB):
            await small.put(b"k", payload_of(size))
            assert await small.get(b"k", at="n3") == payload_of(size)
            assert small.served[ReadCells] == 0

    run_story(story)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (PutOptions(size=999), InvalidArgument),
        (PutOptions(size=40_001), InvalidArgument),
        (PutOptions(hash=bytes(16)), ChecksumMismatch),
        (PutOptions(hash=b"short"), InvalidArgument),
        (PutOptions(size=-2), InvalidArgument),
        (PutOptions(size=1 << 60), TooLarge),
        (PutOptions(metadata=(("name", "v" * 9000),)), TooLarge),
    ],
)
@pytest.mark.parametrize("size", [1000, 40_000])
def test_a_wrong_request_changes_nothing(options: PutOptions, error: type[Exception], size: int) -> None:
    async def story(small: SmallCluster) -> None:
        if options.size == size:
            return
        with pytest.raises(error):
            await small.put(b"k", payload_of(size), options=options)
        await pass_time(1)
        with pytest.raises(BlobNotFound):
            await small.get(b"k")
        await nothing_is_left(small)

    run_story(story)


async def nothing_is_left(small: SmallCluster) -> None:
    """Shards of blobs other than the bucket's record are gone, and so is their memory."""
    await pass_time(20)
    assert small.memory_taken() == 0
    assert len(small.kept_seeds()) == 1, "only the bucket's own record"


def test_a_caller_that_fails_midway_leaves_nothing() -> None:
    async def story(small: SmallCluster) -> None:
        async def broken() -> AsyncIterator[bytes]:
            for at in range(9):
                yield payload_of(5000 + at)
            raise ConnectionResetError("the caller is gone")

        with pytest.raises(ConnectionResetError):
            await small.call("n1", lambda c: c.put(BUCKET, b"k", PutOptions(), broken()))
        await nothing_is_left(small)

    run_story(story)


@pytest.mark.parametrize("after_s", [0.001, 0.004, 0.01, 0.02, 0.04, 0.3])
def test_a_cancelled_put_leaves_nothing_or_all(after_s: float) -> None:
    async def story(small: SmallCluster) -> None:
        async def slowly() -> AsyncIterator[bytes]:
            for at in range(15):
                yield payload_of(5000 + at)
                await pass_time(0.002)

        async def work(coordinator: Coordinator) -> None:
            try:
                async with asyncio.timeout(after_s):
                    await coordinator.put(BUCKET, b"k", PutOptions(), slowly())
            except TimeoutError:
                return

        await small.call("n1", work)
        await pass_time(20)
        assert small.memory_taken() == 0
        head = await small.head(b"k")
        if head.manifest is None:
            await nothing_is_left(small)
        else:
            assert len(await small.get(b"k")) == sum(5000 + at for at in range(15))

    run_story(story)


def test_a_holder_that_fails_inside_a_part_is_replaced_before_the_ack() -> None:
    async def story(small: SmallCluster) -> None:
        homes = await small.homes(b"k")
        count = 0

        async def fail_later(usual: Serve, caller: Caller, request: Request) -> Reply:
            nonlocal count
            count += 1
            if count > 2:
                raise StoreFailed("planted")
            return await usual(caller, request)

        small.twist(homes[1], StageCell, fail_later)
        coordinator = next(name for name in small.cluster.machines if name != homes[1])
        await small.put(b"k", payload_of(60_000), at=coordinator)
        manifest = (await small.head(b"k")).manifest
        assert manifest is not None
        for number, part in enumerate(manifest.parts):
            assert all(part.holders), "every shard is sealed somewhere"
            for index, store in enumerate(part.holders):
                names = small.sealed(manifest.seed_id).get(small.name_of(store), [])
                assert any((name.part, name.index) == (number, index) for name in names)
        assert await small.get(b"k") == payload_of(60_000)
        assert small.memory_taken() == 0

    run_story(story, topology=TWELVE)


@pytest.mark.parametrize("size", [300, 8000])
def test_a_silent_holder_of_a_small_blob_is_hedged(size: int) -> None:
    async def story(small: SmallCluster) -> None:
        homes = await small.homes(b"k")

        async def hang(usual: Serve, caller: Caller, request: Request) -> Reply:
            del usual, caller, request
            await pass_time(1000)
            raise AssertionError

        small.twist(homes[2], StageWhole, hang)
        coordinator = next(name for name in small.cluster.machines if name != homes[2])
        began = small.cluster.loop.time()
        receipt = await small.put(b"k", payload_of(size), at=coordinator)
        assert small.cluster.loop.time() - began < 2.0
        assert not receipt.margin.full
        manifest = (await small.head(b"k")).manifest
        assert manifest is not None
        assert all(manifest.parts[0].holders)
        assert small.name_of(manifest.parts[0].holders[2]) not in ("", homes[2])
        assert await small.get(b"k") == payload_of(size)

    run_story(story, topology=TWELVE)


def test_a_silent_sealer_of_a_large_blob_is_hedged() -> None:
    async def story(small: SmallCluster) -> None:
        homes = await small.homes(b"k")

        async def hang(usual: Serve, caller: Caller, request: Request) -> Reply:
            del usual, caller, request
            await pass_time(1000)
            raise AssertionError

        small.twist(homes[2], Seal, hang)
        coordinator = next(name for name in small.cluster.machines if name != homes[2])
        began = small.cluster.loop.time()
        await small.put(b"k", payload_of(20_000), at=coordinator)
        assert small.cluster.loop.time() - began < 5.0
        manifest = (await small.head(b"k")).manifest
        assert manifest is not None
        assert small.name_of(manifest.parts[0].holders[2]) not in ("", homes[2])
        assert await small.get(b"k") == payload_of(20_000)
        assert small.memory_taken() == 0

    run_story(story, topology=TWELVE)


@pytest.mark.parametrize("size", [300, 8000, 50_000])
def test_two_of_six_dead_and_no_spare_writes_go_on(size: int) -> None:
    async def story(small: SmallCluster) -> None:
        for name in ("n5", "n6"):
            small.cluster.stop_at_once(small.machine(name))
        await pass_time(5)
        receipt = await small.put(b"k", payload_of(size))
        margin = dict(receipt.margin.entries)
        assert not receipt.margin.full
        assert margin["node"] == 0, "the register has no majority to spare"
        manifest = (await small.head(b"k")).manifest
        assert manifest is not None
        for part in manifest.parts:
            per_store = sorted(part.holders.count(store) for store in set(part.holders))
            assert per_store == [1, 1, 2, 2], "the loss of any one leaves four"
        assert await small.get(b"k") == payload_of(size)

    run_story(story)


@pytest.mark.parametrize("size", [300, 8000, 50_000])
def test_below_the_floor_a_write_is_refused_and_says_why(size: int) -> None:
    async def story(small: SmallCluster) -> None:
        for name in ("n3", "n4", "n5", "n6"):
            small.cluster.stop_at_once(small.machine(name))
        await pass_time(5)
        with pytest.raises(Unavailable) as refusal:
            await small.put(b"k", payload_of(size))
        assert refusal.value.evidence

    run_story(story)


@pytest.mark.parametrize("size", [8000, 20_000, 100_000])
def test_lying_stores_are_erasures(size: int) -> None:
    """Wrong bytes from two holders never reach a caller, and the right ones still do."""

    async def story(small: SmallCluster) -> None:
        await small.put(b"k", payload_of(size))
        homes = await small.homes(b"k")
        liars = [name for name in homes if name != "n1"][:2]
        for name in liars:
            small.twist(name, ReadCells, lie)
            small.node(name).keeper.inline = no_inline  # type: ignore[method-assign]
        for reader in ("n1", homes[-1]):
            assert await small.get(b"k", at=reader) == payload_of(size)
            assert await small.get(b"k", at=reader, range=Range(7, 7000)) == payload_of(size)[7:7000]

    async def lie(usual: Serve, caller: Caller, request: Request) -> Reply:
        reply = await usual(caller, request)
        assert isinstance(reply, ReadCellsReply)
        flipped = bytes([reply.payload[0] ^ 1]) + reply.payload[1:] if reply.payload else b""
        return replace(reply, payload=flipped)

    async def no_inline(manifest: Manifest) -> None:
        del manifest

    run_story(story)


def test_three_lying_stores_are_an_error_not_wrong_bytes() -> None:
    async def story(small: SmallCluster) -> None:
        await small.put(b"k", payload_of(20_000))
        for name in (await small.homes(b"k"))[:3]:
            small.twist(name, ReadCells, swap)
        with pytest.raises(Unavailable) as refusal:
            await small.get(b"k")
        assert len(refusal.value.evidence) >= 3

    async def swap(usual: Serve, caller: Caller, request: Request) -> Reply:
        reply = await usual(caller, request)
        assert isinstance(reply, ReadCellsReply)
        return replace(reply, payload=reply.payload[::-1], checksums=tuple(reversed(reply.checksums)))

    run_story(story)


def test_a_whole_read_that_does_not_hash_never_ends_cleanly() -> None:
    async def story(small: SmallCluster) -> None:
        await small.put(b"k", payload_of(100_000))
        head = await small.head(b"k")
        assert head.manifest is not None
        wrong = replace(head, manifest=replace(head.manifest, hash=blob_digest(b"something else")))
        registers = small.node("n1").path.registers
        read = registers.read

        async def lie(pool: int, bucket: BucketId, key: bytes, *, inline_bytes_max: int = 0) -> Reading:
            return replace(await read(pool, bucket, key, inline_bytes_max=inline_bytes_max), head=wrong)

        registers.read = lie  # type: ignore[method-assign]
        received: list[bytes] = []

        async def work(coordinator: Coordinator) -> None:
            async for chunk in (await coordinator.get(BUCKET, b"k")).chunks:
                received.append(chunk)  # noqa: PERF401 - what came before the error counts

        with pytest.raises(IntegrityError):
            await small.call("n1", work)
        assert len(b"".join(received)) < 100_000

    run_story(story)


def test_a_reader_that_leaves_gives_its_memory_back() -> None:
    async def story(small: SmallCluster) -> None:
        await small.put(b"k", payload_of(100_000))

        async def leave(coordinator: Coordinator) -> None:
            result = await coordinator.get(BUCKET, b"k")
            assert small.memory_taken() > 0
            async with aclosing(cast("AsyncGenerator[bytes, None]", result.chunks)) as chunks:
                assert await anext(chunks)

        await small.call("n1", leave)
        assert small.memory_taken() == 0

    run_story(story)


def test_a_reader_that_stalls_gives_its_memory_back() -> None:
    async def story(small: SmallCluster) -> None:
        await small.put(b"k", payload_of(100_000))

        async def stall(coordinator: Coordinator) -> None:
            chunks = (await coordinator.get(BUCKET, b"k")).chunks
            assert await anext(chunks)
            assert small.memory_taken() > 0
            await pass_time(READER_IDLE_S + 1)
            assert small.memory_taken() == 0
            with pytest.raises(DeadlineExceeded):
                await anext(chunks)

        await small.call("n1", stall)

    run_story(story)


def test_many_uploads_and_reads_take_turns_in_little_memory() -> None:
    async def story(small: SmallCluster) -> None:
        memory = CoordinateMemory(300 * KIB)
        blobs = Blobs(replace(small.node("n1").path, coordinate=memory))
        bucket, pool = await small.bucket()
        data = payload_of(100_000)

        async def put(number: int) -> None:
            options = PutOptions(size=-1 if number % 2 else len(data))
            await blobs.put_in(pool, bucket.id, b"%d" % number, options, chunked(data))

        async def get(number: int) -> None:
            assert await read_all(await blobs.get_in(pool, bucket.id, b"%d" % number)) == data

        for work in (put, get):
            async with asyncio.TaskGroup() as group:
                for number in range(40):
                    group.create_task(small.at("n1", lambda _, work=work, number=number: work(number)))  # type: ignore[misc]
        assert memory.used_bytes == 0

    run_story(story)


def test_reads_survive_a_lost_san_at_once() -> None:
    async def story(small: SmallCluster) -> None:
        for size in (300, 8000, 100_000):
            await small.put(b"%d" % size, payload_of(size))
        for name in ("n5", "n6"):
            small.cluster.stop_at_once(small.machine(name))
        for size in (300, 8000, 100_000):
            began = small.cluster.loop.time()
            assert await small.get(b"%d" % size) == payload_of(size)
            assert small.cluster.loop.time() - began < 3.0

    run_story(story)


def test_older_versions_are_kept_and_undelete_brings_one_back() -> None:
    async def story(small: SmallCluster) -> None:
        first = await small.put(b"k", payload_of(20_000))
        second = await small.put(b"k", payload_of(700))
        deleted, _ = await small.call("n1", lambda c: c.delete(BUCKET, b"k", Condition(), Call()))
        assert first.version < second.version < deleted
        with pytest.raises(BlobNotFound):
            await small.get(b"k")
        assert await small.get(b"k", version=first.version) == payload_of(20_000)
        with pytest.raises(VersionNotFound):
            await small.get(b"k", version=deleted)
        back = await small.call("n3", lambda c: c.undelete(BUCKET, b"k", 0, Call()))
        assert back.version > deleted
        assert back.margin.full
        assert await small.get(b"k") == payload_of(700)
        older = await small.call("n4", lambda c: c.undelete(BUCKET, b"k", first.version, Call()))
        assert await small.get(b"k") == payload_of(20_000)
        entries = await small.call("n2", lambda c: c.versions(BUCKET, b"k"))
        assert [entry.version for entry in entries][:2] == [older.version, back.version]
        with pytest.raises(VersionNotFound):
            await small.call("n1", lambda c: c.undelete(BUCKET, b"k", 99, Call()))

    run_story(story)


def test_a_lost_race_leaves_no_shards() -> None:
    async def story(small: SmallCluster) -> None:
        await small.put(b"k", b"")
        options = PutOptions(condition=Condition(if_absent=True))
        for size in (700, 30_000):
            with pytest.raises(AlreadyExists):
                await small.put(b"k", payload_of(size), options=options)
        await nothing_is_left(small)

    run_story(story)


def test_a_retry_with_the_same_request_is_applied_once() -> None:
    async def story(small: SmallCluster) -> None:
        era = small.node("n1").cartographer.era
        options = PutOptions(call=Call(request_id=RequestId(b"r" * 16), stamp=era))
        first = await small.put(b"k", payload_of(700), options=options)
        again = await small.put(b"k", payload_of(700), options=options, at="n4")
        assert again.version == first.version
        await pass_time(20)
        assert await small.get(b"k") == payload_of(700)
        manifest = (await small.head(b"k")).manifest
        assert manifest is not None
        assert sum(map(len, small.sealed(manifest.seed_id).values())) == 6

    run_story(story)
