"""Partitions move to other homes while registers are read and written: what a newcomer must do before only the new
homes count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast_node.core.errors import HoldfastError, NotVoting
from holdfast_node.core.head import Ballot, HeadKind
from holdfast_node.core.messages import ListRegisters, Prepare, PrepareReply, ReadFloors, Request
from holdfast_node.core.records import BucketRecord, RegisterRecord
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.store import Entry
from holdfast_node.services.worker import Work
from tests.support.atlas import pass_time, until
from tests.support.school import BUCKET, School, Story, play

KEYS = 40


async def fill(school: School) -> None:
    for number in range(KEYS):
        await school.put("n5", b"key %03d" % number)


async def ask(school: School, name: str, request: Request) -> object:
    """What one home answers, as n2 would hear it."""
    handlers = school.pupils[name].acceptor.handlers()
    caller = Caller(school.atlas["n2"].store, school.entry(2).name)
    return await school.atlas.run(name, lambda _: handlers[type(request)](caller, request))


def homes(school: School, key: bytes) -> list[str]:
    topology = school.atlas["n1"].cartographer.require()
    partition = topology.key_partition(0, BUCKET, key)
    return [topology.name(store) for store in topology.entry(0, partition).homes]


async def record(school: School, name: str, key: bytes) -> RegisterRecord | None:
    return await school.atlas[name].process.store.register(BUCKET, key)


def test_a_newcomer_learns_everything_and_then_only_the_new_homes_count() -> None:
    async def story(school: School) -> None:
        await fill(school)
        await school.add(7)
        await school.settled()
        key = next(k for k in sorted(school.acked) if "n7" in homes(school, k))
        new = homes(school, key)
        gone = next(name for name in ("n1", "n2", "n3", "n4", "n5", "n6") if name not in new)
        known, own = await record(school, new[0], key), await record(school, "n7", key)
        assert own is not None
        assert known is not None
        assert own.head == known.head
        await school.put("n5", key)
        stale = await record(school, gone, key)
        assert stale is not None
        assert stale.head == own.head, "whoever left hears of nothing new"
        school.atlas.kill(*[name for name in new if name != "n7"][:2])
        await school.check("n7")

    play(story, spare=1)


@pytest.mark.parametrize("number", range(6))
def test_what_is_acked_while_partitions_move_survives_the_loss_of_others(number: int) -> None:
    async def story(school: School) -> None:
        school.atlas.network.weather.loss = 0.03 if number % 2 else 0.0
        school.atlas.network.weather.duplicates = 0.05 if number % 3 else 0.0
        names = ["n3", "n4", "n5", "n6"]
        await school.write_for(0.3, names, 30)
        school.atlas.begin("n5", lambda _: school.write_for(1.5, names, 30))
        school.atlas.begin("n6", lambda _: school.write_for(1.5, names, 30))
        await pass_time(0.1)
        await school.add(7)
        await school.settled()
        await school.add(8)
        await school.settled()
        await school.drain(1)
        await school.settled()
        await pass_time(1.5)
        school.atlas.network.weather.loss = 0.0
        assert len(school.acked) > 20
        school.atlas.kill("n1", "n3", "n4")
        await school.check("n7")
        await school.check("n8")

    play(story, number, spare=2)


@pytest.mark.parametrize("number", range(4))
def test_a_newcomer_that_crashes_goes_on_where_it_may(number: int) -> None:
    async def story(school: School) -> None:
        await fill(school)
        await school.add(7)
        await until(lambda: bool(school.atlas["n7"].cartographer.epoch))
        for _ in range(4):
            await pass_time(0.004 * (number + 1))
            school.atlas.kill("n7", power=True)
            await school.start("n7")
        await school.settled()
        school.atlas.kill("n2", "n3")
        await school.check("n7")

    play(story, number, spare=1)


def test_a_home_that_left_and_comes_back_begins_blank() -> None:
    """The others went on and forgot a key for good; what the newcomer held of it from its earlier time is nothing."""

    async def story(school: School) -> None:
        await fill(school)
        await school.add(7)
        await school.settled()
        key = next(k for k in sorted(school.acked) if "n7" in homes(school, k))
        await school.drain(7)
        await school.settled()
        assert "n7" not in homes(school, key)
        left = await record(school, "n7", key)
        assert left is not None
        assert left.accepted is not None
        blank = RegisterRecord(BUCKET, key, 0, left.partition, promised=None, accepted=None, head=b"")
        for name in homes(school, key):
            await school.atlas[name].process.store.append([Entry(blank)])
            await school.start(*_restarted(school, name))
        await school.add(7)
        await school.settled()
        assert "n7" in homes(school, key)
        school.atlas.kill(*[name for name in homes(school, key) if name != "n7"][:2])
        assert (await school.get("n7", key)).kind is HeadKind.ABSENT, "also where everybody is needed"

    play(story, spare=1)


def _restarted(school: School, name: str) -> tuple[str, ...]:
    """What a process knows beside its disk goes with it."""
    school.atlas.kill(name)
    return (name,)


def test_what_is_under_a_newcomers_promise_is_decided_anew_rather_than_taken() -> None:
    async def story(school: School) -> None:
        await fill(school)
        await school.add(7)
        await until_entered(school)
        topology = school.atlas["n7"].cartographer.require()
        store = school.atlas["n7"].store
        key = next(
            k
            for k in sorted(school.acked)
            if store in topology.entry(0, topology.key_partition(0, BUCKET, k)).moving
        )
        scope = topology.scope(0, topology.key_partition(0, BUCKET, key))
        before = await record(school, "n2", key)
        ballot = Ballot(scope.generation, 10_000, school.atlas["n2"].store, 1, 1)
        reply = await ask(school, "n7", Prepare(scope, BUCKET, key, ballot, 1))
        assert isinstance(reply, PrepareReply)
        assert reply.promised
        assert reply.accepted is None
        await by_hand(school)
        await school.settled()
        own = await record(school, "n7", key)
        assert own is not None
        assert own.accepted is None or own.accepted.generation == scope.generation
        assert before is not None
        decided = [held for name in homes(school, key) if (held := await record(school, name, key))]
        others = [held for held in decided if held.head == before.head and held != own]
        assert len(others) >= 4, "at a majority of the new homes without the newcomer"

    play_by_hand(story)


def test_an_abandoned_deletion_keeps_no_newcomer_for_ever() -> None:
    """What is under its promise must be decided anew, and behind a closed door nothing is: the door is opened again."""

    async def story(school: School) -> None:
        await fill(school)
        await school.add(7)
        await until_entered(school)
        topology = school.atlas["n7"].cartographer.require()
        store = school.atlas["n7"].store
        partitions = {k: topology.key_partition(0, BUCKET, k) for k in sorted(school.acked)}
        key = next(k for k, at in partitions.items() if store in topology.entry(0, at).moving)
        scope = topology.scope(0, partitions[key])
        ballot = Ballot(scope.generation, 10_000, school.atlas["n2"].store, 1, 1)
        reply = await ask(school, "n7", Prepare(scope, BUCKET, key, ballot, 1))
        assert isinstance(reply, PrepareReply)
        for member in school.atlas.running():
            await member.process.store.append([Entry(BucketRecord(BUCKET, closing=True))])
        deadline = school.atlas.loop.time() + 60
        while BUCKET not in school.doors.reopened:
            assert school.atlas.loop.time() < deadline
            _ = await work(school)
            await pass_time(0.5)
        for member in school.atlas.running():
            await member.process.store.append([Entry(BucketRecord(BUCKET, closing=False))])
        await by_hand(school)
        await school.settled()

    play_by_hand(story)


def test_a_newcomer_promises_only_once_it_is_blank_and_tells_nobody_what_is_there() -> None:
    async def story(school: School) -> None:
        await fill(school)
        await school.add(7)
        await pass_time(0.5)
        topology = school.atlas["n7"].cartographer.require()
        scope = next(scope for scope in topology.learned_by(school.atlas["n7"].store))
        key = next(k for k in sorted(school.acked) if topology.key_partition(0, BUCKET, k) == scope.partition)
        prepare = Prepare(
            scope, BUCKET, key, Ballot(scope.generation, 10_000, school.atlas["n2"].store, 1, 1), 1
        )
        with pytest.raises(NotVoting, match="about to become"):
            await ask(school, "n7", prepare)
        await until_entered(school)
        assert isinstance(await ask(school, "n7", prepare), PrepareReply)
        for whole in (ListRegisters((scope,), BUCKET, b"", b"", 10), ReadFloors((scope,))):
            with pytest.raises(NotVoting, match="not yet a home"):
                await ask(school, "n7", whole)

    play_by_hand(story)


def test_a_newcomer_whose_partition_rotted_ends_its_move() -> None:
    async def story(school: School) -> None:
        await fill(school)
        await school.add(7)
        await until_entered(school)
        store = school.atlas["n7"].process.store
        topology = school.atlas["n7"].cartographer.require()
        scope = next(iter(topology.learned_by(school.atlas["n7"].store)))
        rotted = replace(store.partition(0, scope.partition), not_voting="the record rotted")
        await store.append([Entry(rotted)])
        await by_hand(school)
        await school.settled()
        entry = school.atlas["n1"].cartographer.require().entry(0, scope.partition)
        assert school.atlas["n7"].store not in entry.homes, "its promises of this generation may be lost"
        await school.check("n2")

    play_by_hand(story)


def play_by_hand(story: Story) -> None:
    async def lazy(school: School) -> None:
        school.atlas.kill("n7")
        school.by_hand.add("n7")
        await school.start("n7")
        await story(school)

    play(lazy, spare=1)


async def until_entered(school: School) -> None:
    """The newcomer's first piece of work: to begin blank."""
    await pass_time(0.5)
    assert await work(school) is Work.BUSY


async def by_hand(school: School) -> None:
    """Let the newcomer learn to the end."""
    for _ in range(200):
        if await work(school) is Work.IDLE:
            return
        await pass_time(0.05)
    raise AssertionError("the newcomer never comes to its end")


async def work(school: School) -> Work:
    async def once(_: object) -> Work:
        try:
            return await school.pupils["n7"].learner.work_once()
        except HoldfastError:
            return Work.THROTTLED

    return await school.atlas.run("n7", once)
