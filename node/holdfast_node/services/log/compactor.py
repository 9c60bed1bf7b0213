"""Gives back the room of volumes that are mostly garbage: what is live is copied to the end of the log, then they go.

A copy is a new record. It is written only if at that moment its row still rests on the original, before anything else
of the same batch, so it can never win over what is younger (ADR 0086). A volume goes once a pass over the whole index
has found no row that needs it, the copies were read back from the disk, the index is durable, the superblock says so,
and nobody reads there any more.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from holdfast_node.core import log_format
from holdfast_node.core.errors import IntegrityError
from holdfast_node.core.head import Head
from holdfast_node.core.holes import has_room, with_volume
from holdfast_node.core.index_keys import (
    BLANK_ROWS,
    CLASS_OF,
    MANIFEST_ROWS,
    TYPE_OF,
    manifest_row_key,
    record_key,
)
from holdfast_node.core.index_rows import decode_blank, decode_shard
from holdfast_node.core.liveness import Oldest, references, rests_on, row_key_of
from holdfast_node.core.log_format import Mark, Position, Record, VolumeHeader
from holdfast_node.core.records import DropRecord, Hole, ManifestRecord, RecordType, RegisterRecord
from holdfast_node.core.rot import RESTING_ROWS
from holdfast_node.services.log.committer import Committer, Pending
from holdfast_node.services.log.opening import StorePorts
from holdfast_node.services.log.reader import LogReader
from holdfast_node.services.log.replay import Pace, Replay
from holdfast_node.services.log.verifier import Verifier
from holdfast_node.services.log.volume import Volumes, read_header, start_of

STEP_BYTES: Final = 256 * 1024
"""Read, checked and copied in one go."""
ROUNDS_MAX: Final = 3
"""How often a record is tried again whose row was changed just before its copy was written."""

FORGOTTEN_AT_ONCE: Final = 1000
"""Rows of what is gone that are deleted in one go."""

Rest = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Usage:
    """One volume: how much of it is needed. `needed`: how many records. `drop_bytes` are those of `live_bytes` that
    only keep what was dropped or forgotten from coming back."""

    number: int
    size_bytes: int
    live_bytes: int
    needed: int
    drop_bytes: int

    @property
    def garbage(self) -> float:
        """The share of the volume that nobody needs, padding included."""
        return max(0.0, 1 - self.live_bytes / self.size_bytes)


class Compactor:
    """For the compaction worker of the same store. `make_hole` makes the index durable and then writes the superblock
    with these holes."""

    def __init__(
        self,
        ports: StorePorts,
        log: LogReader,
        committer: Committer,
        volumes: Volumes,
        verifier: Verifier,
        *,
        make_hole: Callable[[tuple[Hole, ...]], Awaitable[None]],
    ) -> None:
        self._ports: Final = ports
        self._log: Final = log
        self._committer: Final = committer
        self._volumes: Final = volumes
        self._verifier: Final = verifier
        self._make_hole: Final = make_hole
        self._headers: dict[int, VolumeHeader] = {}

    @property
    def end(self) -> Position:
        """Where the log goes on."""
        return self._committer.position

    @property
    def room_bytes(self) -> int:
        """What copies may take."""
        return self._committer.copy_room_bytes

    async def survey(self, *, rest_s: Rest) -> tuple[Usage, ...]:
        """How much of each volume before the one in use is needed, by a pass over the whole index. Volumes that cannot
        be told from their neighbours, because a first block is broken, are left out, and those that would make one hole
        too many. Raises `StoreFailed`."""
        self._log.check()
        await self._read_headers()
        starts = self._starts()
        numbers = [number for _, number in starts]
        sequences = [sequence for sequence, _ in starts]
        live: Counter[int] = Counter()
        needed: Counter[int] = Counter()
        drops: Counter[int] = Counter()
        oldest = self._oldest()
        forgotten: list[tuple[bytes, bytes]] = []
        for letter in RESTING_ROWS:
            async for row_key, value in self._log.walk(letter, rest_s):
                found = self._log.checked(references, row_key, value, oldest, self._log.get)
                if not found and self._log.checked(oldest.may_forget, row_key, value):
                    forgotten.append((row_key, value))
                if len(forgotten) >= FORGOTTEN_AT_ONCE:
                    self._forget(forgotten)
                    forgotten.clear()
                for sequence, size, is_drop in found:
                    number = numbers[bisect_right(sequences, sequence) - 1]
                    needed[number] += 1
                    live[number] += size
                    drops[number] += size * is_drop
        self._forget(forgotten)
        return tuple(
            Usage(number, header.size_bytes, live[number], needed[number], drops[number])
            for number, header in sorted(self._headers.items())
            if number < self._committer.position.volume
            and self._following(number) is not None
            and has_room(self._volumes.holes, number)
        )

    async def copy(self, number: int, *, rest_s: Rest) -> int:
        """Copy to the end of the log what is needed of a volume; what cannot be read stays needed. How many records
        were copied. Raises `StoreFull` or `StoreFailed`."""
        clock = asyncio.get_running_loop().time
        header = self._headers[number]
        position = start_of(header)
        copied = 0
        while True:
            began_s = clock()
            records, following = await self._read(position, header)
            copied += await self._copy_all(number, records)
            if following == position:
                return copied
            position = following
            await asyncio.sleep(rest_s(clock() - began_s))

    async def are_whole(self, start: Position, *, rest_s: Rest) -> bool:
        """Whether everything written since `start` is read back whole, past the page cache."""
        clock = asyncio.get_running_loop().time
        while True:
            began_s = clock()
            step = await self._verifier.step(start)
            if step.suspects:
                return False
            if step.at_end or step.position == start:
                return True
            start = step.position
            await asyncio.sleep(rest_s(clock() - began_s))

    async def remove(self, number: int) -> None:
        """Give back a volume of which a survey has found nothing needed since it was copied. Raises `StoreFailed`, or
        `StoreFull` on a disk that needs room to make some: the next start removes the file then."""
        self._log.check()
        following = self._headers.get(number + 1)
        holes = with_volume(self._volumes.holes, self._headers[number], following)
        await self._make_hole(holes)
        self._volumes.leave_out(number, holes)
        del self._headers[number]
        await self._log.readers_gone()
        await self._volumes.remove(number)
        self._committer.measure()

    # --- which sequences are in which volume ------------------------------------------------------------------

    async def _read_headers(self) -> None:
        for number in self._volumes.numbers():
            if number not in self._headers and number <= self._committer.position.volume:
                header = await read_header(self._ports.disk, number)
                if header is not None:
                    self._headers[number] = header

    def _starts(self) -> list[tuple[int, int]]:
        """First sequence and number of every volume and every hole, in order; 0 is before all that is known."""
        starts = [(0, 0), *((header.first_sequence, number) for number, header in self._headers.items())]
        starts += [(hole.first_sequence, hole.first_volume) for hole in self._volumes.holes]
        return sorted(starts)

    def _following(self, number: int) -> int | None:
        """The first sequence behind the volume; None if it cannot be told."""
        header = self._headers.get(number + 1)
        if header is not None:
            return header.first_sequence
        holes = (hole for hole in self._volumes.holes if hole.first_volume == number + 1)
        return next((hole.first_sequence for hole in holes), None)

    def _oldest(self) -> Oldest:
        """Where it ends need not be known; then all that is about anything in it is needed."""
        number = next(iter(self._volumes.numbers()), 0)
        header = self._headers.get(number)
        return Oldest(header.first_sequence if header is not None else 0, self._following(number) or 0)

    def _forget(self, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Delete rows of shards and keys that are gone and can never come back, unless they changed meanwhile."""
        gone = [row_key for row_key, value in rows if self._log.get(row_key) == value]
        if gone:
            self._log.forget(gone)

    # --- copying ----------------------------------------------------------------------------------------------

    async def _read(self, start: Position, header: VolumeHeader) -> tuple[list[Record], Position]:
        """Some whole records from `start` on, and where to go on; nowhere else at the end of the volume."""
        found: list[Record] = []

        def sink(records: Sequence[Record], volume: int, position: Position | None) -> None:
            del volume, position
            found.extend(record for record in records if record.whole)

        replay = Replay(
            self._ports.disk,
            start,
            sink,
            mark=Mark(),
            holes=(),
            volume_bytes=header.size_bytes,
            end=replace(start, offset=header.size_bytes),
            pace=Pace(bytes_max=STEP_BYTES, window_bytes=STEP_BYTES),
        )
        return found, (await replay.run([header.number])).position

    async def _copy_all(self, volume: int, records: Sequence[Record]) -> int:
        copied = 0
        for _ in range(ROUNDS_MAX):
            wanted = [(record, row_key) for record in records if (row_key := self._row_of(record))]
            written = [await self._copy(volume, record, row_key) for record, row_key in wanted]
            pending = [each for each in written if each is not None]
            if not pending:
                break
            copied += len(pending)
            _ = await asyncio.gather(*pending)
        return copied

    def _row_of(self, record: Record) -> bytes | None:
        """The row that rests on the record, if one does."""
        kind = RecordType(record.kind)
        row_keys = [row_key_of(kind, record.key)]
        if kind is RecordType.REGISTER:
            row_keys += [BLANK_ROWS + record.key, *self._manifest_row(record)]
        return next((each for each in row_keys if self._rests(kind, each, record.sequence)), None)

    def _rests(self, kind: RecordType, row_key: bytes, sequence: int) -> bool:
        value = self._log.get(row_key)
        if value is None or self._log.checked(rests_on, kind, row_key, value) != sequence:
            return False
        if row_key.startswith(BLANK_ROWS):
            return self._oldest().needs_blank(decode_blank(value))
        return kind is not RecordType.DROP or self._oldest().needs_drop(decode_shard(value))

    def _manifest_row(self, record: Record) -> tuple[bytes, ...]:
        body = self._log.bodies.decode(RegisterRecord, record.body)
        manifest = self._log.bodies.manifest_of(body.head) if body.accepted is not None else None
        return (manifest_row_key(body.bucket, body.key, manifest.blob_id),) if manifest is not None else ()

    async def _copy(self, volume: int, record: Record, row_key: bytes) -> asyncio.Future[None] | None:
        """None if the record, whole a moment ago, cannot be read any more."""
        kind = RecordType(record.kind)
        payload = b""
        if record.extent.payload_length:
            again = await self._whole(volume, record)
            if again is None:
                return None
            payload = again
        pending = self._pending(kind, record, row_key, payload)
        row_kind = RecordType(pending.kind)
        return self._committer.copy(pending, lambda: self._rests(row_kind, row_key, record.sequence))

    async def _whole(self, volume: int, record: Record) -> bytes | None:
        """The record's payload, if the record is still what it was."""
        extent = record.extent
        try:
            data = await self._log.bytes_at(volume, extent.offset, extent.length)
        except IntegrityError:
            return None
        again = log_format.decode_located(data, extent.offset)
        if again is None or not again.whole or again.sequence != record.sequence:
            return None
        start = extent.payload_offset - extent.offset
        return data[start : start + extent.payload_length]

    def _pending(self, kind: RecordType, record: Record, row_key: bytes, payload: bytes) -> Pending:
        bodies = self._log.bodies
        if kind is RecordType.REGISTER and row_key.startswith(MANIFEST_ROWS):
            return self._retained(bodies.decode(RegisterRecord, record.body))
        body = bodies.decode(CLASS_OF[kind], record.body)
        encoded = record.body
        if isinstance(body, DropRecord) or (isinstance(body, RegisterRecord) and body.is_blank):
            body = replace(body, before=body.before or record.sequence)
            encoded = bodies.encode(body)
        head: Head | None = None
        if isinstance(body, RegisterRecord) and body.accepted is not None:
            head = bodies.decode(Head, body.head)
        return Pending(kind, record.key, body, encoded, payload, head, record.flags)

    def _retained(self, register: RegisterRecord) -> Pending:
        """Of a register that was changed since only the manifest is needed, of a version that is kept."""
        bodies = self._log.bodies
        manifest = bodies.manifest_of(register.head)
        assert manifest is not None, "a row of a manifest rests on the record"
        body = ManifestRecord(register.bucket, register.key, bodies.encode(manifest))
        key = record_key(body, blob_id=manifest.blob_id)
        return Pending(TYPE_OF[ManifestRecord], key, body, bodies.encode(body), b"", None, 0)
