"""Gives up what no head names any more: shards of versions that are not kept, or of writes that failed, and manifests.

Nothing is dropped on this store's own word. A decided head must say that it does not name the shards, under a fence
that no attempt which might still name them can pass (R7, docs/adr/0088-what-no-head-names.md). Refuses to know other
stores' shards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

from holdfast_node.core.errors import (
    BucketClosing,
    HoldfastError,
    IntegrityError,
    NotVoting,
    StoreFailed,
)
from holdfast_node.core.head import Ballot, Head, seeds_of
from holdfast_node.core.ids import BlobId, BucketId
from holdfast_node.core.messages import ShardName
from holdfast_node.ports import Bodies
from holdfast_node.services.bucket_book import BucketBook
from holdfast_node.services.closed_doors import ClosedDoors
from holdfast_node.services.datapath import DataPath
from holdfast_node.services.log.inventory import HeldManifests, HeldSeed
from holdfast_node.services.log.shard_reader import Origin
from holdfast_node.services.store import Store

STAGE_TTL_S: Final = 24 * 3600
"""An attempt of which nothing was accepted here is left alone for so long: its upload may still be under way."""
QUARANTINE_S: Final = 300.0
"""What was found to be nobody's waits for so long, and is asked about again: somebody may be reading it."""
DOOMED_MAX: Final = 100_000
"""Seeds in quarantine: some 10 MB. What is beyond is found again later."""
AT_ONCE: Final = 16
"""Seeds, or keys, looked at together."""

T = TypeVar("T")


class Shards(Protocol):
    """`services.keeper.Keeper` has it."""

    async def drop(self, shards: Sequence[ShardName]) -> int: ...


