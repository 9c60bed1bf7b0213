"""Which records of the log are still needed: what each row of the index rests on, and which row a record is for.

Pure. What no row rests on is garbage, and its volume may go. Sizes are those of records, to some bytes: they decide
what is worth compacting, not what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from holdfast_node.core import index_rows
from holdfast_node.core.ids import ID_BYTES
from holdfast_node.core.index_keys import (
    BLANK_ROWS,
    CELL_ROWS,
    LINK_ROWS,
    MANIFEST_ROWS,
    REGISTER_ROWS,
    SHARD_ROWS,
    SMALL_ROWS,
    manifest_of,
    manifest_row_key,
    register_row_key,
)
from holdfast_node.core.index_rows import BlankEntry, ShardEntry
from holdfast_node.core.log_format import RECORD_HEADER_BYTES
from holdfast_node.core.records import RecordType

_CELL_BYTES: Final = RECORD_HEADER_BYTES + 80
_SMALL_BYTES: Final = RECORD_HEADER_BYTES + 64
_ROW_OF: Final = {
    RecordType.REGISTER: REGISTER_ROWS,
    RecordType.CELL: CELL_ROWS,
    RecordType.SEAL: SHARD_ROWS,
    RecordType.STAGE: SHARD_ROWS,
    RecordType.DROP: SHARD_ROWS,
    RecordType.LINK: LINK_ROWS,
    **SMALL_ROWS,
}


class Reference(NamedTuple):
    """A row rests on the record with this sequence, which takes about so many bytes. `is_drop`: only so that what was
    dropped, or forgotten, does not come back."""

    sequence: int
    bytes: int
    is_drop: bool = False


class Oldest(NamedTuple):
    """The sequences of the oldest volume: from `first` up to, without, `end`."""

    first: int
    end: int

    def needs_drop(self, entry: ShardEntry) -> bool:
        """Whether a record that the drop is about may still be in another volume than the drop's."""
        return self._needs(entry.dropped, entry.drop_record)

    def needs_blank(self, entry: BlankEntry) -> bool:
        """The same for the record of a register that is blank."""
        return self._needs(entry.before, entry.sequence)

    def _needs(self, before: int, record: int) -> bool:
        return before > self.first and record >= self.end

    def may_forget(self, row_key: bytes, value: bytes) -> bool:
        """Whether the row of what is gone may go too, because its record is not needed. That of a blank register stays
        as long as what it keeps from coming back: in the last volume that has both, its own record may still rot, and
        is known to be missed then. Raises `IntegrityError`."""
        letter = row_key[:1]
        if letter == BLANK_ROWS:
            return index_rows.decode_blank(value).before <= self.first
        return letter == SHARD_ROWS


def row_key_of(kind: RecordType, key: bytes) -> bytes:
    """The row that a record of this type and key is for."""
    if kind is RecordType.MANIFEST:
        return manifest_row_key(key[:ID_BYTES], key[2 * ID_BYTES :], key[ID_BYTES : 2 * ID_BYTES])
    return _ROW_OF[kind] + key


def rests_on(kind: RecordType, row_key: bytes, value: bytes) -> int:
    """The sequence of the record of this type on which the row rests; 0 if it needs none. Raises `IntegrityError`."""
    if row_key.startswith(REGISTER_ROWS):
        return index_rows.register_sequence(value)
    if kind in (RecordType.SEAL, RecordType.STAGE, RecordType.DROP):
        entry = index_rows.decode_shard(value)
        if kind is RecordType.DROP:
            return entry.drop_record
        if kind is RecordType.SEAL:
            return entry.sealed if entry.is_sealed else 0
        return entry.staged if entry.is_staged else 0
    return index_rows.leading_sequence(value)


def references(
    row_key: bytes, value: bytes, oldest: Oldest, get: Callable[[bytes], bytes | None]
) -> tuple[Reference, ...]:
    """Every record that this row needs. Raises `IntegrityError` for a value that is none."""
    return tuple(_references(row_key, value, oldest, get))


def _references(
    row_key: bytes, value: bytes, oldest: Oldest, get: Callable[[bytes], bytes | None]
) -> Iterator[Reference]:
    letter = row_key[:1]
    if letter == REGISTER_ROWS:
        entry = index_rows.decode_register_entry(value)
        yield Reference(entry.sequence, entry.location.length)
    elif letter == BLANK_ROWS:
        blank = index_rows.decode_blank(value)
        if oldest.needs_blank(blank):
            yield Reference(blank.sequence, blank.location.length, is_drop=True)
    elif letter == MANIFEST_ROWS:
        location, kind, sequence = index_rows.decode_manifest_row(value)
        counted = kind is RecordType.REGISTER and _is_the_registers(row_key, sequence, get)
        yield Reference(sequence, 0 if counted else location.length)
    elif letter == SHARD_ROWS:
        yield from _of_shard(index_rows.decode_shard(value), oldest)
    elif letter == CELL_ROWS:
        at = index_rows.decode_cell(value)
        yield Reference(index_rows.leading_sequence(value), at.length + _CELL_BYTES)
    else:
        yield Reference(index_rows.leading_sequence(value), len(value) + _SMALL_BYTES)


def _is_the_registers(row_key: bytes, sequence: int, get: Callable[[bytes], bytes | None]) -> bool:
    """Whether the register's own row rests on the same record."""
    bucket, key, _ = manifest_of(row_key)
    row = get(register_row_key(bucket, key))
    return row is not None and index_rows.register_sequence(row) == sequence


def _of_shard(entry: ShardEntry, oldest: Oldest) -> Iterator[Reference]:
    if entry.is_sealed:
        yield Reference(entry.sealed, entry.seal.length)
    if entry.is_staged:
        yield Reference(entry.staged, entry.stage.length)
    if entry.drop_record and oldest.needs_drop(entry):
        yield Reference(entry.drop_record, _SMALL_BYTES, is_drop=True)
