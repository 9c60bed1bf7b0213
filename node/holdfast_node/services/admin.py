"""What operators may ask of any node: one door, each answer made by the service that knows it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from holdfast_node.core.errors import InvalidArgument
from holdfast_node.core.node_changes import NodeChange
from holdfast_node.core.report import (
    ExplainReply,
    GetMapReply,
    IdentifyReply,
    InitReply,
    PlanReply,
    ProveReply,
    QuarantineListReply,
    RebuildIndexReply,
    ReplaceLostReply,
    RiskReply,
    ScrubReply,
    StatusReply,
)
from holdfast_node.core.seed import Seed
from holdfast_node.services.cartographer import Cartographer
from holdfast_node.services.explain import Explainer
from holdfast_node.services.findings import Findings
from holdfast_node.services.membership import Membership
from holdfast_node.services.prove import Prover
from holdfast_node.services.rehoming import Rehoming
from holdfast_node.services.status import StatusService
from holdfast_node.services.store import Store


@dataclass(frozen=True, slots=True)
class AdminServices:
    store: Store
    cartographer: Cartographer
    membership: Membership
    status: StatusService
    rehoming: Rehoming
    findings: Findings
    prover: Prover
    explainer: Explainer


class Admin:
    """Each method raises the typed errors of the service behind it; none changes anything partially."""

    def __init__(self, services: AdminServices, *, version: str) -> None:
        self._services = services
        self._version = version

    async def identify(self) -> IdentifyReply:
        block = self._services.store.superblock
        reason = self._services.membership.may_vote()
        return IdentifyReply(
            node=block.node,
            store=block.store,
            cluster_id=block.cluster_id,
            epoch=self._services.cartographer.epoch,
            boot=block.boot,
            voting=not reason,
            not_voting_reason=reason,
            version=self._version,
        )

    async def init(self, seed: Seed) -> InitReply:
        return await self._services.cartographer.init(seed)

    async def status(self) -> StatusReply:
        return await self._services.status.gather()

    async def get_map(self) -> GetMapReply:
        return GetMapReply(self._services.cartographer.require().map)

    async def replace_lost(self, selector: str) -> ReplaceLostReply:
        return await self._services.cartographer.replace_lost(selector)

    async def plan(self) -> PlanReply:
        return await self._services.rehoming.plan()

    async def change(self, asked: NodeChange, *, apply: bool) -> PlanReply:
        return await self._services.rehoming.change(asked, apply=apply)

    async def quarantine(self, *, retry: bool) -> QuarantineListReply:
        return await self._services.findings.quarantine(retry=retry)

    async def scrub(self, *, now: bool) -> ScrubReply:
        return await self._services.findings.scrub(now=now)

    async def rebuild_index(self, node: str) -> RebuildIndexReply:
        """Of this node, which starts again by itself. Raises `InvalidArgument` for another's name, `StoreFailed`."""
        store = self._services.store
        if node != store.superblock.node:
            raise InvalidArgument(f"this is node {store.superblock.node}, not {node}", hint="ask that node")
        store.drop_index("an operator asked for a new one")
        return RebuildIndexReply(store.superblock.boot)

    async def explain(self, bucket: str, key: bytes) -> ExplainReply:
        return await self._services.explainer.explain(bucket, key)

    def prove(self, lose: Sequence[str]) -> AsyncIterator[ProveReply]:
        return self._services.prover.prove(lose)

    def risks(self, margin: int, pool: str) -> AsyncIterator[RiskReply]:
        return self._services.prover.risks(margin, pool)
