"""What rows of the index hold, and how that is written.

Pure. Knows the meaning of records but neither the log's bytes nor the database. Which rows a record makes is for
`core.index_updates` to say.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Final, NamedTuple, ParamSpec, TypeVar

from xxhash import xxh3_128_digest

from holdfast_node.core.errors import IntegrityError
from holdfast_node.core.head import Ballot, Head, HeadKind
from holdfast_node.core.ids import Digest, StoreId
from holdfast_node.core.index_keys import TYPE_OF, RecordBody
from holdfast_node.core.messages import RegisterRow
from holdfast_node.core.records import CellRecord, RecordType, RegisterRecord

P = ParamSpec("P")
R = TypeVar("R")

# volume, offset, length, sequence, flags, pool, partition
_REGISTER_ROW: Final = struct.Struct(">QQIQBII")
# generation, counter, store, boot, attempt
_BALLOT: Final = struct.Struct(">QQ16sQQ")
# head hash, version, kind, size, hash, created_ms
_SUMMARY: Final = struct.Struct(">16sQBQ16sq")
# sequence, before, volume, offset, length, pool, partition
_BLANK_ROW: Final = struct.Struct(">QQQQIII")
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
# if it is another; the content type.
_ROTTEN: Final = 1
_ACCEPTED: Final = 2
_PROMISED: Final = 4
_UNKNOWN: Final = 8
_RETAINS: Final = 16
_ANY: Final = 0xFFFFFFFF
ANY_SCOPE: Final = (_ANY, _ANY)
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
class BlankEntry:
    """What a `q` row says: all that is about the key and has a lower sequence than `before` is forgotten."""

    location: Location
    sequence: int
    before: int
    pool: int
    partition: int


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


def encode_register(entry: Logged, body: RegisterRecord) -> bytes:
    head, accepted = entry.head, body.accepted
    promised = body.promised if body.promised != accepted else None
    flags = _PROMISED if promised is not None else 0
    after = b"" if promised is None else _encode_ballot(promised)
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


def encode_rotten(row: bytes) -> bytes:
    """The same row of a register, whose record is known to be broken."""
    return row[:_FLAGS_AT] + bytes((row[_FLAGS_AT] | _ROTTEN,)) + row[_FLAGS_AT + 1 :]


def encode_unknown(sequence: int, scope: tuple[int, int]) -> bytes:
    """The row of a register of which nothing is known but that the record with this sequence is broken."""
    return _REGISTER_ROW.pack(0, 0, 0, sequence, _ROTTEN | _UNKNOWN, *scope)


def encode_blank(entry: Logged, body: RegisterRecord) -> bytes:
    before = body.before or entry.sequence
    return _BLANK_ROW.pack(entry.sequence, before, *entry.location, body.pool, body.partition)


def encode_cell(entry: Logged, body: CellRecord) -> bytes:
    at = entry.location.volume, entry.payload_offset, entry.payload_length
    return _CELL_ROW.pack(entry.sequence, *at, body.checksum)


def encode_manifest(entry: Logged) -> bytes:
    return _MANIFEST_ROW.pack(entry.sequence, *entry.location, TYPE_OF[type(entry.body)])


def encode_small(entry: Logged) -> bytes:
    return _SMALL_ROW.pack(entry.sequence, entry.flags) + entry.encoded


def encode_sequence(sequence: int) -> bytes:
    """Of a row that says no more."""
    return _SEQUENCE.pack(sequence)


def encode_count(blobs: int, size: int) -> bytes:
    return _COUNT_ROW.pack(blobs, size)


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
def is_spent(value: bytes) -> bool:
    """Whether nothing is left in the register of this row but a tombstone, a fence or a promise; at little cost."""
    if value[_FLAGS_AT] & (_RETAINS | _ROTTEN):
        return False
    if not value[_FLAGS_AT] & _ACCEPTED:
        return True
    *_, kind, _, _, _ = _SUMMARY.unpack_from(value, _SUMMARY_AT)
    return bool(kind != HeadKind.BLOB)


@_checked
def only_promised(value: bytes) -> Ballot | None:
    """What is promised in the register of this row, if nothing is accepted there; at little cost."""
    if value[_FLAGS_AT] & (_ACCEPTED | _PROMISED | _ROTTEN) != _PROMISED:
        return None
    return _decode_ballot(value, _REGISTER_ROW.size)


@_checked
def decode_blank(value: bytes) -> BlankEntry:
    sequence, before, volume, offset, length, pool, partition = _BLANK_ROW.unpack(value)
    return BlankEntry(Location(volume, offset, length), sequence, before, pool, partition)


@_checked
def current_bytes(value: bytes) -> int | None:
    """The size of the current blob in a register row; None if there is none."""
    if not value[_FLAGS_AT] & _ACCEPTED:
        return None
    _, _, kind, size, _, _ = _SUMMARY.unpack_from(value, _SUMMARY_AT)
    return int(size) if kind == HeadKind.BLOB else None


@_checked
def is_known(value: bytes) -> bool:
    """Whether something is known to be accepted in the register of this row, though its record may be broken."""
    return bool(value[_FLAGS_AT] & _ACCEPTED)


@_checked
def register_sequence(value: bytes) -> int:
    """Of the record behind a register row, at little cost."""
    (sequence,) = _SEQUENCE.unpack_from(value, _SEQUENCE_AT)
    return int(sequence)


@_checked
def scope_of(value: bytes) -> tuple[int, int] | None:
    """Pool and partition of a register row, at the least cost; None if it is rotten and they are not known."""
    pool, partition = _SCOPE.unpack_from(value, _SCOPE_AT)
    return None if pool == _ANY else (pool, partition)


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
    """Of the record behind a row of any other kind but a shard's: it comes first."""
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
