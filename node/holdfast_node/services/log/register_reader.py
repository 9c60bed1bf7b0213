"""Registers as this store has them: single ones, pages of summaries, copies for a learner, manifests.

Knows where they are and whether they are whole, not what a ballot or a head is worth.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from holdfast_node.core import index_keys, index_rows
from holdfast_node.core.errors import IntegrityError, NotVoting
from holdfast_node.core.head import Head, HeadKind, Manifest
from holdfast_node.core.ids import ID_BYTES, BlobId, BucketId
from holdfast_node.core.index_rows import RegisterEntry
from holdfast_node.core.messages import (
    ChangedKey,
    PartitionChanges,
    RegisterCopies,
    RegisterCopy,
    RegisterPage,
    RegisterRow,
)
from holdfast_node.core.records import ManifestRecord, RecordType, RegisterRecord
from holdfast_node.services.log.reader import ROWS_AT_ONCE, LogReader

REGISTERS_CACHED_MAX: Final = 16384
REGISTERS_CACHED_BYTES_MAX: Final = 24 * 1024 * 1024
"""1.5 KiB for each register on average: a head with a few retained versions."""
SEQUENCE_BYTES: Final = 8
COPIES_BYTES_MAX: Final = 2 * 1024 * 1024
"""Heads and manifests in one answer to a learner; with at least one register, whatever its size."""


class RegisterReader:
    """Registers from the cache, else from the log where the index says. `put` must see every durable record."""

    def __init__(self, log: LogReader) -> None:
        self._log = log
        self._cache: OrderedDict[bytes, RegisterRecord] = OrderedDict()
        self._cache_bytes = 0

    async def register(self, bucket: BucketId, key: bytes) -> RegisterRecord | None:
        """The newest durable record of the key, None if that is blank. Raises `NotVoting` if it is broken, until a new
        one is appended."""
        self._log.check()
        record_key = bucket + key
        while True:
            cached = self._cache.get(record_key)
            if cached is not None:
                self._cache.move_to_end(record_key)
                return cached
            row = self._log.get(index_keys.REGISTER_ROWS + record_key)
            if row is None:
                return None
            entry = index_rows.decode_register_entry(row)
            if entry.rotten:
                raise _rotten_register()
            with self._log.reading():
                record = await self._log.body(entry.location, record_key, entry.sequence)
            if self._log.get(index_keys.REGISTER_ROWS + record_key) != row:
                continue  # something newer became durable meanwhile
            if record is None:
                self._log.mark_rotten(record_key, entry.sequence)
                raise _rotten_register()
            body = self._log.bodies.decode(RegisterRecord, record)
            self.put(record_key, body)
            return body

    def broken(self, bucket: BucketId, key: bytes) -> RegisterEntry | None:
        """What is known of a register whose record is broken: its ballots, not its head. None if it is whole, or if
        nothing is known."""
        self._log.check()
        row = self._log.get(index_keys.REGISTER_ROWS + bucket + key)
        entry = index_rows.decode_register_entry(row) if row is not None else None
        return entry if entry is not None and entry.rotten and not entry.unknown else None

    def rows(
        self,
        partitions: frozenset[tuple[int, int]],
        bucket: BucketId,
        prefix: bytes,
        start: bytes,
        limit: int,
    ) -> RegisterPage:
        """Accepted registers of these partitions in key order, from the index alone.

        A row of a broken record still says what was accepted; raises `NotVoting` where not even that is known.
        """
        self._log.check()
        rows: list[RegisterRow] = []
        first = index_keys.register_row_key(bucket, max(prefix, start))
        end = index_keys.prefix_end(index_keys.register_row_key(bucket, prefix))
        for row_key, value, entry in self._registers(self._log.scan(first, end), partitions):
            if entry.unknown:
                raise _rotten_register()
            if entry.accepted is None:
                continue
            if len(rows) == limit:
                return RegisterPage(tuple(rows), complete=False)
            rows.append(index_rows.decode_register_row(row_key[1 + ID_BYTES :], value))
        return RegisterPage(tuple(rows), complete=True)

    async def copies(
        self, partitions: frozenset[tuple[int, int]], after_bucket: BucketId, after_key: bytes, limit: int
    ) -> RegisterCopies:
        """Whole accepted registers after (bucket, key), of all buckets, with the manifests of retained versions.

        Others go on meanwhile, however many rows are passed over: each register is shown as it was at some moment since
        this was called.
        """
        self._log.check()
        start, end = index_keys.REGISTER_ROWS, index_keys.prefix_end(index_keys.REGISTER_ROWS)
        if after_bucket:
            start = index_keys.register_row_key(after_bucket, after_key) + b"\0"
        wanted: list[bytes] = []
        while True:
            rows = list(islice(self._log.scan(start, end), ROWS_AT_ONCE))
            for row_key, _, entry in self._registers(rows, partitions):
                if entry.unknown:
                    raise _rotten_register()
                if entry.accepted is None:
                    continue
                if len(wanted) == limit:
                    return await self._copies(wanted, complete=False)
                wanted.append(row_key[1:])
            if len(rows) < ROWS_AT_ONCE:
                return await self._copies(wanted, complete=True)
            start = rows[-1][0] + b"\0"
            await asyncio.sleep(0)
            self._log.check()

    async def _copies(self, wanted: Sequence[bytes], *, complete: bool) -> RegisterCopies:
        copies: list[RegisterCopy] = []
        size = 0
        for record_key in wanted:
            copy = await self._copy(*index_keys.register_of(record_key))
            if copy is None:
                continue
            size += len(self._log.bodies.encode(copy))
            if copies and size > COPIES_BYTES_MAX:
                return RegisterCopies(tuple(copies), complete=False)
            copies.append(copy)
        return RegisterCopies(tuple(copies), complete)

    def changes(self, pool: int, partition: int, after: int, limit: int) -> PartitionChanges:
        """The accepted registers of the partition that changed after this sequence, in the order in which they did. One
        of which nothing is known any more is not among them."""
        self._log.check()
        through = self._log.durable_sequence
        keys: list[ChangedKey] = []
        first = index_keys.feed_row_key(pool, partition, after + 1)
        end = index_keys.prefix_end(first[:-SEQUENCE_BYTES])
        for row_key, record_key in self._log.scan(first, end) if after < through else ():
            sequence = index_keys.feed_sequence(row_key)
            row = self._log.get(index_keys.REGISTER_ROWS + record_key)
            if row is None or index_rows.register_sequence(row) != sequence:
                continue  # it was here before it became unreadable
            entry = index_rows.decode_register_entry(row)
            if entry.accepted is None:
                continue
            if len(keys) == limit:
                through = keys[-1].sequence
                return PartitionChanges(pool, partition, tuple(keys), through, complete=False)
            keys.append(ChangedKey(*index_keys.register_of(record_key), entry.accepted, sequence))
        return PartitionChanges(pool, partition, tuple(keys), through, complete=True)

    def entry(self, bucket: BucketId, key: bytes) -> RegisterEntry | None:
        """The ballots of a register, and whether its record is broken, from the index alone."""
        row = self._log.get(index_keys.register_row_key(bucket, key))
        return index_rows.decode_register_entry(row) if row is not None else None

    async def copies_of(self, keys: Sequence[tuple[BucketId, bytes]]) -> RegisterCopies:
        """Whole accepted registers of these keys, as many as an answer may hold. Raises `NotVoting` for one that is
        broken."""
        return await self._copies([bucket + key for bucket, key in keys], complete=True)

    async def manifest(self, bucket: BucketId, key: bytes, blob_id: BlobId) -> Manifest | None:
        """The manifest of a version this store accepted or learned. Raises `IntegrityError` if it is broken here."""
        self._log.check()
        row = self._log.get(index_keys.manifest_row_key(bucket, key, blob_id))
        if row is None:
            return None
        location, kind, sequence = index_rows.decode_manifest_row(row)
        record_key = bucket + key if kind == RecordType.REGISTER else bucket + blob_id + key
        with self._log.reading():
            body = await self._log.body(location, record_key, sequence)
        if body is None:
            raise IntegrityError(f"the manifest of {key!r} is broken on this store")
        if kind == RecordType.MANIFEST:
            return self._log.bodies.decode(Manifest, self._log.bodies.decode(ManifestRecord, body).manifest)
        record = self._log.bodies.decode(RegisterRecord, body)
        return self._log.bodies.manifest_of(record.head)

    async def _copy(self, bucket: BucketId, key: bytes) -> RegisterCopy | None:
        record = await self.register(bucket, key)
        if record is None or record.accepted is None:
            return None
        head = self._log.bodies.decode(Head, record.head)
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

    def count(self, pool: int, partition: int, bucket: BucketId) -> tuple[int, int]:
        """Current blobs of the bucket in the partition as this store knows them, and their bytes."""
        return index_rows.decode_count(self._log.get(index_keys.count_row_key(pool, partition, bucket)))

    def _registers(
        self, rows: Iterable[tuple[bytes, bytes]], partitions: frozenset[tuple[int, int]]
    ) -> Iterator[tuple[bytes, bytes, RegisterEntry]]:
        """Those of these partitions' registers that something was accepted in, or that are broken.

        The others are passed over by a look at eight bytes each: a store keeps many partitions, a scan wants few.
        """
        for row_key, value in rows:
            scope = index_rows.scope_of(value)
            if scope is not None and scope not in partitions:
                continue
            if index_rows.is_shown(value):
                yield row_key, value, index_rows.decode_register_entry(value)

    def put(self, record_key: bytes, body: RegisterRecord) -> None:
        cache = self._cache
        known = cache.pop(record_key, None)
        if known is not None:
            self._cache_bytes -= len(known.head)
        if body.is_blank:
            return
        cache[record_key] = body
        self._cache_bytes += len(body.head)
        while len(cache) > REGISTERS_CACHED_MAX or (
            self._cache_bytes > REGISTERS_CACHED_BYTES_MAX and len(cache) > 1
        ):
            _, dropped = cache.popitem(last=False)
            self._cache_bytes -= len(dropped.head)


def _rotten_register() -> NotVoting:
    return NotVoting(
        "this store's copy of the register is broken", hint="it is learned again from the other homes"
    )
