"""`ports.Links` over carriers: two streams to each store, one for control and one for bulk, opened on use.

Knows where stores live and whether they answer, not what is said to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from holdfast_node.core.errors import HoldfastError, PeerUnreachable
from holdfast_node.core.ids import StoreId
from holdfast_node.core.messages import REPLY_TO, Introduce, IntroduceReply, Request
from holdfast_node.ports import Answer, Failed
from holdfast_node.services.link.carrier import CarrierLost, Dial
from holdfast_node.services.link.frames import (
    HEADER_BYTES,
    REQUEST_TYPES,
    Frame,
    FrameError,
    FrameType,
    decode,
    encode,
)
from holdfast_node.services.link.handshake import open_stream
from holdfast_node.services.link.hello import ErrorDetail, error_of
from holdfast_node.services.link.limits import CONTROL_FRAME_BYTES_MAX, PATIENCE_FLOOR_S
from holdfast_node.services.link.local import Local
from holdfast_node.services.link.outbound import Outbound, Pending, Route
from holdfast_node.services.link.patience import Patience
from holdfast_node.services.link.surroundings import Handle, Surroundings, payload_of, rides_bulk


class _Peer:
    def __init__(self, around: Surroundings, store: StoreId, address: str, dial: Dial) -> None:
        self.address = address
        self.patience = Patience()
        self.control = Outbound(around, Route(store, address, bulk=False), dial)
        self.bulk = Outbound(around, Route(store, address, bulk=True), dial, self.patience.note)

    @property
    def is_up(self) -> bool:
        if self.control.hears or self.bulk.hears:
            return True
        return not (self.control.doubtful or self.bulk.doubtful)

    def tick(self, *, trust_silence: bool) -> None:
        self.control.tick(trust_silence=trust_silence)
        self.bulk.tick(trust_silence=trust_silence)

    def close(self, reason: str) -> None:
        self.control.close(reason)
        self.bulk.close(reason)


class PeerLinks:
    """Implements `ports.Links`. Create it on the loop that runs it; `close` before the tasks it was given."""

    def __init__(self, around: Surroundings, *, dial: Dial, handle: Handle) -> None:
        self._around = around
        self._dial = dial
        self._loop = asyncio.get_running_loop()
        self._local = Local(around, handle)
        self._me = around.identity().store
        self._peers: dict[StoreId, _Peer] = {}
        self._last: tuple[Request, bytes] | None = None
        self._monitor: asyncio.Task[None] | None = None
        self._closed = False

    def send(
        self, to: StoreId, request: Request, *, timeout_s: float, done: Callable[[Answer], None]
    ) -> None:
        if to == self._me:
            self._local.send(request, timeout_s=timeout_s, done=done)
            return
        peer = self._peers.get(to)
        if peer is None:
            error = PeerUnreachable(f"no address is known for store {to.hex()}")
            self._loop.call_soon(done, Failed(to, error))
            return
        cls = type(request)
        body, payload = self._body_of(request), payload_of(request)
        now = self._loop.time()
        stream = peer.bulk if rides_bulk(request, len(body), len(payload)) else peer.control
        stream.send(
            Pending(
                store=to,
                frame_type=REQUEST_TYPES[cls],
                expect=REPLY_TO[cls],
                body=body,
                payload=payload,
                size=HEADER_BYTES + len(body) + len(payload),
                sent_at=now,
                deadline=now + timeout_s,
                done=done,
            )
        )

    def _body_of(self, request: Request) -> bytes:
        """A fan-out sends one request object to many stores: encode it once."""
        if self._last is not None and self._last[0] is request:
            return self._last[1]
        body = self._around.bodies.encode(request)
        self._last = None if payload_of(request) else (request, body)
        return body

    async def introduce(self, address: str, me: Introduce, *, timeout_s: float) -> IntroduceReply:
        try:
            async with asyncio.timeout(timeout_s):
                carrier, _ = await open_stream(self._around, self._dial, address, bulk=False, expect=None)
                try:
                    body = self._around.bodies.encode(me)
                    deadline_ms = int(timeout_s * 1000)
                    frame = Frame(
                        FrameType.INTRODUCE,
                        1,
                        deadline_ms,
                        self._around.epochs.mine(),
                        body=body,
                        must_understand=True,
                    )
                    await carrier.write(encode(frame))
                    reply = next(decode(await carrier.read(), frame_bytes_max=CONTROL_FRAME_BYTES_MAX), None)
                finally:
                    carrier.close()
        except TimeoutError as error:
            raise PeerUnreachable(f"{address} did not answer within {int(timeout_s * 1000)} ms") from error
        except (CarrierLost, FrameError) as error:
            raise PeerUnreachable(f"{address}: {error}") from error
        return self._introduced(address, reply)

    def _introduced(self, address: str, reply: Frame | None) -> IntroduceReply:
        if reply is None:
            raise PeerUnreachable(f"{address} closed the link")
        bodies = self._around.bodies
        if reply.type == FrameType.ERROR:
            raise error_of(bodies.decode(ErrorDetail, reply.body))
        if reply.type == FrameType.GOODBYE:
            error = error_of(bodies.decode(ErrorDetail, reply.body))
            raise PeerUnreachable(f"{address}: {error.message}", hint=error.hint, evidence=error.evidence)
        if reply.type != FrameType.INTRODUCE_REPLY:
            raise PeerUnreachable(f"{address} answered an introduction by type {reply.type}")
        try:
            return bodies.decode(IntroduceReply, reply.body)
        except HoldfastError as error:
            raise PeerUnreachable(f"{address}: {error.message}") from error

    def learn(self, addresses: Mapping[StoreId, str]) -> None:
        for store in sorted(self._peers):
            if addresses.get(store) != self._peers[store].address:
                self._peers.pop(store).close("the map gives this store another place or none")
        for store, address in addresses.items():
            if store not in self._peers and not self._closed:
                self._peers[store] = _Peer(self._around, store, address, self._dial)
        if self._monitor is None and not self._closed:
            self._monitor = self._around.tasks.spawn(self._watch(), "link monitor")

    def is_up(self, store: StoreId) -> bool:
        if store == self._me:
            return True
        peer = self._peers.get(store)
        return peer is None or peer.is_up

    def patience_s(self, store: StoreId) -> float:
        peer = self._peers.get(store)
        return peer.patience.p95_s if peer is not None else PATIENCE_FLOOR_S

    async def close(self) -> None:
        """End all streams; whatever is pending fails."""
        self._closed = True
        if self._monitor is not None:
            self._monitor.cancel()
        for peer in self._peers.values():
            peer.close("this node is shutting down")
        self._peers.clear()
        await asyncio.sleep(0)  # let the failures be delivered

    async def _watch(self) -> None:
        interval_s = self._around.timing.monitor_s
        while True:
            before = self._loop.time()
            await asyncio.sleep(interval_s)
            # A loop that stood still itself has not listened: silence then proves nothing about the peers.
            on_time = self._loop.time() - before < interval_s + self._around.timing.silence_s / 2
            for peer in list(self._peers.values()):
                peer.tick(trust_silence=on_time)
