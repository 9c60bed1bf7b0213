"""What no head names any more goes, and nothing else does: undo windows, failed writes, deleted buckets."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import pytest

from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.core.api import Bucket, Call, Condition, PutOptions
from holdfast_node.core.errors import OutcomeUnknown, Overloaded, VersionNotFound
from holdfast_node.core.head import Head, seeds_of
from holdfast_node.core.ids import RequestId
from holdfast_node.core.messages import (
    Accept,
    LinkShards,
    Prepare,
    ReadRegister,
    ReadSuperseded,
    Reply,
    Request,
    Seal,
    SupersededReply,
)
from holdfast_node.core.records import BucketRecord
from holdfast_node.services import collection, collector
from holdfast_node.services.closed_doors import ClosedDoors
from holdfast_node.services.datapath import KeyPlace
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.node import Node
from holdfast_node.services.store import Entry
from tests.sim.client import ConnectionLost
from tests.support.doors import StuckDoors
from tests.support.small_clusters import (
    BUCKET,
    Serve,
    SmallCluster,
    chunked,
    pass_time,
    payload_of,
    run_story,
)

BODIES: Final = ProtobufBodies()
ROUND_S: Final = collector.ROUND_MIN_S + 10
WINDOW_S: Final = 200


async def _until(condition: Callable[[], bool], limit_s: float) -> None:
    """Wait in virtual time for what must happen."""
    deadline = asyncio.get_running_loop().time() + limit_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it never happened"
        await pass_time(0.05 if limit_s < 1 else 5.0)


async def _round(node: Node, *, doubting: bool = False) -> None:
    """One whole round of a node's collector, now."""
    node.collection.begin(doubting=doubting)
    for step in node.collector._steps:
        start = await step(b"")
        while start:
            start = await step(start)


async def _round_everywhere(small: SmallCluster) -> None:
    for machine in small.cluster.running():
        await small.at(machine.name, _round)


@pytest.fixture
def no_quarantine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is nobody's goes when it is found."""
    monkeypatch.setattr(collection, "QUARANTINE_S", 0.0)


def _seeds(small: SmallCluster) -> set[bytes]:
    """Seeds that somebody keeps, but for those of bucket records."""
    return small.kept_seeds() - small.record_seeds


async def _remember_records(small: SmallCluster) -> None:
    small.record_seeds = small.kept_seeds()


def _manifests(small: SmallCluster, key: bytes) -> int:
    """How many manifests of a key there are on all stores."""
    return sum(
        len(held.blob_ids)
        for machine in small.cluster.running()
        if machine.node is not None
        for held in machine.node.store.inventory.manifests(b"", 10_000)[0]
        if held.key == key
    )


def test_without_undo_what_was_overwritten_goes_by_itself() -> None:
    async def story(small: SmallCluster) -> None:
        await _remember_records(small)
        for size in (20_000, 300, 70_000):
            await small.put(b"k", payload_of(size))
        assert len(_seeds(small)) == 3
        current = set[bytes](seeds_of(await small.head(b"k")))
        await _until(lambda: _seeds(small) == current, 4 * ROUND_S + collection.QUARANTINE_S)
        await _until(lambda: _manifests(small, b"k") == 6, 2 * ROUND_S)
        assert await small.get(b"k", at="n4") == payload_of(70_000)
        await small.call("n2", lambda c: c.delete(BUCKET, b"k", Condition(), Call()))
        await _until(lambda: not _seeds(small), 4 * ROUND_S + collection.QUARANTINE_S)
        gone_s = small.cluster.loop.time()
        compactions = [small.node(machine.name).compaction for machine in small.cluster.running()]
        await _until(lambda: all(each._surveyed_s > gone_s - ROUND_S for each in compactions), 30)

    run_story(story, undo_seconds=0)


def test_what_is_being_read_is_not_dropped_under_the_reader() -> None:
    async def overwrite(node: Node) -> None:
        await node.coordinator.put(BUCKET, b"k", PutOptions(size=10), chunked(b"0123456789"))

    async def story(small: SmallCluster) -> None:
        await small.put(b"k", payload_of(200_000))
        (old,) = seeds_of(await small.head(b"k"))
        read: list[bytes] = []

        async def slowly(node: Node) -> None:
            result = await node.coordinator.get(BUCKET, b"k")
            async for chunk in result.chunks:
                read.append(chunk)
                if len(read) == 2:
                    await small.at("n2", overwrite)
                    await _round_everywhere(small)
                await pass_time(10.0)

        await small.at("n1", slowly)
        assert b"".join(read) == payload_of(200_000)
        await _until(lambda: not small.sealed(old), collection.QUARANTINE_S + 4 * ROUND_S)

    run_story(story, undo_seconds=0)


