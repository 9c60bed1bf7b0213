"""One at a time per key, first come first served. Knows nothing of what the turns are for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager
from typing import Final

from holdfast_node.core.errors import Overloaded
from holdfast_node.core.ids import BucketId

KeyId = tuple[BucketId, bytes]


class Turns:
    """A queue per key that exists only while somebody holds or awaits it. Cancelling a waiter is safe."""

    def __init__(self, waiting_max: int) -> None:
        self._waiting_max: Final = waiting_max
        self._queues: dict[Hashable, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, key: Hashable) -> AsyncGenerator[None]:
        """Raises `Overloaded` if too many wait for this key already."""
        await self._take(key)
        try:
            yield
        finally:
            self._pass_on(key)

    def busy(self, key: Hashable) -> bool:
        return key in self._queues

    async def _take(self, key: Hashable) -> None:
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = deque()
            return
        if len(queue) >= self._waiting_max:
            raise Overloaded(f"{len(queue)} operations wait for this key", retry_after_ms=100)
        mine = asyncio.get_running_loop().create_future()
        queue.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._pass_on(key)
            raise

    def _pass_on(self, key: Hashable) -> None:
        queue = self._queues[key]
        while queue:
            following = queue.popleft()
            if not following.done():
                following.set_result(None)
                return
        del self._queues[key]
