"""One listening port with everything a node offers on it: Blobs, Admin, links, health and reflection.

Knows how to start, say that it is ready, and stop in order. Refuses to listen beyond this machine: there is no TLS yet.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from grpc import aio

from holdfast_node.adapters.rpc.admin import AdminServicer
from holdfast_node.adapters.rpc.bind import bind, bind_raw
from holdfast_node.adapters.rpc.blobs import BlobsServicer
from holdfast_node.adapters.rpc.carrier import ServerCarrier, ServerContext
from holdfast_node.adapters.rpc.doors import AdminDoor, BlobDoor, BucketDoor
from holdfast_node.adapters.rpc.guard import Guard
from holdfast_node.adapters.rpc.options import RpcLimits, server_options
from holdfast_node.adapters.rpc.probes import Probes
from holdfast_node.adapters.rpc.rows import CONNECT
from holdfast_node.core.errors import HoldfastError, LocalError
from holdfast_node.ports import Bodies, Entropy
from holdfast_node.services.events import Events
from holdfast_node.services.link.inbound import LinkServer
from holdfastpb.v1 import admin_pb2, blob_pb2, peer_pb2

_BLOBS: Final = blob_pb2.DESCRIPTOR.services_by_name["Blobs"]
_ADMIN: Final = admin_pb2.DESCRIPTOR.services_by_name["Admin"]
_LINKS: Final = peer_pb2.DESCRIPTOR.services_by_name["Links"]
SERVICES: Final = (_BLOBS.full_name, _ADMIN.full_name, _LINKS.full_name)

_DEFAULT_LIMITS: Final = RpcLimits()


class ListenRefused(LocalError):
    """The address cannot be listened on: beyond loopback, in use, or no address at all."""


@dataclass(frozen=True, slots=True)
class Doors:
    """The node behind the port."""

    blobs: BlobDoor
    buckets: BucketDoor
    admin: AdminDoor
    links: LinkServer


@dataclass(frozen=True, slots=True)
class RpcPorts:
    bodies: Bodies
    entropy: Entropy
    events: Events
    failure: Callable[[], HoldfastError | None]


class RpcServer:
    """Listens from `start` until `stop`. Health says SERVING only while the node says it is ready."""

    def __init__(
        self, doors: Doors, ports: RpcPorts, *, address: str, limits: RpcLimits = _DEFAULT_LIMITS
    ) -> None:
        self._links = doors.links
        self._address = address
        self._server = aio.server(
            interceptors=(Guard(ports.events, ports.entropy, ports.failure),),
            options=server_options(limits),
            maximum_concurrent_rpcs=limits.calls,
        )
        self._server.add_generic_rpc_handlers(
            (
                bind(_BLOBS, BlobsServicer(doors.blobs, doors.buckets)),
                bind(_ADMIN, AdminServicer(doors.admin, ports.bodies)),
                bind_raw(CONNECT, self._connect),
            )
        )
        self._probes = Probes(self._server, SERVICES)

    async def start(self) -> int:
        """Listen; returns the port. Raises `ListenRefused`. Not yet ready: see `set_ready`."""
        require_loopback(self._address)
        try:
            port = self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise ListenRefused(
                f"cannot listen on {self._address}: {error}", hint="is another node running on this port?"
            ) from error
        await self.set_ready(ready=False)
        await self._server.start()
        return port

    async def set_ready(self, *, ready: bool) -> None:
        await self._probes.set_ready(ready=ready)

    async def stop(self, grace_s: float) -> None:
        """Say not ready, refuse what is new, let calls and links finish within the grace, then close the port."""
        await self._probes.leave()
        await self._links.drain(grace_s)
        await self._server.stop(grace_s)

    async def _connect(self, _messages: object, context: ServerContext) -> None:
        await self._links.serve(ServerCarrier(context))


def require_loopback(address: str) -> None:
    """Raises `ListenRefused` unless `host:port` names this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        if host == "localhost":
            return
    raise ListenRefused(
        f"refused to listen on {address}: without TLS a node serves its own machine only",
        hint="use a loopback address such as 127.0.0.1",
    )
