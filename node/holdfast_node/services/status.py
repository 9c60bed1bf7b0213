"""What operators see: every node's own account, gathered by whichever node was asked. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from holdfast_node.core.ids import NodeName, StoreId
from holdfast_node.core.messages import (
    NodeStatus,
    PartitionHealth,
    ReadStatus,
    Reply,
    Request,
    ScrubReport,
    Sighting,
    WorkerStatus,
)
from holdfast_node.core.picture import Picture
from holdfast_node.core.report import StatusReply
from holdfast_node.ports import Failed
from holdfast_node.services.cartographer import Cartographer
from holdfast_node.services.dispatcher import Caller, Handler, handler
from holdfast_node.services.fanout import Answers, gather, replies
from holdfast_node.services.membership import Membership

STATUS_TIMEOUT_S: Final = 2.0


class ScrubSource(Protocol):
    """The scrubber, likewise."""

    def report(self) -> ScrubReport: ...

    def warnings(self) -> tuple[str, ...]: ...


class AbsenceSource(Protocol):
    """Who watches for nodes that stay away."""

    def sightings(self) -> tuple[Sighting, ...]: ...

    def warnings(self) -> tuple[str, ...]: ...


FULL: Final = (
    "only the reserve is left: new blobs are refused here; delete blobs, add nodes or enlarge the disk"
)


class StatusService:
    """Answers for this node, and gathers all nodes' answers into one picture."""

    def __init__(
        self,
        *,
        cartographer: Cartographer,
        membership: Membership,
        health: Sequence[Callable[[], tuple[PartitionHealth, ...]]],
        workers: Sequence[Callable[[], WorkerStatus]],
        scrubber: ScrubSource,
        absences: AbsenceSource,
    ) -> None:
        self._store = cartographer.ports.store
        self._links = cartographer.ports.links
        self._cartographer = cartographer
        self._membership = membership
        self._health = health
        self._workers = workers
        self._scrubber = scrubber
        self._absences = absences
        self._started_s = asyncio.get_running_loop().time()

    def handlers(self) -> dict[type[Request], Handler]:
        return dict([handler(ReadStatus, self._serve)])

    async def _serve(self, caller: Caller, request: ReadStatus) -> Reply:
        block = self._store.superblock
        reason = self._membership.may_vote()
        scrub = self._scrubber.report()
        return NodeStatus(
            node=NodeName(block.node),
            store=block.store,
            epoch=self._cartographer.epoch,
            boot=block.boot,
            voting=not reason,
            not_voting_reason=reason,
            used_bytes=self._store.used_bytes,
            capacity_bytes=self._store.capacity_bytes,
            uptime_s=asyncio.get_running_loop().time() - self._started_s,
            stewarded=tuple(row for health in self._health for row in health()),
            workers=tuple(status() for status in self._workers),
            warnings=(
                *self._store.rotten(),
                *self._scrubber.warnings(),
                *self._absences.warnings(),
                *self._shortage(),
            ),
            unproven_s=scrub.unproven_s,
            promised_s=scrub.promised_s,
            sightings=self._absences.sightings(),
        )

    def _shortage(self) -> tuple[str, ...]:
        return (FULL,) if self._store.is_short else ()

    async def gather(self) -> StatusReply:
        """What operators see. Raises `NotInitialised` where there is no map yet."""
        return (await self.picture()).draw()

    async def picture(self) -> Picture:
        """One picture of the cluster, from every node that answers in time. Raises `NotInitialised`."""
        topology = self._cartographer.require()
        request = ReadStatus()
        answers = await gather(
            self._links,
            {node.store: request for node in topology.map.nodes},
            timeout_s=STATUS_TIMEOUT_S,
            enough=lambda _: False,
        )
        return Picture(topology, replies(answers, NodeStatus), _silence(answers))


def _silence(answers: Answers) -> dict[StoreId, str]:
    """What whoever gave no account, or somebody in its place, said instead."""
    return {
        store: "; ".join(each.said for each in answer.error.evidence)
        for store, answer in answers.items()
        if isinstance(answer, Failed) and answer.error.evidence
    }
