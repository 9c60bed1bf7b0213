"""What of the index rests on which record of the log: what it means that a record is found broken.

Pure. A record that no row rests on is garbage: it was superseded, and its rot hurts nobody. One that a row rests on has
to be written again, or brought back from other stores; which of the two depends on the row.
"""

from __future__ import annotations

from typing import Final

from holdfast_node.core import index_rows
from holdfast_node.core.index_keys import (
    BLANK_ROWS,
    CELL_ROWS,
    LINK_ROWS,
    MANIFEST_ROWS,
    REGISTER_ROWS,
    SHARD_ROWS,
    SMALL_ROWS,
)

RESTING_ROWS: Final = (
    REGISTER_ROWS,
    BLANK_ROWS,
    MANIFEST_ROWS,
    SHARD_ROWS,
    CELL_ROWS,
    LINK_ROWS,
    *SMALL_ROWS.values(),
)
"""Which rows are made from a record each, by their first letter."""
_SMALL_LETTERS: Final = frozenset(SMALL_ROWS.values())


def rests_on(row_key: bytes, value: bytes) -> int:
    """The sequence of the record without which the row would not be there; 0 if its loss would change nothing.

    Raises `IntegrityError` for a value that is none.
    """
    letter = row_key[:1]
    if letter == REGISTER_ROWS:
        return index_rows.register_sequence(value)
    if letter == SHARD_ROWS:
        return _shard_rests_on(index_rows.decode_shard(value))
    if letter in (BLANK_ROWS, CELL_ROWS, LINK_ROWS, MANIFEST_ROWS) or is_small(row_key):
        return index_rows.leading_sequence(value)
    return 0


def place_of(row_key: bytes, value: bytes) -> tuple[int, int] | None:
    """Where the row says that its record is, or a cell's bytes: volume and offset; None if it does not say.

    Raises `IntegrityError` for a value that is none.
    """
    letter = row_key[:1]
    where: index_rows.Location | index_rows.CellLocation | None = None
    if letter == REGISTER_ROWS:
        where = index_rows.decode_register_entry(value).location
    elif letter == BLANK_ROWS:
        where = index_rows.decode_blank(value).location
    elif letter == MANIFEST_ROWS:
        where, *_ = index_rows.decode_manifest_row(value)
    elif letter == CELL_ROWS:
        where = index_rows.decode_cell(value)
    elif letter == SHARD_ROWS and (entry := index_rows.decode_shard(value)).is_sealed:
        where = entry.seal
    return (where.volume, where.offset) if where is not None else None


def is_small(row_key: bytes) -> bool:
    """Whether the row holds the record's body itself, which is in memory too."""
    return row_key[:1] in _SMALL_LETTERS


def _shard_rests_on(entry: index_rows.ShardEntry) -> int:
    """A shard on its way in is not looked for: its seal fails, or whoever sent it gives up."""
    if entry.is_sealed:
        return entry.sealed
    return 0 if entry.is_staged else entry.drop_record
