"""Who may vote, and what a store durably notes of the others so that none of them ever votes from its own past."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from holdfast_node.core.cluster_map import ClusterMap
from holdfast_node.core.ids import BootId, StoreId
from holdfast_node.core.map_changes import mark_suspect, next_epoch
from holdfast_node.core.messages import Introduce, IntroduceReply
from holdfast_node.ports import Answered
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.membership import NEVER_AGAIN, TWO_AT_ONCE, Life, Membership, later_life_seen
from holdfast_node.services.store import Entry
from tests.support.atlas import Atlas, Process, founded, play, until
from tests.support.maps import CLUSTER, node
from tests.support.stores import register


class Gate:
    """The membership of n1, and a peer, n2, whose introductions are made up."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        self.membership = Membership(cartographer=atlas["n1"].cartographer, seeds=())

    @property
    def process(self) -> Process:
        return self.atlas["n1"].process

    @property
    def peer(self) -> StoreId:
        return self.atlas["n2"].store

    async def introduce(self, boot: int, sequence: int, boot_id: bytes = b"") -> IntroduceReply:
        own = BootId(boot_id.ljust(16, b".") if boot_id else b"boot %011d" % boot)
        request = Introduce(node(2).name, self.peer, CLUSTER, boot, own, sequence)
        serve = self.membership.handlers()[Introduce]

        async def serving(_: object) -> IntroduceReply:
            reply = await serve(Caller(self.peer, node(2).name), request)
            assert isinstance(reply, IntroduceReply)
            return reply

        return await self.atlas.run("n1", serving)

    async def write(self) -> None:
        """Something that has nothing to do with any of it."""
        await self.process.store.append([Entry(register(b"k", 1))])

    def noted(self) -> tuple[int, int]:
        """Boot and record number of the peer, as they are on the disk."""
        mark = self.process.store.peer(self.peer)
        return (mark.boot, mark.sequence) if mark is not None else (0, 0)

    def hears(self, name: str, **seen: int) -> None:
        """This peer answers an introduction of n1; it has seen what is said of n1, by default what n1 is."""
        block = self.process.store.superblock
        reply = IntroduceReply(
            node=node(2).name,
            store=self.atlas[name].store,
            cluster_id=block.cluster_id,
            boot=1,
            boot_id=block.boot_id,
            epoch=1,
            seen_boot=block.boot,
            seen_boot_id=block.boot_id,
            seen_sequence=0,
        )
        reply = replace(reply, **seen)  # type: ignore[arg-type]
        self.membership._hear(Answered(self.atlas[name].store, reply))


def four_voters(current: ClusterMap, stores: list[StoreId]) -> ClusterMap | None:
    if len(current.voters) == len(stores):
        return None
    return replace(current, epoch=next_epoch(current), voters=tuple(stores))


def stage(story: Callable[[Gate], Awaitable[None]]) -> None:
    async def whole(atlas: Atlas) -> None:
        await founded(atlas)
        await story(Gate(atlas))

    _ = play(whole)


def test_a_store_votes_once_more_than_half_of_the_voters_know_it() -> None:
    async def story(gate: Gate) -> None:
        stores = [gate.atlas[name].store for name in ("n1", "n2", "n3", "n4")]
        await gate.atlas.run("n2", lambda c: c.change(lambda current: four_voters(current, stores)))
        await gate.atlas.run("n1", lambda c: c.catch_up(2, gate.peer))
        assert "introduced to 1 of the map's 4 voters" in gate.membership.may_vote()
        gate.hears("n2")
        assert "introduced to 2 of" in gate.membership.may_vote(), "half is no majority"
        for name in ("n2", "n5", "n6"):
            gate.hears(name)
        assert "introduced to 2 of" in gate.membership.may_vote(), "nobody counts twice, others not at all"
        gate.hears("n4")
        assert not gate.membership.may_vote()

    stage(story)


def test_one_peer_that_knows_better_takes_the_vote_for_good() -> None:
    async def story(gate: Gate) -> None:
        for name in ("n2", "n3", "n4"):
            gate.hears(name)
        gate.hears("n5", seen_boot=99)
        assert gate.membership.may_vote().startswith("suspect")
        gate.hears("n5")
        assert gate.membership.may_vote().startswith("suspect")

    stage(story)


def test_a_store_that_the_map_calls_suspect_does_not_vote() -> None:
    async def story(gate: Gate) -> None:
        for name in ("n2", "n3", "n4"):
            gate.hears(name)
        me = gate.atlas["n1"].store
        await gate.atlas.run("n2", lambda c: c.change(lambda current: mark_suspect(current, me)))
        await gate.atlas.run("n1", lambda c: c.catch_up(2, gate.peer))
        assert "suspect" in gate.membership.may_vote()

    stage(story)


def test_a_new_boot_is_on_the_disk_before_the_answer() -> None:
    async def story(gate: Gate) -> None:
        reply = await gate.introduce(3, 10)
        assert (reply.seen_boot, reply.seen_sequence) == (0, 0)
        assert gate.noted() == (3, 10)
        reply = await gate.introduce(4, 12)
        assert (reply.seen_boot, reply.seen_sequence) == (3, 10)
        assert gate.noted() == (4, 12)

    stage(story)


