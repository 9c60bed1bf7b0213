"""The far end of links: reads frames, runs handlers in bounded number, answers each request once.

Knows types, limits and who asks; what a request means is the handler's business. Where the store has failed nobody is
served any more: to its peers such a node is down (ADR 0096).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from holdfast_node.core.errors import (
    DeadlineExceeded,
    HoldfastError,
    Overloaded,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unimplemented,
)
from holdfast_node.core.messages import Introduce, MapDecided, ReadMap, Reply, Request
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.link import limits
from holdfast_node.services.link.authorisation import may_send
from holdfast_node.services.link.carrier import Carrier, CarrierLost
from holdfast_node.services.link.frames import (
    REPLY_TYPES,
    REQUESTS,
    Frame,
    FrameError,
    FrameType,
    decode,
    encode,
)
from holdfast_node.services.link.hello import Hello, check_hello, detail_of, hello_of
from holdfast_node.services.link.outbox import Outbox
from holdfast_node.services.link.surroundings import (
    LARGE_REPLIES,
    Handle,
    Surroundings,
    failure_of,
    outcome_of,
    payload_of,
    with_payload,
)

_ANSWERED_BEHIND: Final = (ReadMap, MapDecided, Introduce)
"""These bring or carry the map themselves: waiting for it first would only double the round."""


class LinkServer:
    """Serves any number of carriers with one handler. `window_bytes(bulk)` is what a new stream is granted."""

    def __init__(self, around: Surroundings, *, handle: Handle, bulk_window_bytes: Callable[[], int]) -> None:
        self._around = around
        self._handle = handle
        self._bulk_window_bytes = bulk_window_bytes
        self._streams: set[_Inbound] = set()
        self._draining = False

    async def serve(self, carrier: Carrier) -> None:
        """Returns when the stream has ended; the carrier is closed then. Raises nothing of the stream's troubles."""
        events, peer = self._around.events, carrier.peer
        try:
            stream, rest = await self._welcome(carrier)
            self._streams.add(stream)
            try:
                await stream.run(rest)
            finally:
                self._streams.discard(stream)
        except (CarrierLost, TimeoutError) as error:
            events.emit("link_ended", peer=peer, error=str(error) or "no greeting in time")
        except FrameError as error:
            events.emit("frame_refused", peer=peer, error=str(error))
        except HoldfastError as error:
            if not self._around.failure():  # that was told once, and peers go on trying
                events.emit("link_refused", peer=peer, error=str(error))
            await self._say_goodbye(carrier, error)
        finally:
            carrier.close()

    async def drain(self, grace_s: float) -> None:
        """Refuse new requests, let those in work finish within the grace, then end every stream."""
        self._draining = True
        deadline = asyncio.get_running_loop().time() + grace_s
        bye = Unavailable("this node is shutting down", retry_after_ms=1000)
        for stream in list(self._streams):
            stream.refuse_with = bye
        for stream in list(self._streams):
            await stream.idle(deadline)
            stream.leave(bye)

    async def _welcome(self, carrier: Carrier) -> tuple[_Inbound, list[Frame]]:
        around = self._around
        async with asyncio.timeout(around.timing.hello_s):
            message = await carrier.read()
            frames = list(decode(message, frame_bytes_max=limits.BULK_FRAME_BYTES_MAX))
            if not frames:
                raise CarrierLost("closed before it said who it is")
            if frames[0].type != FrameType.HELLO:
                raise FrameError(f"the first frame has type {frames[0].type}, not Hello")
            if not may_send(FrameType.HELLO, loopback=carrier.loopback):
                raise Unauthorized("links are open to this machine only until nodes have certificates")
            if self._draining:
                raise Unavailable("this node is shutting down", retry_after_ms=1000)
            if (failed := failure_of(around)) is not None:
                raise failed
            if len(self._streams) >= limits.STREAMS_MAX:
                raise Overloaded("too many links", retry_after_ms=1000)
            theirs = around.bodies.decode(Hello, frames[0].body)
            window_bytes = self._bulk_window_bytes() if theirs.bulk else limits.CONTROL_WINDOW_BYTES
            mine = hello_of(around.identity(), bulk=theirs.bulk, window_bytes=window_bytes)
            check_hello(mine, theirs)
            epoch = around.epochs.mine()
            await carrier.write(encode(Frame(FrameType.HELLO, epoch=epoch, body=around.bodies.encode(mine))))
        around.epochs.saw(theirs.store_id, frames[0].epoch)
        return _Inbound(around, self._handle, carrier, theirs, window_bytes), frames[1:]

    async def _say_goodbye(self, carrier: Carrier, error: HoldfastError) -> None:
        body = self._around.bodies.encode(detail_of(error))
        try:
            async with asyncio.timeout(limits.GOODBYE_TIMEOUT_S):
                await carrier.write(encode(Frame(FrameType.GOODBYE, body=body)))
                while await carrier.read():
                    pass  # closing at once could overtake the words; the far end hangs up when it has read them
        except (CarrierLost, TimeoutError):
            pass


