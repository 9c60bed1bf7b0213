"""What the front door calls: blob operations by bucket name. Turns names into ids and leaves the rest to others."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

from holdfast_node.core.api import (
    BlobInfo,
    Bucket,
    BucketUsage,
    Call,
    Condition,
    GetResult,
    ListOptions,
    ListResult,
    PutOptions,
    PutResult,
    Range,
    VersionEntry,
)
from holdfast_node.core.errors import BucketClosing
from holdfast_node.core.ids import BucketId
from holdfast_node.services.blobs import Blobs
from holdfast_node.services.listing import Listing
from holdfast_node.services.quotas import Quotas


class BucketNames(Protocol):
    """`services.buckets.Buckets`."""

    async def resolve(self, name: str) -> tuple[Bucket, int]: ...

    async def refused(self, name: str, bucket: BucketId) -> None: ...


class Coordinator:
    """Any node serves any request; one instance per node."""

    def __init__(self, *, blobs: Blobs, buckets: BucketNames, listing: Listing, quotas: Quotas) -> None:
        self._blobs: Final = blobs
        self._buckets: Final = buckets
        self._listing: Final = listing
        self._quotas: Final = quotas

    async def put(
        self, bucket: str, key: bytes, options: PutOptions, chunks: AsyncIterator[bytes]
    ) -> PutResult:
        """Store what `chunks` yields. Raises before anything is named, or `OutcomeUnknown`."""
        async with (
            self._open(bucket) as (found, pool),
            self._quotas.entrance(found, options.size, chunks) as let_in,
        ):
            return await self._blobs.put_in(
                pool, found.id, key, options, let_in, retain=found.undo_seconds > 0
            )

    async def get(
        self,
        bucket: str,
        key: bytes,
        *,
        version: int = 0,
        range: Range = Range(),  # noqa: A002, B008 - the API's word; a frozen value
    ) -> GetResult:
        found, pool = await self._buckets.resolve(bucket)
        return await self._blobs.get_in(pool, found.id, key, version=version, range=range)

    async def head(self, bucket: str, key: bytes, *, version: int = 0) -> tuple[BlobInfo, int]:
        found, pool = await self._buckets.resolve(bucket)
        return await self._blobs.head_in(pool, found.id, key, version=version)

    async def delete(self, bucket: str, key: bytes, condition: Condition, call: Call) -> tuple[int, int]:
        """The tombstone's version and the era."""
        async with self._open(bucket) as (found, pool):
            return await self._blobs.delete_in(
                pool, found.id, key, condition, call, retain=found.undo_seconds > 0
            )

    async def undelete(self, bucket: str, key: bytes, version: int, call: Call) -> PutResult:
        async with self._open(bucket) as (found, pool):
            return await self._blobs.undelete_in(
                pool, found.id, key, version, call, retain=found.undo_seconds > 0
            )

    async def versions(self, bucket: str, key: bytes) -> tuple[VersionEntry, ...]:
        found, pool = await self._buckets.resolve(bucket)
        return await self._blobs.versions_in(pool, found.id, key)

    async def list(self, bucket: str, options: ListOptions) -> ListResult:
        found, pool = await self._buckets.resolve(bucket)
        return await self._listing.page(pool, found.id, options)

    async def usage(self, buckets: Sequence[Bucket]) -> tuple[BucketUsage, ...]:
        """How much is in each of these buckets."""
        return await self._quotas.usage(buckets)

    @asynccontextmanager
    async def _open(self, name: str) -> AsyncGenerator[tuple[Bucket, int]]:
        """A bucket to write to. A home that refuses because it is closing knows better than our cache."""
        found, pool = await self._buckets.resolve(name)
        try:
            yield found, pool
        except BucketClosing:
            await self._buckets.refused(name, found.id)
            raise
