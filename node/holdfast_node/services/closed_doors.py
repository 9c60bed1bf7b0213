"""Buckets that are being deleted, to whoever has work to finish in one: behind a closed door nothing is decided."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from holdfast_node.core.ids import BucketId

CLOSED_PATIENCE_S: Final = 30.0
"""How long a deletion of a bucket may keep somebody from coming to an end."""


class Doors(Protocol):
    """What is known of closed buckets; `services.buckets.Buckets` has it."""

    async def is_gone(self, bucket: BucketId) -> bool: ...

    async def reopen(self, bucket: BucketId) -> None: ...


class ClosedDoors:
    """Remembers since when one has stood before each."""

    def __init__(self, doors: Doors) -> None:
        self._doors: Final = doors
        self._closed_since: dict[BucketId, float] = {}

    async def nothing_behind(self, bucket: BucketId) -> bool:
        """Homes accept nothing in this bucket, so a half-accepted head cannot be decided. True if the bucket is gone:
        nothing in it was ever acked and not deleted. A deletion that nobody goes on with is undone after a while."""
        if await self._doors.is_gone(bucket):
            self._closed_since.pop(bucket, None)
            return True
        now_s = asyncio.get_running_loop().time()
        if now_s - self._closed_since.setdefault(bucket, now_s) > CLOSED_PATIENCE_S:
            del self._closed_since[bucket]
            await self._doors.reopen(bucket)
        return False
