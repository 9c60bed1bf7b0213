"""An asyncio loop without a clock or sockets: one seed decides which ready callback runs next, and time jumps.

It runs unmodified tasks, TaskGroup, timeout and Queue. Work belongs to a `Life` through the context it was started
in: a life that was killed never runs another step, and one that is paused runs none until it is resumed. It knows
nothing of networks, disks or the product.
"""

# pyright: reportPrivateUsage=false
# A loop that replaces asyncio's own has to use what asyncio keeps to itself.

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
import sys
import warnings
from asyncio import base_events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, Final, TypeVar, cast

T = TypeVar("T")

STEPS_PER_INSTANT_MAX: Final = 200_000
"""More steps than this without time passing is a loop that spins: a bug, not a slow world."""


class Deadlock(AssertionError):
    """Something is awaited, nothing is ready, and no timer will ever fire."""


class Livelock(AssertionError):
    """Callbacks keep each other busy and time stands still."""


class Life:
    """Whose work it is: one process from its start to its end. `None` in the context is the world itself."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.paused = False
        self.paused_since = 0.0
        self.context = contextvars.copy_context()
        self.context.run(_LIFE.set, self)
        self._held: list[_Due] = []
        self._when_dead: list[Callable[[], None]] = []

    def hold(self, due: _Due) -> None:
        self._held.append(due)

    def release(self) -> list[_Due]:
        held, self._held = self._held, []
        return held

    def when_dead(self, callback: Callable[[], None]) -> None:
        """Called once, by `kill`, outside this life."""
        if self.dead:
            callback()
        else:
            self._when_dead.append(callback)

    def kill(self) -> None:
        """Nothing of this life runs any more: no `finally`, no callback, as after SIGKILL."""
        if self.dead:
            return
        self.dead = True
        self._held.clear()
        callbacks, self._when_dead = self._when_dead, []
        for callback in callbacks:
            callback()


_LIFE: contextvars.ContextVar[Life | None] = contextvars.ContextVar("life", default=None)


def current_life() -> Life | None:
    return _LIFE.get()


def _ignore(_: object) -> None:
    pass


def _never(_: Life) -> bool:
    return False


@contextmanager
def nobody_listening() -> Generator[None]:
    """What dying coroutines cry at the end of a world is not news."""
    before, sys.unraisablehook = sys.unraisablehook, _ignore
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        sys.unraisablehook = before


class SimTask(asyncio.Task[T]):
    """Hashes by birth, so that a set of tasks has the same order in every run."""

    _births = 0

    def __init__(self, coro: Coroutine[Any, Any, T], **options: Any) -> None:
        SimTask._births += 1
        self._birth = SimTask._births
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._birth

    def __eq__(self, other: object) -> bool:
        return self is other


class SimFuture(asyncio.Future[T]):
    """Hashes by birth, as `SimTask`."""

    _births = 0

    def __init__(self, *, loop: asyncio.AbstractEventLoop) -> None:
        SimFuture._births += 1
        self._birth = SimFuture._births
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._birth

    def __eq__(self, other: object) -> bool:
        return self is other


class _Due(float):
    """What runs, and from when on: a number, so that a heap of them is kept in order without a line of Python.
    asyncio's own handles compare in Python."""

    __slots__ = ("args", "callback", "cancelled", "context")

    callback: Callable[..., object]
    args: tuple[Any, ...]
    context: contextvars.Context
    cancelled: bool

    def cancel(self) -> None:
        """What it was to run is let go of at once, as asyncio does."""
        self.cancelled = True
        self.callback, self.args = _nothing, ()


def _nothing() -> None:
    pass


