"""Keeps the index in step with the log: rows of new batches as they become durable, rows of old ones at replay.

The index can be thrown away at any time; nothing here decides what is true.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from holdfast_node.core import index_keys, index_rows, index_updates
from holdfast_node.core.errors import IntegrityError, StoreRefused
from holdfast_node.core.head import Head
from holdfast_node.core.ids import StoreId
from holdfast_node.core.index_keys import (
    CLASS_OF,
    FORMAT_ROW,
    INDEX_FORMAT,
    POSITION_ROW,
    REGISTER_ROWS,
    ROTTEN_ROWS,
    SMALL_ROWS,
    STORE_ROW,
    RecordBody,
    SmallBody,
)
from holdfast_node.core.index_overlay import Rows
from holdfast_node.core.index_rows import Location, Logged
from holdfast_node.core.log_format import Position, Record, decode_position, encode_position
from holdfast_node.core.records import MapRecord, RecordType, RegisterRecord
from holdfast_node.ports import Bodies, Index, IndexBroken
from holdfast_node.services.log.tables import Tables

REPLAY_ROWS_MAX: Final = 4096
"""Rows gathered at replay before they are written: a few hundred KiB."""


class Indexer:
    """Applies records to rows and tables, newest sequence wins."""

    def __init__(self, index: Index, bodies: Bodies, store: StoreId) -> None:
        self._index = index
        self._bodies = bodies
        self._store = store
        self._highest = 0
        self._replayed: Position | None = None
        self._applying: Position | None = None
        self._behind_rot = False
        self._rows = Rows(index.get, index.scan)
        self.tables = Tables()
        self.rotten: set[bytes] = set()
        """Keys (bucket + key) of registers whose newest record is broken."""
        self.forgotten: set[bytes] = set()
        """Those of them of which not even the ballots are known."""

    def load(self) -> Position | None:
        """What the index knows; None if it is empty or another store's. Raises `IndexBroken`."""
        if self._index.get(FORMAT_ROW) != INDEX_FORMAT or self._index.get(STORE_ROW) != self._store:
            return None
        position = decode_position(self._index.get(POSITION_ROW) or b"")
        if position is None:
            return None
        self._highest = position.sequence - 1
        try:
            for kind, prefix in SMALL_ROWS.items():
                for key, value in self._index.scan(prefix, index_keys.prefix_end(prefix)):
                    sequence, flags, encoded = index_rows.decode_small(value)
                    body = self._bodies.decode(CLASS_OF[kind], encoded)
                    self._keep(key[1:], body, sequence=sequence, flags=flags)
            end = index_keys.prefix_end(ROTTEN_ROWS)
            self.rotten, self.forgotten = set(), set()
            for key, _ in self._index.scan(ROTTEN_ROWS, end):
                self._note_rotten(key[1:])
        except IntegrityError as error:
            raise IndexBroken(str(error)) from error
        return position

    def clear(self) -> None:
        """Start over; the whole log has to be replayed."""
        self._index.clear()
        self._index.write([(FORMAT_ROW, INDEX_FORMAT), (STORE_ROW, self._store)])
        self._rows = Rows(self._index.get, self._index.scan)
        self._highest = 0
        self._replayed = None
        self._behind_rot = False
        self.tables = Tables()
        self.rotten, self.forgotten = set(), set()

    def apply(self, logged: Iterable[Logged], position: Position) -> None:
        """One durable batch. Raises `IndexFull`: it is to be called again then, with the same batch."""
        if position != self._applying:
            self._add(logged)
            self._rows.put(POSITION_ROW, encode_position(position))
            self._applying = position
        self.write()

    def replay(self, records: Sequence[Record], volume: int, position: Position | None) -> None:
        """One batch read back; no position behind rot. Rows are written now and then, but never those of the last
        batch: it may be lost again, until the caller has made it durable and calls `finish`."""
        if len(self._rows.puts) > REPLAY_ROWS_MAX and self._replayed is not None:
            self._write(None if self._behind_rot else self._replayed)
        self._add([self._logged(record, volume) for record in records])
        if position is None:
            self._behind_rot = True
        else:
            self._replayed = position

    def finish(self, position: Position) -> None:
        """Everything replayed is durable, and nothing has to be written down because of rot. If something has, the
        batch with it finishes the replay: an index that was past the rot before would let a crash forget it."""
        self._write(position)

    def mark_rotten(self, key: bytes, sequence: int) -> bool:
        """The register's record with this sequence is broken; False if there is a younger one."""
        if not index_updates.apply_rot(self._rows, key, sequence):
            return False
        self._note_rotten(key)
        return True

    def _note_rotten(self, key: bytes) -> None:
        row = self._rows.get(REGISTER_ROWS + key)
        self.rotten.add(key)
        if row is None or index_rows.decode_register_entry(row).unknown:
            self.forgotten.add(key)

    def write(self) -> None:
        """Write what was added. Raises `IndexFull`: then it is still to be written."""
        rows = self._rows
        self._index.write(list(rows.puts.items()), list(rows.deletes))
        self._rows = Rows(self._index.get, self._index.scan)

    def head_of(self, body: RecordBody) -> Head | None:
        """The decoded head of an accepted register. Raises `IntegrityError`."""
        if isinstance(body, RegisterRecord) and body.accepted is not None:
            return self._bodies.decode(Head, body.head)
        return None

    def _logged(self, record: Record, volume: int) -> Logged:
        cls = CLASS_OF.get(record.kind)
        if cls is None:
            raise StoreRefused(
                f"the log has records of type {record.kind}, which this program does not know",
                hint="start the version that wrote them, or a later one",
            )
        try:
            body = self._bodies.decode(cls, record.body)
            head = self.head_of(body)
        except IntegrityError as error:
            raise StoreRefused(
                f"record {record.sequence} of the log is whole but makes no sense: {error}"
            ) from error
        extent = record.extent
        return Logged(
            record.sequence,
            record.flags,
            record.key,
            body,
            record.body,
            Location(volume, extent.offset, extent.length),
            extent.payload_offset,
            extent.payload_length,
            head,
        )

    def _add(self, logged: Iterable[Logged]) -> None:
        rows = self._rows
        for entry in logged:
            newest = entry.sequence > self._highest
            if newest:
                self._highest = entry.sequence
            rotten = newest and entry.key in self.rotten and isinstance(entry.body, RegisterRecord)
            index_updates.apply(rows, entry, newest=newest, rotten=rotten)
            if rotten:
                self.rotten.discard(entry.key)
                self.forgotten.discard(entry.key)
            self._keep(entry.key, entry.body, sequence=entry.sequence, flags=entry.flags)
            if isinstance(entry.body, MapRecord):
                for key in self.tables.forget_votes(entry.body.epoch):
                    rows.delete(SMALL_ROWS[RecordType.MAP_VOTE] + key)

    def _keep(self, key: bytes, body: RecordBody, *, sequence: int, flags: int) -> None:
        if isinstance(body, SmallBody):
            self.tables.put(key, body, sequence=sequence, flags=flags)

    def _write(self, position: Position | None) -> None:
        """Without a position the index is no state of the log, and a start from it begins anew."""
        if position is None:
            self._rows.delete(POSITION_ROW)
        else:
            self._rows.put(POSITION_ROW, encode_position(position))
        self.write()
