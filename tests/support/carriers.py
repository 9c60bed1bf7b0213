"""Carriers in memory, and small nodes that talk over them: enough to hold a link to its words on a virtual loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.core.ids import BootId, ClusterId, NodeName, StoreId
from holdfast_node.core.messages import Reply, Request
from holdfast_node.ports import Answer
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.link.carrier import Carrier, CarrierLost, Dial
from holdfast_node.services.link.epochs import Epochs
from holdfast_node.services.link.hello import Identity
from holdfast_node.services.link.inbound import LinkServer
from holdfast_node.services.link.limits import LinkTiming
from holdfast_node.services.link.peers import PeerLinks
from holdfast_node.services.link.surroundings import Surroundings
from holdfast_node.services.tasks import Tasks
from tests.sim.entropy import SimEntropy, SimEvents

ROOM_MESSAGES = 4
"""What a carrier takes before its writer has to wait, as a socket's buffers would."""

Serve = Callable[[Caller, Request], Awaitable[Reply]]


class Pipe:
    """One direction."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._changed = asyncio.Condition()
        self.broken = ""
        self.ended = False
        self.stalled = False

    async def put(self, message: bytes) -> None:
        async with self._changed:
            await self._changed.wait_for(
                lambda: self.broken or self.ended or len(self._messages) < ROOM_MESSAGES
            )
            if self.broken or self.ended:
                raise CarrierLost(self.broken or "closed")
            self._messages.append(message)
            self._changed.notify_all()

    async def get(self) -> bytes:
        async with self._changed:
            await self._changed.wait_for(
                lambda: self.broken or (not self.stalled and (self._messages or self.ended))
            )
            if self.broken:
                raise CarrierLost(self.broken)
            if not self._messages:
                return b""
            message = self._messages.popleft()
            self._changed.notify_all()
            return message

    async def change(self, *, broken: str = "", ended: bool = False, stalled: bool = False) -> None:
        async with self._changed:
            self.broken, self.ended = self.broken or broken, self.ended or ended
            self.stalled = stalled
            self._changed.notify_all()


class MemoryCarrier:
    """One end. Closing it ends the far end's reading cleanly and breaks its own."""

    def __init__(self, peer: str, out: Pipe, into: Pipe, tasks: Tasks, *, loopback: bool = True) -> None:
        self.peer = peer
        self.loopback = loopback
        self.written: list[bytes] = []
        self.out = out
        self.into = into
        self._tasks = tasks
        self._closed = False

    async def write(self, buffers: Sequence[bytes]) -> None:
        message = b"".join(buffers)
        await self.out.put(message)
        self.written.append(message)

    async def read(self) -> bytes:
        return await self.into.get()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            _ = self._tasks.spawn(self._close(), "close")

    async def _close(self) -> None:
        await self.out.change(ended=True)
        await self.into.change(broken="closed here")

    async def cut(self, why: str = "reset") -> None:
        """As when the network breaks: both ends fail."""
        await self.out.change(broken=why)
        await self.into.change(broken=why)

    async def stall(self, *, stalled: bool) -> None:
        """Nothing arrives any more in either direction, and nobody is told."""
        await self.out.change(stalled=stalled)
        await self.into.change(stalled=stalled)


def carrier_pair(tasks: Tasks) -> tuple[MemoryCarrier, MemoryCarrier]:
    one, two = Pipe(), Pipe()
    return MemoryCarrier("server", one, two, tasks), MemoryCarrier("client", two, one, tasks)


class LinkNode:
    """Both ends of a link and the little of a node they need. `serve` answers what others ask."""

    def __init__(self, name: str, serve: Serve, dial: Dial, *, timing: LinkTiming, window_bytes: int) -> None:
        self.name = name
        self.cluster_id = ClusterId(b"")
        self.store = StoreId(name.encode().ljust(16, b"\0"))
        self.epoch = 0
        self.failure = ""
        self.caught_up: list[tuple[StoreId, int]] = []
        self.events = SimEvents()
        self.tasks = Tasks(self.events)
        self.serve = serve
        self.around = Surroundings(
            bodies=ProtobufBodies(),
            tasks=self.tasks,
            events=self.events,
            entropy=SimEntropy(name),
            identity=self.identity,
            failure=lambda: self.failure,
            epochs=Epochs(
                mine=lambda: self.epoch, on_epoch=self._catch_up, tasks=self.tasks, events=self.events
            ),
            timing=timing,
        )
        self.links = PeerLinks(self.around, dial=dial, handle=self._handle)
        self.server = LinkServer(self.around, handle=self._handle, bulk_window_bytes=lambda: window_bytes)

    def identity(self) -> Identity:
        return Identity(NodeName(self.name), self.store, self.cluster_id, 1, BootId(bytes(16)))

    async def _handle(self, caller: Caller, request: Request) -> Reply:
        return await self.serve(caller, request)

    async def _catch_up(self, store: StoreId, epoch: int) -> None:
        self.caught_up.append((store, epoch))
        self.epoch = max(self.epoch, epoch)

    async def ask(self, to: StoreId, request: Request, timeout_s: float = 5.0) -> Answer:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.links.send(to, request, timeout_s=timeout_s, done=future.set_result)
        assert not future.done(), "done was called before send returned"
        return await future

    async def close(self) -> None:
        await self.links.close()
        await self.tasks.close()


class Serves(Protocol):
    async def serve(self, carrier: Carrier) -> None: ...


class Town:
    """Addresses and who serves there; every carrier ever opened, so that a test can break it."""

    def __init__(self) -> None:
        self.events = SimEvents()
        self.tasks = Tasks(self.events)
        self.servers: dict[str, Serves] = {}
        self.carriers: list[MemoryCarrier] = []
        self.far_ends: list[MemoryCarrier] = []
        self.loopback = True

    async def dial(self, address: str, bulk: bool) -> Carrier:
        server = self.servers.get(address)
        if server is None:
            raise CarrierLost("connection refused")
        near, far = carrier_pair(self.tasks)
        far.loopback = self.loopback
        self.carriers.append(near)
        self.far_ends.append(far)
        _ = self.tasks.spawn(server.serve(far), f"serve {address} {bulk}")
        return near
