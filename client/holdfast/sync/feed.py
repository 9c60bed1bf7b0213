"""Hands the chunks of a caller's iterator to an upload on the client's thread, at the pace of the upload.

The iterator is advanced on the caller's thread, so one that belongs to its thread (a database cursor) works.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final

from holdfast.aio.client import Client
from holdfast.core.transfer import Buffer
from holdfast.sync.portal import Portal

AHEAD_MAX: Final = 2
"""Chunks given and not yet taken."""


class Feed:
    """An asynchronous iterator that is filled from elsewhere."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Buffer | None] = asyncio.Queue(AHEAD_MAX)
        self._abandoned = False

    def __aiter__(self) -> AsyncIterator[Buffer]:
        return self

    async def __anext__(self) -> Buffer:
        chunk = await self._queue.get()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def give(self, chunk: Buffer | None) -> bool:
        """Waits for room. False: nobody takes any more."""
        if not self._abandoned:
            await self._queue.put(chunk)
        return not self._abandoned

    def abandon(self) -> None:
        """The upload is over, well or not."""
        self._abandoned = True
        while not self._queue.empty():
            self._queue.get_nowait()

    def fill(self, portal: Portal, chunks: Iterable[Buffer]) -> None:
        """On the caller's thread: everything the iterator has, or until the upload is over."""
        for chunk in chunks:
            if not portal.run(self._giving(chunk)):
                return
        portal.run(self._giving(None))

    def _giving(self, chunk: Buffer | None) -> _Give:
        return _Give(self, chunk)


class _Give:
    def __init__(self, feed: Feed, chunk: Buffer | None) -> None:
        self._feed = feed
        self._chunk = chunk

    async def __call__(self, _: Client) -> bool:
        return await self._feed.give(self._chunk)
