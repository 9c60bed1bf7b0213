"""One crash state: open a store on it, compare, use it, and for some of them crash again on the way.

A state's name is `recording:point:fate`; the same name is the same state, and the same crashes after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

from holdfast_node.core.errors import HoldfastError, StoreRefused
from holdfast_node.core.records import Superblock
from holdfast_node.services.store import Entry, Store
from tests.crashes.directory import Directory, Fate
from tests.crashes.facts import CLUSTER, Fact, Group, Known, compare
from tests.crashes.recording import Recording, index_content
from tests.crashes.workload import SETTINGS
from tests.faults.support.power_cut import Note
from tests.sim.disk import Platter, SimDisk
from tests.sim.index import IndexContent, SimIndex
from tests.support import stores

CRASHES_AGAIN_RATE: Final = 0.25
AGAIN_MAX: Final = 3
LAST_STEPS: Final = 14
"""Of an opening: the tail is settled, rot is written down, the superblock replaced."""


@dataclass(frozen=True, slots=True)
class State:
    """What a crash left: a disk, an index, and what has to be there."""

    name: str
    fate: Fate
    platter: Platter
    index: IndexContent
    known: Known


def states(recording: Recording, number: int, *, wanted: int = 0) -> Iterator[State]:
    """All states of this recording, or `wanted` of them evenly spread."""
    names = _names(recording, number)
    chosen = names if not wanted or wanted >= len(names) else [
        names[at * len(names) // wanted] for at in range(wanted)
    ]  # fmt: skip
    walk = _Walk(recording)
    for point, index, fate in chosen:
        walk.to(point)
        name = f"{number}:{point}:{index}"
        yield State(name, fate, walk.directory.leave(fate), walk.index(name), walk.known())


def state(recording: Recording, name: str) -> State:
    number, point, index = map(int, name.split(":"))
    for at, fate_index, fate in _names(recording, number):
        if (at, fate_index) == (point, index):
            walk = _Walk(recording)
            walk.to(point)
            return State(name, fate, walk.directory.leave(fate), walk.index(name), walk.known())
    raise ValueError(f"there is no state {name}")


def _names(recording: Recording, number: int) -> list[tuple[int, int, Fate]]:
    """Every point (events done so far) at which the disk has changed, with every fate of what is on its way there."""
    directory, found = Directory(), list[tuple[int, int, Fate]]()
    for at, event in enumerate(recording.events):
        if isinstance(event, Note):
            continue
        directory.apply(event)
        fates = directory.fates(random.Random(f"fates {number} {at}"))
        found += [(at + 1, index, fate) for index, fate in enumerate(fates)]
    return found


class _Walk:
    """The directory as of the last change before a point, and all that was promised before the next change."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._done = 0
        self._newest_index = -1
        self._known = Known()
        self.directory = Directory()

    def to(self, point: int) -> None:
        events = self._recording.events
        end = point
        while end < len(events) and isinstance(events[end], Note):
            end += 1
        for event in events[self._done : end]:
            self.directory.apply(event)
            if isinstance(event, Note):
                self._learn(event)
        self._done = max(self._done, end)

    def known(self) -> Known:
        return self._known.copy()

    def index(self, name: str) -> IndexContent:
        """The newest state, any earlier one, or nothing."""
        chooser, newest = random.Random(f"index {name}"), self._newest_index
        states = (newest, newest, -1, chooser.randint(-1, newest), max(-1, newest - 1))
        return index_content(self._recording.index, chooser.choice(states))

    def _learn(self, note: Note) -> None:
        match note.what:
            case "index":
                self._newest_index = cast("int", note.value)
            case "asked":
                self._known.ask(cast("Group", note.value))
            case "acked":
                self._known.ack(cast("int", note.value))
            case "opened":
                self._known.opened(*cast("tuple[Superblock, list[int]]", note.value))
            case "joining":
                self._known.clusters = (b"", CLUSTER)
            case _:
                self._known.clusters = (CLUSTER,)


