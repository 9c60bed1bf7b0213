"""Which buckets there are, to work in the background that meets many keys of few buckets.

Remembers for a while; what it says of a bucket that is gone stays true for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Protocol

from holdfast_node.core.api import Bucket
from holdfast_node.core.ids import RESERVED_BUCKET, BucketId

GONE_MAX: Final = 100_000
"""Ids of deleted buckets that are remembered: 3 MB."""


class BucketList(Protocol):
    """`services.buckets.Buckets` has it."""

    def all_buckets(self) -> AsyncIterator[tuple[int, Bucket]]: ...


@dataclass(frozen=True, slots=True)
class BucketFacts:
    """The pool of a bucket, and how long it keeps what was deleted or overwritten."""

    pool: int
    undo_seconds: int


_RESERVED: Final = BucketFacts(pool=0, undo_seconds=0)


class BucketBook:
    def __init__(self, buckets: BucketList) -> None:
        self._buckets: Final = buckets
        self._known: dict[BucketId, BucketFacts] = {}
        self._gone: set[BucketId] = set()
        self._reading: Final = asyncio.Lock()

    def forget(self) -> None:
        """Whoever begins a new round wants to know anew."""
        self._known.clear()

    async def facts(self, bucket: BucketId) -> BucketFacts | None:
        """None: no record names this bucket any more. It was proven empty, nothing is decided in it again, and its id
        is never used again. Raises `ClusterError`."""
        if bucket == RESERVED_BUCKET:
            return _RESERVED
        if bucket in self._gone:
            return None
        found = self._known.get(bucket)
        if found is not None:
            return found
        async with (
            self._reading
        ):  # a listing that began after somebody met the bucket: it is in there, or gone
            if bucket not in self._known:
                async for pool, each in self._buckets.all_buckets():
                    self._known[each.id] = BucketFacts(pool, each.undo_seconds)
            found = self._known.get(bucket)
        if found is None:
            if len(self._gone) >= GONE_MAX:
                self._gone.clear()
            self._gone.add(bucket)
        return found