@pytest.mark.usefixtures("no_quarantine")
def test_a_kept_version_lasts_as_long_as_its_window_and_then_goes() -> None:
    async def story(small: SmallCluster) -> None:
        await _remember_records(small)
        first = await small.put(b"k", payload_of(20_000))
        await pass_time(3 * ROUND_S)
        await small.put(b"k", payload_of(700))
        began_s = small.cluster.loop.time()
        await pass_time(WINDOW_S - 30)
        await _round_everywhere(small)
        assert await small.get(b"k", version=first.version) == payload_of(20_000)
        assert small.cluster.loop.time() < began_s + WINDOW_S
        await pass_time(40)
        for _ in range(2):  # a steward may come after others that could drop what it lets go of
            await _round_everywhere(small)
        assert len(_seeds(small)) == 1
        with pytest.raises(VersionNotFound):
            await small.get(b"k", version=first.version)
        with pytest.raises(VersionNotFound):
            await small.call("n5", lambda c: c.undelete(BUCKET, b"k", first.version, Call()))
        assert await small.get(b"k") == payload_of(700)

    run_story(story, undo_seconds=WINDOW_S)


def test_what_was_undeleted_in_time_stays() -> None:
    async def story(small: SmallCluster) -> None:
        await _remember_records(small)
        first = await small.put(b"k", payload_of(20_000))
        await small.put(b"k", payload_of(700))
        await pass_time(WINDOW_S - 60)
        back = await small.call("n3", lambda c: c.undelete(BUCKET, b"k", first.version, Call()))
        await small.put(b"k", payload_of(300))
        await pass_time(120)
        await _round_everywhere(small)
        entries = await small.call("n2", lambda c: c.versions(BUCKET, b"k"))
        assert first.version not in [entry.version for entry in entries]
        assert await small.get(b"k", version=back.version) == payload_of(20_000)

    run_story(story, undo_seconds=WINDOW_S)


def test_a_window_ends_by_the_word_of_a_majority_only() -> None:
    """Three of six say so: the others answer that they do not know."""

    async def unknowing(usual: Serve, caller: Caller, asked: Request) -> Reply:
        reply = await usual(caller, asked)
        assert isinstance(reply, SupersededReply)
        return SupersededReply(tuple(0 for _ in reply.below))

    async def story(small: SmallCluster) -> None:
        first = await small.put(b"k", payload_of(20_000))
        await small.put(b"k", payload_of(700))
        for name in ("n1", "n3", "n5"):
            small.twist(name, ReadSuperseded, unknowing)
        await pass_time(WINDOW_S + 100)
        await _round_everywhere(small)
        assert await small.get(b"k", version=first.version) == payload_of(20_000)

    run_story(story, undo_seconds=WINDOW_S)


@pytest.mark.usefixtures("no_quarantine")
def test_deciding_a_head_once_more_makes_nothing_younger() -> None:
    async def story(small: SmallCluster) -> None:
        first = await small.put(b"k", payload_of(20_000))
        await small.put(b"k", payload_of(700))
        bucket, pool = await small.bucket()
        await pass_time(WINDOW_S - 50)
        await small.at("n1", lambda node: node.registers.rewrite(pool, bucket.id, b"k", above=None))
        await pass_time(60)
        await _round_everywhere(small)
        with pytest.raises(VersionNotFound):
            await small.get(b"k", version=first.version)

    run_story(story, undo_seconds=WINDOW_S)


def test_a_restart_makes_nothing_older() -> None:
    """Ages are kept with the register, in seconds that the store was running."""

    async def story(small: SmallCluster) -> None:
        first = await small.put(b"k", payload_of(20_000))
        await small.put(b"k", payload_of(700))
        await pass_time(130)
        for machine in small.cluster.running():
            small.cluster.stop_at_once(machine)
        await pass_time(1000)
        for machine in small.cluster.machines.values():
            await small.cluster.boot(machine)
        await pass_time(20)
        await _round_everywhere(small)
        assert await small.get(b"k", version=first.version) == payload_of(20_000)
        await pass_time(120)
        await _round_everywhere(small)
        with pytest.raises(VersionNotFound):
            await small.get(b"k", version=first.version)

    run_story(story, undo_seconds=WINDOW_S)


