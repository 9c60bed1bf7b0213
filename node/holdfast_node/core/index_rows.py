"""From log records to index rows: what rows hold, and which of two records about one thing wins.

Pure. Knows the meaning of records but neither the log's bytes nor the database; rows go into a `Rows` overlay that the
caller writes as one batch. Applying the same records in any order gives the same rows: every value carries the
sequence that made it, and the highest sequence per record key wins.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Final, NamedTuple, ParamSpec, TypeVar

from xxhash import xxh3_128_digest

from holdfast_node.core.errors import IntegrityError
from holdfast_node.core.head import Ballot, Head, HeadKind
from holdfast_node.core.ids import ID_BYTES, RESERVED_BUCKET, Digest, StoreId
from holdfast_node.core.index_keys import (
    ALL_BUCKETS,
    CELL_ROWS,
    LINK_ROWS,
    REGISTER_ROWS,
    ROTTEN_ROWS,
    SHARD_KEY_BYTES,
    SHARD_ROWS,
    SMALL_ROWS,
    TYPE_OF,
    RecordBody,
    count_row_key,
    feed_row_key,
    manifest_row_key,
)
from holdfast_node.core.index_overlay import Rows
from holdfast_node.core.messages import RegisterRow
from holdfast_node.core.records import (
    CellRecord,
    DropRecord,
    LinkRecord,
    ManifestRecord,
    RecordType,
    RegisterRecord,
    SealRecord,
    StageRecord,
)

P = ParamSpec("P")
R = TypeVar("R")

# volume, offset, length, sequence, flags, pool, partition
_REGISTER_ROW: Final = struct.Struct(">QQIQBII")
# generation, counter, store, boot, attempt
_BALLOT: Final = struct.Struct(">QQ16sQQ")
# head hash, version, kind, size, hash, created_ms
_SUMMARY: Final = struct.Struct(">16sQBQ16sq")
# sequence, volume, offset, length, record type
_MANIFEST_ROW: Final = struct.Struct(">QQQIB")
# sealed, staged, dropped (sequences, 0: never), seal (volume, offset, length), stage likewise, cells, drop record
_SHARD_ROW: Final = struct.Struct(">QQQQQIQQIIQ")
# sequence, volume, payload offset, payload length, checksum
_CELL_ROW: Final = struct.Struct(">QQQI16s")
_SEQUENCE: Final = struct.Struct(">Q")
_SMALL_ROW: Final = struct.Struct(">QH")
_SCOPE: Final = struct.Struct(">II")
_SCOPE_AT: Final = _REGISTER_ROW.size - _SCOPE.size
_FLAGS_AT: Final = _SCOPE_AT - 1
_SEQUENCE_AT: Final = _FLAGS_AT - _SEQUENCE.size
_SUMMARY_AT: Final = _REGISTER_ROW.size + _BALLOT.size
_SUMMARY_END: Final = _SUMMARY_AT + _SUMMARY.size
_COUNT_ROW: Final = struct.Struct(">QQ")

# Flags of a register row. What follows it, in this order: the accepted ballot and the summary; the promised ballot,
# if it is another; the content type. Of a blank register, which has none of these: before which sequence all that
# is about the key is forgotten.
_ROTTEN: Final = 1
_ACCEPTED: Final = 2
_PROMISED: Final = 4
_UNKNOWN: Final = 8
_RETAINS: Final = 16
_ANY_SCOPE: Final = 0xFFFFFFFF
"""Pool and partition of a rotten register of which nothing but the key is known."""


class Location(NamedTuple):
    """A whole record in the log."""

    volume: int
    offset: int
    length: int


class CellLocation(NamedTuple):
    """A cell's bytes in the log, and what they must hash to."""

    volume: int
    offset: int
    length: int
    checksum: Digest


