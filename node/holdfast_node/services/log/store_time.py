"""A store's count of its running seconds: the only clock that ages anything. It never jumps, and can only run late.

Knows when the count is written down, not how.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast_node.core.errors import Overloaded, StoreFailed, StoreFull
from holdfast_node.core.records import StoreTimeRecord
from holdfast_node.services.events import Events

TIME_RECORD_EVERY_S: Final = 60.0
TIME_RIDES_EVERY_S: Final = 5.0
"""With what is written anyway: a store that never lives for a minute would never count one."""


class StoreTime:
    def __init__(self, at_start_s: int) -> None:
        self._at_start_s: Final = at_start_s
        self._started_s: Final = asyncio.get_running_loop().time()

    @property
    def seconds(self) -> int:
        return self._at_start_s + int(asyncio.get_running_loop().time() - self._started_s)

    async def keep(
        self,
        *,
        ride: Callable[[StoreTimeRecord], None],
        write: Callable[[StoreTimeRecord], Awaitable[None]],
        events: Events,
    ) -> None:
        """Note it now and then until the store fails. `ride` has it written with the next append, `write` by itself."""
        loop = asyncio.get_running_loop()
        written_s = loop.time()
        while True:
            await asyncio.sleep(min(TIME_RIDES_EVERY_S, TIME_RECORD_EVERY_S))
            record = StoreTimeRecord(self.seconds)
            if loop.time() < written_s + TIME_RECORD_EVERY_S:
                ride(record)
                continue
            written_s = loop.time()
            try:
                await write(record)
            except StoreFailed:
                return
            except (StoreFull, Overloaded) as error:
                events.emit("store_time_not_written", reason=str(error))
