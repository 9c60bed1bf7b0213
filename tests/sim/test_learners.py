"""A store that took the place of a lost one, before it has learned: it may not help to decide what it has not seen."""

from __future__ import annotations

import asyncio

from holdfast_node.core.api import Condition
from holdfast_node.core.messages import Accept, CopyRegisters, Prepare, ReadChanges
from tests.sim.cluster import Machine, Topology
from tests.sim.test_found_bugs import Stage

SMALL = 100
"""Bytes, of which every home keeps all: one of three may be away when they are written."""


def test_a_blank_store_and_one_that_missed_the_last_write_decide_nothing() -> None:
    """Three homes, of which one was cut off during a write, and another was then lost. The third alone knows, so
    without it nobody can be told anything, the blank store's vote or not."""
    stage = Stage(topology=Topology("rs:2+1", (1, 1, 1)))
    machines, network = stage.cluster.machines, stage.cluster.network
    lost, only, behind = (machines[name] for name in ("n1", "n2", "n3"))

    def cut_off(one: Machine) -> None:
        for other in machines.values():
            network.block(one.address, other.address)
            network.block(other.address, one.address)

    async def story() -> None:
        assert await stage.caller.put(b"k", SMALL, Condition()) is not None
        cut_off(behind)
        await asyncio.sleep(3.0)
        new = await stage.caller.put(b"k", SMALL, Condition())
        assert new is not None
        network.losing = lambda request: isinstance(request, Prepare | Accept | ReadChanges | CopyRegisters)
        network.unblock_all()
        stage.history.note_loss("node")
        stage.cluster.wipe(lost)
        assert not await stage.nemesis.replace_lost()
        await asyncio.sleep(3.0)
        cut_off(only)
        network.losing = lambda request: isinstance(request, ReadChanges | CopyRegisters)
        await asyncio.sleep(3.0)
        assert await stage.caller.get(b"k", patience=8) is None, "two stores that do not know have agreed"
        network.losing = None
        network.unblock_all()
        assert not await stage.nemesis.unhealthy(120.0)
        assert await stage.caller.get(b"k") == (new.version, new.content)

    stage.play(story)
