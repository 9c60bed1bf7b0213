"""Adaptive batching: one write in flight; whatever queues meanwhile leaves as the next message. No linger, no timer.

Knows sizes, not what the frames say. Callers bound what they post (credits, limits on requests in work).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from holdfast_node.services.link.carrier import Carrier
from holdfast_node.services.link.frames import Frame, encode

Taken = Callable[[], None]


class Outbox:
    """Frames leave in the order they were posted, in messages of at most `message_bytes_max`."""

    def __init__(self, carrier: Carrier, *, message_bytes_max: int) -> None:
        self._carrier = carrier
        self._message_bytes_max = message_bytes_max
        self._queue: deque[tuple[int, list[bytes], Taken | None]] = deque()
        self._in_flight: list[Taken] = []
        self._wake: asyncio.Future[None] | None = None
        self._finishing = False
        self._abandoned = False
        self.queued_bytes = 0
        self.messages_written = 0

    def post(self, frame: Frame, taken: Taken | None = None) -> None:
        """Queue a frame; `taken` is called once the carrier has it, or once nobody will ever take it."""
        assert frame.size <= self._message_bytes_max, "a frame larger than the stream's limit"
        if self._abandoned:
            if taken is not None:
                taken()
            return
        self._queue.append((frame.size, encode(frame), taken))
        self.queued_bytes += frame.size
        self._wake_writer()

    def finish(self) -> None:
        """Let `run` return once everything posted has been written."""
        self._finishing = True
        self._wake_writer()

    def abandon(self) -> None:
        """The stream is lost: forget what is queued, here and from now on."""
        self._abandoned = True
        left = self._in_flight + [taken for _, _, taken in self._queue if taken is not None]
        self._in_flight = []
        self._queue.clear()
        self.queued_bytes = 0
        for taken in left:
            taken()

    async def run(self) -> None:
        """Write until `finish`; raises `CarrierLost` when the stream breaks."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._queue:
                if self._finishing:
                    return
                self._wake = loop.create_future()
                await self._wake  # ends with the task: whoever owns the stream cancels its writer
                self._wake = None
            await self._carrier.write(self._next_message())
            self.messages_written += 1
            taken, self._in_flight = self._in_flight, []
            for callback in taken:
                callback()

    def _next_message(self) -> list[bytes]:
        queue = self._queue
        size, buffers, first = queue.popleft()
        self._in_flight = [first] if first else []
        while queue and size + queue[0][0] <= self._message_bytes_max:
            more, following, callback = queue.popleft()
            size += more
            buffers += following
            if callback:
                self._in_flight.append(callback)
        self.queued_bytes -= size
        return buffers

    def _wake_writer(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
