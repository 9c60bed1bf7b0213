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
from typing import Any, Final, Protocol, TypeVar, cast

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
        self._held: list[object] = []
        self._when_dead: list[Callable[[], None]] = []

    def hold(self, handle: object) -> None:
        self._held.append(handle)

    def release(self) -> list[object]:
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


class _Handle(Protocol):
    """What the base loop keeps in its queues, and its typed face does not show."""

    _when: float
    _scheduled: bool
    _cancelled: bool
    _context: contextvars.Context

    def _run(self) -> None: ...
    def __lt__(self, other: object) -> bool: ...


class SimLoop(base_events.BaseEventLoop):
    """`orderly` keeps the order in which callbacks became ready, as the real loop does; otherwise any may go next."""

    _ready: deque[_Handle]
    _scheduled: list[_Handle]
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

    def _run_once(self) -> None:
        """One step: the due timers become ready, one ready callback runs, or time jumps to the next timer."""
        scheduled, ready = self._scheduled, self._ready
        while scheduled and (scheduled[0]._cancelled or scheduled[0]._when <= self._now):
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            if not handle._cancelled:
                ready.append(handle)
        if ready:
            self._step()
        elif scheduled:
            self._now = scheduled[0]._when
            self._steps_now = 0
        elif not self._stopping:
            raise Deadlock(f"nothing is ready and no timer is set at {self._now:.3f} s")

    def _step(self) -> None:
        self.steps += 1
        self._steps_now += 1
        if self._steps_now > STEPS_PER_INSTANT_MAX:
            raise Livelock(f"{self._steps_now} steps at {self._now:.3f} s; last {self._ready[0]!r}")
        ready = self._ready
        if not self._orderly and len(ready) > 1:
            ready.rotate(-self._random.randrange(len(ready)))
        handle = ready.popleft()
        if handle._cancelled:
            return
        life = handle._context.get(_LIFE)
        if life is None:
            handle._run()
        elif life.dead:
            return
        elif life.paused:
            life.hold(handle)
        else:
            handle._run()
            if self._ambush_in:
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
        self._ready.extend(cast("list[_Handle]", life.release()))

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