class Logged(NamedTuple):
    """A record in the log. `key` is the record's, `encoded` its body's bytes, `head` that of an accepted register."""

    sequence: int
    flags: int
    key: bytes
    body: RecordBody
    encoded: bytes
    location: Location
    payload_offset: int
    payload_length: int
    head: Head | None


@dataclass(frozen=True, slots=True)
class RegisterEntry:
    """What a `k` row says besides the summary. The record may be `rotten`; then what it said is known only from here:
    which ballots it promised and accepted, and not even that if it is `unknown`."""

    location: Location
    sequence: int
    rotten: bool
    pool: int
    partition: int
    accepted: Ballot | None
    promised: Ballot | None
    unknown: bool


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """An `s` row. Seal and stage count only if younger than the last drop. What is older than `dropped` is gone; the
    record that says so has the sequence `drop_record`."""

    sealed: int = 0
    staged: int = 0
    dropped: int = 0
    seal: Location = Location(0, 0, 0)
    stage: Location = Location(0, 0, 0)
    cells: int = 0
    drop_record: int = 0

    @property
    def is_sealed(self) -> bool:
        return self.sealed > self.dropped

    @property
    def is_staged(self) -> bool:
        return self.staged > self.dropped


def _checked(decode: Callable[P, R]) -> Callable[P, R]:
    """The index is ours and may still be wrong: a value that is none raises `IntegrityError`."""

    @wraps(decode)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return decode(*args, **kwargs)
        except (struct.error, ValueError) as error:
            raise IntegrityError(f"a row of the index cannot be read: {error}") from error

    return checked


# --- values of rows ---------------------------------------------------------------------------------------


def head_hash(head: bytes) -> Digest:
    return Digest(xxh3_128_digest(head))


def _encode_register(entry: Logged, body: RegisterRecord) -> bytes:
    head, accepted = entry.head, body.accepted
    promised = body.promised if body.promised != accepted else None
    flags = _PROMISED if promised is not None else 0
    after = b"" if promised is None else _encode_ballot(promised)
    if accepted is None and promised is None:
        after = _SEQUENCE.pack(body.before or entry.sequence)
    if head is not None and accepted is not None:
        flags |= _ACCEPTED | (_RETAINS if head.retained else 0)
        manifest = head.manifest
        summary = _SUMMARY.pack(
            xxh3_128_digest(body.head),
            head.version,
            head.kind,
            manifest.size if manifest else 0,
            manifest.hash if manifest else b"",
            head.created_ms,
        )
        after = (
            _encode_ballot(accepted) + summary + after + (manifest.content_type.encode() if manifest else b"")
        )
    return _REGISTER_ROW.pack(*entry.location, entry.sequence, flags, body.pool, body.partition) + after


def _encode_ballot(ballot: Ballot) -> bytes:
    return _BALLOT.pack(ballot.generation, ballot.counter, ballot.store, ballot.boot, ballot.attempt)


def _decode_ballot(value: bytes, at: int) -> Ballot:
    generation, counter, store, boot, attempt = _BALLOT.unpack_from(value, at)
    return Ballot(generation, counter, StoreId(store), boot, attempt)


@_checked
def decode_register_entry(value: bytes) -> RegisterEntry:
    volume, offset, length, sequence, flags, pool, partition = _REGISTER_ROW.unpack_from(value)
    accepted = _decode_ballot(value, _REGISTER_ROW.size) if flags & _ACCEPTED else None
    promised = accepted
    if flags & _PROMISED:
        promised = _decode_ballot(value, _SUMMARY_END if accepted is not None else _REGISTER_ROW.size)
    return RegisterEntry(
        location=Location(volume, offset, length),
        sequence=sequence,
        rotten=bool(flags & _ROTTEN),
        pool=pool,
        partition=partition,
        accepted=accepted,
        promised=promised,
        unknown=bool(flags & _UNKNOWN),
    )


@_checked
def is_shown(value: bytes) -> bool:
    """Whether something was accepted in the register of this row, or its record is broken; at little cost."""
    return bool(value[_FLAGS_AT] & (_ACCEPTED | _ROTTEN))


