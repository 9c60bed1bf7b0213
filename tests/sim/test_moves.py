"""Nodes come and go in a simulated cluster: what is refused, what a plan says, and when a node may be switched off."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from holdfast_node.core.api import Condition
from holdfast_node.core.errors import InvalidArgument, Refused
from holdfast_node.core.messages import DropShards, StageWhole
from holdfast_node.core.node_changes import (
    AddNode,
    CancelChange,
    CreatePool,
    DrainNodes,
    NodeChange,
    RemoveNodes,
)
from holdfast_node.core.report import PlanReply
from holdfast_node.core.seed import SeedNode, SeedPool
from holdfast_node.services.wards import RELOOK_S
from tests.sim.cluster import Machine
from tests.sim.test_found_bugs import Stage

KEYS = [b"key %d" % number for number in range(12)]


async def fill(stage: Stage) -> None:
    for key in KEYS:
        assert await stage.caller.put(key, 8192, Condition()) is not None


async def change(stage: Stage, asked: NodeChange, *, apply: bool = True) -> PlanReply:
    return await stage.cluster.admin(
        stage.cluster.machines["n2"], lambda admin: admin.change(asked, apply=apply)
    )


async def booted(stage: Stage, san: str) -> tuple[Machine, SeedNode]:
    machine = stage.cluster.add_machine(san)
    await stage.cluster.boot(machine, format_if_empty=True)
    return machine, SeedNode(machine.name, machine.address, (("host", machine.name), ("san", machine.san)))


async def joined(stage: Stage, san: str) -> Machine:
    machine, node = await booted(stage, san)
    assert (await change(stage, AddNode(node))).applied
    machine.stranger = False
    assert not await stage.nemesis.unhealthy(120.0)
    return machine


async def mended(stage: Stage) -> int:
    """How many keys all healers have brought into order so far."""
    status = await stage.cluster.admin(stage.cluster.machines["n2"], lambda admin: admin.status())
    assert status.healthy, status.problems
    return sum(worker.done for worker in status.workers if worker.name == "healer")


async def everything_reads_back(stage: Stage) -> None:
    for key in KEYS:
        assert await stage.caller.get(key) is not None


def test_a_plan_says_what_would_move_and_changes_nothing() -> None:
    stage = Stage()

    async def story() -> None:
        await fill(stage)
        machine, node = await booted(stage, "s3")
        planned = await change(stage, AddNode(node), apply=False)
        assert (planned.kind, planned.nodes, planned.applied) == ("add", (machine.name,), False)
        [moves] = planned.pools
        assert 0 < moves.least_slots <= moves.slots < moves.all_slots
        assert moves.bytes > 0
        assert dict(planned.margin.entries)["node"] == 2
        before = await stage.cluster.admin(stage.cluster.machines["n2"], lambda admin: admin.plan())
        assert (before.kind, before.open) == ("", 0)
        applied = await change(stage, AddNode(node))
        assert applied.open == planned.partitions

    stage.play(story)


def test_nobody_is_added_who_is_not_there_or_is_somebody_else() -> None:
    stage = Stage()

    async def story() -> None:
        _, node = await booted(stage, "s3")
        with pytest.raises(Refused) as refused:
            await change(stage, AddNode(replace(node, address="nowhere:1")))
        assert "no store answers" in refused.value.evidence[0].said
        with pytest.raises(Refused) as refused:
            await change(stage, AddNode(replace(node, name="other")))
        assert "calls itself n7" in refused.value.evidence[0].said
        with pytest.raises(InvalidArgument):
            await change(stage, AddNode(replace(node, name="a=b")))
        with pytest.raises(InvalidArgument, match="nothing matches"):
            await change(stage, DrainNodes("n99"))
        with pytest.raises(Refused):
            await change(stage, DrainNodes("n1"))

    stage.play(story)


def test_a_node_may_be_switched_off_once_it_is_drained_and_is_not_removed_before() -> None:
    stage = Stage()

    async def story() -> None:
        await joined(stage, "s3")
        await fill(stage)
        stage.cluster.network.losing = lambda request: isinstance(request, StageWhole)
        assert (await change(stage, DrainNodes("n1"))).applied
        await asyncio.sleep(20.0)
        plan = await stage.cluster.admin(stage.cluster.machines["n2"], lambda admin: admin.plan())
        assert not plan.open, "the registers have moved"
        assert not plan.settled, "the shards have not"
        with pytest.raises(Refused) as refused:
            await change(stage, RemoveNodes("n1"))
        assert "heal has passed pool main partition" in refused.value.evidence[0].said
        stage.cluster.network.losing = None
        assert not await stage.nemesis.unhealthy(120.0)
        assert (await change(stage, RemoveNodes("n1"))).applied
        stage.cluster.retire(stage.cluster.machines["n1"])
        await asyncio.sleep(5.0)
        assert not await stage.nemesis.unhealthy(60.0)
        await everything_reads_back(stage)

    stage.play(story)


def test_what_has_moved_is_not_taken_for_ailing_for_ever() -> None:
    """Manifests go on naming the stores that sealed the shards; every look of a steward meets that again."""
    stage = Stage()

    async def story() -> None:
        await fill(stage)
        await joined(stage, "s3")
        before = await mended(stage)
        await asyncio.sleep(2.5 * RELOOK_S)
        assert await mended(stage) == before

    stage.play(story)


def test_a_dead_node_is_not_needed_to_drain_it() -> None:
    stage = Stage()

    async def story() -> None:
        await joined(stage, "s3")
        await fill(stage)
        dead = stage.cluster.machines["n1"]
        stage.cluster.stop_at_once(dead)
        stage.history.note_loss("node")
        await asyncio.sleep(5.0)
        assert (await change(stage, DrainNodes("n1"))).applied
        assert not await stage.nemesis.unhealthy(200.0)
        assert (await change(stage, RemoveNodes("n1"))).applied
        stage.cluster.retire(dead)
        await everything_reads_back(stage)

    stage.play(story)


def test_a_pool_is_made_on_a_living_cluster_and_once() -> None:
    stage = Stage()

    async def story() -> None:
        pool = SeedPool("wide", "rs:3+2", 4)
        assert (await change(stage, CreatePool(pool))).applied
        assert not (await change(stage, CreatePool(pool))).applied
        with pytest.raises(Refused, match="already"):
            await change(stage, CreatePool(replace(pool, code="rs:2+2")))
        with pytest.raises(InvalidArgument):
            await change(stage, CreatePool(SeedPool("huge", "rs:10+4")))
        assert not await stage.nemesis.unhealthy(60.0)
        assert (await joined(stage, "s3")).name == "n7"
        plan = await stage.cluster.admin(stage.cluster.machines["n2"], lambda admin: admin.plan())
        assert plan.settled

    stage.play(story)


def test_what_one_map_calls_surplus_another_may_call_home() -> None:
    """Copies had come to a new node, and the old homes were told to drop theirs; that came late. Meanwhile the change
    was cancelled, the new node's copies were dropped, and then the old homes did what they had been told before."""
    stage = Stage()
    machines, network = stage.cluster.machines, stage.cluster.network

    async def story() -> None:
        await fill(stage)
        machine, node = await booted(stage, "s3")
        network.holding_up_s = lambda request: 20.0 * isinstance(request, DropShards)
        assert (await change(stage, AddNode(node))).applied
        machine.stranger = False
        await asyncio.sleep(5.0)
        network.holding_up_s = None
        assert (await change(stage, CancelChange())).applied
        await asyncio.sleep(60.0)
        assert not await stage.nemesis.unhealthy(60.0)
        for name in ("n1", "n2"):
            stage.cluster.stop_at_once(machines[name])
            stage.history.note_loss("node")
        await asyncio.sleep(5.0)
        await everything_reads_back(stage)

    stage.play(story)
