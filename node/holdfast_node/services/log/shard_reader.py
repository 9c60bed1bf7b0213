"""Shards as this store has them: states, headers, verified cells.

Knows where their bytes are and what they must hash to, not what they encode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from holdfast_node.core import index_keys, index_rows
from holdfast_node.core.checksums import cell_checksum
from holdfast_node.core.errors import IntegrityError, ShardMissing
from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import BlobId, BucketId, Digest
from holdfast_node.core.index_rows import CellLocation, Location, ShardEntry
from holdfast_node.core.messages import ShardHeader, ShardName
from holdfast_node.core.records import SealRecord, StageRecord
from holdfast_node.services.log.reader import LogReader

READ_BYTES_MAX: Final = 4 * 1024 * 1024
"""Neighbouring cells are read together up to this many bytes."""
READ_GAP_BYTES_MAX: Final = 4096
"""What may lie between two cells read together: a record header, a body, and the edge of a batch."""


@dataclass(frozen=True, slots=True)
class ShardState:
    """What is known of one shard here: complete, or begun (its stage record comes with its first cell)."""

    sealed: bool
    location: Location


@dataclass(frozen=True, slots=True)
class Origin:
    """For whose write a shard was brought here, under which base, and since when it is here in store time."""

    bucket: BucketId
    key: bytes
    base: Ballot
    since_s: int


class ShardReader:
    """Every cell it returns was hashed on the way."""

    def __init__(self, log: LogReader) -> None:
        self._log = log

    def shard(self, name: ShardName) -> ShardState | None:
        """None if nothing of it is here, or it was dropped."""
        self._log.check()
        entry = index_rows.decode_shard(self._log.get(index_keys.shard_row_key(name)))
        if entry.is_sealed:
            return ShardState(sealed=True, location=entry.seal)
        return ShardState(sealed=False, location=entry.stage) if entry.is_staged else None

    async def shard_header(self, name: ShardName, *, fresh: bool = False) -> ShardHeader | None:
        """Of a sealed shard. Raises `IntegrityError` if its seal is broken."""
        self._log.check()
        entry = index_rows.decode_shard(self._log.get(index_keys.shard_row_key(name)))
        return (await self._seal(name, entry, fresh=fresh)).header if entry.is_sealed else None

    async def origin(self, name: ShardName) -> Origin | None:
        """Of a shard, complete or not; None if nothing of it is here. Raises `IntegrityError` if the record that says
        so is broken."""
        self._log.check()
        entry = index_rows.decode_shard(self._log.get(index_keys.shard_row_key(name)))
        if entry.is_sealed:
            seal = await self._seal(name, entry)
            return Origin(seal.header.bucket, seal.header.key, seal.header.base, seal.since_s)
        if not entry.is_staged:
            return None
        body = await self._body(name, entry.stage, entry.staged)
        stage = self._log.bodies.decode(StageRecord, body)
        return Origin(stage.bucket, stage.key, stage.base, stage.since_s)

    async def _seal(self, name: ShardName, entry: ShardEntry, *, fresh: bool = False) -> SealRecord:
        return self._log.bodies.decode(
            SealRecord, await self._body(name, entry.seal, entry.sealed, fresh=fresh)
        )

    async def _body(
        self, name: ShardName, location: Location, sequence: int, *, fresh: bool = False
    ) -> bytes:
        record_key = index_keys.shard_row_key(name)[1:]
        with self._log.reading():
            body = await self._log.body(location, record_key, sequence, fresh=fresh)
        if body is None:
            raise IntegrityError(
                f"the seal of shard {name.index} of part {name.part} is broken on this store"
            )
        return body

    def shards_of(self, seed_id: BlobId) -> tuple[ShardName, ...]:
        """The sealed shards of this seed here."""
        self._log.check()
        prefix = index_keys.SHARD_ROWS + seed_id
        return tuple(
            index_keys.shard_name(row_key)
            for row_key, value in self._log.scan(prefix, index_keys.prefix_end(prefix))
            if index_rows.decode_shard(value).is_sealed
        )

    async def cells(self, name: ShardName, first: int, count: int, *, fresh: bool = False) -> list[bytes]:
        """`count` cells from stripe `first`, each verified. Raises `ShardMissing` or `IntegrityError`."""
        self._log.check()
        with self._log.reading():
            return await self._cells(name, first, count, fresh=fresh)

    async def _cells(self, name: ShardName, first: int, count: int, *, fresh: bool) -> list[bytes]:
        wanted = [self._cell(name, stripe) for stripe in range(first, first + count)]
        cells: list[bytes] = []
        for run in _runs(wanted):
            start, end = run[0].offset, run[-1].offset + run[-1].length
            data = await self._log.bytes_at(run[0].volume, start, end - start, fresh=fresh)
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
        self._log.check()
        row = self._log.get(index_keys.cell_row_key(ShardName(seed_id, part, index), stripe))
        return index_rows.decode_cell(row).checksum if row is not None else None

    def _cell(self, name: ShardName, stripe: int) -> CellLocation:
        row = self._log.get(index_keys.cell_row_key(name, stripe))
        if row is None:
            raise ShardMissing(f"cell {stripe} of shard {name.index}, part {name.part} is not on this store")
        return index_rows.decode_cell(row)


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