@_checked
def retains(value: bytes) -> bool:
    """Whether the register of this row keeps older versions and can be read; at little cost."""
    return value[_FLAGS_AT] & (_RETAINS | _ROTTEN) == _RETAINS


@_checked
def is_accepted(value: bytes) -> bool:
    """Whether something was accepted in the register of this row and can be read; at little cost."""
    return value[_FLAGS_AT] & (_ACCEPTED | _ROTTEN) == _ACCEPTED


@_checked
def is_deleted(value: bytes) -> bool:
    """Whether nothing is left in the register of this row but a tombstone, or a fence; at little cost."""
    if value[_FLAGS_AT] & (_ACCEPTED | _RETAINS | _ROTTEN) != _ACCEPTED:
        return False
    *_, kind, _, _, _ = _SUMMARY.unpack_from(value, _SUMMARY_AT)
    return bool(kind != HeadKind.BLOB)


@_checked
def blank_before(value: bytes) -> int | None:
    """Of a blank register: what it keeps from coming back has lower sequences. None: the register is not blank."""
    if value[_FLAGS_AT] & (_ACCEPTED | _PROMISED | _ROTTEN):
        return None
    (before,) = _SEQUENCE.unpack_from(value, _REGISTER_ROW.size)
    return int(before)


@_checked
def register_sequence(value: bytes) -> int:
    """Of the record behind a register row, at little cost."""
    (sequence,) = _SEQUENCE.unpack_from(value, _SEQUENCE_AT)
    return int(sequence)


@_checked
def scope_of(value: bytes) -> tuple[int, int] | None:
    """Pool and partition of a register row, at the least cost; None if it is rotten and they are not known."""
    pool, partition = _SCOPE.unpack_from(value, _SCOPE_AT)
    return None if pool == _ANY_SCOPE else (pool, partition)


@_checked
def decode_count(value: bytes | None) -> tuple[int, int]:
    """Blobs and bytes of a count row."""
    if value is None:
        return 0, 0
    blobs, size = _COUNT_ROW.unpack(value)
    return blobs, size


@_checked
def decode_register_row(key: bytes, value: bytes) -> RegisterRow:
    """The summary of an accepted register, of a broken one too: what it said is known from here."""
    *_, flags, pool, partition = _REGISTER_ROW.unpack_from(value)
    hashed, version, kind, size, digest, created_ms = _SUMMARY.unpack_from(value, _SUMMARY_AT)
    content_type = value[_SUMMARY_END + (_BALLOT.size if flags & _PROMISED else 0) :]
    return RegisterRow(
        key=key,
        pool=pool,
        partition=partition,
        ballot=_decode_ballot(value, _REGISTER_ROW.size),
        head_hash=Digest(hashed),
        version=version,
        kind=kind,
        size=size,
        hash=Digest(digest) if kind == HeadKind.BLOB else Digest(b""),
        created_ms=created_ms,
        content_type=content_type.decode(),
    )


@_checked
def leading_sequence(value: bytes) -> int:
    """Of the record behind a row of any other kind but a shard's."""
    (sequence,) = _SEQUENCE.unpack_from(value)
    return int(sequence)


@_checked
def decode_manifest_row(value: bytes) -> tuple[Location, RecordType, int]:
    """Where the record is, its type and its sequence."""
    sequence, volume, offset, length, kind = _MANIFEST_ROW.unpack(value)
    return Location(volume, offset, length), RecordType(kind), sequence


def encode_shard(entry: ShardEntry) -> bytes:
    return _SHARD_ROW.pack(
        entry.sealed,
        entry.staged,
        entry.dropped,
        *entry.seal,
        *entry.stage,
        entry.cells,
        entry.drop_record,
    )


