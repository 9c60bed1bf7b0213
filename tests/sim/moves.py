"""What an operator does to the nodes of a world: adds some, drains some, takes drained ones out, changes the pool's
code, changes their mind."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.node_changes import (
    AddNode,
    CancelChange,
    DrainNodes,
    NodeChange,
    RecodePool,
    RemoveNodes,
)
from holdfast_node.core.report import PlanReply, StatusReply
from holdfast_node.core.seed import SeedNode
from tests.sim.client import ConnectionLost
from tests.sim.cluster import Cluster, Machine

NODES_MAX: Final = 14
"""Machines in a world: each costs time."""

CODES: Final = ("rs:4+2", "rs:2+1", "rs:2+2", "rs:2+2", "rs:3+2", "rs:6+3", "lrc:8+4/2")
"""What a pool is changed to. Where homes become four, half of them may be those that missed a write."""
MISS_S: Final = (0.5, 5.0)
"""How long some nodes miss everything."""

CANCEL_SHARE: Final = 0.4

Act = tuple[str, Callable[[], Awaitable[object]]]


class Moves:
    """Each act is one command of one operator, who hears of its refusal and goes on."""

    def __init__(self, cluster: Cluster, *, chooser: random.Random) -> None:
        self._cluster = cluster
        self._chooser = chooser

    def acts(self) -> tuple[Act, ...]:
        return (
            ("add a node", self._add),
            ("add a node", self._add),
            ("drain a node", self._drain),
            ("drain a node", self._drain),
            ("remove a node", self._remove),
            ("change the code", self._recode),
            ("change the code", self._recode),
            ("cancel a change", self._cancel),
            ("two operators", self._two),
        )

    async def go_on(self, machine: Machine, status: StatusReply) -> list[str]:
        """A drain that a lost store has interrupted is not taken up by itself: the operator says it again. And whoever
        was made a member although nobody heard of it is one. Who was lost and is back is given a share again: by the
        operator, where nodes are waited for however long they stay away. Those of them that have to wait until all
        versions kept in a former code have expired, which may be longer than a world lasts."""
        for node in status.nodes:
            if node.name in self._cluster.machines:
                self._cluster.machines[node.name].stranger = False
        stuck = [
            node.name for node in status.nodes if node.state == "draining" and not node.learning_partitions
        ]
        moving = any("moving to other homes" in problem for problem in status.problems)
        if stuck and not moving:
            await self._change(machine, DrainNodes(stuck[0]))
        back = [node for node in status.nodes if node.state == "lost" and node.voting]
        if back and self._cluster.topology.patience.endless:
            done = await self._change(machine, AddNode(SeedNode(back[0].name, back[0].address)))
            if done is None and not moving and await self._recodes(machine):
                return [node.name for node in back]
        return []

    async def _recodes(self, machine: Machine) -> bool:
        """Whether the pool may still have versions in the code it had before."""
        try:
            told = await self._cluster.admin(machine, lambda admin: admin.get_map())
        except (HoldfastError, ConnectionLost):
            return False
        return any(pool.former_code for pool in told.map.pools)

    async def _add(self) -> None:
        asked = self._asker()
        if asked is None or len(self._cluster.machines) >= NODES_MAX:
            return
        machine = self._cluster.add_machine(
            self._chooser.choice([*self._sans(), f"x{len(self._cluster.machines)}"])
        )
        await self._cluster.boot(machine, format_if_empty=True)
        node = SeedNode(machine.name, machine.address, (("host", machine.name), ("san", machine.san)))
        reply = await self._change(asked, AddNode(node))
        machine.stranger = reply is None

    async def _drain(self) -> None:
        await self._say(DrainNodes(self._chooser.choice(sorted(self._cluster.machines))))

    async def recode_unseen(self) -> None:
        """Some nodes miss what is written before the pool's code changes, and others what is after: what these alone
        knew must have been learned by then. Or the operator thinks again."""
        names = sorted(self._cluster.machines)
        self._chooser.shuffle(names)
        most = (len(names) - 1) // 2
        count = self._chooser.choice((1, most, most))
        await self._miss(names[:count])
        if self._chooser.random() < 0.5:
            self._cluster.network.unblock_all()
        if await self._recode():
            self._cluster.coverage.saw("a pool went to another code behind the back of nodes")
        self._cluster.network.unblock_all()
        await self._miss(names[-count:])
        if self._chooser.random() < CANCEL_SHARE:
            await self._cancel()
        self._cluster.network.unblock_all()

    async def _miss(self, names: list[str]) -> None:
        """From now on, for a while at least, nobody else hears these nodes, nor they anybody."""
        self._cluster.note(f"PARTITION {names}")
        for name in names:
            for other in self._cluster.machines:
                if other not in names:
                    self._cluster.network.block(f"{name}:1", f"{other}:1")
                    self._cluster.network.block(f"{other}:1", f"{name}:1")
        await asyncio.sleep(self._chooser.uniform(*MISS_S))

    async def _recode(self) -> bool:
        fitting = [code for code in CODES if parse_code(code).n <= len(self._cluster.machines)]
        for code in self._chooser.sample(
            fitting, min(2, len(fitting))
        ):  # the pool may be in the first of them
            reply = await self._say(RecodePool("main", code))
            if reply is not None and reply.applied:
                self._cluster.coverage.saw("a pool went to another code")
                return True
        return False

    async def _cancel(self) -> None:
        await self._say(CancelChange())

    async def think_again(self) -> None:
        """A node has just been replaced, and its operator would rather have everything as it was: while a home is
        blank."""
        if self._chooser.random() < CANCEL_SHARE:
            await self._cancel()

    async def _two(self) -> None:
        """Two operators who do not know of each other."""
        names = self._chooser.sample(sorted(self._cluster.machines), 2)
        await asyncio.gather(self._say(DrainNodes(names[0])), self._say(DrainNodes(names[1])))

    async def _remove(self) -> None:
        """Whoever is drained is taken out; its machine is gone then, disks and all."""
        for name in sorted(self._cluster.machines):
            reply = await self._say(RemoveNodes(name))
            if reply is not None and reply.applied:
                self._cluster.retire(self._cluster.machines[name])
                return

    async def _say(self, change: NodeChange) -> PlanReply | None:
        asked = self._asker()
        return await self._change(asked, change) if asked is not None else None

    async def _change(self, machine: Machine, change: NodeChange) -> PlanReply | None:
        self._cluster.note(f"CHANGE {change}")
        try:
            reply = await self._cluster.admin(machine, lambda admin: admin.change(change, apply=True))
        except (HoldfastError, ConnectionLost) as error:
            self._cluster.note(f"CHANGE not made: {error!r}")
            return None
        self._cluster.note(
            f"CHANGE {reply.kind} {reply.nodes}: {reply.open} moves open at epoch {reply.epoch}"
        )
        if reply.applied and reply.open:
            self._cluster.coverage.saw("partitions moved to other homes")
        return reply

    def _asker(self) -> Machine | None:
        running = self._cluster.running()
        return self._chooser.choice(running) if running else None

    def _sans(self) -> list[str]:
        return sorted({machine.san for machine in self._cluster.machines.values()})
