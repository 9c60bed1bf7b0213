"""How much is in a bucket, as the stewards of its partitions count it, and the door of one that may have no more.

Counted, not reserved (ADR 0097): every node goes by what it has heard a moment ago and what it has let in since. So a
quota is passed by what others let in at that moment, at most. Knows nothing of how blobs are stored.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from holdfast_node.core.api import Bucket, BucketUsage
from holdfast_node.core.errors import Evidence, InvalidArgument, QuotaExceeded
from holdfast_node.core.ids import BucketId
from holdfast_node.core.messages import PartitionUsage, ReadUsage, Reply, Request, Usage
from holdfast_node.core.topology import Topology
from holdfast_node.services.buckets import LIST_PAGE
from holdfast_node.services.datapath import DataPath
from holdfast_node.services.dispatcher import Caller, Handler, handler
from holdfast_node.services.fanout import gather, replies
from holdfast_node.services.places import current_topology
from holdfast_node.services.store import Store
from holdfast_node.services.wards import stewarded

USAGE_TIMEOUT_S: Final = 2.0
USAGE_AGE_S: Final = 2.0
"""How long a node goes by what it has heard of a bucket with a quota."""
BUCKETS_MAX: Final = LIST_PAGE
"""Asked about at once: a page of a listing of buckets."""
ACCOUNTS_MAX: Final = 10_000


@dataclass(slots=True)
class _Account:
    """Of a bucket with a quota, as this node knows it. `flying`: let in here and not stored yet; `stored`: all that was
    stored from here, ever, of which `heard` tells what was before `stored_then`."""

    asked_s: float = -math.inf
    heard: int = -1
    stored_then: int = 0
    stored: int = 0
    flying: int = 0

    @property
    def used_bytes(self) -> int:
        return self.heard + self.stored - self.stored_then + self.flying


class Quotas:
    def __init__(self, *, path: DataPath, store: Store) -> None:
        self._path: Final = path
        self._store: Final = store
        self._accounts: dict[BucketId, _Account] = {}

    def handlers(self) -> dict[type[Request], Handler]:
        return dict([handler(ReadUsage, self._serve)])

    async def _serve(self, caller: Caller, request: ReadUsage) -> Reply:
        if len(request.buckets) > BUCKETS_MAX:
            raise InvalidArgument(
                f"asked about {len(request.buckets)} buckets, at most {BUCKETS_MAX} at once"
            )
        found: list[PartitionUsage] = []
        for pool, partition in stewarded(current_topology(self._path.maps), self._path):
            counts = [self._store.count(pool, partition, bucket) for bucket in request.buckets]
            blobs, size = tuple(count for count, _ in counts), tuple(size for _, size in counts)
            found.append(PartitionUsage(pool, partition, blobs, size))
            await asyncio.sleep(0)
        return Usage(tuple(found))

    async def usage(self, buckets: Sequence[Bucket]) -> tuple[BucketUsage, ...]:
        """Of each of at most `BUCKETS_MAX` buckets, asked for now."""
        if not buckets:
            return ()
        topology, request = current_topology(self._path.maps), ReadUsage(tuple(each.id for each in buckets))
        answers = await gather(
            self._path.links,
            {store: request for store in topology.stores if self._path.links.is_up(store)},
            timeout_s=USAGE_TIMEOUT_S,
            enough=lambda _: False,
        )
        told = [row for reply in replies(answers, Usage).values() for row in reply.partitions]
        return tuple(_sum(topology, bucket, told, at) for at, bucket in enumerate(buckets))

    @asynccontextmanager
    async def entrance(
        self, bucket: Bucket, size: int, chunks: AsyncIterator[bytes]
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """`chunks`, as long as there is room for them, of an upload that ends with the block. `size`: of all of them;
        -1 if that is not known: else what is too much is refused before the first one. Raises `QuotaExceeded`."""
        if not bucket.quota_bytes:
            yield chunks
            return
        upload = _Upload(self, bucket)
        try:
            await upload.let_in(max(size, 0))
            if size >= 0:
                yield chunks
            else:
                async with aclosing(upload.counted(chunks)) as counted:
                    yield counted
            upload.stored()
        finally:
            upload.ended()

    async def account(self, bucket: Bucket) -> _Account:
        """Who comes while it is asked for goes by what was heard before, if anything was."""
        account = self._accounts.get(bucket.id)
        if account is None:
            self._make_room()
            account = self._accounts[bucket.id] = _Account()
        now_s = asyncio.get_running_loop().time()
        if account.heard < 0 or now_s >= account.asked_s + USAGE_AGE_S:
            account.asked_s, stored = now_s, account.stored
            (found,) = await self.usage([bucket])
            account.heard, account.stored_then = found.bytes, stored
        return account

    def _make_room(self) -> None:
        if len(self._accounts) >= ACCOUNTS_MAX:
            self._accounts = {bucket: each for bucket, each in self._accounts.items() if each.flying}


class _Upload:
    """What one upload takes of a quota, from when it is let in."""

    def __init__(self, quotas: Quotas, bucket: Bucket) -> None:
        self._quotas: Final = quotas
        self._bucket: Final = bucket
        self._account: _Account | None = None
        self._bytes = 0

    async def let_in(self, more: int) -> None:
        """Raises `QuotaExceeded`."""
        account, bucket = await self._quotas.account(self._bucket), self._bucket
        if more and account.used_bytes + more > bucket.quota_bytes:
            raise QuotaExceeded(
                f"the bucket {bucket.name!r} may have {bucket.quota_bytes} bytes",
                hint=f"delete blobs, or have it raised: `clusterctl bucket set {bucket.name} --quota SIZE`",
                evidence=(Evidence(bucket.name, f"{account.used_bytes} bytes, and {more} more"),),
            )
        account.flying += more
        self._account, self._bytes = account, self._bytes + more

    async def counted(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        async for chunk in chunks:
            await self.let_in(len(chunk))
            yield chunk

    def stored(self) -> None:
        if self._account is not None:
            self._account.stored += self._bytes

    def ended(self) -> None:
        if self._account is not None:
            self._account.flying -= self._bytes


def _sum(topology: Topology, bucket: Bucket, told: Sequence[PartitionUsage], at: int) -> BucketUsage:
    """Where two tell of a partition one of them has just become its steward, and the larger count is the newer one."""
    pool = topology.pool_index(bucket.pool)
    counts: dict[int, tuple[int, int]] = {}
    for row in told:
        if row.pool == pool and at < min(len(row.blobs), len(row.bytes)):
            count = row.blobs[at], row.bytes[at]
            counts[row.partition] = max(counts.get(row.partition, count), count)
    return BucketUsage(
        blobs=sum(blobs for blobs, _ in counts.values()),
        bytes=sum(size for _, size in counts.values()),
        whole=len(counts) == len(topology.pool(pool).partitions),
    )
