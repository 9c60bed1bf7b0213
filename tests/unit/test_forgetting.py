"""What was deleted long ago is forgotten by all its homes, and by none of them too early."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from holdfast_node.core.acceptance import Standing
from holdfast_node.core.api import Call, Condition, Margin, PutOptions
from holdfast_node.core.errors import StaleEra, Unavailable
from holdfast_node.core.forgetting import Word, word
from holdfast_node.core.head import HeadKind
from holdfast_node.core.heal_order import Ailing
from holdfast_node.core.ids import RESERVED_BUCKET, BucketId, Era, NodeName, RequestId, Version
from holdfast_node.core.index_keys import BLANK_ROWS
from holdfast_node.core.messages import Accept, ForgetRegisters, ForgetReply, HeldKey, Reply, Request
from holdfast_node.services import collection, collector, forgetting
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.node import Node
from holdfast_node.services.store import Entry
from tests.sim.cluster import Topology
from tests.sim.index import IndexContent
from tests.support import stores
from tests.support.rot import flip, records_of
from tests.support.small_clusters import (
    BUCKET,
    Serve,
    SmallCluster,
    chunked,
    pass_time,
    payload_of,
    run_story,
    until_healthy,
)

REST_S: Final = 300
FOUR: Final = Topology("rs:2+2", (1, 1, 1, 1), partitions=2)


@pytest.fixture(autouse=True)
def rests_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "REST_S", REST_S)
    monkeypatch.setattr(forgetting, "ERA_REST_S", 0.0)
    monkeypatch.setattr(collection, "QUARANTINE_S", 0.0)


async def _round(node: Node, *, doubting: bool = False) -> None:
    """One walk of a node's forgetter through its registers, now."""
    node.forgetter.begin(doubting=doubting)
    node.bucket_book.forget()
    start = await node.forgetter.step(b"")
    while start:
        start = await node.forgetter.step(start)


async def _rounds(small: SmallCluster, count: int = 1) -> None:
    for _ in range(count):
        for machine in small.cluster.running():
            await small.at(machine.name, _round)
        await pass_time(5)  # an era that was asked for is raised


async def _delete(small: SmallCluster, key: bytes, *, at: str = "n1", call: Call = Call()) -> int:  # noqa: B008
    return (await small.call(at, lambda c: c.delete(BUCKET, key, Condition(), call)))[0]


async def _deleted(small: SmallCluster, key: bytes) -> int:
    """Written and deleted, which is over everywhere, shards included; the version that deleted it."""
    await small.put(key, payload_of(700))
    version = await _delete(small, key)
    await pass_time(2 * collector.ROUND_MIN_S)
    return version


async def _forget(small: SmallCluster, key: bytes) -> None:
    """Let it rest until it is forgotten: whoever writes or asks under a new ballot has it rest once more."""
    for _ in range(4):
        await pass_time(REST_S)
        await _rounds(small, 4)
        if not await _holders(small, key):
            return
    raise AssertionError("it was never forgotten")


async def _beside(small: SmallCluster, key: bytes) -> bytes:
    """Another key of the same partition."""
    topology = small.node("n1").cartographer.require()
    bucket, pool = await small.bucket()
    at = topology.key_partition(pool, bucket.id, key)
    others = (b"beside %d" % number for number in range(100))
    return next(other for other in others if topology.key_partition(pool, bucket.id, other) == at)


async def _holders(small: SmallCluster, key: bytes) -> set[str]:
    """Who has anything accepted under this key."""
    bucket, _ = await small.bucket()
    return _holders_in(small, bucket.id, key)


def _holders_in(small: SmallCluster, bucket: BucketId, key: bytes) -> set[str]:
    entries = {
        machine.name: machine.node.store.register_entry(bucket, key)
        for machine in small.cluster.running()
        if machine.node is not None
    }
    return {name for name, entry in entries.items() if entry is not None and entry.accepted is not None}


def test_a_deleted_key_is_forgotten_by_all_and_begins_above_its_past() -> None:
    async def story(small: SmallCluster) -> None:
        version = await _deleted(small, b"k")
        homes = set(await small.homes(b"k"))
        await _rounds(small, 4)
        assert await _holders(small, b"k") == homes, "it has not rested"
        await _forget(small, b"k")
        assert (await small.head(b"k")).kind is HeadKind.ABSENT
        assert (await small.put(b"k", payload_of(300))).version == version + 1
        assert await small.get(b"k", at="n4") == payload_of(300)
        others = await small.put(b"other", payload_of(300))
        assert (await small.put(b"other", payload_of(400))).version == others.version + 1

    run_story(story, topology=FOUR, undo_seconds=0)


