"""The Admin service: what operators ask, answered by the node. Reports cross as the bytes of their messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from holdfast_node.adapters.rpc import values
from holdfast_node.adapters.rpc.doors import AdminDoor
from holdfast_node.core.errors import InvalidArgument
from holdfast_node.core.margin import NOT_THERE
from holdfast_node.ports import Bodies
from holdfastpb.v1 import admin_pb2


class AdminServicer:
    """`bodies` knows how a report of `core.report` lies in the message of its name."""

    def __init__(self, admin: AdminDoor, bodies: Bodies) -> None:
        self._admin = admin
        self._bodies = bodies

    async def identify(self, request: admin_pb2.IdentifyRequest, _context: object) -> admin_pb2.IdentifyReply:
        return admin_pb2.IdentifyReply.FromString(self._bodies.encode(await self._admin.identify()))

    async def init(self, request: admin_pb2.InitRequest, _context: object) -> admin_pb2.InitReply:
        reply = await self._admin.init(values.seed_of(request))
        return admin_pb2.InitReply.FromString(self._bodies.encode(reply))

    async def status(self, request: admin_pb2.StatusRequest, _context: object) -> admin_pb2.StatusReply:
        return admin_pb2.StatusReply.FromString(self._bodies.encode(await self._admin.status()))

    async def get_map(self, request: admin_pb2.GetMapRequest, _context: object) -> admin_pb2.GetMapReply:
        return admin_pb2.GetMapReply.FromString(self._bodies.encode(await self._admin.get_map()))

    async def replace_lost(
        self, request: admin_pb2.ReplaceLostRequest, _context: object
    ) -> admin_pb2.ReplaceLostReply:
        if not request.selector:
            raise InvalidArgument("say which node or tag=value is lost")
        reply = await self._admin.replace_lost(request.selector)
        return admin_pb2.ReplaceLostReply.FromString(self._bodies.encode(reply))

    async def change(self, request: admin_pb2.ChangeRequest, _context: object) -> admin_pb2.PlanReply:
        reply = await self._admin.change(values.node_change_of(request), apply=request.apply)
        return admin_pb2.PlanReply.FromString(self._bodies.encode(reply))

    async def get_plan(self, request: admin_pb2.GetPlanRequest, _context: object) -> admin_pb2.PlanReply:
        return admin_pb2.PlanReply.FromString(self._bodies.encode(await self._admin.plan()))

    async def quarantine(
        self, request: admin_pb2.QuarantineRequest, _context: object
    ) -> admin_pb2.QuarantineListReply:
        reply = await self._admin.quarantine(retry=request.retry)
        return admin_pb2.QuarantineListReply.FromString(self._bodies.encode(reply))

    async def scrub(self, request: admin_pb2.ScrubRequest, _context: object) -> admin_pb2.ScrubReply:
        reply = await self._admin.scrub(now=request.now)
        return admin_pb2.ScrubReply.FromString(self._bodies.encode(reply))

    async def rebuild_index(
        self, request: admin_pb2.RebuildIndexRequest, _context: object
    ) -> admin_pb2.RebuildIndexReply:
        reply = await self._admin.rebuild_index(request.node)
        return admin_pb2.RebuildIndexReply.FromString(self._bodies.encode(reply))

    async def explain(self, request: admin_pb2.ExplainRequest, _context: object) -> admin_pb2.ExplainReply:
        reply = await self._admin.explain(values.bucket_name(request.bucket), values.key_of(request.key))
        return admin_pb2.ExplainReply.FromString(self._bodies.encode(reply))

    async def prove(
        self, request: admin_pb2.ProveRequest, _context: object
    ) -> AsyncIterator[admin_pb2.ProveReply]:
        if len(request.lose) > values.SELECTORS_MAX:
            raise InvalidArgument(f"at most {values.SELECTORS_MAX} selectors at once")
        async with aclosing(self._encoded(self._admin.prove(tuple(request.lose)))) as reports:
            async for report in reports:
                yield admin_pb2.ProveReply.FromString(report)

    async def risk(
        self, request: admin_pb2.RiskRequest, _context: object
    ) -> AsyncIterator[admin_pb2.RiskReply]:
        if request.margin < NOT_THERE:
            raise InvalidArgument(f"no margin is {request.margin}", hint=f"{NOT_THERE}: not there now")
        async with aclosing(self._encoded(self._admin.risks(request.margin, request.pool))) as reports:
            async for report in reports:
                yield admin_pb2.RiskReply.FromString(report)

    async def _encoded(self, reports: AsyncIterator[object]) -> AsyncGenerator[bytes, None]:
        async for report in reports:
            yield self._bodies.encode(report)