class SimLoop(base_events.BaseEventLoop):
    """`orderly` keeps the order in which callbacks became ready, as the real loop does; otherwise any may go next."""

    _ready: deque[_Due]
    _scheduled: list[_Due]
    _stopping: bool

    def __init__(self, seed: int, *, orderly: bool = False) -> None:
        super().__init__()
        SimTask._births = SimFuture._births = 0
        self._random = random.Random(seed)
        self._orderly = orderly
        self._now = 0.0
        self._steps_now = 0
        self.steps = 0
        self.problems: list[str] = []
        self.tasks: list[SimTask[Any]] = []
        self._prune_at = 1000
        self._ambush_in = 0
        self._strike: Callable[[Life], bool] = _never
        self.set_task_factory(cast("Any", self._make_task))
        self.set_exception_handler(self._note_problem)

    # --- what BaseEventLoop leaves to its subclasses

    def time(self) -> float:
        return self._now

    def create_future(self) -> asyncio.Future[Any]:
        return SimFuture(loop=self)

    def _process_events(self, event_list: object) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        raise AssertionError(f"{func} would run on a thread: a simulated world has none")

    def start(self, life: Life, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` as a task of `life`."""
        return life.context.copy().run(lambda: self.create_task(work))

    def _make_task(
        self, _: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T], **options: Any
    ) -> SimTask[T]:
        task = SimTask(coro, loop=self, **options)
        self.tasks.append(task)
        if len(self.tasks) > self._prune_at:
            self.tasks = [kept for kept in self.tasks if not kept.done()]
            self._prune_at = 2 * len(self.tasks) + 1000
        return task

    def _note_problem(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.problems.append(f"{context.get('message')}: {context.get('exception')!r}")

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Any:
        due = _Due(self._now)
        due.callback, due.args, due.cancelled = callback, args, False
        due.context = contextvars.copy_context() if context is None else context
        self._ready.append(due)
        return due

    call_soon_threadsafe = call_soon  # type: ignore[assignment]
    """There is one thread. asyncio comes this way to close generators that were left half read."""

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Any:
        due = _Due(when)
        due.callback, due.args, due.cancelled = callback, args, False
        due.context = contextvars.copy_context() if context is None else context
        heapq.heappush(self._scheduled, due)
        return due

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        """Until someone stops it: the due timers become ready, one ready callback runs, or time jumps to the next
        timer."""
        scheduled, ready, pop = self._scheduled, self._ready, heapq.heappop
        while True:
            now = self._now
            while scheduled and (scheduled[0] <= now or scheduled[0].cancelled):
                due = pop(scheduled)
                if not due.cancelled:
                    ready.append(due)
            if ready:
                self._step()
            elif scheduled:
                self._now = float(scheduled[0])
                self._steps_now = 0
            elif not self._stopping:
                raise Deadlock(f"nothing is ready and no timer is set at {now:.3f} s")
            if self._stopping:
                return

    def _step(self) -> None:
        self.steps += 1
        self._steps_now += 1
        ready = self._ready
        if self._steps_now > STEPS_PER_INSTANT_MAX:
            raise Livelock(f"{self._steps_now} steps at {self._now:.3f} s; last {ready[0].callback!r}")
        if not self._orderly and len(ready) > 1:
            ready.rotate(-self._random.randrange(len(ready)))
        due = ready.popleft()
        if due.cancelled:
            return
        life = due.context.get(_LIFE)
        if life is not None:
            if life.dead:
                return
            if life.paused:
                life.hold(due)
                return
        try:
            due.context.run(due.callback, *due.args)
        except Exception as error:  # noqa: BLE001 - a callback's bug is a finding, and the others go on
            self.call_exception_handler(
                {"message": f"Exception in callback {due.callback!r}", "exception": error}
            )
        if self._ambush_in and life is not None:
            self._count_down(life)

    def ambush(self, steps: int, strike: Callable[[Life], bool]) -> None:
        """From the `steps`-th step of any life on, ask `strike` right after each whether this was the one it waited
        for: between any two awaits. 0 steps: not any more."""
        self._ambush_in, self._strike = steps, strike

    def _count_down(self, life: Life) -> None:
        if self._ambush_in > 1:
            self._ambush_in -= 1
        elif self._strike(life):
            self._ambush_in = 0

    # --- lives

    def pause(self, life: Life) -> None:
        if not life.paused:
            life.paused, life.paused_since = True, self._now

    def resume(self, life: Life) -> None:
        life.paused = False
        self._ready.extend(life.release())

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run `main` to its end, then leave everything else where it stands."""
        try:
            return self.run_until_complete(main)
        finally:
            with nobody_listening():
                self.bury()
                self.close()

    def bury(self) -> None:
        """Close what is still suspended, quietly: its worlds are over and its doors are shut."""
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            if task.done():
                continue
            cast("Any", task)._log_destroy_pending = False
            try:
                cast("Any", task.get_coro()).close()
            except (Exception, asyncio.CancelledError):  # noqa: BLE001 - its cleanup met the end of the world
                continue
