"""A node dies at night: others take over what was its without an operator; it comes back and is given a share again."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio

import pytest

from holdfast_node.core.absence import Patience
from holdfast_node.core.ids import NodeName
from holdfast_node.core.map_changes import mark_suspect, raise_era
from holdfast_node.core.map_moves import give_up
from holdfast_node.core.messages import CopyRegisters, MapPrepare, ReadStatus
from holdfast_node.core.node_changes import CancelChange
from holdfast_node.core.report import StatusReply
from holdfast_node.services import absences
from holdfast_node.services.node import Node
from tests.sim.cluster import Topology
from tests.sim.test_found_bugs import Stage
from tests.sim.test_moves import change, everything_reads_back, fill

PATIENCE = Patience(node_s=30.0, several_s=90.0)
SEVEN = Topology("rs:4+2", (3, 2, 2), patience=PATIENCE)
"""One node to spare."""
SIX = Topology("rs:4+2", (2, 2, 2), patience=PATIENCE)


async def status(stage: Stage) -> StatusReply:
    return await stage.cluster.admin(stage.cluster.machines["n2"], lambda admin: admin.status())


async def state(stage: Stage, name: str) -> str:
    return next(node.state for node in (await status(stage)).nodes if node.name == name)


def node_of(stage: Stage, name: str) -> Node:
    node = stage.cluster.machines[name].node
    assert node is not None
    return node


async def homes_of(stage: Stage, name: str) -> int:
    found = await stage.cluster.admin(stage.cluster.machines["n2"], lambda admin: admin.get_map())
    store = next(node.store for node in found.map.nodes if node.name == name)
    return sum(store in (*entry.homes, *entry.moving) for entry in found.map.pools[0].partitions)


def test_others_take_over_what_is_at_a_node_that_stays_away_and_it_is_given_a_share_when_it_is_back() -> None:
    stage = Stage(topology=SEVEN)

    async def story() -> None:
        await fill(stage)
        dead = stage.cluster.machines["n1"]
        stage.cluster.stop_at_once(dead)
        stage.history.note_loss("node")
        await asyncio.sleep(PATIENCE.node_s - 5.0)
        assert await state(stage, "n1") == "down"
        watching = [worker for worker in (await status(stage)).workers if worker.name == "absences"]
        assert any(worker.detail.startswith("n1: others take over") for worker in watching)
        await asyncio.sleep(60.0)
        assert not await homes_of(stage, "n1"), "nothing is left there that anybody needs"
        for name in ("n4", "n5"):  # with what n1 held made again, two more may go
            stage.cluster.stop_at_once(stage.cluster.machines[name])
        await everything_reads_back(stage)
        for name in ("n4", "n5", "n1"):
            await stage.cluster.boot(stage.cluster.machines[name])
        await asyncio.sleep(PATIENCE.node_s - 5.0)
        assert await state(stage, "n1") == "lost"
        assert not await stage.nemesis.unhealthy(120.0)
        assert await state(stage, "n1") == "up"
        assert await homes_of(stage, "n1")

    stage.play(story)


def test_what_was_written_without_it_is_brought_home_as_soon_as_it_has_another_home() -> None:
    """Heal had put it off for a minute at a time: only the dead node's return was to change anything."""
    stage = Stage(topology=SEVEN)

    async def story() -> None:
        stage.cluster.stop_at_once(stage.cluster.machines["n1"])
        await asyncio.sleep(5.0)
        await fill(stage)
        await asyncio.sleep(PATIENCE.node_s + 5.0)
        found = await status(stage)
        assert [node.state for node in found.nodes if node.name == "n1"] == ["lost"]
        assert not found.exceptions

    stage.play(story)


def test_a_node_whose_store_has_failed_is_given_up_as_if_it_were_off() -> None:
    """It goes on running, and would be the steward of some partitions and the first voter for ever (ADR 0096)."""
    stage = Stage(topology=SEVEN)

    async def story() -> None:
        await fill(stage)
        broken = stage.cluster.machines["n1"]
        assert broken.disk is not None
        _, events = next(pair for pair in stage.cluster.events if pair[0] == "n1")
        broken.disk.fail_syncs = True
        stage.history.note_loss("node")
        await fill(stage)
        await asyncio.sleep(5.0)
        told = [problem for problem in (await status(stage)).problems if problem.startswith("n1 ")]
        assert len(told) == 1
        assert "its store failed: " in told[0]
        assert await state(stage, "n1") == "down"
        assert not events.count("worker_failed"), "nobody works on without a store"
        await asyncio.sleep(PATIENCE.node_s + 55.0)
        assert not await homes_of(stage, "n1")
        for name in ("n4", "n5"):
            stage.cluster.stop_at_once(stage.cluster.machines[name])
        await everything_reads_back(stage)
        for name in ("n4", "n5", "n1"):
            stage.cluster.stop_at_once(stage.cluster.machines[name])
            await stage.cluster.boot(stage.cluster.machines[name])
        await asyncio.sleep(PATIENCE.node_s + 5.0)
        assert not await stage.nemesis.unhealthy(120.0)
        assert await homes_of(stage, "n1")

    stage.play(story)