class _Inbound:
    """One stream from one store."""

    def __init__(
        self, around: Surroundings, handle: Handle, carrier: Carrier, theirs: Hello, window_bytes: int
    ) -> None:
        self._around = around
        self._handle = handle
        self._carrier = carrier
        self._caller = Caller(theirs.store_id, theirs.node)
        self._window_bytes = window_bytes
        self._frame_bytes_max = limits.BULK_FRAME_BYTES_MAX if theirs.bulk else limits.CONTROL_FRAME_BYTES_MAX
        self._outbox = Outbox(carrier, message_bytes_max=self._frame_bytes_max)
        self._large_replies = asyncio.Semaphore(limits.READS_PER_STREAM_MAX)
        self._ended = False
        self._last_request = 0
        self._in_work = 0
        self._unanswered_bytes = 0
        self._idle: asyncio.Future[None] | None = None
        self.refuse_with: HoldfastError | None = None

    async def run(self, frames: list[Frame]) -> None:
        """Until the far end closes. Raises `CarrierLost` or `FrameError`."""
        writer = self._around.tasks.spawn(self._write(), f"writer to {self._carrier.peer}")
        try:
            for frame in frames:
                self._frame(frame)
            while message := await self._carrier.read():
                for frame in decode(message, frame_bytes_max=self._frame_bytes_max):
                    self._frame(frame)
        finally:
            self._ended = True
            self._outbox.abandon()
            _ = writer.cancel()

    async def idle(self, deadline: float) -> None:
        """Wait until nothing is in work, or until the deadline (loop time)."""
        if self._in_work:
            self._idle = asyncio.get_running_loop().create_future()
            left_s = max(0.0, deadline - asyncio.get_running_loop().time())
            await asyncio.wait((self._idle,), timeout=left_s)

    def leave(self, reason: HoldfastError) -> None:
        """Say goodbye after what is queued, then end the stream."""
        self._outbox.post(Frame(FrameType.GOODBYE, body=self._around.bodies.encode(detail_of(reason))))
        self._outbox.finish()

    async def _write(self) -> None:
        try:
            await self._outbox.run()
        except CarrierLost:
            pass  # the reader says so too
        finally:
            self._carrier.close()

    def _frame(self, frame: Frame) -> None:
        if self.refuse_with is None and (failed := failure_of(self._around)) is not None:
            self.refuse_with = failed
            self.leave(failed)
        if frame.type == FrameType.PING:
            self._outbox.post(Frame(FrameType.PONG, frame.request_id, epoch=self._around.epochs.mine()))
            return
        cls = REQUESTS.get(frame.type)
        if cls is None:
            self._around.events.emit("frame_type_unknown", peer=self._carrier.peer, type=frame.type)
            if frame.must_understand:
                self._refuse(frame, Unimplemented(f"this node does not know frames of type {frame.type}"))
            return
        if frame.request_id <= self._last_request:
            raise FrameError(f"{self._caller.node} sent request {frame.request_id} again, or out of order")
        self._last_request = frame.request_id
        if self._unanswered_bytes + frame.size > self._window_bytes:
            raise FrameError(
                f"{self._caller.node} sent more than the {self._window_bytes} bytes it was granted"
            )
        if self._outbox.queued_bytes > limits.REPLY_BYTES_QUEUED_MAX:
            raise FrameError(f"{self._caller.node} asks on without reading its replies")
        try:
            self._start(frame, self._admit(frame, cls))
        except HoldfastError as error:
            self._refuse(frame, error)

    def _admit(self, frame: Frame, cls: type[Request]) -> Request:
        if self.refuse_with is not None:
            raise self.refuse_with
        if not may_send(frame.type, loopback=self._carrier.loopback):
            raise Unauthorized(f"{cls.__name__} is not allowed from {self._carrier.peer}")
        if self._in_work >= limits.REQUESTS_PER_STREAM_MAX:
            raise Overloaded("too many requests of one peer at once", retry_after_ms=100)
        return with_payload(self._around.bodies.decode(cls, frame.body), frame.payload)

    def _start(self, frame: Frame, request: Request) -> None:
        work = self._serve_large if isinstance(request, LARGE_REPLIES) else self._serve
        try:
            _ = self._around.tasks.spawn(work(frame, request), type(request).__name__)
        except RuntimeError as error:
            raise Unavailable("this node is shutting down") from error
        self._in_work += 1
        self._unanswered_bytes += frame.size

    async def _serve_large(self, frame: Frame, request: Request) -> None:
        """A place is kept until the carrier has taken the reply: a slow reader cannot make replies pile up here."""
        async with self._large_replies:
            if self._ended:
                return
            taken = asyncio.Event()
            await self._serve(frame, request, taken.set)
            await taken.wait()

    async def _serve(self, frame: Frame, request: Request, taken: Callable[[], None] | None = None) -> None:
        outcome: Reply | HoldfastError = Unavailable("this node is shutting down")
        try:
            overtime_s = frame.deadline_ms / 1000 + limits.HANDLER_OVERTIME_S
            try:
                async with asyncio.timeout(overtime_s):
                    if frame.epoch > self._around.epochs.mine():
                        await self._catch_up(frame.epoch, request)
                    work = self._handle(self._caller, request)
                    outcome = await outcome_of(self._around, work, type(request).__name__)
            except TimeoutError:
                outcome = DeadlineExceeded(f"{type(request).__name__} took longer than {overtime_s:.0f} s")
        finally:
            self._in_work -= 1
            self._unanswered_bytes -= frame.size
            self._outbox.post(self._reply_frame(frame.request_id, outcome), taken)
            if self._in_work == 0 and self._idle is not None and not self._idle.done():
                self._idle.set_result(None)

    async def _catch_up(self, epoch: int, request: Request) -> None:
        if isinstance(request, _ANSWERED_BEHIND):
            self._around.epochs.saw(self._caller.store, epoch)
        else:
            await self._around.epochs.caught_up(self._caller.store, epoch)

    def _refuse(self, frame: Frame, error: HoldfastError) -> None:
        self._outbox.post(self._reply_frame(frame.request_id, error))

    def _reply_frame(self, request_id: int, outcome: Reply | HoldfastError) -> Frame:
        bodies, epoch = self._around.bodies, self._around.epochs.mine()
        if isinstance(outcome, HoldfastError):
            return Frame(FrameType.ERROR, request_id, epoch=epoch, body=bodies.encode(detail_of(outcome)))
        kind = REPLY_TYPES[type(outcome)]
        frame = Frame(kind, request_id, epoch=epoch, body=bodies.encode(outcome), payload=payload_of(outcome))
        if frame.size > self._frame_bytes_max:
            return self._reply_frame(
                request_id, TooLarge(f"{kind.name} of {frame.size} bytes does not fit a frame")
            )
        return frame