def test_what_is_kept_for_undo_is_not_forgotten() -> None:
    async def story(small: SmallCluster) -> None:
        await _deleted(small, b"k")
        await pass_time(2 * REST_S)
        await _rounds(small, 4)
        assert await _holders(small, b"k") == set(await small.homes(b"k"))

    run_story(story, topology=FOUR, undo_seconds=10 * REST_S)


def test_nothing_is_forgotten_while_a_home_is_away() -> None:
    async def story(small: SmallCluster) -> None:
        await until_healthy(small)
        await _deleted(small, b"k")
        homes = await small.homes(b"k")
        small.cluster.stop_at_once(small.machine(homes[-1]))
        await pass_time(REST_S + 10)
        await _rounds(small, 4)
        assert await _holders(small, b"k") == set(homes[:-1])
        await small.cluster.boot(small.machine(homes[-1]))
        await _forget(small, b"k")

    run_story(story, topology=FOUR, undo_seconds=0)


def test_a_home_that_missed_the_deletion_keeps_all_from_forgetting_it() -> None:
    async def ignore(usual: Serve, caller: Caller, asked: Request) -> Reply:
        if isinstance(asked, Accept) and asked.key == b"k":
            raise Unavailable("lost")
        return await usual(caller, asked)

    async def story(small: SmallCluster) -> None:
        await small.put(b"k", payload_of(700))
        await pass_time(10)
        homes = await small.homes(b"k")
        other = await _beside(small, b"k")
        await small.put(other, payload_of(700))
        small.stop_following()
        small.twist(homes[3], Accept, ignore)
        await _delete(small, b"k")
        await _delete(small, other)
        await _forget(small, other)
        assert await _holders(small, b"k") == set(homes)
        await small.go_on_following()
        await _forget(small, b"k")
        assert (await small.head(b"k")).kind is HeadKind.ABSENT

    run_story(story, topology=FOUR, undo_seconds=0)


def test_what_one_home_was_not_told_to_forget_is_found_again() -> None:
    """The steward forgets last, and so it asks once more."""
    lost: list[ForgetRegisters] = []

    async def lose_the_word(usual: Serve, caller: Caller, asked: Request) -> Reply:
        assert isinstance(asked, ForgetRegisters)
        if asked.sure and not lost:
            lost.append(asked)
            raise Unavailable("lost")
        return await usual(caller, asked)

    async def story(small: SmallCluster) -> None:
        await until_healthy(small)
        version = await _deleted(small, b"k")
        homes = await small.homes(b"k")
        small.twist(homes[2], ForgetRegisters, lose_the_word)
        await pass_time(REST_S)
        while not lost:
            await _rounds(small)
        assert await _holders(small, b"k") == {homes[0], homes[2]}
        assert (await small.head(b"k", at=homes[1])).kind is not HeadKind.BLOB
        await _rounds(small)
        left = await _holders(small, b"k")
        if left:  # a reader completed it meanwhile, so that it rests anew
            await pass_time(REST_S)
            await _rounds(small)
        assert not await _holders(small, b"k")
        assert (await small.put(b"k", b"again")).version > version

    run_story(story, topology=FOUR, undo_seconds=0)


def test_a_key_with_a_promise_is_decided_once_more_and_rests_again() -> None:
    """Who deletes what is deleted leaves a promise, under which it might still write."""

    async def story(small: SmallCluster) -> None:
        await _deleted(small, b"k")
        await pass_time(REST_S)
        with pytest.raises(Exception, match="nothing to delete"):
            await _delete(small, b"k", at="n3")
        await _rounds(small, 4)
        assert await _holders(small, b"k") == set(await small.homes(b"k"))
        await _forget(small, b"k")

    run_story(story, topology=FOUR, undo_seconds=0)


def test_promises_under_a_floor_are_forgotten_and_those_above_it_are_not() -> None:
    """Who deletes what is not there leaves nothing but a promise."""

    async def story(small: SmallCluster) -> None:
        await until_healthy(small)
        with pytest.raises(Exception, match="nothing to delete"):
            await _delete(small, b"never", at="n3")
        bucket, _ = await small.bucket()

        def promised() -> set[str]:
            entries = {
                machine.name: machine.node.store.register_entry(bucket.id, b"never")
                for machine in small.cluster.running()
                if machine.node is not None
            }
            return {name for name, entry in entries.items() if entry is not None}

        before = promised()
        assert before
        await _rounds(small)
        assert promised() == before, "there is no floor yet"
        key = await _beside(small, b"never")
        await _deleted(small, key)
        await _forget(small, key)
        await _rounds(small)
        assert not promised()
        with pytest.raises(Exception, match="nothing to delete"):
            await _delete(small, b"never", at="n3")
        before = promised()
        await _rounds(small, 2)
        assert promised() == before != set(), "it is above the floor"

    run_story(story, topology=FOUR, undo_seconds=0)


