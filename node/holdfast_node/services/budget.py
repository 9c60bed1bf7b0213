"""A bounded number of bytes in memory, first come first served. Knows nothing of what the bytes are for.

Budgets are waited for in one direction only: whoever holds bytes of one waits for nobody who waits for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from holdfast_node.core.errors import Overloaded

COORDINATE_BYTES: Final = 128 * 1024 * 1024
KEEP_BYTES: Final = 64 * 1024 * 1024
WAITERS_MAX: Final = 1024
"""A waiter costs a task, not its bytes: they are not read before they are granted."""
RETRY_AFTER_MS: Final = 500


class CoordinateMemory:
    """What a node holds for its callers, in three shares that are never waited for in a circle.

    `uploads`: a place for a long upload and the chunks it may have in flight; taken first, kept to its end. `stripes`:
    payload and cells on their way to holders; waited for with a place in hand, given back by holders alone.
    `reads`: cells and chunks on their way to readers; a slow reader is in the way of other readers only.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.uploads: Final = Budget("upload", limit_bytes * 3 // 8)
        self.stripes: Final = Budget("stripe", limit_bytes * 3 // 8)
        self.reads: Final = Budget("read", limit_bytes // 4)

    @property
    def used_bytes(self) -> int:
        return self.uploads.used_bytes + self.reads.used_bytes + self.stripes.used_bytes


class Grant:
    """Bytes that were granted, given back by the first `release`."""

    __slots__ = ("_budget", "_count")

    def __init__(self, budget: Budget, count: int) -> None:
        self._budget = budget
        self._count = count

    def release(self) -> None:
        self.shrink(0)

    def shrink(self, count: int) -> None:
        """Keep no more than `count`."""
        surplus = max(0, self._count - count)
        self._count -= surplus
        self._budget.give_back(surplus)


class Budget:
    """Grants up to `limit_bytes` at a time. A request larger than everything gets everything, alone."""

    def __init__(self, name: str, limit_bytes: int, *, waiters_max: int = WAITERS_MAX) -> None:
        self._name: Final = name
        self._limit: Final = limit_bytes
        self._waiters_max: Final = waiters_max
        self._free = limit_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used_bytes(self) -> int:
        return self._limit - self._free

    async def take(self, count: int) -> Grant:
        """Wait for a turn. Raises `Overloaded` if the queue is full."""
        if (grant := self.try_take(count)) is not None:
            return grant
        if len(self._waiting) >= self._waiters_max:
            raise Overloaded(
                f"{len(self._waiting)} operations wait for {self._name} memory", retry_after_ms=RETRY_AFTER_MS
            )
        count = min(count, self._limit)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        turn = (count, granted)
        self._waiting.append(turn)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.give_back(count)
            elif turn in self._waiting:
                self._waiting.remove(turn)
                self._wake()
            raise
        return Grant(self, count)

    def try_take(self, count: int) -> Grant | None:
        """A grant, or None where `take` would have to wait."""
        count = min(count, self._limit)
        if self._waiting or count > self._free:
            return None
        self._free -= count
        return Grant(self, count)

    def give_back(self, count: int) -> None:
        """For `Grant.release`."""
        self._free += count
        assert self._free <= self._limit, f"more {self._name} memory was returned than granted"
        self._wake()

    @asynccontextmanager
    async def lease(self, count: int) -> AsyncGenerator[None]:
        grant = await self.take(count)
        try:
            yield
        finally:
            grant.release()

    def _wake(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= self._free):
            count, granted = self._waiting.popleft()
            if not granted.done():
                self._free -= count
                granted.set_result(None)