@pytest.mark.usefixtures("no_quarantine")
def test_an_undelete_under_way_when_its_version_goes_is_refused_and_names_nothing() -> None:
    """Its links are durable at all holders; then the window ends, and a collector passes by."""

    async def story(small: SmallCluster) -> None:
        await _remember_records(small)
        first = await small.put(b"k", payload_of(20_000))
        await small.put(b"k", payload_of(700))
        await pass_time(collection.QUARANTINE_S + 1)
        bucket, pool = await small.bucket()
        linked = 0

        async def expire_then_answer(usual: Serve, caller: Caller, asked: Request) -> Reply:
            nonlocal linked
            reply = await usual(caller, asked)
            linked += 1
            if linked == 6:
                await small.at("n6", lambda node: node.registers.expire(pool, bucket.id, b"k", 2))
                await _round_everywhere(small)
            return reply

        for machine in small.cluster.running():
            small.twist(machine.name, LinkShards, expire_then_answer)
        with pytest.raises(VersionNotFound):
            await small.call("n3", lambda c: c.undelete(BUCKET, b"k", first.version, Call()))
        assert linked == 6
        assert await small.get(b"k") == payload_of(700)
        assert len(_seeds(small)) == 1

    run_story(story)


@pytest.mark.usefixtures("no_quarantine")
def test_a_write_under_way_is_left_alone_and_one_that_failed_goes_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collection, "STAGE_TTL_S", 500)

    async def story(small: SmallCluster) -> None:
        await _remember_records(small)

        died: list[str] = []

        async def die(usual: Serve, caller: Caller, asked: Request) -> Reply:
            reply = await usual(caller, asked)
            if not died:
                died.append("n1")
                small.cluster.stop_at_once(small.machine("n1"))
            return reply

        small.twist("n4", Seal, die)
        with pytest.raises(ConnectionLost):
            await small.put(b"k", payload_of(100_000), at="n1")
        await small.cluster.boot(small.machine("n1"))
        await pass_time(400)
        await _round_everywhere(small)
        assert len(_seeds(small)) == 1, "nobody knows yet that it failed"
        await pass_time(110)
        await _round_everywhere(small)
        assert not _seeds(small)
        assert (await small.head(b"k")).fence is not None

    run_story(story)


