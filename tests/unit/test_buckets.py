"""Buckets of a simulated cluster: names, records, and deleting behind a closed door."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from holdfast_node.core.api import Bucket, BucketSettings, Call, Condition, PutOptions, VersionEntry
from holdfast_node.core.errors import (
    AlreadyExists,
    BucketClosing,
    BucketNotEmpty,
    BucketNotFound,
    HoldfastError,
    IntegrityError,
    InvalidArgument,
    Unavailable,
)
from holdfast_node.core.ids import RESERVED_BUCKET, BucketId, RequestId
from holdfast_node.core.messages import CloseBucket, ListRegisters, Prepare, ReadRegister, Request
from holdfast_node.services.buckets import (
    REFRESH_WAIT_S,
    SETTINGS_AGE_S,
    UNDO_SECONDS_MAX,
    Buckets,
    check_name,
    decode_record,
    encode_record,
)
from holdfast_node.services.node import Node
from tests.sim.cluster import Cluster, Machine, Topology
from tests.sim.loop import SimLoop
from tests.support.small_clusters import pass_time

T = TypeVar("T")
RECORD = Bucket("photos", BucketId(b"i" * 16), "main", 60, 7)


@pytest.mark.parametrize("name", ["abc", "a-b.c", "0ab", "x" * 63])
def test_good_names_pass(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "ab",
        "x" * 64,
        "Abc",
        "a_b",
        "-ab",
        "ab-",
        ".ab",
        "a..b",
        "a.-b",
        "10.0.0.1",
        "a/b",
        "äbc",
        "abc\n",
        "",
    ],
)
def test_bad_names_are_refused_with_the_rule(name: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        check_name(name)
    assert "3 to 63" in raised.value.hint


def test_a_record_comes_back_as_it_was() -> None:
    assert decode_record(encode_record(RECORD)) == RECORD
    assert decode_record(encode_record(replace(RECORD, closing=True))).closing


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b'{"format": 2}', encode_record(RECORD)[:-5]])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        _ = decode_record(data)


def play(story: Callable[[Cluster], Coroutine[Any, Any, None]], seed: int = 3) -> None:
    loop = SimLoop(seed)
    cluster = Cluster(loop, Topology("rs:2+1", (1, 1, 1), partitions=2), seed=seed, note=lambda _: None)

    async def main() -> None:
        await cluster.found()
        await story(cluster)

    loop.run(main())
    assert not cluster.problems, cluster.problems


async def on(cluster: Cluster, at: int, work: Callable[[Node], Awaitable[T]]) -> T:
    machine: Machine = list(cluster.machines.values())[at]
    node = machine.node
    assert machine.life is not None
    assert node is not None
    return await cluster.run_in(machine.life, lambda: work(node), timeout_s=60.0)


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def put(cluster: Cluster, at: int, bucket: str, key: bytes) -> int:
    options = PutOptions(size=4)
    return (await on(cluster, at, lambda n: n.coordinator.put(bucket, key, options, chunks(b"data")))).version


async def remove(cluster: Cluster, at: int, bucket: str, key: bytes) -> None:
    _ = await on(cluster, at, lambda n: n.coordinator.delete(bucket, key, Condition(), Call()))


async def half_deleted(cluster: Cluster) -> Bucket:
    """Its record says so, and all doors but one are closed: a node was away, and is back."""
    bucket = await on(cluster, 0, lambda n: n.buckets.create("photos"))
    away = list(cluster.machines.values())[2]
    cluster.stop_at_once(away)
    with pytest.raises(Unavailable):
        await on(cluster, 0, lambda n: n.buckets.delete("photos"))
    await cluster.boot(away)
    return bucket


def test_a_bucket_is_created_once_and_known_everywhere() -> None:
    async def story(cluster: Cluster) -> None:
        made = await on(cluster, 0, lambda n: n.buckets.create("photos", undo_seconds=5))
        assert made.pool == "main"
        assert made.undo_seconds == 5
        with pytest.raises(AlreadyExists):
            _ = await on(cluster, 1, lambda n: n.buckets.create("photos"))
        assert await on(cluster, 2, lambda n: n.buckets.create("photos", exist_ok=True)) == made
        assert await on(cluster, 1, lambda n: n.buckets.get("photos")) == made
        with pytest.raises(BucketNotFound):
            _ = await on(cluster, 1, lambda n: n.buckets.get("nothing"))

    play(story)


def test_a_retried_create_gets_the_bucket_it_made() -> None:
    async def story(cluster: Cluster) -> None:
        call = Call(RequestId(b"r" * 16))
        first = await on(cluster, 0, lambda n: n.buckets.create("photos", call=call))
        assert await on(cluster, 1, lambda n: n.buckets.create("photos", call=call)) == first

    play(story)


def test_buckets_are_listed_by_name() -> None:
    async def story(cluster: Cluster) -> None:
        for name in ("ccc", "aaa", "bbb"):
            _ = await on(cluster, 0, lambda n, name=name: n.buckets.create(name))  # type: ignore[misc]
        page, token = await on(cluster, 1, lambda n: n.buckets.list())
        assert [bucket.name for bucket in page] == ["aaa", "bbb", "ccc"]
        assert token == b""

    play(story)


def test_a_bucket_with_something_in_it_stays_and_takes_writes() -> None:
    async def story(cluster: Cluster) -> None:
        _ = await on(cluster, 0, lambda n: n.buckets.create("photos"))
        _ = await put(cluster, 1, "photos", b"k")
        with pytest.raises(BucketNotEmpty):
            await on(cluster, 2, lambda n: n.buckets.delete("photos"))
        assert await put(cluster, 0, "photos", b"k") == 2

    play(story)


def test_an_emptied_bucket_goes_and_a_new_one_of_its_name_is_empty() -> None:
    async def story(cluster: Cluster) -> None:
        old = await on(cluster, 0, lambda n: n.buckets.create("photos"))
        _ = await put(cluster, 1, "photos", b"k")
        await remove(cluster, 2, "photos", b"k")
        call = Call(RequestId(b"d" * 16))
        await on(cluster, 1, lambda n: n.buckets.delete("photos", call))
        for at in range(3):
            with pytest.raises(BucketNotFound):
                _ = await put(cluster, at, "photos", b"k")
        await on(cluster, 2, lambda n: n.buckets.delete("photos", call))
        new = await on(cluster, 0, lambda n: n.buckets.create("photos"))
        assert new.id != old.id
        assert await put(cluster, 2, "photos", b"k") == 1

    play(story)


def test_what_was_deleted_in_a_bucket_is_passed_over_by_the_page() -> None:
    """Key by key, a deletion took so long that whoever stood before its door had it opened again."""

    async def story(cluster: Cluster) -> None:
        _ = await on(cluster, 0, lambda n: n.buckets.create("photos"))
        for number in range(40):
            _ = await put(cluster, 1, "photos", b"k%d" % number)
            await remove(cluster, 2, "photos", b"k%d" % number)
        lists = 0

        def count(request: Request) -> bool:
            nonlocal lists
            lists += isinstance(request, ListRegisters)
            return False

        cluster.network.losing = count
        await on(cluster, 0, lambda n: n.buckets.delete("photos"))
        assert 0 < lists <= 2 * 3, "it is listed twice, and there are three stores"

    play(story)


def test_with_a_node_away_the_door_cannot_be_proved_closed_and_the_next_try_goes_on() -> None:
    async def story(cluster: Cluster) -> None:
        bucket = await on(cluster, 0, lambda n: n.buckets.create("photos"))
        away = list(cluster.machines.values())[2]
        cluster.stop_at_once(away)
        with pytest.raises(Unavailable) as raised:
            await on(cluster, 0, lambda n: n.buckets.delete("photos"))
        assert [evidence.who for evidence in raised.value.evidence] == ["n3"]
        assert (await on(cluster, 1, lambda n: n.buckets.get("photos"))).closing
        await cluster.boot(away)
        await on(cluster, 1, lambda n: n.buckets.delete("photos"))
        with pytest.raises(BucketNotFound):
            _ = await on(cluster, 0, lambda n: n.buckets.get("photos"))
        assert await on(cluster, 0, lambda n: n.buckets.is_gone(bucket.id))

    play(story)


def test_another_undo_window_holds_on_every_node_soon() -> None:
    async def story(cluster: Cluster) -> None:
        made = await on(cluster, 0, lambda n: n.buckets.create("photos", undo_seconds=0))
        for at in range(3):
            assert await put(cluster, at, "photos", b"k") == at + 1
        assert [v.version for v in await versions(cluster, "photos", b"k")] == [3]
        changed = await on(
            cluster, 1, lambda n: n.buckets.change("photos", BucketSettings(undo_seconds=3600))
        )
        assert changed == replace(made, undo_seconds=3600)
        await pass_time(SETTINGS_AGE_S)
        for at in range(3):
            assert await put(cluster, at, "photos", b"k") == at + 4
        assert [v.version for v in await versions(cluster, "photos", b"k")] == [6, 5, 4, 3]
        again = await on(cluster, 2, lambda n: n.buckets.change("photos", BucketSettings(undo_seconds=3600)))
        assert again == changed
        for wrong in (-1, UNDO_SECONDS_MAX + 1):
            settings = BucketSettings(undo_seconds=wrong)
            with pytest.raises(InvalidArgument):
                await on(cluster, 2, lambda n, it=settings: n.buckets.change("photos", it))  # type: ignore[misc]
        with pytest.raises(BucketNotFound):
            await on(cluster, 2, lambda n: n.buckets.change("nobodys", BucketSettings(undo_seconds=5)))

    play(story)


def test_a_bucket_that_is_being_deleted_is_not_set() -> None:
    async def story(cluster: Cluster) -> None:
        _ = await half_deleted(cluster)
        with pytest.raises(BucketClosing):
            await on(cluster, 1, lambda n: n.buckets.change("photos", BucketSettings(undo_seconds=5)))

    play(story)


def test_where_the_record_cannot_be_read_what_was_known_of_a_bucket_holds_on() -> None:
    async def story(cluster: Cluster) -> None:
        await on(cluster, 0, lambda n: n.buckets.create("photos"))
        assert await put(cluster, 1, "photos", b"k") == 1
        cluster.network.losing = lambda request: (
            isinstance(request, ReadRegister | Prepare) and request.bucket == RESERVED_BUCKET
        )
        for number in range(3):
            await pass_time(SETTINGS_AGE_S)
            began_s = cluster.loop.time()
            assert await put(cluster, 1, "photos", b"k") == number + 2
            assert cluster.loop.time() < began_s + REFRESH_WAIT_S + 1
        with pytest.raises(Unavailable):
            await put(cluster, 2, "photos", b"k")

    play(story)


class Slow:
    """Reads of records come to their ends when the test says so, with what was there when they began."""

    def __init__(self, buckets: Buckets) -> None:
        self._usual = buckets._read
        self.gates: list[asyncio.Future[None]] = []
        vars(buckets)["_read"] = self.read

    async def read(self, name: str) -> object:
        found = await self._usual(name)
        self.gates.append(asyncio.get_running_loop().create_future())
        await self.gates[-1]
        return found


def test_what_was_read_later_stays_and_another_bucket_that_is_forgotten_does_not_matter() -> None:
    async def story(cluster: Cluster) -> None:
        await on(cluster, 1, lambda n: n.buckets.create("photos", undo_seconds=0))
        node = next(iter(cluster.machines.values())).node
        assert node is not None
        buckets = node.buckets
        await buckets.resolve("photos")
        slow = Slow(buckets)
        await pass_time(SETTINGS_AGE_S)
        early = asyncio.create_task(buckets.resolve("photos"))
        await pass_time(0.5)
        assert len(slow.gates) == 1
        await on(cluster, 1, lambda n: n.buckets.change("photos", BucketSettings(undo_seconds=3600)))
        entry = buckets._cache["photos"]
        buckets._cache["photos"] = replace(entry, since_s=entry.since_s - SETTINGS_AGE_S)
        late = asyncio.create_task(buckets.resolve("photos"))
        await pass_time(0.1)
        buckets.forget(BucketId(b"another bucket's"))
        slow.gates[1].set_result(None)
        assert (await late)[0].undo_seconds == 3600
        slow.gates[0].set_result(None)
        assert (await early)[0].undo_seconds == 0
        assert (await buckets.resolve("photos"))[0].undo_seconds == 3600

    play(story)


def test_a_bucket_that_was_made_anew_meanwhile_is_not_set() -> None:
    async def story(cluster: Cluster) -> None:
        await on(cluster, 0, lambda n: n.buckets.create("photos", undo_seconds=7200))
        node = next(iter(cluster.machines.values())).node
        assert node is not None
        usual = node.buckets._write

        async def write(bucket: Bucket, condition: Condition, call: Call) -> int:
            vars(node.buckets)["_write"] = usual
            await on(cluster, 1, lambda n: n.buckets.delete("photos"))
            await on(cluster, 1, lambda n: n.buckets.create("photos", undo_seconds=9999))
            return await usual(bucket, condition, call)

        vars(node.buckets)["_write"] = write
        with pytest.raises(BucketNotFound, match="made anew"):
            await on(cluster, 0, lambda n: n.buckets.change("photos", BucketSettings(undo_seconds=60)))
        assert (await on(cluster, 2, lambda n: n.buckets.get("photos"))).undo_seconds == 9999

    play(story)


async def versions(cluster: Cluster, bucket: str, key: bytes) -> tuple[VersionEntry, ...]:
    return await on(cluster, 0, lambda n: n.coordinator.versions(bucket, key))


def test_a_deletion_that_was_given_up_can_be_undone() -> None:
    async def story(cluster: Cluster) -> None:
        bucket = await half_deleted(cluster)
        assert not await on(cluster, 1, lambda n: n.buckets.is_gone(bucket.id))
        await on(cluster, 1, lambda n: n.buckets.reopen(bucket.id))
        assert await put(cluster, 2, "photos", b"k") == 1
        await on(cluster, 1, lambda n: n.buckets.reopen(bucket.id))
        assert await put(cluster, 0, "photos", b"k") == 2, "open already: nothing to do"

    play(story)


def test_a_home_that_did_not_hear_of_the_undoing_is_told_by_whoever_stands_before_the_door() -> None:
    """A learner stood there for ever: the record was open, one home's door was not. Found by world 920114."""

    async def story(cluster: Cluster) -> None:
        bucket = await half_deleted(cluster)
        cluster.network.losing = lambda request: isinstance(request, CloseBucket)
        await on(cluster, 1, lambda n: n.buckets.reopen(bucket.id))
        cluster.network.losing = None
        deaf = next(iter(cluster.machines.values())).node
        assert deaf is not None
        assert deaf.store.bucket_closing(bucket.id)
        await on(cluster, 1, lambda n: n.buckets.reopen(bucket.id))
        assert not deaf.store.bucket_closing(bucket.id)

    play(story)


@pytest.mark.parametrize("seed", range(8))
def test_no_acknowledged_blob_goes_with_its_bucket(seed: int) -> None:
    async def story(cluster: Cluster) -> None:
        _ = await on(cluster, 0, lambda n: n.buckets.create("photos"))
        acked: list[bytes] = []
        gone: list[bool] = []

        async def writer(number: int) -> None:
            for turn in range(4):
                key = b"%d.%d" % (number, turn)
                try:
                    _ = await put(cluster, number, "photos", key)
                    acked.append(key)
                    await remove(cluster, number, "photos", key)
                    acked.remove(key)
                except HoldfastError:
                    continue

        async def deleter() -> None:
            for _ in range(4):
                try:
                    await on(cluster, 0, lambda n: n.buckets.delete("photos"))
                    gone.append(True)
                except HoldfastError:
                    continue

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                _ = group.create_task(writer(number))
            _ = group.create_task(deleter())
        if gone:
            assert not acked
        else:
            bucket = await on(cluster, 1, lambda n: n.buckets.get("photos"))
            assert not bucket.closing or not acked

    play(story, seed)
