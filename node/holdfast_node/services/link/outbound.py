"""One stream towards one store: opened on use, reopened after a pause, every request answered exactly once.

It knows frames and credits, not what is asked. A request ends by its reply, its deadline, or the loss of the stream.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from holdfast_node.core.errors import (
    DeadlineExceeded,
    HoldfastError,
    InternalError,
    Overloaded,
    PeerUnreachable,
    TooLarge,
)
from holdfast_node.core.ids import StoreId
from holdfast_node.core.messages import Reply
from holdfast_node.ports import Answer, Answered, Failed
from holdfast_node.services.link import limits
from holdfast_node.services.link.carrier import Carrier, CarrierLost, Dial
from holdfast_node.services.link.credits import Credits
from holdfast_node.services.link.frames import DEADLINE_MS_MAX, REPLIES, Frame, FrameError, FrameType, decode
from holdfast_node.services.link.handshake import open_stream
from holdfast_node.services.link.hello import ErrorDetail, Hello, error_of
from holdfast_node.services.link.outbox import Outbox
from holdfast_node.services.link.surroundings import Surroundings, with_payload


@dataclass(slots=True)
class Pending:
    """A request on its way. `deadline` and `sent_at` are loop time; `credit` is what it took of the window."""

    store: StoreId
    frame_type: FrameType
    expect: type[Reply]
    body: bytes
    payload: bytes
    size: int
    sent_at: float
    deadline: float
    done: Callable[[Answer], None]
    timer: asyncio.TimerHandle | None = None
    credit: int = 0


@dataclass(frozen=True, slots=True)
class Route:
    """Where a stream leads: the store expected at an address, and whether the stream carries bulk."""

    store: StoreId
    address: str
    bulk: bool

    @property
    def frame_bytes_max(self) -> int:
        return limits.BULK_FRAME_BYTES_MAX if self.bulk else limits.CONTROL_FRAME_BYTES_MAX


class State(Enum):
    IDLE = "idle"
    OPENING = "opening"
    OPEN = "open"
    DOWN = "down"
    CLOSED = "closed"


@dataclass(slots=True)
class _Session:
    """What lives as long as one opened carrier."""

    carrier: Carrier
    outbox: Outbox
    credits: Credits
    opened_at: float
    heard_at: float
    pinged_at: float


class Outbound:
    """`answered` hears how long each answered or expired request took."""

    def __init__(
        self, around: Surroundings, route: Route, dial: Dial, answered: Callable[[float], None] | None = None
    ) -> None:
        self._around = around
        self._route = route
        self._dial = dial
        self._answered = answered
        self._loop = asyncio.get_running_loop()
        self._state = State.IDLE
        self._session: _Session | None = None
        self._running: asyncio.Task[None] | None = None
        self._pending: dict[int, Pending] = {}
        self._owed: dict[int, int] = {}
        """Credit of requests whose asker gave up: the peer still holds them."""
        self._waiting: deque[int] = deque()
        self._waiting_bytes = 0
        self._next_id = 1
        self._failures = 0
        self._doubtful = False
        self._retry_at = 0.0
        self._error: HoldfastError = PeerUnreachable(f"{route.address} was never reached")
        self._silent = False

    # --- what the rest of the node sees

    @property
    def hears(self) -> bool:
        """Open, and frames came lately."""
        return self._state is State.OPEN and not self._silent

    @property
    def doubtful(self) -> bool:
        """Tried and failed, or silent."""
        return self._silent or self._doubtful

    @property
    def credit_taken(self) -> int:
        return self._session.credits.taken if self._session else 0

    def send(self, request: Pending) -> None:
        """Queue the request; `done` is called later, once."""
        if (error := self._refusal(request)) is not None:
            self._loop.call_soon(self._finish, request, Failed(request.store, error))
            return
        request_id = self._next_id
        self._next_id += 1
        self._pending[request_id] = request
        request.timer = self._loop.call_at(request.deadline, self._expire, request_id)
        self._waiting.append(request_id)
        self._waiting_bytes += request.size
        if self._state is State.OPEN:
            self._pump()
        else:
            self.open()

    def _refusal(self, request: Pending) -> HoldfastError | None:
        if request.size > self._route.frame_bytes_max:
            return TooLarge(f"{request.frame_type.name} has {request.size} bytes: more than a frame may have")
        if self._state is State.CLOSED or (self._state is State.DOWN and self._loop.time() < self._retry_at):
            return self._error
        if len(self._waiting) >= limits.WAITING_REQUESTS_MAX:  # some may have expired
            self._waiting = deque(waiting for waiting in self._waiting if waiting in self._pending)
        many = len(self._waiting) >= limits.WAITING_REQUESTS_MAX
        if many or self._waiting_bytes + request.size > limits.WAITING_BYTES_MAX:
            return Overloaded(f"too much waits to be sent to {self._route.address}", retry_after_ms=100)
        return None

    def open(self) -> None:
        """Start opening unless it is open or being opened."""
        if self._state in {State.IDLE, State.DOWN}:
            self._state = State.OPENING
            try:
                self._running = self._around.tasks.spawn(self._run(), f"link to {self._route.address}")
            except RuntimeError:  # shutting down
                self._lost(PeerUnreachable("this node is shutting down"))

    def close(self, reason: str) -> None:
        """For good: what is pending fails, nothing opens again."""
        if self._state is State.CLOSED:
            return
        self._lost(PeerUnreachable(f"{self._route.address}: {reason}"))
        self._state = State.CLOSED
        if self._running is not None:
            self._running.cancel()

    def tick(self, *, trust_silence: bool) -> None:
        """Heartbeat, judge silence, probe what is down. Called a few times a second."""
        now, timing = self._loop.time(), self._around.timing
        if self._state is State.DOWN and now >= self._retry_at:
            self.open()
        session = self._session
        if session is None:
            return
        quiet_s = now - session.heard_at
        self._silent = quiet_s > timing.silence_s and (trust_silence or self._silent)
        if quiet_s > timing.dead_s and trust_silence:
            self._lost(PeerUnreachable(f"{self._route.address}: no frame for {quiet_s:.1f} s"))
        elif quiet_s >= timing.heartbeat_s and now - session.pinged_at >= timing.heartbeat_s:
            session.pinged_at = now
            session.outbox.post(Frame(FrameType.PING, epoch=self._around.epochs.mine()))

    # --- one carrier's life

    async def _run(self) -> None:
        route = self._route
        try:
            carrier, theirs = await open_stream(
                self._around, self._dial, route.address, bulk=route.bulk, expect=route.store
            )
        except HoldfastError as refused:
            self._lost(refused)
            return
        except Exception as unexpected:
            self._lost(PeerUnreachable(f"{route.address}: {unexpected!r}"))
            raise
        if self._state is not State.OPENING:  # closed meanwhile
            carrier.close()
            return
        session = self._opened(carrier, theirs)
        writer = self._around.tasks.spawn(self._write(session), f"writer to {route.address}")
        error: HoldfastError = PeerUnreachable(f"{route.address} closed the link")
        try:
            while message := await carrier.read():
                self._message(session, message)
        except CarrierLost as lost:
            error = PeerUnreachable(f"{route.address}: {lost}")
        except HoldfastError as goodbye:
            error = PeerUnreachable(f"{route.address}: {goodbye.message}", evidence=goodbye.evidence)
        except FrameError as broken:
            self._around.events.emit("frame_refused", peer=route.address, error=str(broken))
            error = PeerUnreachable(f"{route.address}: {broken}")
        finally:
            _ = writer.cancel()
            carrier.close()
            if self._session is session:
                self._lost(error)

    def _opened(self, carrier: Carrier, theirs: Hello) -> _Session:
        now = self._loop.time()
        outbox = Outbox(carrier, message_bytes_max=self._route.frame_bytes_max)
        session = _Session(carrier, outbox, Credits(theirs.window_bytes), now, now, now)
        self._session = session
        self._state, self._silent = State.OPEN, False
        if self._doubtful:
            self._around.events.emit("link_restored", peer=self._route.address, bulk=self._route.bulk)
            self._doubtful = False
        self._pump()
        return session

    async def _write(self, session: _Session) -> None:
        try:
            await session.outbox.run()
        except CarrierLost:
            pass  # the reader says so too
        finally:
            session.carrier.close()

    def _lost(self, error: HoldfastError) -> None:
        """Fail all that is pending and pause before the next try."""
        if self._state is State.CLOSED:
            return
        now, timing = self._loop.time(), self._around.timing
        session, self._session = self._session, None
        if session is not None:
            session.carrier.close()
            if now - session.opened_at >= timing.retry_s_max:
                self._failures = 0  # it worked for a while: this is a new trouble
        if not self._doubtful:
            self._around.events.emit(
                "link_lost", peer=self._route.address, bulk=self._route.bulk, error=str(error)
            )
        self._failures, self._doubtful = self._failures + 1, True
        pause_s = min(timing.retry_s_max, timing.retry_s_min * 2 ** min(self._failures, 16))
        self._retry_at = now + self._around.entropy.jitter(pause_s / 2, pause_s)
        self._state, self._error, self._silent = State.DOWN, error, False
        pending = list(self._pending.values())
        self._pending.clear()
        self._owed.clear()
        self._waiting.clear()
        self._waiting_bytes = 0
        for request in pending:
            self._loop.call_soon(self._finish, request, Failed(request.store, error))

    # --- requests and their ends

    def _pump(self) -> None:
        """Send what waits, oldest first, as far as the receiver's window allows."""
        session = self._session
        if session is None:
            return
        while self._waiting:
            request = self._pending.get(self._waiting[0])
            if request is None:  # expired while it waited
                self._waiting.popleft()
                continue
            if not session.credits.fits_ever(request.size):
                self._drop(
                    self._waiting.popleft(),
                    TooLarge(f"{self._route.address} takes no frame of {request.size} bytes"),
                )
                continue
            if not session.credits.take(request.size):
                return
            request_id = self._waiting.popleft()
            self._waiting_bytes -= request.size
            request.credit = request.size
            session.outbox.post(self._frame_of(request_id, request))

    def _frame_of(self, request_id: int, request: Pending) -> Frame:
        left_ms = int((request.deadline - self._loop.time()) * 1000)
        frame = Frame(
            type=request.frame_type,
            request_id=request_id,
            deadline_ms=max(1, min(left_ms, DEADLINE_MS_MAX)),
            epoch=self._around.epochs.mine(),
            body=request.body,
            payload=request.payload,
            must_understand=True,
        )
        request.payload = b""  # the outbox has it; a reply may be long in coming
        return frame

    def _message(self, session: _Session, message: bytes | memoryview) -> None:
        session.heard_at = self._loop.time()
        self._silent = False
        for frame in decode(message, frame_bytes_max=self._route.frame_bytes_max):
            self._around.epochs.saw(self._route.store, frame.epoch)
            if frame.type == FrameType.PONG:
                continue
            if frame.type == FrameType.GOODBYE:
                raise error_of(self._around.bodies.decode(ErrorDetail, frame.body))
            self._reply(session, frame)

    def _reply(self, session: _Session, frame: Frame) -> None:
        request = self._pending.pop(frame.request_id, None)
        if request is None:
            session.credits.give_back(self._owed.pop(frame.request_id, 0))
        else:
            session.credits.give_back(request.credit)
            self._note(request)
            self._finish(request, self._answer(frame, request))
        self._pump()

    def _answer(self, frame: Frame, request: Pending) -> Answer:
        bodies = self._around.bodies
        try:
            if frame.type == FrameType.ERROR:
                return Failed(request.store, error_of(bodies.decode(ErrorDetail, frame.body)))
            if REPLIES.get(frame.type) is not request.expect:
                return Failed(
                    request.store,
                    InternalError(f"{request.frame_type.name} was answered by type {frame.type}"),
                )
            return Answered(
                request.store, with_payload(bodies.decode(request.expect, frame.body), frame.payload)
            )
        except HoldfastError as error:
            return Failed(request.store, error)
        except Exception as error:  # noqa: BLE001 - of nobody else's answer, and not for ever unanswered
            what = f"the answer to {request.frame_type.name} could not be read"
            self._around.events.emit("answer_unreadable", peer=self._route.address, error=repr(error))
            return Failed(request.store, InternalError(what))

    def _expire(self, request_id: int) -> None:
        request = self._pending[request_id]
        self._note(request)
        waited_ms = int((request.deadline - request.sent_at) * 1000)
        what = "did not answer" if request.credit else "took no more requests"
        self._drop(request_id, DeadlineExceeded(f"{self._route.address} {what} within {waited_ms} ms"))

    def _drop(self, request_id: int, error: HoldfastError) -> None:
        request = self._pending.pop(request_id)
        if request.credit:
            self._owed[request_id] = request.credit
        else:
            self._waiting_bytes -= request.size
        self._loop.call_soon(self._finish, request, Failed(request.store, error))

    def _note(self, request: Pending) -> None:
        if self._answered is not None:
            self._answered(self._loop.time() - request.sent_at)

    def _finish(self, request: Pending, answer: Answer) -> None:
        if request.timer is not None:
            request.timer.cancel()
        try:
            request.done(answer)
        except Exception as error:  # noqa: BLE001 - the asker's mistake must not end the stream of everybody else
            self._around.events.emit("answer_callback_failed", peer=self._route.address, error=repr(error))
