"""A store: everything one node keeps, behind typed calls. The log is the truth, the index finds things in it.

Decides nothing about registers, shards or maps; it keeps what it is told, says what it has, and refuses to vouch for
what it cannot read.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from holdfast_node.core import index_rows, log_format
from holdfast_node.core.checksums import cell_checksum
from holdfast_node.core.errors import IntegrityError, NotVoting, ShardMissing, StoreFailed, TooLarge
from holdfast_node.core.head import Head, HeadKind, Manifest
from holdfast_node.core.ids import ID_BYTES, BlobId, BootId, BucketId, ClusterId, Digest, NodeName, StoreId
from holdfast_node.core.index_rows import TYPE_OF, CellLocation, Location, Logged, RecordBody, RegisterEntry
from holdfast_node.core.log_format import Mark, Position
from holdfast_node.core.messages import (
    RegisterCopies,
    RegisterCopy,
    RegisterPage,
    RegisterRow,
    ShardHeader,
    ShardName,
)
from holdfast_node.core.records import (
    ManifestRecord,
    MapVoteRecord,
    PartitionRecord,
    PeerRecord,
    RecordType,
    RegisterRecord,
    SealRecord,
    StoreTimeRecord,
    Superblock,
)
from holdfast_node.ports import Bodies, Buffer, Disk, Entropy, Index, IndexBroken
from holdfast_node.services.events import Events
from holdfast_node.services.log.committer import Committer, CommitterSettings, Pending
from holdfast_node.services.log.opening import (
    Opened,
    StorePorts,
    open_log,
    read_superblock,
    write_superblock,
)
from holdfast_node.services.log.volume import Volumes, volume_name
from holdfast_node.services.tasks import Tasks

MIB: Final = 1024 * 1024
REGISTERS_CACHED_MAX: Final = 16384
REGISTERS_CACHED_BYTES_MAX: Final = 24 * MIB
"""1.5 KiB for each register on average: a head with a few retained versions."""
COPIES_BYTES_MAX: Final = 2 * MIB
"""Heads and manifests in one answer to a learner; with at least one register, whatever its size."""
READ_BYTES_MAX: Final = 4 * MIB
"""Neighbouring cells are read together up to this many bytes."""
READ_GAP_BYTES_MAX: Final = 4096
"""What may lie between two cells read together: a record header, a body, and the edge of a batch."""
TIME_RECORD_EVERY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """`capacity_bytes`: what the log may take of the disk; 0: all. The last `reserve_volumes` are not for bulk."""

    volume_bytes: int = 1024 * MIB
    batch_bytes_max: int = 4 * MIB
    reserve_volumes: int = 3
    capacity_bytes: int = 0


DEFAULTS: Final = StoreSettings()


@dataclass(frozen=True, slots=True)
class Entry:
    """One record to append. `payload` must not change until the append resolves."""

    body: RecordBody
    payload: Buffer = b""


@dataclass(frozen=True, slots=True)
class ShardState:
    """What is known of one shard here. `cells`: named by the seal, or arrived so far."""

    sealed: bool
    cells: int
    location: Location


class Store:
    """Made by `Store.open`. After a failed write everything raises `StoreFailed`."""

    def __init__(
        self, ports: StorePorts, superblock: Superblock, opened: Opened, committer: Committer
    ) -> None:
        self._ports = ports
        self._indexer = opened.indexer
        self._committer = committer
        self._tasks = Tasks(ports.events)
        self._cache: OrderedDict[bytes, RegisterRecord] = OrderedDict()
        self._cache_bytes = 0
        self._started_s = asyncio.get_running_loop().time()
        self._time_at_start_s = opened.indexer.tables.store_time_s()
        self._found_rotten = list(opened.rotten)
        self._closed = False
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
        """Read everything back and raise the boot number. Raises `StoreRefused`, or `StoreFailed` if the disk does."""
        ports = StorePorts(disk, index, bodies, entropy, events)
        superblock, mark = await read_superblock(ports, node, format_if_empty=format_if_empty)
        if superblock.boot == 0:
            superblock = replace(superblock, boot=1, boot_id=BootId(entropy.token(ID_BYTES)))
            await write_superblock(ports, superblock, mark)
        else:
            superblock = replace(
                superblock, boot=superblock.boot + 1, boot_id=BootId(entropy.token(ID_BYTES))
            )
        opened = await open_log(ports, superblock.store, mark, volume_bytes=settings.volume_bytes)
        volumes = Volumes(disk, entropy, superblock.store, volume_bytes=settings.volume_bytes)
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
            ),
        )
        store = cls(ports, superblock, opened, committer)
        await store._start(opened)
        return store

    async def _start(self, opened: Opened) -> None:
        self._committer.start(self._committed, self._volume_full)
        if opened.repairs:
            pending = [self._pending(Entry(body), flags) for body, flags in opened.repairs]
            await self._committer.append(pending, bulk=False)
        await write_superblock(self._ports, self.superblock, self._mark())
        self.recovered_sequence = self.durable_sequence
        _ = self._tasks.spawn(self._keep_time(), "store time")
        for text in self._found_rotten:
            self._ports.events.emit("rot_found", what=text)

    async def close(self) -> None:
        """Write what is queued, make the index durable, note how far the log is durable."""
        if self._closed:
            return
        self._closed = True
        await self._tasks.close()
        if not self.failure:
            pending = self._pending(Entry(StoreTimeRecord(self.store_time_s)))
            await self._committer.append([pending], bulk=False)
        await self._committer.close()
        if not self.failure:
            await self._flush_index()
            await write_superblock(self._ports, self.superblock, self._mark())

    # --- state ----------------------------------------------------------------------------------------------

    @property
    def failure(self) -> str:
        return self._committer.failure

    @property
    def durable_sequence(self) -> int:
        return self._committer.durable_sequence

    @property
    def store_time_s(self) -> int:
        return self._time_at_start_s + int(asyncio.get_running_loop().time() - self._started_s)

    @property
    def used_bytes(self) -> int:
        return self._committer.used_bytes

    @property
    def capacity_bytes(self) -> int:
        return self._committer.capacity_bytes

    async def join(self, cluster_id: ClusterId) -> None:
        """Note the cluster for good. A store belongs to one cluster once."""
        if self.superblock.cluster_id == cluster_id:
            return
        assert not self.superblock.cluster_id, "a store never changes its cluster"
        joined = replace(self.superblock, cluster_id=cluster_id)
        await write_superblock(self._ports, joined, self._mark())
        self.superblock = joined

    def rotten(self) -> tuple[str, ...]:
        """What this store cannot vouch for, and what replay found broken at this start."""
        keys = (index_rows.register_of(key) for key in sorted(self._indexer.rotten))
        lines = [f"the register of {key!r} in bucket {bucket.hex()} is broken" for bucket, key in keys]
        lost = self._indexer.tables.lost_sequences()
        lines += [f"records from {sequence} on were lost" for sequence in sorted(lost)]
        return (*self._found_rotten, *lines)

    def rotten_keys(self) -> tuple[tuple[BucketId, bytes], ...]:
        """Registers that have to be learned again, one by one."""
        return tuple(index_rows.register_of(key) for key in sorted(self._indexer.rotten))

    # --- writing --------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry], *, bulk: bool = False) -> asyncio.Future[None]:
        """Queue one atomic group; resolves when it is durable and visible to every read below.

        Raises at once: `StoreFailed`, `StoreFull` (bulk, when only the reserve is left), `Overloaded`, `TooLarge`,
        `IntegrityError` for a head that cannot be decoded. Bulk groups keep their order, control groups theirs.
        """
        return self._committer.append([self._pending(entry) for entry in entries], bulk=bulk)

    def _pending(self, entry: Entry, flags: int = 0) -> Pending:
        body, payload = entry.body, entry.payload
        blob_id = b""
        if isinstance(body, ManifestRecord):
            blob_id = self._ports.bodies.decode(Manifest, body.manifest).blob_id
        key = index_rows.record_key(body, blob_id=blob_id)
        encoded = self._ports.bodies.encode(body)
        if len(encoded) > log_format.BODY_BYTES_MAX or len(payload) > log_format.PAYLOAD_BYTES_MAX:
            raise TooLarge(
                f"a {type(body).__name__} of {len(encoded)} + {len(payload)} bytes is too large for the log"
            )
        return Pending(TYPE_OF[type(body)], key, body, encoded, payload, self._indexer.head_of(body), flags)

    def _committed(self, logged: list[Logged], position: Position) -> None:
        self._indexer.apply(logged, position)
        for entry in logged:
            if isinstance(entry.body, RegisterRecord):
                self._cache_put(entry.key, entry.body)

    def _volume_full(self) -> None:
        _ = self._tasks.spawn(self._flush_index(), "index flush")

    async def _flush_index(self) -> None:
        try:
            await self._ports.index.flush()
        except IndexBroken as error:
            self._index_failed(error)

    async def _keep_time(self) -> None:
        while not self.failure:
            await asyncio.sleep(TIME_RECORD_EVERY_S)
            try:
                await self.append([Entry(StoreTimeRecord(self.store_time_s))])
            except StoreFailed:
                return

    def _mark(self) -> Mark:
        position = self._committer.position
        return Mark(batch=position.batch - 1, sequence=position.sequence - 1)

    # --- registers ------------------------------------------------------------------------------------------

    async def register(self, bucket: BucketId, key: bytes) -> RegisterRecord | None:
        """The newest durable record of the key. Raises `NotVoting` if it is broken, until a new one is appended."""
        self._check()
        record_key = bucket + key
        while True:
            cached = self._cache.get(record_key)
            if cached is not None:
                self._cache.move_to_end(record_key)
                return cached
            row = self._get(index_rows.REGISTER_ROWS + record_key)
            if row is None:
                return None
            entry = index_rows.decode_register_entry(row)
            if entry.rotten:
                raise _rotten_register()
            record = await self._read(entry.location, record_key)
            if self._get(index_rows.REGISTER_ROWS + record_key) != row:
                continue  # something newer became durable meanwhile
            if record is None:
                self._mark_rotten(record_key, entry)
                raise _rotten_register()
            body = self._ports.bodies.decode(RegisterRecord, record)
            self._cache_put(record_key, body)
            return body

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
        self._check()
        rows: list[RegisterRow] = []
        first = index_rows.register_row_key(bucket, max(prefix, start))
        end = index_rows.prefix_end(index_rows.register_row_key(bucket, prefix))
        for row_key, value, entry in self._registers(first, end):
            if not _concerns(entry, partitions):
                continue
            if entry.rotten:
                raise _rotten_register()
            if len(rows) == limit:
                return RegisterPage(tuple(rows), complete=False)
            rows.append(index_rows.decode_register_row(row_key[1 + ID_BYTES :], value))
        return RegisterPage(tuple(rows), complete=True)

    async def register_copies(
        self, partitions: frozenset[tuple[int, int]], after_bucket: BucketId, after_key: bytes, limit: int
    ) -> RegisterCopies:
        """Whole accepted registers after (bucket, key), of all buckets, with the manifests of retained versions."""
        self._check()
        start = (
            index_rows.register_row_key(after_bucket, after_key) if after_bucket else index_rows.REGISTER_ROWS
        )
        end = index_rows.prefix_end(index_rows.REGISTER_ROWS)
        wanted: list[bytes] = []
        complete = True
        for row_key, _, entry in self._registers(start, end):
            if (after_bucket and row_key == start) or not _concerns(entry, partitions):
                continue
            if entry.rotten:
                raise _rotten_register()
            if len(wanted) == limit:
                complete = False
                break
            wanted.append(row_key[1:])
        copies: list[RegisterCopy] = []
        size = 0
        for record_key in wanted:
            copy = await self._copy(*index_rows.register_of(record_key))
            if copy is None:
                continue
            size += len(copy.head) * (1 + len(copy.manifests))
            if copies and size > COPIES_BYTES_MAX:
                return RegisterCopies(tuple(copies), complete=False)
            copies.append(copy)
        return RegisterCopies(tuple(copies), complete)

    async def manifest(self, bucket: BucketId, key: bytes, blob_id: BlobId) -> Manifest | None:
        """The manifest of a version this store accepted or learned. Raises `IntegrityError` if it is broken here."""
        self._check()
        row = self._get(index_rows.manifest_row_key(bucket, key, blob_id))
        if row is None:
            return None
        location, kind = index_rows.decode_manifest_row(row)
        record_key = bucket + key if kind == RecordType.REGISTER else bucket + blob_id + key
        body = await self._read(location, record_key)
        if body is None:
            raise IntegrityError(f"the manifest of {key!r} is broken on this store")
        if kind == RecordType.MANIFEST:
            return self._ports.bodies.decode(
                Manifest, self._ports.bodies.decode(ManifestRecord, body).manifest
            )
        record = self._ports.bodies.decode(RegisterRecord, body)
        return self._ports.bodies.decode(Head, record.head).manifest

    async def _copy(self, bucket: BucketId, key: bytes) -> RegisterCopy | None:
        record = await self.register(bucket, key)
        if record is None or record.accepted is None:
            return None
        head = self._ports.bodies.decode(Head, record.head)
        manifests: list[Manifest] = []
        for retained in head.retained:
            if retained.kind == HeadKind.BLOB:
                manifest = await self.manifest(bucket, key, retained.blob_id)
                if manifest is not None:
                    manifests.append(manifest)
        return RegisterCopy(
            bucket=bucket,
            key=key,
            pool=record.pool,
            partition=record.partition,
            accepted=record.accepted,
            head=record.head,
            head_hash=index_rows.head_hash(record.head),
            manifests=tuple(manifests),
        )

    def _registers(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes, RegisterEntry]]:
        """Rows of registers that something was accepted in, or that are broken."""
        for row_key, value in self._scan(start, end):
            entry = index_rows.decode_register_entry(value)
            if entry.accepted or entry.rotten:
                yield row_key, value, entry

    def _mark_rotten(self, record_key: bytes, entry: RegisterEntry) -> None:
        try:
            if self._indexer.mark_rotten(record_key, entry.sequence):
                self._indexer.write_rot()
                self._ports.events.emit("rot_found", what=f"register {record_key.hex()}")
        except IndexBroken as error:
            raise self._index_failed(error) from None

    def _cache_put(self, record_key: bytes, body: RegisterRecord) -> None:
        cache = self._cache
        known = cache.pop(record_key, None)
        if known is not None:
            self._cache_bytes -= len(known.head)
        cache[record_key] = body
        self._cache_bytes += len(body.head)
        while len(cache) > REGISTERS_CACHED_MAX or (
            self._cache_bytes > REGISTERS_CACHED_BYTES_MAX and len(cache) > 1
        ):
            _, dropped = cache.popitem(last=False)
            self._cache_bytes -= len(dropped.head)

    # --- shards ---------------------------------------------------------------------------------------------

    def shard(self, name: ShardName) -> ShardState | None:
        """None if nothing of it is here, or it was dropped."""
        self._check()
        entry = index_rows.decode_shard(self._get(index_rows.shard_row_key(name)))
        if entry.is_sealed:
            return ShardState(sealed=True, cells=entry.cells, location=entry.seal)
        prefix = index_rows.cell_row_prefix(name)
        cells = sum(1 for _ in self._scan(prefix, index_rows.prefix_end(prefix)))
        if not cells and not entry.is_staged:
            return None
        return ShardState(sealed=False, cells=cells, location=entry.stage)

    async def shard_header(self, name: ShardName) -> ShardHeader | None:
        """Of a sealed shard. Raises `IntegrityError` if its seal is broken."""
        self._check()
        entry = index_rows.decode_shard(self._get(index_rows.shard_row_key(name)))
        if not entry.is_sealed:
            return None
        body = await self._read(entry.seal, index_rows.shard_row_key(name)[1:])
        if body is None:
            raise IntegrityError(
                f"the seal of shard {name.index} of part {name.part} is broken on this store"
            )
        return self._ports.bodies.decode(SealRecord, body).header

    def shards_of(self, seed_id: BlobId) -> tuple[ShardName, ...]:
        """The sealed shards of this seed here."""
        self._check()
        prefix = index_rows.SHARD_ROWS + seed_id
        return tuple(
            index_rows.shard_name(row_key)
            for row_key, value in self._scan(prefix, index_rows.prefix_end(prefix))
            if index_rows.decode_shard(value).is_sealed
        )

    async def cells(self, name: ShardName, first: int, count: int, *, fresh: bool = False) -> list[bytes]:
        """`count` cells from stripe `first`, each verified. Raises `ShardMissing` or `IntegrityError`."""
        self._check()
        wanted = [self._cell(name, stripe) for stripe in range(first, first + count)]
        cells: list[bytes] = []
        for run in _runs(wanted):
            start, end = run[0].offset, run[-1].offset + run[-1].length
            data = await self._ports.disk.read(volume_name(run[0].volume), start, end - start, fresh=fresh)
            whole = len(run) == 1
            view = memoryview(data)
            for at in run:
                cell = data if whole else bytes(view[at.offset - start : at.offset - start + at.length])
                stripe = first + len(cells)
                if cell_checksum(name.seed_id, name.part, name.index, stripe, cell) != at.checksum:
                    raise IntegrityError(
                        f"cell {stripe} of shard {name.index}, part {name.part} is broken on this store"
                    )
                cells.append(cell)
        return cells

    def cell_checksum(self, seed_id: BlobId, part: int, index: int, stripe: int) -> Digest | None:
        """What the cell was when it arrived, from the index alone."""
        self._check()
        row = self._get(index_rows.cell_row_key(ShardName(seed_id, part, index), stripe))
        return index_rows.decode_cell(row).checksum if row is not None else None

    def _cell(self, name: ShardName, stripe: int) -> CellLocation:
        row = self._get(index_rows.cell_row_key(name, stripe))
        if row is None:
            raise ShardMissing(f"cell {stripe} of shard {name.index}, part {name.part} is not on this store")
        return index_rows.decode_cell(row)

    # --- small facts ----------------------------------------------------------------------------------------

    def partition(self, pool: int, partition: int) -> PartitionRecord:
        return self._indexer.tables.partition(pool, partition)

    def bucket_closing(self, bucket: BucketId) -> bool:
        return self._indexer.tables.bucket_closing(bucket)

    def closed_buckets(self) -> tuple[BucketId, ...]:
        return self._indexer.tables.closed_buckets()

    def peer(self, store: StoreId) -> PeerRecord | None:
        return self._indexer.tables.peer(store)

    def map(self) -> bytes:
        """The newest map adopted, encoded; empty if none."""
        return self._indexer.tables.map()

    async def map_vote(self, epoch: int) -> MapVoteRecord | None:
        """Raises `NotVoting` if a vote may have been lost to rot."""
        self._check()
        return self._indexer.tables.map_vote(epoch)

    # --- index and log --------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.failure:
            raise StoreFailed(self.failure)

    def _get(self, key: bytes) -> bytes | None:
        try:
            return self._ports.index.get(key)
        except IndexBroken as error:
            raise self._index_failed(error) from None

    def _scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            yield from self._ports.index.scan(start, end)
        except IndexBroken as error:
            raise self._index_failed(error) from None

    def _index_failed(self, error: IndexBroken) -> StoreFailed:
        """The next start rebuilds it; until then nothing can be answered."""
        self._committer.fail(f"the index is broken, a restart rebuilds it: {error}")
        try:
            self._ports.index.clear()
        except IndexBroken as again:
            self._ports.events.emit("index_not_cleared", reason=str(again))
        return StoreFailed(self.failure)

    async def _read(self, location: Location, record_key: bytes) -> bytes | None:
        """The body of the record there; None if it is broken. Raises `StoreFailed` if it is about something else."""
        try:
            data = await self._ports.disk.read(volume_name(location.volume), location.offset, location.length)
        except IntegrityError:
            return None
        record = log_format.decode_located(data, location.offset)
        if record is None or not record.whole:
            return None
        if record.key != record_key:
            raise self._index_failed(IndexBroken(f"it points at another record in volume {location.volume}"))
        return record.body


def _concerns(entry: RegisterEntry, partitions: frozenset[tuple[int, int]]) -> bool:
    return entry.anywhere or (entry.pool, entry.partition) in partitions


def _rotten_register() -> NotVoting:
    return NotVoting(
        "this store's copy of the register is broken", hint="it is learned again from the other homes"
    )


def _runs(cells: Sequence[CellLocation]) -> Iterator[list[CellLocation]]:
    """Neighbours in the log, to be read together."""
    run: list[CellLocation] = []
    for cell in cells:
        if run:
            gap = cell.offset - run[-1].offset - run[-1].length
            near = cell.volume == run[-1].volume and 0 <= gap <= READ_GAP_BYTES_MAX
            if not near or cell.offset + cell.length - run[0].offset > READ_BYTES_MAX:
                yield run
                run = []
        run.append(cell)
    if run:
        yield run
