"""A home whose record of a register is broken: what it promised still binds it, what it accepted it does not tell."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Final

import pytest

from holdfast_node.core.errors import BlobNotFound, BucketClosing, NotVoting
from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import NodeName, Version
from holdfast_node.core.messages import (
    Accept,
    AcceptReply,
    Prepare,
    PrepareReply,
    ReadRegister,
    RegisterView,
    Reply,
    Request,
    Scope,
)
from holdfast_node.core.records import BucketRecord, RecordType
from holdfast_node.core.register import head_hash
from holdfast_node.services.closed_doors import ClosedDoors
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.node import Node
from holdfast_node.services.scrubber import Scrubber
from holdfast_node.services.store import Entry, Store
from holdfast_node.services.worker import Work
from tests.support import stores
from tests.support.doors import StuckDoors
from tests.support.rot import flip, live
from tests.support.small_clusters import Serve, SmallCluster, pass_time, payload_of, run_story
from tests.support.stores import BODIES, Bench
from tests.unit.test_store import run

KEY: Final = b"key"
HOME: Final = "n2"


class Witness:
    """One home, asked directly, after its record of the key was broken and everything it had in memory is gone."""

    def __init__(self, small: SmallCluster) -> None:
        self.small = small
        self.heals = False
        self.caller = Caller(small.node("n1").store.superblock.store, NodeName("n1"))

    async def start(self, *, promised: int) -> Witness:
        small = self.small
        _ = await small.put(KEY, payload_of(5000))
        bucket, pool = await small.bucket()
        self.bucket = bucket.id
        topology = small.node("n1").cartographer.topology
        assert topology is not None
        self.scope: Scope = topology.scope(pool, topology.key_partition(pool, bucket.id, KEY))
        if promised:
            reply = await self.ask(self.prepare(promised))
            assert isinstance(reply, PrepareReply)
            assert reply.promised
        record_key = bucket.id + KEY
        found = [
            (n, r)
            for n, r in live(small.machine(HOME))
            if r.kind == RecordType.REGISTER and r.key == record_key
        ]
        name, record = max(found, key=lambda each: each[1].sequence)
        flip(small.machine(HOME), name, record, "body")
        vars(small.node(HOME).scrubber)["work_once"] = self._restoring
        small.stop_following()
        small.node(HOME).store._registers._cache.clear()
        await pass_time(1.5)  # until the scrubber has heard
        return self

    async def _restoring(self) -> Work:
        """Not before the test says so."""
        scrubber = self.small.node(HOME).scrubber
        return await Scrubber.work_once(scrubber) if self.heals else Work.IDLE

    def ballot(self, counter: int) -> Ballot:
        return Ballot(self.scope.generation, counter, self.caller.store, 9, counter)

    def prepare(self, counter: int) -> Prepare:
        return Prepare(self.scope, self.bucket, KEY, self.ballot(counter), 1)

    def read(self) -> ReadRegister:
        return ReadRegister(self.scope, self.bucket, KEY, want_head=True, inline_bytes_max=0)

    async def accept(self, counter: int) -> AcceptReply:
        head = BODIES.encode(stores.head(counter))
        reply = await self.ask(
            Accept(self.scope, self.bucket, KEY, self.ballot(counter), 1, head, head_hash(head))
        )
        assert isinstance(reply, AcceptReply)
        return reply

    async def ask(self, request: Request) -> Reply:
        async def work(node: Node) -> Reply:
            return await node.dispatcher.handle(self.caller, request)

        return await self.small.at(HOME, work)


def test_it_neither_promises_nor_tells_until_it_has_accepted_again() -> None:
    async def story(small: SmallCluster) -> None:
        home = await Witness(small).start(promised=0)
        with pytest.raises(NotVoting):
            _ = await home.ask(home.read())
        with pytest.raises(NotVoting):
            _ = await home.ask(home.prepare(90))
        assert (await home.accept(91)).accepted
        reply = await home.ask(home.prepare(92))
        assert isinstance(reply, PrepareReply)
        assert (reply.promised, reply.accepted) == (True, home.ballot(91))

    run_story(story)


def test_it_keeps_a_promise_of_which_only_the_index_knows() -> None:
    async def story(small: SmallCluster) -> None:
        home = await Witness(small).start(promised=80)
        refused = await home.accept(79)
        assert (refused.accepted, refused.higher) == (False, home.ballot(80))
        assert (await home.accept(80)).accepted

    run_story(story)


def test_a_key_that_was_never_written_is_read_after_its_absence_was_decided_once_more() -> None:
    """An absent head takes no bytes, and a reader asked for them again and again."""

    async def story(small: SmallCluster) -> None:
        bucket, pool = await small.bucket()
        await small.at("n1", lambda node: node.registers.rewrite(pool, bucket.id, KEY, above=None))
        read = 0

        async def count(usual: Serve, caller: Caller, asked: Request) -> Reply:
            nonlocal read
            read += isinstance(asked, ReadRegister) and asked.key == KEY
            return await usual(caller, asked)

        for machine in small.cluster.running():
            small.twist(machine.name, ReadRegister, count)
        for name in ("n1", "n5"):
            with pytest.raises(BlobNotFound):
                _ = await small.get(KEY, at=name)
        assert 8 <= read <= 12, "four homes, or all six, each time"
        assert (await small.put(KEY, payload_of(300))).version == 1

    run_story(story)


def test_behind_a_closed_door_it_waits_for_the_deletion_to_be_undone_and_sees_to_that() -> None:
    """Homes decide nothing behind it. A deletion that had stopped half-way kept the record broken: world 2517."""

    async def story(small: SmallCluster) -> None:
        home = await Witness(small).start(promised=0)
        for machine in small.cluster.running():
            await small.node(machine.name).store.append([Entry(BucketRecord(home.bucket, closing=True))])
        node, doors = small.node(HOME), StuckDoors()
        assert node.cartographer.topology is not None
        broken = node.scrubber._restorer._others.registers
        vars(broken)["_closed"] = ClosedDoors(doors)
        with pytest.raises(BucketClosing):
            await small.at(HOME, lambda node: broken.restore(node.path.topology, (home.bucket, KEY)))
        assert doors.stood == [home.bucket]

    run_story(story)


def test_it_is_listed_as_before_and_learned_from_the_others_by_itself() -> None:
    async def story(small: SmallCluster) -> None:
        home = await Witness(small).start(promised=80)
        with pytest.raises(NotVoting):
            _ = await home.ask(home.read())
        store = small.node(HOME).store
        page = store.register_rows(
            frozenset({(home.scope.pool, home.scope.partition)}), home.bucket, b"", b"", 9
        )
        assert [(row.key, row.version) for row in page.rows] == [(KEY, Version(1))]
        home.heals = True
        await pass_time(10)
        reply = await home.ask(home.read())
        assert isinstance(reply, RegisterView)
        assert reply.head_hash == page.rows[0].head_hash
        assert not store.rotten()

    run_story(story)


def test_a_small_fact_is_not_written_again_over_a_newer_one() -> None:
    async def scenario() -> None:
        bench = Bench()
        async with bench.store() as store:
            await store.append([Entry(stores.partition(1, version_floor=4))])
            row_key = b"p" + bytes(7) + b"\1"
            newer = store.append([Entry(stores.partition(1, version_floor=5))])
            assert store.rewrite(row_key) is None, "the newer one is on its way"
            await newer
            again = store.rewrite(row_key)
            assert again is not None
            await again
            check(store)
        bench.forget_index()
        async with bench.store() as store:
            check(store)

    def check(store: Store) -> None:
        assert store.partition(0, 1).version_floor == 5

    run(scenario)