@_checked
def decode_shard(value: bytes | None) -> ShardEntry:
    if value is None:
        return ShardEntry()
    sealed, staged, dropped, *rest = _SHARD_ROW.unpack(value)
    return ShardEntry(sealed, staged, dropped, Location(*rest[0:3]), Location(*rest[3:6]), *rest[6:])


@_checked
def decode_cell(value: bytes) -> CellLocation:
    _, volume, offset, length, checksum = _CELL_ROW.unpack(value)
    return CellLocation(volume, offset, length, Digest(checksum))


@_checked
def decode_small(value: bytes) -> tuple[int, int, bytes]:
    """Sequence, flags and encoded body."""
    sequence, flags = _SMALL_ROW.unpack_from(value)
    return sequence, flags, value[_SMALL_ROW.size :]


# --- records to rows --------------------------------------------------------------------------------------


def apply(rows: Rows, entry: Logged, *, newest: bool, rotten: bool = False) -> None:
    """Add the rows of one record.

    `newest`: no record with a higher sequence was applied before, so nothing needs to be looked up. `rotten`: the
    register's last record was known to be rotten.
    """
    body = entry.body
    match body:
        case CellRecord():
            _apply_cell(rows, entry, body, newest)
        case RegisterRecord():
            _apply_register(rows, entry, body, newest)
            if rotten:
                rows.delete(ROTTEN_ROWS + entry.key)
        case SealRecord() | StageRecord() | DropRecord():
            _apply_shard(rows, entry, body)
        case LinkRecord():
            rows.put(LINK_ROWS + entry.key, _SEQUENCE.pack(entry.sequence))
        case ManifestRecord():
            blob_id = entry.key[ID_BYTES : 2 * ID_BYTES]
            _put_manifest(rows, entry, manifest_row_key(body.bucket, body.key, blob_id), newest)
        case _:
            _apply_small(rows, entry, TYPE_OF[type(body)], newest)


def apply_rot(rows: Rows, key: bytes, sequence: int) -> bool:
    """Mark a register whose record with this sequence is broken; False if a younger record replaced it.

    A row made from that very record still says what it promised and accepted. Without one nothing is known of it.
    """
    row = rows.get(REGISTER_ROWS + key)
    known = decode_register_entry(row) if row is not None else None
    if known is not None and known.sequence > sequence:
        return False
    if row is not None and known is not None and known.sequence == sequence:
        value = row[:_FLAGS_AT] + bytes((row[_FLAGS_AT] | _ROTTEN,)) + row[_FLAGS_AT + 1 :]
    else:
        scope = (known.pool, known.partition) if known is not None else (_ANY_SCOPE, _ANY_SCOPE)
        value = _REGISTER_ROW.pack(0, 0, 0, sequence, _ROTTEN | _UNKNOWN, *scope)
    _put_register(rows, key, row, value)
    rows.put(ROTTEN_ROWS + key, _SEQUENCE.pack(sequence))
    return True


def _older(rows: Rows, key: bytes, sequence: int, newest: bool) -> bool:
    """Whether a younger record already made this row. The sequence comes first in every value but `k`."""
    if newest or (row := rows.get(key)) is None:
        return False
    return leading_sequence(row) > sequence


def _apply_cell(rows: Rows, entry: Logged, body: CellRecord, newest: bool) -> None:
    key = CELL_ROWS + entry.key
    if not newest:
        shard = decode_shard(rows.get(SHARD_ROWS + entry.key[:SHARD_KEY_BYTES]))
        if shard.dropped > entry.sequence or _older(rows, key, entry.sequence, newest):
            return
    rows.put(
        key,
        _CELL_ROW.pack(
            entry.sequence, entry.location.volume, entry.payload_offset, entry.payload_length, body.checksum
        ),
    )