def test_who_has_forgotten_says_so_unless_it_has_promised_something_since() -> None:
    held = HeldKey(BucketId(bytes(16)), b"k", stores.ballot(5), Version(3))
    above = Standing(1, Era(1), version_floor=3, ballot_floor=stores.ballot(6))
    assert word(None, None, above, held) is Word.YES
    assert word(stores.promise(b"k", 6), None, above, held) is Word.YES
    assert word(stores.promise(b"k", 7), None, above, held) is Word.PROMISED
    for floors in (replace(above, ballot_floor=stores.ballot(4)), replace(above, version_floor=2)):
        assert word(None, None, floors, held) is Word.NO
        assert word(stores.promise(b"k", 7), None, floors, held) is Word.NO


def test_a_promise_of_one_that_has_forgotten_has_the_key_decided_again() -> None:
    """The others could not be told; then somebody asked for the key."""
    told: list[str] = []

    async def story(small: SmallCluster) -> None:
        async def lose_the_word(usual: Serve, caller: Caller, asked: Request) -> Reply:
            assert isinstance(asked, ForgetRegisters)
            if asked.sure and not told:
                raise Unavailable("lost")
            return await usual(caller, asked)

        await until_healthy(small)
        await _deleted(small, b"k")
        homes = await small.homes(b"k")
        for name in homes[2:]:
            small.twist(name, ForgetRegisters, lose_the_word)
        await pass_time(REST_S)
        while await _holders(small, b"k") == set(homes):
            await _rounds(small)
        with pytest.raises(Exception, match="nothing to delete"):
            await _delete(small, b"k", at=homes[3])
        told.append("go on")
        await _forget(small, b"k")

    run_story(story, topology=FOUR, undo_seconds=0)


@pytest.mark.parametrize("size", [700, 5_000_000])
def test_a_node_that_has_met_no_ballot_since_its_start_writes_under_a_floor(size: int) -> None:
    async def story(small: SmallCluster) -> None:
        for number in range(20):
            await small.put(b"k", b"%d" % number)
        await _deleted(small, b"k")
        await _forget(small, b"k")
        for machine in small.cluster.running():
            small.cluster.stop_at_once(machine)
            await small.cluster.boot(machine)
        await until_healthy(small)
        assert (await small.put(b"k", payload_of(size), at="n3")).version > 20
        assert await small.get(b"k") == payload_of(size)

    run_story(story, topology=FOUR, undo_seconds=0)


def test_a_forgotten_key_that_rots_on_one_home_stays_forgotten() -> None:
    async def story(small: SmallCluster) -> None:
        await until_healthy(small)
        await _deleted(small, b"k")
        await _forget(small, b"k")
        machine = small.machine("n2")
        bucket, _ = await small.bucket()
        store = small.node("n2").store
        row_key = BLANK_ROWS + bucket.id + b"k"
        sequence = store.verifier.rests_on(row_key)
        for name, record in records_of(machine):
            if record.sequence == sequence:
                flip(machine, name, record, "body")
        await small.at("n1", lambda node: node.admin.scrub(now=True))
        for _ in range(60):
            await pass_time(1)
            if store.verifier.rests_on(row_key) > sequence:
                break
        else:
            raise AssertionError("it was not written again")
        small.cluster.stop_at_once(machine)
        machine.index = IndexContent()
        await small.cluster.boot(machine)
        assert not await _holders(small, b"k")

    run_story(story, topology=FOUR, undo_seconds=0)


def test_heal_waits_for_no_head_that_was_forgotten() -> None:
    """It heard of one that lacked shards, and was not decided yet; then all of the key went."""

    async def story(small: SmallCluster) -> None:
        await until_healthy(small)
        await small.put(b"k", payload_of(700))
        bucket, pool = await small.bucket()
        read = await small.at("n1", lambda node: node.registers.read(pool, bucket.id, b"k"))
        assert read.ballot is not None
        await _delete(small, b"k")
        await pass_time(2 * collector.ROUND_MIN_S)
        await _forget(small, b"k")
        node = small.node((await small.homes(b"k"))[0])
        at = node.cartographer.require().key_partition(pool, bucket.id, b"k")
        margin = Margin((("node", -1),), full=False)
        node.healer._add(Ailing(pool, at, bucket.id, b"k", margin, since=0, accepted=read.ballot))
        await pass_time(30)
        assert not len(node.healer._order)
        assert not await _holders(small, b"k"), "it was decided once more, to rest anew"

    run_story(story, topology=FOUR, undo_seconds=0)


