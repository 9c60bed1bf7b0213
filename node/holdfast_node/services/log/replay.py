"""Reading the log back: every batch verified, a torn tail told from rot, what can be saved saved.

Knows records as bytes. Only one batch is ever on its way, and the next starts only after it is durable. So a bad batch
with a later one behind it was once whole: that is rot. A bad batch with nothing behind it is a torn tail, unless the
superblock says that the log was durable beyond it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from holdfast_node.core import log_format
from holdfast_node.core.errors import IntegrityError
from holdfast_node.core.holes import behind, outside
from holdfast_node.core.log_format import (
    BATCH_HEADER_BYTES,
    BLOCK,
    BatchHeader,
    Extent,
    Mark,
    Position,
    Record,
    VolumeHeader,
)
from holdfast_node.core.records import Hole
from holdfast_node.ports import Disk
from holdfast_node.services.log.volume import read_header, start_of, volume_name

WINDOW_BYTES: Final = 4 * 1024 * 1024
"""How much is read at a time."""
SALVAGE_BYTES: Final = 32 * 1024 * 1024
"""How much of a damaged region is searched at a time."""


@dataclass(frozen=True, slots=True)
class Rot:
    """Part of the log that was durable and is broken.

    `keys` are (type, key, sequence) of records whose body is broken. Of `missing` records nothing is known but the
    sequence. `saved` are those found whole, by sequence, each with where: a misdirected write may have brought it
    there, and where it ought to be it is not.
    """

    volume: int
    offset: int
    life: int
    keys: tuple[tuple[int, bytes, int], ...]
    missing: tuple[int, ...]
    saved: Mapping[int, Extent]

    @property
    def sequences(self) -> frozenset[int]:
        """Of every record that is broken or gone."""
        return frozenset(self.missing).union(sequence for _, _, sequence in self.keys)


@dataclass(frozen=True, slots=True)
class Replayed:
    """Where the log goes on, and what was found on the way. `size_bytes` is that of the last volume, `bytes` were
    found whole."""

    position: Position
    rot: tuple[Rot, ...]
    torn: bool
    batches: int
    bytes: int
    size_bytes: int


class _Saved(NamedTuple):
    """A broken stretch, and those of its records that are whole, in order."""

    rot: Rot
    records: Sequence[Record]


Sink = Callable[[Sequence[Record], int, Position | None], None]
"""Gets the whole records of one batch, their volume, and the position after them; None behind rot: nobody may begin
there before what the rot means is written down."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How a pass reads: `bytes_max` at least before it stops between two batches (0: all there is), `window_bytes` at a
    time, `fresh` past the page cache."""

    bytes_max: int = 0
    window_bytes: int = WINDOW_BYTES
    fresh: bool = False


AT_ONCE: Final = Pace()


class _Window:
    """Reads one volume in large steps. What the disk cannot give back reads as zeros."""

    def __init__(self, disk: Disk, name: str, size: int, pace: Pace = AT_ONCE) -> None:
        self._disk = disk
        self._name = name
        self._pace = pace
        self.size = size
        self._start = 0
        self._data = memoryview(b"")

    async def get(self, offset: int, length: int) -> memoryview:
        """Less than asked for where the volume ends."""
        if offset >= self.size:
            return memoryview(b"")
        end = min(offset + length, self.size)
        if not (self._start <= offset and end <= self._start + len(self._data)):
            wanted = min(max(length, self._pace.window_bytes), self.size - offset)
            self._start, self._data = offset, memoryview(await self._read(offset, wanted))
        return self._data[offset - self._start : end - self._start]

    async def _read(self, offset: int, length: int) -> bytes:
        try:
            data = await self._disk.read(self._name, offset, length, fresh=self._pace.fresh)
        except IntegrityError:
            blocks = [
                await self._read_block(at, offset + length) for at in range(offset, offset + length, BLOCK)
            ]
            data = b"".join(blocks)
        return data.ljust(length, b"\0")

    async def _read_block(self, offset: int, end: int) -> bytes:
        length = min(BLOCK, end - offset)
        try:
            data = await self._disk.read(self._name, offset, length, fresh=self._pace.fresh)
            return data.ljust(length, b"\0")
        except IntegrityError:
            return bytes(length)


class Replay:
    """One pass over the log from `start`, to where it ends or to a known `end`. Used once."""

    def __init__(
        self,
        disk: Disk,
        start: Position,
        sink: Sink,
        *,
        mark: Mark,
        holes: tuple[Hole, ...],
        volume_bytes: int,
        end: Position | None = None,
        pace: Pace = AT_ONCE,
    ) -> None:
        self._disk = disk
        self._known_end = end
        self._pace = pace
        self._walked = 0
        self._sink = sink
        self._mark = mark
        self._holes = holes
        self._volume_bytes = volume_bytes
        self._position = start
        self._rot: list[Rot] = []
        self._batches = 0
        self._end = 0

    async def run(self, volumes: Sequence[int]) -> Replayed:
        """Read all `volumes` (numbers, in order) that are not older than the start."""
        window: _Window | None = None
        end = self._known_end
        for number in volumes:
            if number < self._position.volume or (end is not None and number > end.volume):
                continue
            if number > self._position.volume:
                self._position = behind(self._holes, self._position)
            header = await self._header(number)
            if header is None:
                continue
            if number > self._position.volume:
                await self._close_gap(window, header)
            size = end.offset if end is not None and number == end.volume else header.size_bytes
            window = _Window(self._disk, volume_name(number), size, self._pace)
            self._end = size
            await self._walk(window)
            if self._enough():
                return self._replayed(torn=False)
        return self._replayed(torn=await self._end_of_log(window))

    def _replayed(self, *, torn: bool) -> Replayed:
        return Replayed(
            position=self._position,
            rot=tuple(self._rot),
            torn=torn,
            batches=self._batches,
            bytes=self._walked,
            size_bytes=self._end,
        )

    async def _header(self, number: int) -> VolumeHeader | None:
        """The volume's header; None if it is a spare. If the block is broken, the first readable batch knows the life;
        where the log was to go on is known: what is broken in front of that batch may be saved."""
        header = await read_header(self._disk, number)
        if (
            header is not None
            and header.first_batch < self._position.batch
            and number > self._position.volume
        ):
            return None
        if header is not None or number == self._position.volume:
            return header or self._continued(number, self._position.life)
        window = _Window(self._disk, volume_name(number), self._volume_bytes)
        async for _, batch in _headers_from(window, BLOCK):
            if batch.number >= self._position.batch:
                return self._continued(number, batch.life)
        return None

    def _continued(self, number: int, life: int) -> VolumeHeader:
        """A stand-in for a broken header: the position knows what matters."""
        position = self._position
        return VolumeHeader(
            number,
            life,
            self._volume_bytes,
            position.batch,
            position.sequence,
            position.previous,
            b"",
        )

    async def _walk(self, window: _Window) -> None:
        while self._position.offset < window.size and not self._enough():
            if await self._next_batch(window):
                continue
            found = await self._find_later(window)
            if found is None:
                return
            offset, header = found
            saved = await self._save(window, offset, header.first_sequence)
            self._position = replace(
                self._position,
                offset=offset,
                batch=header.number,
                sequence=header.first_sequence,
                previous=header.previous,
            )
            self._deliver_rot(saved)

    def _enough(self) -> bool:
        return 0 < self._pace.bytes_max <= self._walked

    async def _next_batch(self, window: _Window) -> bool:
        """Deliver the batch at the position if it is the one expected, and whole."""
        position = self._position
        header = log_format.decode_batch_header(await window.get(position.offset, BATCH_HEADER_BYTES))
        if header is None or header.life != position.life or header.number != position.batch:
            return False
        if header.previous != position.previous or header.first_sequence != position.sequence:
            return False
        data = await window.get(position.offset, header.length)
        records, right = log_format.read_batch(data, position.offset, header)
        if not right:
            return False
        self._position = Position(
            volume=position.volume,
            life=position.life,
            offset=position.offset + log_format.padded(header.length),
            batch=header.number + 1,
            sequence=header.first_sequence + header.records,
            previous=header.checksum,
            last=position.offset,
        )
        self._batches += 1
        self._walked += self._position.offset - position.offset
        self._sink(records, position.volume, self._position)
        return True

    async def _find_later(self, window: _Window) -> tuple[int, BatchHeader] | None:
        """The whole header behind the position with the lowest number that proves a later batch was begun. Not simply
        the first: a misdirected write may have brought a batch here from far behind, and all in between is whole. A
        batch that is followed by its next is where it belongs: nothing lower is to be found behind it."""
        best: tuple[int, BatchHeader] | None = None
        async for offset, header in _headers_from(window, self._position.offset):
            if header.life != self._position.life or header.number <= self._position.batch:
                continue
            if best is None or header.number < best[1].number:
                best = offset, header
            end = offset + log_format.padded(header.length)
            after = log_format.decode_batch_header(await window.get(end, BATCH_HEADER_BYTES))
            if after is not None and after.previous == header.checksum and after.number == header.number + 1:
                break
        return best

    async def _save(self, window: _Window | None, end: int, next_sequence: int) -> _Saved | None:
        """What can be read of the records from the position's sequence up to `next_sequence`; None if none is due."""
        position = self._position
        in_order = outside(self._holes, position.sequence, next_sequence)
        if not in_order:
            return None
        wanted = frozenset(in_order)
        found: dict[int, Record] = {}
        at = position.offset
        while window is not None and at < end and len(found) < len(wanted):
            step = min(SALVAGE_BYTES, end - at)
            data = await window.get(at, min(step + log_format.RECORD_BYTES_MAX, end - at))
            for record in log_format.salvage(data, at, position.life, wanted.__contains__):
                known = found.get(record.sequence)
                if known is None or not known.whole:
                    found[record.sequence] = record
            at += step
        missing = tuple(sequence for sequence in in_order if sequence not in found)
        broken = (record for record in found.values() if not record.whole)
        keys = tuple((record.kind, record.key, record.sequence) for record in broken)
        whole = [found[sequence] for sequence in sorted(found) if found[sequence].whole]
        saved = {record.sequence: record.extent for record in whole}
        return _Saved(Rot(position.volume, position.offset, position.life, keys, missing, saved), whole)

    def _deliver_rot(self, saved: _Saved | None) -> None:
        if saved is not None:
            self._rot.append(saved.rot)
            self._sink(saved.records, saved.rot.volume, None)

    async def _close_gap(self, window: _Window | None, header: VolumeHeader) -> None:
        """The next volume begins later than the last one ended: something of the last one, or in between, is gone."""
        saved = await self._save(window, window.size if window else 0, header.first_sequence)
        self._position = start_of(header)
        self._deliver_rot(saved)

    async def _end_of_log(self, window: _Window | None) -> bool:
        """Whether a torn batch lies at the end. If the superblock knows of more, the end is rotten, not torn."""
        position, mark = self._position, self._mark
        if position.batch <= mark.batch:
            saved = await self._save(window, window.size if window else 0, mark.sequence + 1)
            self._position = replace(
                position,
                offset=self._end,
                batch=mark.batch + 1,
                sequence=mark.sequence + 1,
                previous=0,
                last=0,
            )
            self._deliver_rot(saved)
            return False
        if window is None or position.offset >= window.size:
            return False
        return not log_format.is_blank(await window.get(position.offset, BLOCK))


async def _headers_from(window: _Window, offset: int) -> AsyncIterator[tuple[int, BatchHeader]]:
    for start in range(offset, window.size, WINDOW_BYTES):
        data = await window.get(start, WINDOW_BYTES)
        for found in log_format.batch_headers(data, start):
            yield found