def test_a_node_that_was_away_for_a_moment_is_waited_for_anew() -> None:
    stage = Stage(topology=SEVEN)

    async def story() -> None:
        for _ in range(4):
            stage.cluster.stop_at_once(stage.cluster.machines["n1"])
            await asyncio.sleep(PATIENCE.node_s - 8.0)
            await stage.cluster.boot(stage.cluster.machines["n1"])
            await asyncio.sleep(5.0)
        assert not await stage.nemesis.unhealthy(60.0)
        assert await state(stage, "n1") == "up"
        assert (await status(stage)).epoch == 1

    stage.play(story)


def test_several_at_once_are_waited_for_longer_than_one() -> None:
    stage = Stage(topology=Topology("rs:4+2", (2, 2, 2, 2), patience=PATIENCE))

    async def story() -> None:
        await fill(stage)
        for name in ("n7", "n8"):
            stage.cluster.stop_at_once(stage.cluster.machines[name])
        await asyncio.sleep(PATIENCE.several_s - 5.0)
        assert await state(stage, "n7") == "down"
        await asyncio.sleep(60.0)
        assert {await state(stage, "n7"), await state(stage, "n8")} == {"lost"}
        assert not await homes_of(stage, "n7")
        assert not await homes_of(stage, "n8")

    stage.play(story)


def test_where_nobody_can_take_over_status_says_why_and_nothing_changes() -> None:
    stage = Stage(topology=SIX)

    async def story() -> None:
        stage.cluster.stop_at_once(stage.cluster.machines["n1"])
        await asyncio.sleep(2 * PATIENCE.node_s)
        found = await status(stage)
        assert found.epoch == 1
        assert any("n1: others cannot take over" in problem for problem in found.problems), found.problems
        await stage.cluster.boot(stage.cluster.machines["n1"])
        await asyncio.sleep(10.0)
        assert not await stage.nemesis.unhealthy(60.0)

    stage.play(story)


def test_a_node_that_hears_nobody_gives_nobody_up() -> None:
    """It sees all the others silent, and so do they see it: a majority of the voters decides."""
    stage = Stage(topology=SEVEN)
    network = stage.cluster.network

    async def story() -> None:
        alone = stage.cluster.machines["n3"].address
        for other in stage.cluster.machines.values():
            if other.address != alone:
                network.block(alone, other.address)
                network.block(other.address, alone)
        await asyncio.sleep(3 * PATIENCE.node_s)
        lost = {node.name for node in (await status(stage)).nodes if node.state == "lost"}
        assert lost == {"n3"}

    stage.play(story)


def test_what_one_half_of_the_voters_does_not_hear_is_not_given_up() -> None:
    stage = Stage(topology=SEVEN)
    network = stage.cluster.network

    async def story() -> None:
        voters = (await status(stage)).voters
        half = [stage.cluster.machines[name].address for name in voters if name != "n7"][:2]
        for address in half:
            network.block(stage.cluster.machines["n7"].address, address)
        await asyncio.sleep(3 * PATIENCE.several_s)
        assert (await status(stage)).epoch == 1

    stage.play(story)


def test_an_operator_who_cancels_is_not_overruled() -> None:
    stage = Stage(topology=SEVEN)

    async def story() -> None:
        await fill(stage)
        stage.cluster.stop_at_once(stage.cluster.machines["n1"])
        stage.cluster.network.losing = lambda request: isinstance(request, ReadStatus)
        await asyncio.sleep(PATIENCE.node_s)
        stage.cluster.network.losing = None
        await asyncio.sleep(10.0)
        assert await state(stage, "n1") == "lost"
        assert (await change(stage, CancelChange())).applied
        await asyncio.sleep(3 * PATIENCE.node_s)
        assert await state(stage, "n1") == "down"
        await stage.cluster.boot(stage.cluster.machines["n1"])
        await asyncio.sleep(2 * PATIENCE.node_s)
        assert await state(stage, "n1") == "up"
        stage.cluster.stop_at_once(stage.cluster.machines["n1"])
        await asyncio.sleep(PATIENCE.node_s + 15.0)
        assert await state(stage, "n1") == "lost", "what was said while it was away is over"

    stage.play(story)