def test_who_was_a_home_once_keeps_no_manifest_of_what_was_forgotten() -> None:
    """What it accepted then is not about to be decided."""

    async def story(small: SmallCluster) -> None:
        await until_healthy(small)
        await small.put(b"k", payload_of(700))
        bucket, _ = await small.bucket()
        homes = await small.homes(b"k")
        (stranger,) = {machine.name for machine in small.cluster.running()} - set(homes)
        held = await small.node(homes[0]).store.register(bucket.id, b"k")
        assert held is not None
        await _delete(small, b"k")
        await pass_time(2 * collector.ROUND_MIN_S)
        await _forget(small, b"k")
        store = small.node(stranger).store
        await store.append([Entry(held)])
        assert any(each.key == b"k" for each in store.inventory.manifests(b"", 100)[0])

        async def collect(node: Node) -> None:
            node.collection.begin(doubting=True)
            assert not await node.collection.manifests_step(b"")

        await small.at(stranger, collect)
        assert not any(each.key == b"k" for each in store.inventory.manifests(b"", 100)[0])

    run_story(story, topology=Topology("rs:2+2", (1, 1, 1, 1, 1), partitions=2), undo_seconds=0)


def test_a_request_that_was_forgotten_is_refused_and_not_done_again() -> None:
    async def story(small: SmallCluster) -> None:
        era = small.node("n1").cartographer.era
        call = Call(RequestId(b"put".ljust(16, b".")), Era(era))
        options = PutOptions(size=700, call=call)
        await small.put(b"k", payload_of(700), options=options)
        await _delete(small, b"k")
        await _forget(small, b"k")
        with pytest.raises(StaleEra):
            await small.call("n2", lambda c: c.put(BUCKET, b"k", options, chunked(payload_of(700))))
        assert (await small.head(b"k")).kind is HeadKind.ABSENT

    run_story(story, topology=FOUR, undo_seconds=0)


def test_no_era_is_raised_for_keys_that_have_not_rested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "ERA_REST_S", 900.0)

    async def story(small: SmallCluster) -> None:
        def era() -> int:
            return small.node("n1").cartographer.era

        await _deleted(small, b"k")
        began = era()
        await pass_time(2 * REST_S)
        await _rounds(small, 3)
        assert era() == began, "nobody has seen how old it is"
        await pass_time(300)
        await _rounds(small, 3)
        assert era() == began + 1, "the next one has to rest as well"
        await pass_time(900)
        await _rounds(small, 3)
        assert era() == began + 2
        await _forget(small, b"k")

    run_story(story, topology=FOUR, undo_seconds=0)


def test_all_of_a_deleted_bucket_is_forgotten() -> None:
    async def story(small: SmallCluster) -> None:
        await _deleted(small, b"k")  # its undo window is long
        bucket, _ = await small.bucket()
        await small.at("n2", lambda node: node.buckets.delete(BUCKET))
        await pass_time(10)
        await _rounds(small)
        assert not _holders_in(small, bucket.id, b"k")

    run_story(story, topology=FOUR)


def test_a_home_says_no_to_what_it_holds_otherwise() -> None:
    async def story(small: SmallCluster) -> None:
        await _deleted(small, b"k")
        await small.put(b"blob", payload_of(300))
        asked: list[tuple[ForgetRegisters, ForgetReply]] = []

        async def note(usual: Serve, caller: Caller, request: Request) -> Reply:
            reply = await usual(caller, request)
            assert isinstance(request, ForgetRegisters)
            assert isinstance(reply, ForgetReply)
            asked.append((request, reply))
            return reply

        homes = await small.homes(b"k")
        small.twist(homes[-1], ForgetRegisters, note)
        await _forget(small, b"k")
        words = [word for _, reply in asked for word in reply.words]
        assert Word.YES in words
        request, _ = asked[0]
        (held,) = request.keys
        blob = replace(held, key=b"blob", accepted=replace(held.accepted, counter=held.accepted.counter + 1))
        topology = small.node("n1").cartographer.require()
        bucket, pool = await small.bucket()
        scope = topology.scope(pool, topology.key_partition(pool, bucket.id, b"blob"))

        async def ask(node: Node) -> Reply:
            handler = node.forgetting.handlers()[ForgetRegisters]
            block = node.store.superblock
            return await handler(
                Caller(block.store, NodeName(block.node)), ForgetRegisters(scope, (blob,), sure=True)
            )

        home = (await small.homes(b"blob"))[0]
        assert await small.at(home, ask) == ForgetReply((Word.NO,))
        assert await small.get(b"blob") == payload_of(300)

    run_story(story, topology=FOUR, undo_seconds=0)


def test_the_record_of_a_bucket_is_a_deleted_key_too() -> None:
    async def story(small: SmallCluster) -> None:
        await small.cluster.create_bucket("second", undo_seconds=0)
        await small.at("n2", lambda node: node.buckets.delete("second"))
        for _ in range(4):
            await pass_time(REST_S)
            await _rounds(small, 4)
        assert not _holders_in(small, RESERVED_BUCKET, b"second")
        await small.cluster.create_bucket("second", undo_seconds=0)
        assert len(_holders_in(small, RESERVED_BUCKET, b"second")) == 4

    run_story(story, topology=FOUR, undo_seconds=0)