def test_a_higher_record_number_is_remembered_at_once_and_rides_with_the_next_write() -> None:
    async def story(gate: Gate) -> None:
        await gate.introduce(3, 10)
        await gate.introduce(3, 20)
        assert gate.noted() == (3, 10)
        assert (await gate.introduce(3, 20)).seen_sequence == 20
        await gate.write()
        assert gate.noted() == (3, 20)

    stage(story)


def test_an_older_mark_that_waits_to_be_written_does_not_follow_the_newer_one() -> None:
    async def story(gate: Gate) -> None:
        await gate.introduce(3, 10)
        await gate.introduce(3, 20)
        await gate.introduce(4, 15)
        assert gate.noted() == (4, NEVER_AGAIN)
        await gate.write()
        assert gate.noted() == (4, NEVER_AGAIN)

    stage(story)


def test_what_was_seen_of_a_store_never_goes_back() -> None:
    async def story(gate: Gate) -> None:
        await gate.introduce(3, 10)
        await gate.introduce(2, 99)
        assert gate.noted() == (3, 10), "an earlier boot says nothing new"
        await gate.introduce(4, 5)
        assert gate.noted() == (4, NEVER_AGAIN), "a later boot that lost records was rolled back"
        await gate.introduce(4, 40)
        reply = await gate.introduce(5, 40)
        life = Life(5, BootId(b"boot %011d" % 5), 40)
        assert later_life_seen(life, reply), (
            "it has written on since, and been started again: it lacks them still"
        )
        assert gate.noted() == (5, NEVER_AGAIN)

    stage(story)


def test_who_lost_records_is_told_so_again_in_case_it_did_not_hear() -> None:
    async def story(gate: Gate) -> None:
        await gate.introduce(3, 10)
        _ = await gate.introduce(4, 5)  # its answer is lost
        reply = await gate.introduce(4, 5)
        assert "without all its records" in later_life_seen(Life(4, BootId(b"boot %011d" % 4), 5), reply)

    stage(story)


def test_a_store_introduces_itself_as_it_began_and_then_as_it_is() -> None:
    """Who does not vote yet writes, too: that it has as many records again must not hide which ones it lost."""

    async def story(gate: Gate) -> None:
        other, store = Membership(cartographer=gate.atlas["n2"].cartographer, seeds=()), gate.process.store
        gate.atlas["n2"].process.dispatcher._handlers.update(other.handlers())
        heard: list[int] = []
        for _ in range(2):
            await gate.write()
            await gate.atlas.run("n1", lambda _: gate.membership._introduce_all())
            heard.append(other._marks[store.superblock.store].sequence)
        assert heard == [store.recovered_sequence, store.durable_sequence]
        assert heard[0] < heard[1]

    stage(story)


def test_a_copy_does_not_take_the_place_of_the_original() -> None:
    async def story(gate: Gate) -> None:
        await gate.introduce(3, 10, b"original")
        await gate.introduce(3, 20, b"copy")
        assert (await gate.introduce(3, 20, b"copy")).seen_boot_id == b"original".ljust(16, b".")
        assert gate.noted() == (3, TWO_AT_ONCE)

    stage(story)


def test_no_later_life_of_a_copy_or_of_its_original_ever_votes() -> None:
    """Each lacks what the other one wrote, whether the map could be told of them or not."""

    async def story(gate: Gate) -> None:
        await gate.introduce(3, 10, b"original")
        for sequence in (5, 20):  # behind the original, and before it
            reply = await gate.introduce(3, sequence, b"copy")
            assert "copy" in later_life_seen(Life(3, BootId(b"copy".ljust(16, b".")), sequence), reply)
        reply = await gate.introduce(3, 30, b"original")
        assert not later_life_seen(Life(3, BootId(b"original".ljust(16, b".")), 10), reply), "while it runs"
        reply = await gate.introduce(4, 1000, b"restarted")
        assert later_life_seen(Life(4, BootId(b"restarted".ljust(16, b".")), 1000), reply)
        assert gate.noted() == (4, NEVER_AGAIN)

    stage(story)


def test_introductions_go_on_after_a_mistake() -> None:
    async def story(gate: Gate) -> None:
        tries: list[int] = []

        async def mistaken() -> None:
            tries.append(1)
            raise KeyError("nobody thought of that")

        gate.membership._introduce_all = mistaken  # type: ignore[method-assign]
        async with asyncio.TaskGroup() as group:
            running = group.create_task(gate.membership.run())
            await until(lambda: len(tries) > 1)
            running.cancel()
        assert gate.process.events.count("task_failed") == len(tries)

    stage(story)


def test_a_stranger_is_not_noted() -> None:
    async def story(gate: Gate) -> None:
        request = Introduce(node(2).name, StoreId(b"stranger".ljust(16)), CLUSTER, 1, BootId(bytes(16)), 5)
        serve = gate.membership.handlers()[Introduce]
        await gate.atlas.run("n1", lambda _: serve(Caller(request.store, request.node), request))
        assert gate.process.store.peer(request.store) is None

    stage(story)