def test_who_stood_still_begins_to_count_anew() -> None:
    """The whole machine room was suspended: nobody has been away."""
    stage = Stage(topology=SEVEN)

    async def story() -> None:
        machines = stage.cluster.machines
        stage.cluster.stop_at_once(machines["n1"])
        await asyncio.sleep(10.0)
        for machine in stage.cluster.running():
            stage.cluster.pause(machine)
        await asyncio.sleep(2 * PATIENCE.node_s)
        for machine in stage.cluster.running():
            stage.cluster.resume(machine)
        await asyncio.sleep(PATIENCE.node_s - 10.0)
        assert await state(stage, "n1") == "down", (
            "it has not been silent for long while anybody was there to hear"
        )
        await asyncio.sleep(20.0)
        assert await state(stage, "n1") == "lost"

    stage.play(story)


def test_a_node_that_dies_again_while_it_is_taken_back_does_not_hold_up_what_comes_after() -> None:
    stage = Stage(topology=SEVEN)

    async def story() -> None:
        await fill(stage)
        back = stage.cluster.machines["n1"]
        stage.cluster.stop_at_once(back)
        await asyncio.sleep(PATIENCE.node_s + 30.0)
        assert await state(stage, "n1") == "lost"
        stage.cluster.network.losing = lambda request: isinstance(
            request, CopyRegisters
        )  # it has yet to learn
        await stage.cluster.boot(back)
        await asyncio.sleep(PATIENCE.node_s + 10.0)
        assert await homes_of(stage, "n1")
        stage.cluster.stop_at_once(back)
        stage.cluster.network.losing = None
        await asyncio.sleep(PATIENCE.node_s + 60.0)
        assert await state(stage, "n1") == "lost"
        assert not await homes_of(stage, "n1")
        await stage.cluster.boot(back)
        assert not await stage.nemesis.unhealthy(120.0)

    stage.play(story)


def test_a_suspect_voter_that_is_up_does_not_keep_others_from_deciding() -> None:
    stage = Stage(topology=Topology("rs:4+2", (3, 3, 2), patience=PATIENCE))

    async def story() -> None:
        found = await status(stage)
        assert found.voters[0] == "n1"
        suspect = node_of(stage, "n1").store.superblock.store
        _ = await node_of(stage, "n2").cartographer.change(lambda now: mark_suspect(now, suspect))
        gone = stage.cluster.machines["n4"]
        assert gone.san != stage.cluster.machines["n1"].san
        stage.cluster.stop_at_once(gone)
        await asyncio.sleep(PATIENCE.node_s + 15.0)
        assert await state(stage, "n4") == "lost"

    stage.play(story)


def test_what_could_not_be_decided_at_once_is_not_waited_for_anew() -> None:
    """Whoever asks for votes in vain for some seconds was there all the time."""
    stage = Stage(topology=SEVEN)

    async def story() -> None:
        stage.cluster.stop_at_once(stage.cluster.machines["n1"])
        stage.cluster.network.losing = lambda request: isinstance(request, MapPrepare)
        await asyncio.sleep(PATIENCE.node_s + 15.0)
        assert await state(stage, "n1") == "down"
        stage.cluster.network.losing = None
        await asyncio.sleep(15.0)
        assert await state(stage, "n1") == "lost"

    stage.play(story)


def test_who_has_just_stood_still_says_nothing_of_what_it_saw_before() -> None:
    stage = Stage(topology=SEVEN)

    async def story() -> None:
        stage.cluster.stop_at_once(stage.cluster.machines["n1"])
        await asyncio.sleep(10.0)
        watch = node_of(stage, "n3").absences
        assert watch.sightings()
        stage.cluster.pause(stage.cluster.machines["n3"])
        await asyncio.sleep(20.0)
        assert not watch.sightings(), "asked before it has looked again"
        stage.cluster.resume(stage.cluster.machines["n3"])
        await asyncio.sleep(5.0)
        assert [seen.for_s < 10.0 for seen in watch.sightings()] == [True]

    stage.play(story)


def test_where_one_of_the_others_would_be_too_full_nobody_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absences, "FILL_MAX", 0.0)
    stage = Stage(topology=SEVEN)

    async def story() -> None:
        await fill(stage)
        epoch = (await status(stage)).epoch
        stage.cluster.stop_at_once(stage.cluster.machines["n1"])
        await asyncio.sleep(PATIENCE.node_s + 15.0)
        found = await status(stage)
        assert found.epoch == epoch
        assert any("would be more than 0% full" in problem for problem in found.problems), found.problems

    stage.play(story)


def test_only_what_was_decided_on_the_map_that_was_looked_at_is_told() -> None:
    stage = Stage(topology=SEVEN)

    async def story() -> None:
        node = node_of(stage, "n2")
        picture = await node.status.picture()
        after = give_up(picture.topology.map, (NodeName("n1"),))
        assert after is not None
        _ = await node.cartographer.change(raise_era)
        assert not await node.absences._decided(picture, after)
        assert await state(stage, "n1") == "up"

    stage.play(story)
