"""Reads the log back, past the page cache, and says which rows of the index rest on records that are broken.

A broken record is garbage unless a row rests on it. So a pass over the log only collects the sequences of what is
broken, and one over the index tells which of them matter. A record may be whole and still be of no use: where another
place in the log than its row points to. That second pass also reads every row, and finds shards whose cells are not all
there. Mends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from holdfast_node.core import index_keys, index_rows, rot
from holdfast_node.core.index_keys import CELL_ROWS, SHARD_ROWS
from holdfast_node.core.log_format import Mark, Position, Record
from holdfast_node.core.rot import rests_on
from holdfast_node.services.events import Events
from holdfast_node.services.log.committer import Committer
from holdfast_node.services.log.indexer import Indexer
from holdfast_node.services.log.opening import BEGINNING, StorePorts
from holdfast_node.services.log.reader import LogReader
from holdfast_node.services.log.replay import Pace, Replay, Replayed
from holdfast_node.services.log.volume import Volumes

STEP_BYTES: Final = 512 * 1024
"""Read and checked in one go: about a millisecond of the loop, and a few for a disk."""


class Suspect(NamedTuple):
    """A record in a damaged stretch of the log. `found`: where it, and where its payload, is whole after all."""

    life: int
    found: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One stretch of the log, read back. `suspects`: the records of what was damaged, by their sequences. `at_end`:
    nothing more was durable."""

    position: Position
    bytes: int
    suspects: Mapping[int, Suspect]
    at_end: bool


@dataclass(frozen=True, slots=True)
class Survey:
    """`broken` records, each with the life of its volume; keys of rows that rest on one, each with its sequence; and
    those of sealed shards that lack cells."""

    broken: Mapping[int, int]
    resting: tuple[tuple[bytes, int], ...]
    incomplete: tuple[bytes, ...]


class Verifier:
    """For the scrub worker of the same store."""

    def __init__(
        self,
        ports: StorePorts,
        log: LogReader,
        indexer: Indexer,
        committer: Committer,
        volumes: Volumes,
    ) -> None:
        self._ports: Final = ports
        self._indexer: Final = indexer
        self._log: Final = log
        self._committer: Final = committer
        self._volumes: Final = volumes

    @property
    def end(self) -> Position:
        """Where the log goes on."""
        return self._committer.position

    @property
    def events(self) -> Events:
        return self._ports.events

    def place(self, position: Position | None) -> int:
        """How many bytes of volumes lie before a position, as far as one can tell from it (None: the beginning)."""
        if position is None or not position.volume:
            return 0
        before = sum(1 for number in self._volumes.numbers() if number < position.volume)
        return before * self._volumes.volume_bytes + position.offset

    async def step(self, start: Position | None, *, bytes_max: int | None = None) -> Step:
        """Check what follows `start` (None: the beginning). Damage is believed only if a second look agrees: a read
        that failed once is no rot. Raises `StoreFailed`."""
        self._log.check()
        end = self._committer.position
        bytes_max = bytes_max or STEP_BYTES
        looked = await self._look(start or BEGINNING, end, bytes_max)
        suspects = _suspects(looked)
        if looked.rot:
            looked = await self._look(start or BEGINNING, end, bytes_max)
            again, dead = _suspects(looked), self._indexer.tables.killed()
            suspects = {
                sequence: each
                for sequence, each in suspects.items()
                if again.get(sequence) == each and (each.life, sequence) not in dead
            }
        # Behind rot at the very end the pass does not know how the chain goes on; the committer does.
        position = end if looked.position.batch >= end.batch else looked.position
        return Step(position, looked.bytes, suspects, at_end=position == end)

    async def _look(self, start: Position, end: Position, bytes_max: int) -> Replayed:
        replay = Replay(
            self._ports.disk,
            start,
            _ignore,
            mark=Mark(batch=end.batch - 1, sequence=end.sequence - 1),
            holes=self._volumes.holes,
            volume_bytes=self._volumes.volume_bytes,
            end=end,
            pace=Pace(bytes_max=bytes_max, window_bytes=bytes_max, fresh=True),
        )
        with self._log.reading():
            return await replay.run(self._volumes.numbers())

    async def survey(self, suspects: Mapping[int, Suspect], *, rest_s: Callable[[float], float]) -> Survey:
        """Read the whole index, with a rest after every few rows. Raises `StoreFailed` if it cannot be read: the next
        start rebuilds it."""
        broken = {sequence: each.life for sequence, each in suspects.items() if not each.found}
        resting: list[tuple[bytes, int]] = []
        incomplete: list[bytes] = []
        for letter in rot.RESTING_ROWS:
            async for row_key, value in self._log.walk(letter, rest_s):
                sequence = self._log.checked(rests_on, row_key, value)
                suspect = suspects.get(sequence)
                if suspect is not None and not self._is_right(suspect, row_key, value):
                    broken[sequence] = suspect.life
                    resting.append((row_key, sequence))
                if letter == SHARD_ROWS and self._lacks_cells(row_key, value):
                    incomplete.append(row_key)
        return Survey(broken, tuple(resting), tuple(incomplete))

    def _is_right(self, suspect: Suspect, row_key: bytes, value: bytes) -> bool:
        """Whether the record is whole, and the row does not point to another place than where it is."""
        place = self._log.checked(rot.place_of, row_key, value)
        return bool(suspect.found) and (place is None or place in suspect.found)

    def rests_on(self, row_key: bytes) -> int:
        """The sequence of the record the row rests on now; 0 if there is no such row."""
        self._log.check()
        value = self._log.get(row_key)
        return self._log.checked(rests_on, row_key, value) if value is not None else 0

    def lacks_cells(self, row_key: bytes) -> bool:
        """Whether this sealed shard is not all there now."""
        self._log.check()
        value = self._log.get(row_key)
        return value is not None and self._lacks_cells(row_key, value)

    def _lacks_cells(self, row_key: bytes, value: bytes) -> bool:
        entry = self._log.checked(index_rows.decode_shard, value)
        if not entry.is_sealed:
            return False
        prefix = CELL_ROWS + row_key[1:]
        return sum(1 for _ in self._log.scan(prefix, index_keys.prefix_end(prefix))) < entry.cells


def _suspects(looked: Replayed) -> dict[int, Suspect]:
    found = {sequence: Suspect(rot.life) for rot in looked.rot for sequence in rot.sequences}
    for each in looked.rot:
        for sequence, at in each.saved.items():
            places = (each.volume, at.offset), (each.volume, at.payload_offset)
            found[sequence] = Suspect(each.life, places)
    return found


def _ignore(records: Sequence[Record], volume: int, position: Position | None) -> None:
    """Whole records are no news."""
    del records, volume, position
