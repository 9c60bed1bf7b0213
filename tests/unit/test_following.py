"""Homes catch up on what they missed, by the feeds of others, and read nothing else."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import combinations

import pytest

from holdfast_node.core.acceptance import Late, Standing, late
from holdfast_node.core.api import Call, Condition
from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import BlobNotFound, InvalidArgument, NotVoting, Unavailable
from holdfast_node.core.head import Head, HeadKind
from holdfast_node.core.ids import NodeName, StoreId
from holdfast_node.core.messages import (
    Accept,
    Changes,
    CloseBucket,
    CopyKeys,
    FollowedScope,
    KeyName,
    Prepare,
    PrepareReply,
    ReadChanges,
    RegisterCopies,
    Reply,
    Request,
    Scope,
)
from holdfast_node.core.records import FeedCursor, RegisterRecord
from holdfast_node.core.topology import Topology
from holdfast_node.services import follower
from holdfast_node.services.cursors import NOTED_S, Cursors
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.feed import COPIES_MAX, FOLLOWED_MAX
from holdfast_node.services.log.store_time import TIME_RECORD_EVERY_S
from holdfast_node.services.node import Node
from holdfast_node.services.store import Entry
from tests.support import stores
from tests.support.maps import cluster, nodes
from tests.support.small_clusters import BUCKET, Serve, SmallCluster, Twist, pass_time, payload_of, run_story
from tests.unit.test_store import run

HOME = "n6"
OTHER = StoreId(b"another store".ljust(16))
KEYS = [b"key %d" % number for number in range(8)]
SOON_S = 3 * follower.ROUND_S


class Ear:
    """Some requests are refused at one node, or all, as long as it is shut."""

    def __init__(self, small: SmallCluster, names: list[str], *requests: type[Request]) -> None:
        self.shut = True
        for name in names:
            for request in requests:
                small.twist(name, request, self._hear)

    async def _hear(self, usual: Serve, caller: Caller, asked: Request) -> Reply:
        if self.shut:
            raise Unavailable("this ear is shut")
        return await usual(caller, asked)


def names(small: SmallCluster) -> list[str]:
    return [machine.name for machine in small.cluster.running()]


async def accepted(small: SmallCluster, name: str, key: bytes) -> RegisterRecord | None:
    bucket, _ = await small.bucket()
    return await small.at(name, lambda node: node.store.register(bucket.id, key))


async def scope_of(small: SmallCluster, key: bytes) -> Scope:
    bucket, pool = await small.bucket()
    topology = small.node("n1").cartographer.require()
    return topology.scope(pool, topology.key_partition(pool, bucket.id, key))


async def all_have_the_same(small: SmallCluster, key: bytes) -> bool:
    held = [await accepted(small, name, key) for name in await small.homes(key)]
    return len({(record.accepted, record.head) if record else None for record in held}) == 1


# --- what a home makes of a pair it missed ------------------------------------------------------------------------


def _pair(counter: int) -> RegisterRecord:
    return stores.register(b"k", counter)


@pytest.mark.parametrize(
    ("own", "standing", "outcome"),
    [
        (None, Standing(1, 1), Late(replace(_pair(5), promised=_pair(5).accepted))),
        (_pair(5), Standing(1, 1), Late(None)),
        (_pair(6), Standing(1, 1), Late(None)),
        (None, Standing(1, 1, closing=True), Late(None, closed=True)),
        (None, Standing(1, 1, ballot_floor=stores.ballot(5)), Late(None, again_above=stores.ballot(5))),
        (
            replace(_pair(3), promised=stores.ballot(7)),
            Standing(1, 1),
            Late(None, again_above=stores.ballot(7)),
        ),
        (None, Standing(2, 1, moving=True), Late(None, again_above=stores.ballot(5))),
        (_pair(6), Standing(2, 1, moving=True), Late(None)),
        (None, Standing(1, 1, moving=True), Late(replace(_pair(5), promised=_pair(5).accepted))),
        (None, Standing(2, 1), Late(replace(_pair(5), promised=_pair(5).accepted))),
    ],
    ids=[
        "nothing",
        "the same",
        "newer",
        "closed bucket",
        "forgotten since",
        "under a promise",
        "of before the move",
        "newer, of before the move",
        "of the move",
        "of an earlier generation",
    ],
)
def test_it_is_taken_like_an_accept_that_comes_late(
    own: RegisterRecord | None, standing: Standing, outcome: Late
) -> None:
    assert late(own, standing, _pair(5)) == outcome


def test_a_home_that_does_not_vote_takes_nothing() -> None:
    with pytest.raises(NotVoting):
        _ = late(None, Standing(1, 1, not_voting="learning"), _pair(5))


# --- catching up --------------------------------------------------------------------------------------------------


def test_an_accept_that_was_lost_is_caught_up_without_another_write() -> None:
    async def story(small: SmallCluster) -> None:
        ear = Ear(small, [HOME], Accept)
        _ = await small.put(KEYS[0], payload_of(3000))
        assert await accepted(small, HOME, KEYS[0]) is None or not await all_have_the_same(small, KEYS[0])
        await pass_time(SOON_S)
        assert ear.shut
        assert await all_have_the_same(small, KEYS[0])

    run_story(story)


def test_a_store_that_was_away_reads_what_was_written_meanwhile_and_nothing_else() -> None:
    async def story(small: SmallCluster) -> None:
        for key in KEYS:
            _ = await small.put(key, payload_of(3000))
        await pass_time(NOTED_S + TIME_RECORD_EVERY_S + SOON_S)
        await small.cluster.stop(small.machine(HOME))
        _ = await small.put(KEYS[0], payload_of(4000))
        _ = await small.call("n1", lambda c: c.delete(BUCKET, KEYS[1], Condition(), Call()))
        await small.cluster.boot(small.machine(HOME))
        small.watch(CopyKeys)
        await pass_time(SOON_S)
        for key in KEYS:
            assert await all_have_the_same(small, key)
        back = small.node(HOME).follower
        assert back._missed == 2
        assert back._read <= 2 * 2, "two keys in the feeds of two homes"
        record = await accepted(small, HOME, KEYS[1])
        assert record is not None
        assert stores.BODIES.decode(Head, record.head).kind is HeadKind.TOMBSTONE
        with pytest.raises(BlobNotFound):
            _ = await small.get(KEYS[1], at=HOME)

    run_story(story)


def test_versions_it_missed_are_known_to_it_with_their_manifests() -> None:
    async def story(small: SmallCluster) -> None:
        await small.cluster.stop(small.machine(HOME))
        _ = await small.put(KEYS[0], payload_of(3000))
        first = (await small.head(KEYS[0])).manifest
        _ = await small.put(KEYS[0], payload_of(4000))
        await small.cluster.boot(small.machine(HOME))
        await pass_time(SOON_S)
        bucket, _ = await small.bucket()
        assert first is not None
        found = await small.at(HOME, lambda node: node.store.manifest(bucket.id, KEYS[0], first.blob_id))
        assert found == first

    run_story(story)


def test_a_long_feed_is_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "CHANGES_MAX", 3)
    monkeypatch.setattr(follower, "COPIES_MAX", 2)

    async def story(small: SmallCluster) -> None:
        await small.cluster.stop(small.machine(HOME))
        for key in KEYS:
            _ = await small.put(key, payload_of(300))
        await small.cluster.boot(small.machine(HOME))
        await pass_time(SOON_S)
        for key in KEYS:
            assert await all_have_the_same(small, key)

    run_story(story)


def test_what_could_not_be_taken_is_taken_later() -> None:
    """The cursor stays before it."""

    async def story(small: SmallCluster) -> None:
        others = [name for name in names(small) if name != HOME]
        ear = Ear(small, others, CopyKeys)
        deaf = Ear(small, [HOME], Accept)
        _ = await small.put(KEYS[0], payload_of(300))
        deaf.shut = False
        await pass_time(SOON_S)
        assert not await all_have_the_same(small, KEYS[0])
        ear.shut = False
        await pass_time(SOON_S)
        assert await all_have_the_same(small, KEYS[0])

    run_story(story)


@pytest.mark.parametrize("again", [False, True], ids=["to be taken", "to be decided once more"])
def test_what_waits_behind_a_closed_door_is_caught_up_when_the_deletion_is_given_up(*, again: bool) -> None:
    """The cursor passed it, and the home lacked a decided version until the key's next write. Found by seed 643."""

    async def story(small: SmallCluster) -> None:
        bucket, _ = await small.bucket()
        scope = await scope_of(small, KEYS[0])
        deaf = Ear(small, [HOME], Accept)
        _ = await small.put(KEYS[0], payload_of(300))
        if again:
            late_promise = Prepare(
                scope, bucket.id, KEYS[0], stores.ballot(1 << 20), stamp=1, background=True
            )
            _ = await asked_at(small, HOME, late_promise)
        for name in names(small) if again else [HOME]:
            _ = await asked_at(small, name, CloseBucket(bucket.id, closing=True))
        deaf.shut = False
        await pass_time(SOON_S)
        assert not await all_have_the_same(small, KEYS[0])
        assert not await small.at(HOME, lambda node: _is_level(node, scope))
        for name in names(small):
            _ = await asked_at(small, name, CloseBucket(bucket.id, closing=False))
        await pass_time(SOON_S)
        assert await all_have_the_same(small, KEYS[0])

    run_story(story)


