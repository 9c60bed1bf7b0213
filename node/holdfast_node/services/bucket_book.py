"""Which buckets there are, to work in the background that meets many keys of few buckets.

Remembers for a while; what it says of a bucket that is gone stays true for ever.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from holdfast_node.core.api import Bucket
from holdfast_node.core.errors import BucketNotFound
from holdfast_node.core.ids import RESERVED_BUCKET, RESERVED_POOL, BucketId

GONE_MAX: Final = 100_000
"""Ids of deleted buckets that are remembered: 3 MB."""
CLOSED_AGE_S: Final = 5.0
"""Whether a closed bucket is gone is looked up again after so long."""


class BucketList(Protocol):
    """`services.buckets.Buckets` has it."""

    def all_buckets(self) -> AsyncIterator[tuple[int, Bucket]]: ...

    async def current(self, known: Bucket) -> Bucket: ...


@dataclass(frozen=True, slots=True)
class BucketFacts:
    """The pool of a bucket, and how long it keeps what was deleted or overwritten."""

    pool: int
    record: Bucket

    @property
    def undo_seconds(self) -> int:
        return self.record.undo_seconds


_RESERVED: Final = BucketFacts(RESERVED_POOL, Bucket("", RESERVED_BUCKET, "", undo_seconds=0, created_ms=0))


class BucketBook:
    """`closed`: has this store closed the bucket's door, durably?"""

    def __init__(self, buckets: BucketList, closed: Callable[[BucketId], bool]) -> None:
        self._buckets: Final = buckets
        self._closed: Final = closed
        self._known: dict[BucketId, BucketFacts] = {}
        self._gone: set[BucketId] = set()
        self._closed_s: dict[BucketId, float] = {}
        """Since when this store has been seen to have closed a bucket."""
        self._reading: Final = asyncio.Lock()
        self._listed_s = -math.inf

    def forget(self) -> None:
        """Whoever begins a new round wants to know anew. Without its time the list would name nothing, and be young."""
        self._known, self._listed_s = {}, -math.inf

    async def facts(self, bucket: BucketId) -> BucketFacts | None:
        """None: no record names this bucket. Raises `ClusterError`."""
        if bucket == RESERVED_BUCKET:
            return _RESERVED
        if bucket not in self._known and bucket not in self._gone:
            await self._list(asyncio.get_running_loop().time())
        return self._known.get(bucket)

    async def undo_seconds_now(self, bucket: BucketId) -> int | None:
        """Read anew, before something is given up because of it: an operator may have made it longer. None: no record
        names this bucket. Raises `ClusterError`."""
        facts = await self.facts(bucket)
        if facts is None:
            return None
        if facts is _RESERVED:
            return facts.undo_seconds
        try:
            now = await self._buckets.current(facts.record)
        except BucketNotFound:
            return None
        if now.id != bucket:
            return None
        if bucket in self._known:
            self._known[bucket] = BucketFacts(facts.pool, now)
        return now.undo_seconds

    async def is_gone(self, bucket: BucketId) -> bool:
        """Whether the bucket was deleted: it was proven empty, nothing is decided in it again, and its id is never used
        again. Every store closes a bucket for good before its record goes; so whoever has not closed it does not
        believe that it is gone, though no record names it. Raises `ClusterError`."""
        if bucket in self._gone:
            return True
        if not self._closed(bucket):
            self._closed_s.pop(bucket, None)
            return False
        now_s = asyncio.get_running_loop().time()
        # It was there when it was closed: a list of before may be older than the bucket.
        since_s = self._closed_s.setdefault(bucket, now_s)
        await self._list(max(since_s, now_s - CLOSED_AGE_S))
        if bucket in self._known:
            return False
        self._closed_s.pop(bucket, None)
        if len(self._gone) >= GONE_MAX:
            self._gone.clear()
        self._gone.add(bucket)
        return True

    async def _list(self, since_s: float) -> None:
        """Unless that was begun since then. A bucket that somebody has met before is in the list, or was deleted."""
        async with self._reading:
            if self._listed_s >= since_s:
                return
            began_s = asyncio.get_running_loop().time()
            found = {each.id: BucketFacts(pool, each) async for pool, each in self._buckets.all_buckets()}
            self._known, self._listed_s = found, began_s
