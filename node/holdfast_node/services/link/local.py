"""Requests of a node to its own store: the same promise as over a link, without a wire. Knows no service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from holdfast_node.core.errors import (
    DeadlineExceeded,
    HoldfastError,
    InternalError,
    Overloaded,
    PeerUnreachable,
)
from holdfast_node.core.messages import REPLY_TO, Request
from holdfast_node.ports import Answer, Answered, Failed
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.link.limits import LOCAL_REQUESTS_MAX
from holdfast_node.services.link.surroundings import Handle, Surroundings, outcome_of

Done = Callable[[Answer], None]


class Local:
    """At most `LOCAL_REQUESTS_MAX` in work. A handler goes on after its asker's deadline, as a peer's would."""

    def __init__(self, around: Surroundings, handle: Handle) -> None:
        self._around = around
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        me = around.identity()
        self._me = Caller(me.store, me.node)
        self._in_work = 0

    def send(self, request: Request, *, timeout_s: float, done: Done) -> None:
        me = self._me
        if self._in_work >= LOCAL_REQUESTS_MAX:
            error = Overloaded("too many requests of this node to itself", retry_after_ms=100)
            self._loop.call_soon(done, Failed(me.store, error))
            return
        once = _Once(done)
        late = DeadlineExceeded(f"{me.node} did not answer itself within {int(timeout_s * 1000)} ms")
        timer = self._loop.call_later(timeout_s, once.finish, Failed(me.store, late))
        try:
            _ = self._around.tasks.spawn(self._serve(request, once, timer), "local request")
        except RuntimeError:
            timer.cancel()
            self._loop.call_soon(once.finish, Failed(me.store, PeerUnreachable("this node is shutting down")))
            return
        self._in_work += 1

    async def _serve(self, request: Request, once: _Once, timer: asyncio.TimerHandle) -> None:
        me, name = self._me, type(request).__name__
        try:
            outcome = await outcome_of(self._around, self._handle(me, request), name)
            if isinstance(outcome, HoldfastError):
                once.finish(Failed(me.store, outcome))
            elif type(outcome) is not REPLY_TO[type(request)]:
                wrong = InternalError(f"{name} was answered by {type(outcome).__name__}")
                once.finish(Failed(me.store, wrong))
            else:
                once.finish(Answered(me.store, outcome))
        finally:
            self._in_work -= 1
            timer.cancel()
            once.finish(Failed(me.store, PeerUnreachable("this node is shutting down")))


class _Once:
    """Calls `done` for the first answer only."""

    def __init__(self, done: Done) -> None:
        self._done: Done | None = done

    def finish(self, answer: Answer) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(answer)