async def _is_level(node: Node, scope: Scope) -> bool:
    return node.follower.is_level(scope.pool, scope.partition)


async def asked_at(small: SmallCluster, name: str, request: Request) -> Reply:
    caller = Caller(OTHER, NodeName("other"))
    return await small.at(name, lambda node: node.dispatcher.handle(caller, request))


async def _damaged(usual: Serve, caller: Caller, asked: Request) -> Reply:
    answer = await usual(caller, asked)
    assert isinstance(answer, RegisterCopies)
    copies = [replace(copy, head=copy.head[:-1] + bytes((copy.head[-1] ^ 1,))) for copy in answer.copies]
    return replace(answer, copies=tuple(copies))


async def _said_twice(usual: Serve, caller: Caller, asked: Request) -> Reply:
    answer = await usual(caller, asked)
    assert isinstance(answer, Changes)
    return Changes(answer.partitions * 2)


@pytest.mark.parametrize(("request_type", "how"), [(CopyKeys, _damaged), (ReadChanges, _said_twice)])
def test_what_others_show_is_checked_and_asked_for_again(request_type: type[Request], how: Twist) -> None:
    """A damaged head is not written down, and no answer ends the follower."""

    async def story(small: SmallCluster) -> None:
        deaf = Ear(small, [HOME], Accept)
        _ = await small.put(KEYS[0], payload_of(300))
        deaf.shut = False
        whole = {name: small.node(name).dispatcher._handlers[request_type] for name in names(small)}
        for name in whole:
            small.twist(name, request_type, how)
        await pass_time(SOON_S)
        if request_type is CopyKeys:
            assert not await all_have_the_same(small, KEYS[0])
        assert small.node(HOME).follower.status().detail
        for name, handler in whole.items():
            small.node(name).dispatcher._handlers[request_type] = handler
        await pass_time(SOON_S)
        assert await all_have_the_same(small, KEYS[0])

    run_story(story)


