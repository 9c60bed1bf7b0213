"""Questions in flight, each under a key of the asker's choosing; one future wakes whoever waits for enough of them.

Where `fanout.gather` asks each store once and is done, this lets the asker add questions while others are open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Final, Generic, Protocol, TypeVar

from holdfast_node.core.ids import StoreId
from holdfast_node.core.messages import Request
from holdfast_node.ports import Answer

K = TypeVar("K", bound=Hashable)


class Sender(Protocol):
    """`ports.Links`, or something that keeps books in front of it."""

    def send(
        self, to: StoreId, request: Request, *, timeout_s: float, done: Callable[[Answer], None]
    ) -> None: ...


class Answers(Generic[K]):
    """`take` gives each answer once, in the order they came. Answers after `close` are dropped."""

    def __init__(self, links: Sender) -> None:
        self._links: Final = links
        self._loop: Final = asyncio.get_running_loop()
        self._fresh: list[tuple[K, Answer]] = []
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self.pending: dict[K, StoreId] = {}

    def ask(self, key: K, store: StoreId, request: Request, *, timeout_s: float) -> None:
        assert key not in self.pending, f"{key} is asked already"
        self.pending[key] = store

        def done(answer: Answer) -> None:
            if self._closed:
                return
            del self.pending[key]
            self._fresh.append((key, answer))
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

        self._links.send(store, request, timeout_s=timeout_s, done=done)

    async def wait(self, until_s: float | None = None) -> bool:
        """Until an answer is there, or the loop's time is `until_s` (then False). Never waits for nothing."""
        if self._fresh or not self.pending:
            return bool(self._fresh)
        self._waiter = self._loop.create_future()
        timer = self._loop.call_at(until_s, self._expire) if until_s is not None else None
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        return bool(self._fresh)

    def take(self) -> list[tuple[K, Answer]]:
        fresh, self._fresh = self._fresh, []
        return fresh

    def close(self) -> None:
        self._closed = True

    def _expire(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