# --- trying one ---------------------------------------------------------------------------------------------------


class Trial:
    """Opens stores on one state, one after another."""

    def __init__(self, state: State) -> None:
        self._chooser = random.Random(f"trial {state.name}")
        self._platter = state.platter
        self._index = state.index
        self._known = state.known
        self._again = state.fate.kind == "cached" or self._chooser.random() < CRASHES_AGAIN_RATE
        self._opened = 0
        self.crashes = 1

    async def run(self) -> list[str]:
        """What went wrong."""
        found: list[str] = []
        if self._again:
            for _ in range(self._chooser.randint(1, AGAIN_MAX)):
                found += await self._open_and_crash(await self._steps_until_crash())
        return found or await self._open_and_use()

    async def _steps_until_crash(self) -> int:
        """Mostly among the last steps of the opening, which are its writes."""
        steps = 0

        def count() -> float:
            nonlocal steps
            steps += 1
            return 0.0

        disk = SimDisk(self._platter.twin(), chooser=random.Random(0), delay_s=count)
        with contextlib.suppress(HoldfastError):
            await (await self._open(disk, self._index.copy())).abandon()
        return self._chooser.randrange(max(0, steps - LAST_STEPS), steps + 2)

    async def _open_and_crash(self, steps: int) -> list[str]:
        """Cut the power in the middle of an opening, or right after it if it took fewer steps."""
        self.crashes += 1
        disk = SimDisk(self._platter, chooser=self._chooser)
        left = steps

        def step() -> float:
            nonlocal left
            left -= 1
            if left < 0:
                disk.failure = "the power is gone"
            return 0.0

        disk.delay_s = step
        found: list[str] = []
        store: Store | None = None
        try:
            store = await self._open(disk)
            disk.delay_s = lambda: 0.0
            if not disk.failure:
                found = await self._compare(store)
        except HoldfastError as error:
            found = [] if disk.failure else [f"it does not open: {error!r}"]
        finally:
            disk.failure = "the power is gone"
            if store is not None:
                await store.abandon()
        if self._chooser.random() < 0.8:
            self._platter.power_cut(self._chooser)
        if self._chooser.random() < 0.3:
            self._index = IndexContent()
        else:
            self._index.crash(self._chooser)
        return found

    async def _open_and_use(self) -> list[str]:
        disk = SimDisk(self._platter, chooser=self._chooser)
        try:
            store = await self._open(disk)
        except StoreRefused as refusal:
            return [f"refused: {refusal}"]
        try:
            return await self._compare(store) or await self._use(store)
        finally:
            disk.failure = "the trial is over"
            await store.abandon()

    async def _open(self, disk: SimDisk, index: IndexContent | None = None) -> Store:
        self._opened += 1
        seed = f"opened {self._opened} {self._chooser.random()}"
        rows = SimIndex(index or self._index)
        return await stores.open_store(disk, rows, settings=SETTINGS, seed=seed)

    async def _compare(self, store: Store) -> list[str]:
        wrong, landed = await compare(store, self._known)
        if not wrong:
            self._known.opened(store.superblock, landed)
        return wrong

    async def _use(self, store: Store) -> list[str]:
        seed, data = stores.blob_id(999), self._chooser.randbytes(3000)
        register = stores.register(b"after", 1)
        await store.append([Entry(register)])
        await store.append([stores.cell(seed, 0, data), stores.seal(seed, [data])], bulk=True)
        self._known.settled[Fact("register", b"after")] = register
        self._known.settled[Fact("cell", seed, 0)] = data
        self._known.boot -= 1  # it is still the same boot
        self._known.boot_ids.clear()
        wrong, _ = await compare(store, self._known)
        return [f"after the crash: {text}" for text in wrong]


def try_state(state: State) -> tuple[list[str], int]:
    """What went wrong, and how many crashes there were."""
    trial = Trial(state)
    return asyncio.run(trial.run()), trial.crashes
