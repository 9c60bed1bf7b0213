"""gRPC health and reflection on a server. The only place that touches their packages, which have no types."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from typing import Final

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_health.v1.health import aio as health  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

HEALTH: Final = "grpc.health.v1.Health"
REFLECTION: Final = "grpc.reflection.v1alpha.ServerReflection"


class Probes:
    """NOT_SERVING for every service and for the server as a whole until the node says that it is ready."""

    def __init__(self, server: aio.Server, services: tuple[str, ...]) -> None:
        self._services = services
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*services, HEALTH, REFLECTION), server)

    async def set_ready(self, *, ready: bool) -> None:
        states = health_pb2.HealthCheckResponse
        for service in ("", *self._services):
            await self._health.set(service, states.SERVING if ready else states.NOT_SERVING)

    async def leave(self) -> None:
        """NOT_SERVING for good, whatever is set later."""
        await self._health.enter_graceful_shutdown()