class Collection:
    """`dropped` and `unsure` count since the process started: shards, and questions nobody could answer."""

    def __init__(
        self,
        *,
        path: DataPath,
        store: Store,
        bodies: Bodies,
        shards: Shards,
        book: BucketBook,
        closed: ClosedDoors,
    ) -> None:
        self._path: Final = path
        self._store: Final = store
        self._bodies: Final = bodies
        self._shards: Final = shards
        self._book: Final = book
        self._closed: Final = closed
        self.dropped = 0
        self.unsure = 0
        self._doubting = False
        self._doomed: dict[BlobId, float] = {}
        """Since when seeds that the last round found are nobody's, and those that this one finds."""
        self._found: dict[BlobId, float] = {}

    def begin(self, *, doubting: bool) -> None:
        """A round. `doubting`: it believes no head of this store's own. One that was away has old ones, and so has one
        that was a home."""
        self._book.forget()
        self._doubting = doubting
        self._doomed, self._found = self._found, {}

    @property
    def quarantined(self) -> int:
        """Seeds that wait to be dropped."""
        return len(self._found)

    async def shards_step(self, start: bytes) -> bytes:
        """Look at some seeds from row `start` on; where to go on, empty after the last. Raises `StoreFailed`."""
        page, following = self._store.inventory.seeds(start, AT_ONCE)
        await self._each(page, self._look_at)
        return following

    async def manifests_step(self, start: bytes) -> bytes:
        """The same for the manifests of some keys."""
        page, following = self._store.inventory.manifests(start, AT_ONCE)
        await self._each(page, self._look_at_manifests)
        return following

    async def _each(self, page: Sequence[T], look_at: Callable[[T], Awaitable[None]]) -> None:
        async def one(held: T) -> None:
            try:
                await look_at(held)
            except StoreFailed:
                raise
            except HoldfastError:  # somebody is away, or a record is broken: the next round asks again
                self.unsure += 1

        _ = await asyncio.gather(*(one(held) for held in page))

    # --- shards ---------------------------------------------------------------------------------------------

    async def _look_at(self, held: HeldSeed) -> None:
        some = await self._origins(held, most=1)
        if not some:
            return
        bucket = some[0].bucket
        if await self._book.is_gone(bucket):
            nobodys = self._has_waited(held.seed_id)
        elif await self._names_here(some[0], held.seed_id):
            nobodys = False
        else:
            origins = await self._origins(held, most=len(held.shards))
            try:
                nobodys = await self._is_nobodys(held.seed_id, origins)
            except BucketClosing:
                _ = await self._closed.nothing_behind(bucket)
                return
        if not nobodys:
            return
        dropped = await self._shards.drop(held.shards)
        self.dropped += dropped
        if dropped:
            self._path.events.emit("shards_collected", seed=held.seed_id.hex(), shards=dropped)

    def _has_waited(self, seed_id: BlobId) -> bool:
        """Whether nobody's shards were so for long enough. If not, they are remembered."""
        now_s = asyncio.get_running_loop().time()
        since_s = self._doomed.get(seed_id, now_s)
        if now_s - since_s >= QUARANTINE_S:
            return True
        if len(self._found) < DOOMED_MAX:
            self._found[seed_id] = since_s
        return False

    async def _origins(self, held: HeldSeed, *, most: int) -> list[Origin]:
        """Of those shards that can tell. All that came with the write say the same; one that heal made says that the
        write was decided, and then there is nothing left to fence."""
        found: list[Origin] = []
        for name in held.shards:
            if len(found) == most:
                break
            try:
                origin = await self._store.origin(name)
            except IntegrityError:
                self.unsure += 1
                continue
            if origin is not None:
                found.append(origin)
        return found

    async def _names_here(self, origin: Origin, seed_id: BlobId) -> bool:
        """Most shards are named by the register beside them: that nobody has to be asked for."""
        if self._doubting or seed_id in self._doomed:
            return False
        try:
            own = await self._own(origin.bucket, origin.key)
        except NotVoting:
            return False
        return own is not None and seed_id in seeds_of(own[1])

    async def _own(self, bucket: BucketId, key: bytes) -> tuple[Ballot, Head] | None:
        """What was accepted here last. Raises `NotVoting` if it is broken."""
        record = await self._store.register(bucket, key)
        if record is None or record.accepted is None:
            return None
        return record.accepted, self._bodies.decode(Head, record.head)

    async def _is_nobodys(self, seed_id: BlobId, origins: Sequence[Origin]) -> bool:
        """Whether no head names the seed, now or ever, and none has for a while. Raises `ClusterError`."""
        facts = await self._book.facts(origins[0].bucket) if origins else None
        if facts is None:
            return False
        pool, bucket, key = facts.pool, origins[0].bucket, origins[0].key
        head = (await self._path.registers.read(pool, bucket, key)).head
        if seed_id in seeds_of(head) or not self._is_over(seed_id, origins):
            return False
        if not self._has_waited(seed_id):
            return False
        base = max(each.base for each in origins)
        if head.fence is None or head.fence < base:
            head = await self._path.registers.fence(pool, bucket, key, base)
        return seed_id not in seeds_of(head)

    def _is_over(self, seed_id: BlobId, origins: Sequence[Origin]) -> bool:
        """Whether the attempt is past staging: its head was accepted here once, or it began long ago. A wrong guess
        costs a caller a try, and nothing else."""
        origin = origins[0]
        if self._store.inventory.has_manifest(origin.bucket, origin.key, seed_id):
            return True
        return self._store.store_time_s - max(each.since_s for each in origins) >= STAGE_TTL_S

    # --- manifests ------------------------------------------------------------------------------------------

    async def _look_at_manifests(self, held: HeldManifests) -> None:
        """What a home accepted and what is not yet decided counts as well: it may be about to be. A manifest stays as
        long as shards: it tells that their write is past staging."""
        unnamed = {blob_id for blob_id in held.blob_ids if not self._store.shards_of(blob_id)}
        if not self._doubting:
            unnamed -= await self._accepted_here(held, above=None)
        if not unnamed:
            return
        if not await self._book.is_gone(held.bucket):
            facts = await self._book.facts(held.bucket)
            if facts is None:
                return
            try:
                reading = await self._path.registers.read(facts.pool, held.bucket, held.key)
            except BucketClosing:
                _ = await self._closed.nothing_behind(held.bucket)
                return
            unnamed -= _blobs_of(reading.head)
            topology = self._path.topology
            partition = topology.key_partition(facts.pool, held.bucket, held.key)
            if topology.scope(facts.pool, partition) in topology.kept_by(self._path.me):
                unnamed -= await self._accepted_here(held, above=reading.ballot)
        if unnamed:
            self._store.inventory.forget_manifests(held.bucket, held.key, sorted(unnamed))
            self._path.events.emit("manifests_collected", key=held.key.hex(), count=len(unnamed))

    async def _accepted_here(self, held: HeldManifests, *, above: Ballot | None) -> set[BlobId]:
        """What this store's own head names, if it was accepted above that ballot."""
        own = await self._own(held.bucket, held.key)
        return _blobs_of(own[1]) if own is not None and (above is None or own[0] > above) else set()


def _blobs_of(head: Head) -> set[BlobId]:
    """Of which versions a home keeps the manifest."""
    current = {head.manifest.blob_id} if head.manifest is not None else set[BlobId]()
    return current | {each.blob_id for each in head.retained}
