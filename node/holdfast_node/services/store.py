"""A store: everything one node keeps, behind typed calls. The log is the truth, the index finds things in it.

Decides nothing about registers, shards or maps; it keeps what it is told, says what it has, and refuses to vouch for
what it cannot read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from holdfast_node.core import index_keys, log_format
from holdfast_node.core.errors import IntegrityError, Overloaded, StoreFailed, StoreFull, TooLarge
from holdfast_node.core.head import Manifest
from holdfast_node.core.ids import ID_BYTES, BlobId, BootId, BucketId, ClusterId, Digest, NodeName, StoreId
from holdfast_node.core.index_keys import TYPE_OF, RecordBody
from holdfast_node.core.index_rows import Logged, RegisterEntry
from holdfast_node.core.log_format import Mark, Position
from holdfast_node.core.messages import (
    PartitionChanges,
    RegisterCopies,
    RegisterPage,
    ShardHeader,
    ShardName,
)
from holdfast_node.core.records import (
    DropRecord,
    FollowedRecord,
    Hole,
    ManifestRecord,
    MapRecord,
    MapVoteRecord,
    PartitionRecord,
    PeerRecord,
    RegisterRecord,
    ScrubRecord,
    StoreTimeRecord,
    Superblock,
)
from holdfast_node.ports import Bodies, Buffer, Disk, Entropy, Index, IndexBroken
from holdfast_node.services.events import Events
from holdfast_node.services.log.committer import Committer, CommitterSettings, Pending
from holdfast_node.services.log.compactor import Compactor
from holdfast_node.services.log.inventory import Inventory
from holdfast_node.services.log.opening import (
    SUPERBLOCK,
    SUPERBLOCK_BYTES_MAX,
    Opened,
    StorePorts,
    open_log,
    read_superblock,
    write_superblock,
)
from holdfast_node.services.log.partition_facts import PartitionFacts
from holdfast_node.services.log.reader import LogReader
from holdfast_node.services.log.register_reader import RegisterReader
from holdfast_node.services.log.shard_reader import Origin, ShardReader, ShardState
from holdfast_node.services.log.store_time import StoreTime
from holdfast_node.services.log.verifier import Verifier
from holdfast_node.services.log.volume import Volumes
from holdfast_node.services.tasks import Tasks

MIB: Final = 1024 * 1024
VITAL: Final = (MapRecord, MapVoteRecord, PartitionRecord, PeerRecord, DropRecord)
"""What a store that is all but full must still be able to write down: that there are new nodes, where things are now,
which stores are back and may vote, and what is not needed any more."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """`capacity_bytes`: what the log may take of the disk; 0: all. `index_room_bytes` it leaves in any case: a few
    tables and what it takes to merge them. The last `reserve_volumes` are not for bulk."""

    volume_bytes: int = 1024 * MIB
    batch_bytes_max: int = 4 * MIB
    reserve_volumes: int = 3
    capacity_bytes: int = 0
    index_room_bytes: int = 0


DEFAULTS: Final = StoreSettings()


@dataclass(frozen=True, slots=True)
class Entry:
    """One record to append. `payload` must not change until the append resolves."""

    body: RecordBody
    payload: Buffer = b""


class Store:
    """Made by `Store.open`. After a failed write everything raises `StoreFailed`."""

    def __init__(
        self,
        ports: StorePorts,
        superblock: Superblock,
        opened: Opened,
        committer: Committer,
        volumes: Volumes,
    ) -> None:
        self._ports = ports
        self._indexer = opened.indexer
        self._committer = committer
        self._tasks = Tasks(ports.events)
        self._log = LogReader(ports, opened.indexer, committer)
        self._registers = RegisterReader(self._log)
        self._shards = ShardReader(self._log)
        self._time = StoreTime(opened.indexer.tables.store_time_s())
        self._found_rotten = opened.rotten
        self._closed = False
        self._riders: dict[bytes, Entry] = {}
        self._small_on_the_way: Counter[bytes] = Counter()
        self._writing_superblock = asyncio.Lock()
        self.inventory: Final = Inventory(self._log, ports.index)
        self.partitions: Final = PartitionFacts(
            read=self.partition, append=lambda bodies: self.append([Entry(body) for body in bodies])
        )
        self.verifier: Final = Verifier(ports, self._log, self._indexer, committer, volumes)
        self.compactor: Final = Compactor(
            ports, self._log, committer, volumes, self.verifier, make_hole=self._make_hole
        )
        self.failed: Final = committer.failed
        """Set once there is a `failure`."""
        self.index_gone: Final = self._log.index_gone
        """Set when the store has failed for want of an index, which the next start makes anew from the log."""
        self.superblock = superblock
        self.recovered_sequence = opened.position.sequence - 1

    @classmethod
    async def open(
        cls,
        *,
        disk: Disk,
        index: Index,
        bodies: Bodies,
        entropy: Entropy,
        events: Events,
        node: NodeName,
        settings: StoreSettings = DEFAULTS,
        format_if_empty: bool = False,
    ) -> Store:
        """Read everything back and raise the boot number. Raises `StoreRefused`, or what the disk does."""
        ports = StorePorts(disk, index, bodies, entropy, events)
        superblock, mark = await read_superblock(ports, node, format_if_empty=format_if_empty)
        if superblock.boot == 0:
            superblock = replace(superblock, boot=1, boot_id=BootId(entropy.token(ID_BYTES)))
            await write_superblock(ports, superblock, mark)
        else:
            superblock = replace(
                superblock, boot=superblock.boot + 1, boot_id=BootId(entropy.token(ID_BYTES))
            )
        opened = await open_log(ports, superblock, mark, volume_bytes=settings.volume_bytes)
        volumes = Volumes(disk, entropy, superblock, volume_bytes=settings.volume_bytes)
        volumes.size_bytes = opened.size_bytes
        committer = Committer(
            disk=disk,
            volumes=volumes,
            position=opened.position,
            events=events,
            settings=CommitterSettings(
                batch_bytes_max=settings.batch_bytes_max,
                reserve_bytes=settings.reserve_volumes * settings.volume_bytes,
                capacity_bytes=settings.capacity_bytes,
                index_room_bytes=settings.index_room_bytes,
            ),
        )
        store = cls(ports, superblock, opened, committer, volumes)
        try:
            await store._start(opened)
        except BaseException:
            await store.abandon()
            raise
        return store

    async def _start(self, opened: Opened) -> None:
        self._committer.start(self._committed, self._volume_full)
        if opened.repairs:
            pending = [self._pending(Entry(body), flags) for body, flags in opened.repairs]
            await self._committer.append(pending, bulk=False, vital=True)
        await self._write_superblock(self.superblock)
        self._committer.serve()
        _ = self._tasks.spawn(
            self._time.keep(
                ride=lambda record: self.piggyback(b"store time", Entry(record)),
                write=lambda record: self.append([Entry(record)]),
                events=self._ports.events,
            ),
            "store time",
        )
        for text in self._found_rotten:
            self._ports.events.emit("rot_found", what=text)

    async def close(self) -> None:
        """Write what is queued, make the index durable, note how far the log is durable."""
        if self._closed:
            return
        self._closed = True
        self._committer.waits_for_room = False
        await self._tasks.close()
        if not self.failure:
            pending = self._pending(Entry(StoreTimeRecord(self.store_time_s)))
            with contextlib.suppress(StoreFull, Overloaded, StoreFailed):  # a minute of store time is no loss
                await self._committer.append([pending], bulk=False)
        await self._committer.close()
        if not self.failure:
            await self._flush_index()
            with contextlib.suppress(StoreFull):  # the mark there is an older one
                await self._write_superblock(self.superblock)

    async def abandon(self) -> None:
        """Stop all work at once and write nothing more: for a process that is about to end."""
        self._closed = True
        await self._tasks.close()
        await self._committer.abandon()

    # --- state ----------------------------------------------------------------------------------------------

    @property
    def failure(self) -> str:
        return self._committer.failure

    @property
    def durable_sequence(self) -> int:
        return self._committer.durable_sequence

    @property
    def store_time_s(self) -> int:
        return self._time.seconds

    @property
    def used_bytes(self) -> int:
        return self._committer.used_bytes

    @property
    def written_bytes(self) -> int:
        """All that was ever written, garbage and padding included."""
        return self._committer.written_bytes

    @property
    def is_short(self) -> bool:
        """Whether only the reserve is left."""
        return self._committer.is_short

    @property
    def is_low(self) -> bool:
        """Whether room becomes short: it is time to make some."""
        return self._committer.is_low

    @property
    def capacity_bytes(self) -> int:
        return self._committer.capacity_bytes

    async def join(self, cluster_id: ClusterId) -> None:
        """Note the cluster for good. A store belongs to one cluster once."""
        if self.superblock.cluster_id == cluster_id:
            return
        assert not self.superblock.cluster_id, "a store never changes its cluster"
        async with self._writing_superblock:
            await self._write_superblock(replace(self.superblock, cluster_id=cluster_id))

    async def _make_hole(self, holes: tuple[Hole, ...]) -> None:
        """Write down what is about to go from the log; an index that does not need it is durable before."""
        await self._log.flush()
        self._log.check()
        async with self._writing_superblock:
            await self._write_superblock(replace(self.superblock, holes=holes))

    async def _write_superblock(self, superblock: Superblock) -> None:
        await write_superblock(self._ports, superblock, self._mark())
        self.superblock = superblock

    def drop_index(self, why: str) -> None:
        """The store fails; the next start makes a new index from the log. Raises `StoreFailed` if it has failed."""
        self._log.check()
        _ = self._log.index_failed(IndexBroken(why))

    def rotten(self) -> tuple[str, ...]:
        """What this store cannot vouch for now."""
        keys = (index_keys.register_of(key) for key in sorted(self._indexer.rotten))
        lines = [f"the register of {key!r} in bucket {bucket.hex()} is broken" for bucket, key in keys]
        lost = self._indexer.tables.lost_sequences()
        lines += [f"records from {sequence} on were lost" for sequence in sorted(lost)]
        return tuple(lines)

    @property
    def found_rot(self) -> bool:
        """Whether replay met broken records at this start: shards may lack cells."""
        return bool(self._found_rotten)

    @property
    def lost_records(self) -> bool:
        """Whether part of the log was unreadable when it was replayed: this store cannot vouch for much."""
        return bool(self._indexer.tables.lost_sequences())

    def rotten_keys(self) -> tuple[tuple[BucketId, bytes], ...]:
        """Registers whose records are broken."""
        return tuple(index_keys.register_of(key) for key in sorted(self._indexer.rotten))

    def forgotten_keys(self) -> tuple[tuple[BucketId, bytes], ...]:
        """Those of them of which nothing is known, not even what they promised: the whole partition has to be learned
        again."""
        return tuple(index_keys.register_of(key) for key in sorted(self._indexer.forgotten))

    # --- writing --------------------------------------------------------------------------------------------

    def append(
        self, entries: Sequence[Entry], *, bulk: bool = False, reserve: bool = False
    ) -> asyncio.Future[None]:
        """Queue one atomic group; resolves when it is durable and visible to every read below.

        Raises at once: `StoreFailed`, `StoreFull` (bulk, when only the reserve is left; with `reserve`, when only what
        is for no bulk at all is left), `Overloaded`, `TooLarge`, `IntegrityError` for a head that cannot be decoded.
        Bulk groups keep their order, control groups theirs.
        """
        riders = () if bulk else tuple(self._riders.values())  # bulk may be overtaken
        pending = [self._pending(entry) for entry in (*riders, *entries)]
        vital = bool(entries) and all(isinstance(entry.body, VITAL) for entry in entries)
        durable = self._committer.append(pending, bulk=bulk, reserve=reserve, vital=vital)
        self._riders = self._riders if bulk else {}
        if small := [key for each in pending if (key := index_keys.small_row_key(each.body, each.key))]:
            self._small_on_the_way.update(small)
            durable.add_done_callback(lambda _: self._small_on_the_way.subtract(small))
        return durable

    def rewrite(self, row_key: bytes) -> asyncio.Future[None] | None:
        """Write a small fact again, whose record is broken: it is in memory. None if a newer one is on its way, over
        which the old one must not be written, or if there is none."""
        kind, key = index_keys.small_of(row_key)
        row = self._indexer.tables.row(kind, key)
        if row is None or self._small_on_the_way[row_key]:
            return None
        body, flags = row
        return self._committer.append([self._pending(Entry(body), flags)], bulk=False)

    def piggyback(self, name: bytes, entry: Entry) -> None:
        """Write this just before the next append that is not bulk: worth keeping, not worth a write of its own.

        Of two riders of one name only the later is written."""
        self._riders[name] = entry

    def _pending(self, entry: Entry, flags: int = 0) -> Pending:
        body, payload = entry.body, entry.payload
        blob_id = b""
        if isinstance(body, ManifestRecord):
            blob_id = self._ports.bodies.decode(Manifest, body.manifest).blob_id
        key = index_keys.record_key(body, blob_id=blob_id)
        encoded = self._ports.bodies.encode(body)
        if len(encoded) > log_format.BODY_BYTES_MAX or len(payload) > log_format.PAYLOAD_BYTES_MAX:
            raise TooLarge(
                f"a {type(body).__name__} of {len(encoded)} + {len(payload)} bytes is too large for the log"
            )
        return Pending(TYPE_OF[type(body)], key, body, encoded, payload, self._indexer.head_of(body), flags)

    def _committed(self, logged: list[Logged], position: Position) -> None:
        try:
            self._indexer.apply(logged, position)
        except (IndexBroken, IntegrityError) as error:
            raise self._log.index_failed(IndexBroken(str(error))) from None
        for entry in logged:
            if isinstance(entry.body, RegisterRecord):
                self._registers.put(entry.key, entry.body)

    def _volume_full(self) -> None:
        if not self._closed:
            _ = self._tasks.spawn(self._flush_index(), "index flush")

    async def _flush_index(self) -> None:
        with contextlib.suppress(StoreFull, StoreFailed):  # a later start replays more
            await self._log.flush()

    def _mark(self) -> Mark:
        position = self._committer.position
        return Mark(batch=position.batch - 1, sequence=position.sequence - 1)

    # --- what is here ---------------------------------------------------------------------------------------

    async def register(self, bucket: BucketId, key: bytes) -> RegisterRecord | None:
        """The newest durable record of the key. Raises `NotVoting` if it is broken, until a new one is appended."""
        return await self._registers.register(bucket, key)

    def broken_register(self, bucket: BucketId, key: bytes) -> RegisterEntry | None:
        """What is still known of a register whose record is broken: its ballots, not its head."""
        return self._registers.broken(bucket, key)

    def mark_rotten(self, bucket: BucketId, key: bytes, sequence: int) -> None:
        """The register's record with this sequence is broken."""
        self._log.mark_rotten(bucket + key, sequence)

    def register_rows(
        self,
        partitions: frozenset[tuple[int, int]],
        bucket: BucketId,
        prefix: bytes,
        start: bytes,
        limit: int,
    ) -> RegisterPage:
        """Accepted registers of these partitions in key order, from the index alone.

        Raises `NotVoting` rather than skip a key that cannot be read.
        """
        return self._registers.rows(partitions, bucket, prefix, start, limit)

    async def register_copies(
        self, partitions: frozenset[tuple[int, int]], after_bucket: BucketId, after_key: bytes, limit: int
    ) -> RegisterCopies:
        """Whole accepted registers after (bucket, key), of all buckets, with the manifests of retained versions."""
        return await self._registers.copies(partitions, after_bucket, after_key, limit)

    def changes(self, pool: int, partition: int, after: int, limit: int) -> PartitionChanges:
        """The accepted registers of the partition that changed after this sequence, in the order in which they did."""
        return self._registers.changes(pool, partition, after, limit)

    def register_entry(self, bucket: BucketId, key: bytes) -> RegisterEntry | None:
        """The ballots of a register, and whether its record is broken, from the index alone."""
        return self._registers.entry(bucket, key)

    async def copies_of(self, keys: Sequence[tuple[BucketId, bytes]]) -> RegisterCopies:
        """Whole accepted registers of these keys, as many as an answer takes. Raises `NotVoting` for a broken one."""
        return await self._registers.copies_of(keys)

    def followed(self, store: StoreId) -> FollowedRecord:
        """How far another store's feed has been followed."""
        return self._indexer.tables.followed(store)

    def count(self, pool: int, partition: int, bucket: BucketId = index_keys.ALL_BUCKETS) -> tuple[int, int]:
        """How many blobs are current in the partition, or of one bucket in it, as far as this store knows; bytes."""
        return self._registers.count(pool, partition, bucket)

    async def manifest(self, bucket: BucketId, key: bytes, blob_id: BlobId) -> Manifest | None:
        """Of a version this store accepted or learned. Raises `IntegrityError` if it is broken here."""
        return await self._registers.manifest(bucket, key, blob_id)

    def shard(self, name: ShardName) -> ShardState | None:
        """None if nothing of it is here, or it was dropped."""
        return self._shards.shard(name)

    async def shard_header(self, name: ShardName, *, fresh: bool = False) -> ShardHeader | None:
        """Of a sealed shard. Raises `IntegrityError` if its seal is broken."""
        return await self._shards.shard_header(name, fresh=fresh)

    async def origin(self, name: ShardName) -> Origin | None:
        """For whose write a shard is here; None if it is not. Raises `IntegrityError` if that cannot be read."""
        return await self._shards.origin(name)

    def shards_of(self, seed_id: BlobId) -> tuple[ShardName, ...]:
        """The sealed shards of this seed here."""
        return self._shards.shards_of(seed_id)

    async def cells(self, name: ShardName, first: int, count: int, *, fresh: bool = False) -> list[bytes]:
        """`count` cells from stripe `first`, each verified. Raises `ShardMissing` or `IntegrityError`, or, as all that
        reads, `Unavailable` if the disk cannot be read now."""
        return await self._shards.cells(name, first, count, fresh=fresh)

    def cell_checksum(self, seed_id: BlobId, part: int, index: int, stripe: int) -> Digest | None:
        """What the cell was when it arrived, from the index alone."""
        return self._shards.cell_checksum(seed_id, part, index, stripe)

    def partition(self, pool: int, partition: int) -> PartitionRecord:
        return self._indexer.tables.partition(pool, partition)

    def bucket_closing(self, bucket: BucketId) -> bool:
        return self._indexer.tables.bucket_closing(bucket)

    def closed_buckets(self) -> tuple[BucketId, ...]:
        return self._indexer.tables.closed_buckets()

    def peer(self, store: StoreId) -> PeerRecord | None:
        return self._indexer.tables.peer(store)

    def scrubbed(self) -> ScrubRecord:
        return self._indexer.tables.scrub()

    async def check_superblock(self) -> bool:
        """Read the superblock back; if it is broken, write it again from memory. Whether it was whole."""
        self._log.check()
        async with self._writing_superblock:
            try:
                content = await self._ports.disk.read(SUPERBLOCK, 0, SUPERBLOCK_BYTES_MAX, fresh=True)
                log_format.decode_superblock(content)
            except IntegrityError:
                await self._write_superblock(self.superblock)
                return False
        return True

    def map(self) -> bytes:
        """The newest map adopted, encoded; empty if none."""
        return self._indexer.tables.map()

    async def map_vote(self, epoch: int) -> MapVoteRecord | None:
        """Raises `NotVoting` if a vote may have been lost to rot."""
        self._log.check()
        return self._indexer.tables.map_vote(epoch)