def _apply_register(rows: Rows, entry: Logged, body: RegisterRecord, newest: bool) -> None:
    head = entry.head
    if head is not None and head.manifest is not None:
        manifest_key = manifest_row_key(body.bucket, body.key, head.manifest.blob_id)
        _put_manifest(rows, entry, manifest_key, newest)
    key = REGISTER_ROWS + entry.key
    row = rows.get(key)
    if not newest and row is not None and decode_register_entry(row).sequence > entry.sequence:
        return
    _put_register(rows, entry.key, row, _encode_register(entry, body))


def _put_register(rows: Rows, key: bytes, before: bytes | None, value: bytes) -> None:
    """The row, and what goes with it: the count of its partition, and its place at the end of the feed."""
    _count(rows, key, before, value)
    if before is not None and (left := _feed_row_key(before)) is not None:
        rows.delete(left)
    if (entered := _feed_row_key(value)) is not None:
        rows.put(entered, key)
    rows.put(REGISTER_ROWS + key, value)


def _feed_row_key(value: bytes) -> bytes | None:
    """Where the register of this row is in the feed; nowhere if nothing is known to be accepted in it."""
    scope = scope_of(value)
    if scope is None or not value[_FLAGS_AT] & _ACCEPTED:
        return None
    return feed_row_key(*scope, register_sequence(value))


def _count(rows: Rows, key: bytes, before: bytes | None, after: bytes) -> None:
    """Keep the counts of current blobs, in its bucket and in all, in step with a register row that changes."""
    was, is_ = _current_bytes(before), _current_bytes(after)
    scope = scope_of(after) or (scope_of(before) if before is not None else None)
    if was == is_ or scope is None or key.startswith(RESERVED_BUCKET):
        return
    for bucket in (ALL_BUCKETS, key[:ID_BYTES]):
        row_key = count_row_key(*scope, bucket)
        blobs, size = decode_count(rows.get(row_key))
        blobs += (is_ is not None) - (was is not None)
        size += (is_ or 0) - (was or 0)
        if blobs:
            rows.put(row_key, _COUNT_ROW.pack(blobs, size))
        else:
            rows.delete(row_key)


def _current_bytes(value: bytes | None) -> int | None:
    """The size of the current blob in a register row; None if there is none."""
    if value is None or not value[_FLAGS_AT] & _ACCEPTED:
        return None
    _, _, kind, size, _, _ = _SUMMARY.unpack_from(value, _SUMMARY_AT)
    return int(size) if kind == HeadKind.BLOB else None


def _put_manifest(rows: Rows, entry: Logged, key: bytes, newest: bool) -> None:
    if not _older(rows, key, entry.sequence, newest):
        kind = TYPE_OF[type(entry.body)]
        rows.put(key, _MANIFEST_ROW.pack(entry.sequence, *entry.location, kind))


def _apply_shard(rows: Rows, entry: Logged, body: SealRecord | StageRecord | DropRecord) -> None:
    key = SHARD_ROWS + entry.key
    known, at = decode_shard(rows.get(key)), entry.sequence
    match body:
        case SealRecord():
            if at > known.sealed:
                cells = len(body.header.cell_checksums)
                rows.put(key, encode_shard(replace(known, sealed=at, seal=entry.location, cells=cells)))
        case StageRecord():
            if at > known.staged:
                rows.put(key, encode_shard(replace(known, staged=at, stage=entry.location)))
        case DropRecord():
            before = body.before or at
            if (before, at) > (known.dropped, known.drop_record):
                rows.put(key, encode_shard(replace(known, dropped=before, drop_record=at)))
            if before > known.dropped:
                for cell_key, value in rows.under(CELL_ROWS + entry.key):
                    if _SEQUENCE.unpack_from(value)[0] < before:
                        rows.delete(cell_key)


def _apply_small(rows: Rows, entry: Logged, kind: RecordType, newest: bool) -> None:
    key = SMALL_ROWS[kind] + entry.key
    if not _older(rows, key, entry.sequence, newest):
        rows.put(key, _SMALL_ROW.pack(entry.sequence, entry.flags) + entry.encoded)