@pytest.mark.usefixtures("no_quarantine")
def test_a_slow_write_that_was_taken_for_failed_needs_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its accepts are held up everywhere until its shards are gone: then they must not be decided."""
    monkeypatch.setattr(collection, "STAGE_TTL_S", 0)

    async def story(small: SmallCluster) -> None:
        await _remember_records(small)
        collected = asyncio.Event()
        waiting: list[Request] = []

        async def hold(usual: Serve, caller: Caller, asked: Request) -> Reply:
            if isinstance(asked, Accept) and BODIES.decode(Head, asked.head).manifest is not None:
                waiting.append(asked)
                await collected.wait()
            return await usual(caller, asked)

        for machine in small.cluster.running():
            small.twist(machine.name, Accept, hold)
        options = PutOptions(size=700, call=Call(RequestId(b"r" * 16)))
        writing = asyncio.ensure_future(small.put(b"k", payload_of(700), options=options))
        await _until(lambda: len(waiting) >= 6, 0.9)
        first = _seeds(small)
        await small.at("n2", lambda node: node.collection.shards_step(b""))
        assert small.node("n2").collection.dropped == 1
        collected.set()
        with pytest.raises(OutcomeUnknown, match="under the key's fence"):
            _ = await writing
        _ = await small.put(b"k", payload_of(700), options=options)
        await _round_everywhere(small)
        assert await small.get(b"k", at="n5") == payload_of(700)
        assert _seeds(small).isdisjoint(first)

    run_story(story)


@pytest.mark.usefixtures("no_quarantine")
def test_what_a_deleted_bucket_leaves_behind_goes() -> None:
    async def story(small: SmallCluster) -> None:
        await small.put(b"k", payload_of(20_000))
        await small.call("n1", lambda c: c.delete(BUCKET, b"k", Condition(), Call()))
        await _round_everywhere(small)
        (seed,) = seeds_of(await small.head(b"k"))
        assert small.sealed(seed), "kept for undo"
        bucket, pool = await small.bucket()
        await small.cluster.delete_bucket(BUCKET)
        await _round_everywhere(small)
        assert not small.sealed(seed)
        for machine in small.cluster.running():
            healer = small.node(machine.name).healer
            healer.report(KeyPlace(pool, bucket.id, b"k"))
        await pass_time(120)
        status = await small.at("n1", lambda node: node.admin.status())
        assert status.healthy, "nobody wants it healed"

    run_story(story)


def test_a_home_that_cannot_be_asked_keeps_everything() -> None:
    """Three of six are down: no head can be decided, so that nothing goes."""

    async def story(small: SmallCluster) -> None:
        for size in (20_000, 700):
            await small.put(b"k", payload_of(size))
        await pass_time(10)
        before = small.kept_seeds()
        for name in ("n2", "n4", "n6"):
            small.cluster.stop_at_once(small.machine(name))
        await pass_time(collection.QUARANTINE_S)
        for name in ("n1", "n3", "n5"):
            await small.at(name, lambda node: node.collection.shards_step(b""))
        assert small.kept_seeds() == before
        assert small.node("n1").collection.dropped == 0

    run_story(story, undo_seconds=0)


def test_what_is_in_order_costs_no_question() -> None:
    async def story(small: SmallCluster) -> None:
        for number in range(20):
            await small.put(b"key %d" % number, payload_of(2000 + number))
        small.watch(Prepare)
        await _round_everywhere(small)
        assert small.served[Prepare] == 0

    run_story(story)


async def _refuse(usual: Serve, caller: Caller, asked: Request) -> Reply:
    raise Overloaded("not now")


def test_a_home_that_missed_what_was_decided_gives_up_old_shards_all_the_same() -> None:
    """Its own head still names them; now and then it is not believed."""

    async def story(small: SmallCluster) -> None:
        await small.put(b"k", payload_of(20_000))
        (old,) = seeds_of(await small.head(b"k"))
        small.twist("n2", Accept, _refuse)
        await small.put(b"k", payload_of(700))
        await small.at("n2", _round)
        assert "n2" in small.sealed(old), "its own head said that it is named"
        await small.at("n2", lambda node: _round(node, doubting=True))
        await pass_time(collection.QUARANTINE_S)
        await small.at("n2", _round)
        assert "n2" not in small.sealed(old), "what was found to be nobody's is remembered"

    run_story(story, undo_seconds=0)


@pytest.mark.usefixtures("no_quarantine")
def test_the_manifest_of_what_is_about_to_be_decided_stays() -> None:
    """One home alone has accepted it; the others agree on the version before."""

    async def story(small: SmallCluster) -> None:
        await small.put(b"k", payload_of(20_000))
        for name in ("n1", "n3", "n4", "n5", "n6"):
            small.twist(name, Accept, _refuse)
        with pytest.raises(OutcomeUnknown):
            await small.put(b"k", payload_of(0))
        small.twist("n2", ReadRegister, _refuse)
        before = _manifests(small, b"k")
        await small.at("n2", lambda node: _round(node, doubting=True))
        assert _manifests(small, b"k") == before == 7

    run_story(story, undo_seconds=0)


@pytest.mark.usefixtures("no_quarantine")
@pytest.mark.parametrize("size", [20_000, 0])
def test_a_half_accepted_head_behind_a_closed_door_keeps_nothing_for_ever(size: int) -> None:
    """Shards of a blob, or the manifest of one that has none: a deletion that nobody goes on with is undone."""

    async def story(small: SmallCluster) -> None:
        bucket, _ = await small.bucket()

        async def refuse(usual: Serve, caller: Caller, asked: Request) -> Reply:
            if isinstance(asked, Accept | ReadRegister) and asked.bucket == bucket.id:
                raise Overloaded("not now")
            return await usual(caller, asked)

        for name in ("n1", "n4", "n5", "n6"):
            small.twist(name, Accept, refuse)
        with pytest.raises(OutcomeUnknown):
            await small.put(b"k", payload_of(size))
        for name in ("n1", "n2"):  # two show it of the four that answer: nothing is decided
            small.twist(name, ReadRegister, refuse)
        for machine in small.cluster.running():
            await small.node(machine.name).store.append([Entry(BucketRecord(bucket.id, closing=True))])
        step = "shards_step" if size else "manifests_step"
        doors = StuckDoors()
        vars(small.node("n3").collection)["_closed"] = ClosedDoors(doors)
        small.node("n3").collection.begin(doubting=True)
        _ = await small.at("n3", lambda node: getattr(node.collection, step)(b""))
        assert doors.stood == [bucket.id]

    run_story(story, undo_seconds=0)


@pytest.mark.usefixtures("no_quarantine")
def test_a_bucket_that_nobody_closed_is_not_gone_because_its_record_is() -> None:
    async def story(small: SmallCluster) -> None:
        await small.put(b"k", payload_of(20_000))
        before = small.kept_seeds(), _manifests(small, b"k")

        async def nothing() -> AsyncIterator[tuple[int, Bucket]]:
            for _ in ():
                yield 0, (await small.bucket())[0]

        for machine in small.cluster.running():
            small.node(machine.name).buckets.all_buckets = nothing  # type: ignore[method-assign]
        for machine in small.cluster.running():
            await small.at(machine.name, lambda node: _round(node, doubting=True))
        assert (small.kept_seeds(), _manifests(small, b"k")) == before

    run_story(story)
