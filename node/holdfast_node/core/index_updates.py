"""From log records to index rows: which of two records about one thing wins, and what goes with it.

Pure. Rows go into a `Rows` overlay that the caller writes as one batch. Applying the same records in any order gives
the same rows: every value carries the sequence that made it, and the highest sequence per record key wins.
"""

from __future__ import annotations

from dataclasses import replace

from holdfast_node.core import index_rows
from holdfast_node.core.ids import ID_BYTES, RESERVED_BUCKET
from holdfast_node.core.index_keys import (
    ALL_BUCKETS,
    BLANK_ROWS,
    CELL_ROWS,
    LINK_ROWS,
    REGISTER_ROWS,
    ROTTEN_ROWS,
    SHARD_KEY_BYTES,
    SHARD_ROWS,
    SMALL_ROWS,
    TYPE_OF,
    count_row_key,
    feed_row_key,
    manifest_row_key,
)
from holdfast_node.core.index_overlay import Rows
from holdfast_node.core.index_rows import Logged
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
            rows.put(LINK_ROWS + entry.key, index_rows.encode_sequence(entry.sequence))
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
    made_by = _register_sequence(rows, key, row)
    if made_by > sequence:
        return False
    if row is not None and made_by == sequence:
        value = index_rows.encode_rotten(row)
    else:
        scope = index_rows.scope_of(row) if row is not None else None
        value = index_rows.encode_unknown(sequence, scope or index_rows.ANY_SCOPE)
    _put_register(rows, key, row, value)
    rows.put(ROTTEN_ROWS + key, index_rows.encode_sequence(sequence))
    return True


def _older(rows: Rows, key: bytes, sequence: int, newest: bool) -> bool:
    """Whether a younger record already made this row, which is no register's."""
    if newest or (row := rows.get(key)) is None:
        return False
    return index_rows.leading_sequence(row) > sequence


def _apply_cell(rows: Rows, entry: Logged, body: CellRecord, newest: bool) -> None:
    key = CELL_ROWS + entry.key
    if not newest:
        shard = index_rows.decode_shard(rows.get(SHARD_ROWS + entry.key[:SHARD_KEY_BYTES]))
        if shard.dropped > entry.sequence or _older(rows, key, entry.sequence, newest):
            return
    rows.put(key, index_rows.encode_cell(entry, body))


def _apply_register(rows: Rows, entry: Logged, body: RegisterRecord, newest: bool) -> None:
    head = entry.head
    if head is not None and head.manifest is not None:
        manifest_key = manifest_row_key(body.bucket, body.key, head.manifest.blob_id)
        _put_manifest(rows, entry, manifest_key, newest)
    row = rows.get(REGISTER_ROWS + entry.key)
    if not newest and _register_sequence(rows, entry.key, row) > entry.sequence:
        return
    if body.is_blank:
        _put_register(rows, entry.key, row, None)
        rows.put(BLANK_ROWS + entry.key, index_rows.encode_blank(entry, body))
    else:
        _put_register(rows, entry.key, row, index_rows.encode_register(entry, body))


def _register_sequence(rows: Rows, key: bytes, row: bytes | None) -> int:
    """Of the record that said last what is in the register of this key, or that nothing is; 0: none did. `row` is the
    register's: a key has that one, or that of a blank register, or none."""
    if row is not None:
        return index_rows.register_sequence(row)
    blank = rows.get(BLANK_ROWS + key)
    return index_rows.leading_sequence(blank) if blank is not None else 0


def _put_register(rows: Rows, key: bytes, before: bytes | None, value: bytes | None) -> None:
    """The row (None: the register is blank), and what goes with it: the count of its partition, and its place at the
    end of the feed."""
    _count(rows, key, before, value)
    if before is not None and (left := _feed_row_key(before)) is not None:
        rows.delete(left)
    if value is None:
        rows.delete(REGISTER_ROWS + key)
        return
    if (entered := _feed_row_key(value)) is not None:
        rows.put(entered, key)
    rows.put(REGISTER_ROWS + key, value)
    if before is None and rows.get(BLANK_ROWS + key) is not None:
        rows.delete(BLANK_ROWS + key)


def _feed_row_key(value: bytes) -> bytes | None:
    """Where the register of this row is in the feed; nowhere if nothing is known to be accepted in it."""
    scope = index_rows.scope_of(value)
    if scope is None or not index_rows.is_known(value):
        return None
    return feed_row_key(*scope, index_rows.register_sequence(value))


def _count(rows: Rows, key: bytes, before: bytes | None, after: bytes | None) -> None:
    """Keep the counts of current blobs, in its bucket and in all, in step with a register row that changes."""
    was, is_ = (index_rows.current_bytes(row) if row is not None else None for row in (before, after))
    scopes = (index_rows.scope_of(row) for row in (after, before) if row is not None)
    scope = next((each for each in scopes if each is not None), None)
    if was == is_ or scope is None or key.startswith(RESERVED_BUCKET):
        return
    for bucket in (ALL_BUCKETS, key[:ID_BYTES]):
        row_key = count_row_key(*scope, bucket)
        blobs, size = index_rows.decode_count(rows.get(row_key))
        blobs += (is_ is not None) - (was is not None)
        size += (is_ or 0) - (was or 0)
        if blobs:
            rows.put(row_key, index_rows.encode_count(blobs, size))
        else:
            rows.delete(row_key)


def _put_manifest(rows: Rows, entry: Logged, key: bytes, newest: bool) -> None:
    if not _older(rows, key, entry.sequence, newest):
        rows.put(key, index_rows.encode_manifest(entry))


def _apply_shard(rows: Rows, entry: Logged, body: SealRecord | StageRecord | DropRecord) -> None:
    key = SHARD_ROWS + entry.key
    known, at = index_rows.decode_shard(rows.get(key)), entry.sequence
    match body:
        case SealRecord():
            if at > known.sealed:
                cells = len(body.header.cell_checksums)
                sealed = replace(known, sealed=at, seal=entry.location, cells=cells)
                rows.put(key, index_rows.encode_shard(sealed))
        case StageRecord():
            if at > known.staged:
                rows.put(key, index_rows.encode_shard(replace(known, staged=at, stage=entry.location)))
        case DropRecord():
            before = body.before or at
            if (before, at) > (known.dropped, known.drop_record):
                rows.put(key, index_rows.encode_shard(replace(known, dropped=before, drop_record=at)))
            if before > known.dropped:
                for cell_key, value in rows.under(CELL_ROWS + entry.key):
                    if index_rows.leading_sequence(value) < before:
                        rows.delete(cell_key)


def _apply_small(rows: Rows, entry: Logged, kind: RecordType, newest: bool) -> None:
    key = SMALL_ROWS[kind] + entry.key
    if not _older(rows, key, entry.sequence, newest):
        rows.put(key, index_rows.encode_small(entry))