def test_a_promise_in_the_way_has_the_key_decided_once_more() -> None:
    async def story(small: SmallCluster) -> None:
        ear = Ear(small, [HOME], Accept)
        _ = await small.put(KEYS[0], payload_of(300))
        bucket, _ = await small.bucket()
        scope = await scope_of(small, KEYS[0])
        caller = Caller(small.node("n1").store.superblock.store, NodeName("n1"))
        high = replace(stores.ballot(90), generation=scope.generation)
        small.stop_following()
        promise = await small.at(
            HOME,
            lambda node: node.dispatcher.handle(caller, Prepare(scope, bucket.id, KEYS[0], high, 1)),
        )
        assert isinstance(promise, PrepareReply)
        assert promise.promised
        ear.shut = False
        await small.go_on_following()
        record = await accepted(small, HOME, KEYS[0])
        assert record is not None
        assert record.accepted is not None
        assert record.accepted > high
        assert await all_have_the_same(small, KEYS[0])

    run_story(story)


def test_a_broken_register_comes_back_from_any_home_that_has_it() -> None:
    """No majority is needed: what was accepted here is known by its ballot."""

    async def story(small: SmallCluster) -> None:
        _ = await small.put(KEYS[0], payload_of(300))
        bucket, _ = await small.bucket()
        node = small.node(HOME)
        entry = node.store.register_entry(bucket.id, KEYS[0])
        assert entry is not None
        node.store._registers._cache.clear()
        node.store.mark_rotten(bucket.id, KEYS[0], entry.sequence)
        assert node.store.rotten()
        for name in ("n4", "n5"):
            await small.cluster.stop(small.machine(name))
        node.follower.cursors._known[small.node("n1").store.superblock.store] = {}
        await pass_time(SOON_S)
        assert not node.store.rotten()
        assert (await accepted(small, HOME, KEYS[0])) == (await accepted(small, "n1", KEYS[0]))

    run_story(story)


# --- what is claimed ----------------------------------------------------------------------------------------------


def test_nothing_is_claimed_before_enough_feeds_were_followed() -> None:
    async def story(small: SmallCluster) -> None:
        _ = await small.put(KEYS[0], payload_of(300))
        await pass_time(SOON_S)
        assert (await small.at("n1", lambda node: node.admin.status())).healthy
        ear = Ear(small, names(small), ReadChanges)
        await small.cluster.stop(small.machine(HOME))
        await pass_time(5)
        await small.cluster.boot(small.machine(HOME))
        await pass_time(SOON_S)
        told = await small.at("n1", lambda node: node.admin.status())
        assert not told.healthy, "whoever came back may bring news"
        ear.shut = False
        await pass_time(SOON_S)
        assert (await small.at("n1", lambda node: node.admin.status())).healthy

    run_story(story)


