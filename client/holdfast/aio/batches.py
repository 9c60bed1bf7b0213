"""Many calls with a bounded number in flight, results in the order of the input."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

from holdfast.errors import Error
from holdfast.values import Outcome

Item = TypeVar("Item")
Result = TypeVar("Result")


async def outcome(
    item: Item, key_of: Callable[[Item], bytes], work: Callable[[Item], Awaitable[Result]]
) -> Outcome[Result]:
    """One item's result or error; an error of its key is one, too."""
    key = b""
    try:
        key = key_of(item)
        return Outcome(key, value=await work(item))
    except Error as error:
        return Outcome(key, error=error)


async def outcomes(
    items: Iterable[Item] | AsyncIterable[Item],
    key_of: Callable[[Item], bytes],
    work: Callable[[Item], Awaitable[Result]],
    *,
    concurrency: int,
) -> AsyncIterator[Outcome[Result]]:
    """Starts the next item only when one of `concurrency` is done and taken: memory stays bounded on both sides."""

    running: deque[asyncio.Task[Outcome[Result]]] = deque()
    try:
        async for item in _async(items):
            running.append(asyncio.create_task(outcome(item, key_of, work)))
            if len(running) >= max(1, concurrency):
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _async(items: Iterable[Item] | AsyncIterable[Item]) -> AsyncIterator[Item]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
