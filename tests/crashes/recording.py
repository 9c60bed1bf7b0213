"""A disk and an index that write down what happens to them, so that every crash on the way can be told afterwards.

`RecordingDisk` makes the calls that `adapters/disk.py` makes, step by step and without threads; a test compares the
two (`test_the_model_makes_the_calls_of_the_adapter`). Knows nothing of what is written.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from holdfast_node.core.errors import StoreFailed
from holdfast_node.ports import Buffer
from tests.crashes.directory import TEMPORARY, Cut, Directory
from tests.faults.support.power_cut import (
    DirectorySynced,
    Event,
    Made,
    Note,
    Removed,
    Sized,
    Synced,
    Wrote,
)
from tests.sim.index import IndexContent, SimIndex


@dataclass(frozen=True, slots=True)
class IndexState:
    """A state of the index: what one batch added to the state before it (`parent`; -1: to nothing)."""

    parent: int
    puts: tuple[tuple[bytes, bytes], ...]
    deletes: tuple[bytes, ...]


class Recording:
    """Everything that happened, in one order, and the directory as it is now."""

    def __init__(self) -> None:
        self.events: list[Event | Cut] = []
        self.directory = Directory()
        self.index: list[IndexState] = []
        self._files = 0

    def happen(self, event: Event | Cut) -> None:
        self.events.append(event)
        self.directory.apply(event)

    def note(self, what: str, value: object) -> None:
        self.happen(Note(what, value))

    def new_file(self) -> int:
        self._files += 1
        return self._files

    def index_happens(self, state: IndexState) -> int:
        self.index.append(state)
        self.note("index", len(self.index) - 1)
        return len(self.index) - 1

    def index_content(self, state: int) -> IndexContent:
        return index_content(self.index, state)


def index_content(states: Sequence[IndexState], number: int) -> IndexContent:
    """The rows of that state; -1: none."""
    chain: list[IndexState] = []
    while number >= 0:
        chain.append(states[number])
        number = states[number].parent
    content = IndexContent()
    rows = content.rows
    for state in reversed(chain):
        rows.update(state.puts)
        for key in state.deletes:
            rows.pop(key, None)
    content.keys = sorted(rows)
    return content


class RecordingIndex(SimIndex):
    """An index that starts from state `number` of the recording."""

    def __init__(self, recording: Recording, number: int) -> None:
        super().__init__(recording.index_content(number))
        self._recording = recording
        self._number = number

    def write(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes] = ()) -> None:
        super().write(puts, deletes)
        state = IndexState(self._number, tuple((bytes(k), bytes(v)) for k, v in puts), tuple(deletes))
        self._number = self._recording.index_happens(state)

    def clear(self) -> None:
        super().clear()
        self._number = self._recording.index_happens(IndexState(-1, (), ()))

    async def flush(self) -> None:
        await asyncio.sleep(0)


class RecordingDisk:
    """Implements `ports.Disk`: one process's handle on the recording's directory. `dead` ends it at once."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._known: set[str] = set()
        self._writing = asyncio.Lock()
        self.dead = False

    async def create(self, name: str, size_bytes: int) -> None:
        async with self._writing:
            names = self.recording.directory.visible
            if name not in names:
                await self.step(Made(name, self.recording.new_file()))
            await self.step(Sized(names[name], size_bytes))
            await self.step(Synced(names[name]))
            await self.step(DirectorySynced())

    async def commit(self, name: str, offset: int, buffers: Sequence[Buffer]) -> None:
        data = b"".join(buffers)
        async with self._writing:
            if name not in self._known:
                await self.step(DirectorySynced())
            self._known.add(name)
            file = self.recording.directory.visible[name]
            await self.step(Wrote(file, offset, data))
            await self.step(Synced(file))

    async def read(self, name: str, offset: int, length: int, *, fresh: bool = False) -> bytes:
        await self._pause()
        return self.recording.directory.read(name, offset, length)

    async def replace(self, name: str, content: bytes) -> None:
        async with self._writing:
            temporary, names = f"{name}{TEMPORARY}", self.recording.directory.visible
            if temporary not in names:
                await self.step(Made(temporary, self.recording.new_file()))
            file = names[temporary]
            await self.step(Sized(file, 0))
            await self.step(Wrote(file, 0, content))
            await self.step(Synced(file))
            await self.step(Made(name, file))
            await self.step(DirectorySynced())

    async def remove(self, name: str) -> None:
        async with self._writing:
            self._known.discard(name)
            await self.step(Removed(name))
            await self.step(DirectorySynced())

    def names(self) -> list[str]:
        return sorted(name for name in self.recording.directory.visible if not name.endswith(TEMPORARY))

    def free_bytes(self) -> int:
        return 1 << 30

    async def step(self, event: Event) -> None:
        await self._pause()
        self.recording.happen(event)
        await self._pause()

    async def _pause(self) -> None:
        if self.dead:
            raise StoreFailed("the process is gone")
        await asyncio.sleep(0)
        if self.dead:
            raise StoreFailed("the process is gone")


def index_fallen_back(recording: Recording, chooser: random.Random) -> int:
    """What a crash now leaves of the index: the newest state, any earlier one, or nothing."""
    newest = len(recording.index) - 1
    return chooser.choice((newest, newest, -1, chooser.randint(-1, newest), max(-1, newest - 1)))


def disk_events(events: Sequence[Event | Cut]) -> Iterator[int]:
    """Where in the recording something happened to the disk."""
    return (at for at, event in enumerate(events) if not isinstance(event, Note))