def test_a_look_at_everything_does_not_replace_what_was_missed() -> None:
    """After a change of the map stewards read the registers of other homes: their own are as old as before."""

    async def story(small: SmallCluster) -> None:
        _ = await small.put(KEYS[0], payload_of(300))
        await pass_time(SOON_S)
        ear = Ear(small, names(small), ReadChanges)
        before, lost = small.node("n1").cartographer.epoch, small.machine(HOME)
        small.cluster.wipe(lost)
        await small.cluster.boot(lost, format_if_empty=True)
        _ = await small.cluster.admin(small.machine("n1"), lambda admin: admin.replace_lost(HOME))
        await pass_time(60)
        told = await small.at("n1", lambda node: node.admin.status())
        assert all(
            row.passed_epoch > before for name in names(small) for row in small.node(name).healer.health()
        ), "all was looked at"
        assert not told.healthy
        ear.shut = False
        await pass_time(SOON_S)
        assert (await small.at("n1", lambda node: node.admin.status())).healthy

    run_story(story)


def test_an_answer_from_before_somebody_came_back_does_not_count() -> None:
    async def story(small: SmallCluster) -> None:
        await pass_time(SOON_S)
        follows = small.node("n1").follower
        scope = await scope_of(small, KEYS[0])
        assert follows.is_level(scope.pool, scope.partition)

        async def return_meanwhile(usual: Serve, caller: Caller, asked: Request) -> Reply:
            answer = await usual(caller, asked)
            if caller.store == small.node("n1").store.superblock.store:
                follows.look_again()
            return answer

        for name in names(small):
            small.twist(name, ReadChanges, return_meanwhile)
        await pass_time(SOON_S)
        assert not follows.is_level(scope.pool, scope.partition)

    run_story(story)


@pytest.mark.parametrize("code", ["rs:2+1", "rs:2+2", "rs:3+2", "rs:4+2"])
def test_whatever_a_majority_decided_without_a_home_is_in_a_feed_it_follows(code: str) -> None:
    topology = Topology(cluster(nodes(parse_code(code).n), code=code))
    others = range(parse_code(code).n - 1)
    followed = follower._needed(topology, 0, 0)
    for majority in combinations(others, topology.roster(0, 0).quorum):
        for feeds in combinations(others, followed):
            assert set(majority) & set(feeds)


def test_a_cursor_means_nothing_in_another_tenure() -> None:
    async def scenario() -> None:
        bench = stores.Bench()
        async with bench.store() as store:
            cursors = Cursors(store)
            await store.append([Entry(replace(stores.partition(1), learned_generation=3))])
            cursors.advance(OTHER, FeedCursor(0, 1, cursors.tenure((0, 1)), 90), worth_noting=True)
            assert cursors.sequence(OTHER, (0, 1)) == 90
            assert cursors.sequence(OTHER, (0, 2)) == 0
            await store.append([Entry(replace(stores.partition(1), learned_generation=5))])
            assert cursors.sequence(OTHER, (0, 1)) == 0

    run(scenario)


async def _asked(caller: Caller, request: Request, node: Node) -> Reply:
    return await node.dispatcher.handle(caller, request)


# --- serving ------------------------------------------------------------------------------------------------------


def test_a_feed_of_which_something_is_lost_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(small: SmallCluster) -> None:
        node = small.node(HOME)
        scope = await scope_of(small, KEYS[0])
        caller = Caller(node.store.superblock.store, NodeName(node.store.superblock.node))
        request = ReadChanges((FollowedScope(scope, 0),), 10)
        _ = await small.at(HOME, lambda node: node.dispatcher.handle(caller, request))
        monkeypatch.setattr(node.store, "forgotten_keys", lambda: ((scope, b"k"),))
        with pytest.raises(NotVoting):
            _ = await small.at(HOME, lambda node: node.dispatcher.handle(caller, request))

    run_story(story)


def test_questions_have_limits() -> None:
    async def story(small: SmallCluster) -> None:
        scope = await scope_of(small, KEYS[0])
        bucket, _ = await small.bucket()
        node = small.node(HOME)
        caller = Caller(node.store.superblock.store, NodeName(node.store.superblock.node))
        many = ReadChanges((FollowedScope(scope, 0),) * (FOLLOWED_MAX + 1), 10)
        keys = CopyKeys(scope, (KeyName(bucket.id, b"k"),) * (COPIES_MAX + 1))
        for request in (many, keys):
            with pytest.raises(InvalidArgument):
                _ = await small.at(HOME, partial(_asked, caller, request))

    run_story(story)
