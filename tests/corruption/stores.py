"""One store after another, damaged and read: an answer is right, or it is an error, or the store says it does not vote.

What may be missing after damage, and what may not, is the table of docs/on-disk-format.md ("Rot").
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast_node.core.errors import HoldfastError, StoreRefused
from holdfast_node.core.records import PartitionRecord, RegisterRecord
from holdfast_node.services.store import Store
from tests.corruption.damage import Extent, Vandal, extents
from tests.crashes.directory import Fate
from tests.crashes.facts import Fact, Group, Known, compare, read_fact
from tests.crashes.recording import Recording
from tests.crashes.workload import SETTINGS, record
from tests.faults.support.power_cut import Note
from tests.sim.disk import Platter, SimDisk
from tests.sim.index import IndexContent, SimIndex
from tests.support import stores

LIVE_RATE: Final = 0.3
AGAIN_RATE: Final = 0.3
CUT_RATE: Final = 0.15
OLDER_AT: Final = 0.6
"""Bytes that are stale are those of so early in the recording."""


@dataclass(frozen=True, slots=True)
class Base:
    """A store that was closed in peace, what it has to say, and everything it ever said."""

    platter: Platter
    older: Platter
    index: IndexContent
    known: Known
    ever: dict[Fact, list[object]]
    places: list[Extent]


@dataclass(slots=True)
class Struck:
    """One store after the damage, and how it ended."""

    name: str
    damage: str = ""
    refused: bool = False
    wrong: list[str] = field(default_factory=list[str])


def make_base(seed: int) -> Base:
    recording = record(seed)
    platter, older = recording.directory.leave(Fate("all")), _older(recording)
    index, known = IndexContent(), _everything_asked(recording)
    ever: dict[Fact, list[object]] = {}
    for event in recording.events:
        if isinstance(event, Note) and isinstance(event.value, Group):
            for fact, value in event.value.facts.items():
                ever.setdefault(fact, []).append(value)

    async def close_in_peace() -> None:
        store = await _open(SimDisk(platter, chooser=random.Random(seed)), index, f"base {seed}")
        seen = {fact: await read_fact(store, fact) for fact in known.facts()}
        known.settled.update(seen)
        known.in_flight.clear()
        known.boot, known.store, known.clusters = 0, None, (store.superblock.cluster_id,)
        wrong, _ = await compare(store, known)
        assert not wrong, wrong
        await store.close()

    asyncio.run(close_in_peace())
    return Base(platter, older, index, known, ever, extents(platter))


def _older(recording: Recording) -> Platter:
    from tests.crashes.directory import Directory

    directory = Directory()
    for event in recording.events[: int(len(recording.events) * OLDER_AT)]:
        directory.apply(event)
    return directory.leave(Fate("none"))


def _everything_asked(recording: Recording) -> Known:
    known = Known()
    for event in recording.events:
        if isinstance(event, Note) and isinstance(event.value, Group):
            known.settled.update(event.value.facts)
    return known


async def _open(disk: SimDisk, index: IndexContent, seed: str) -> Store:
    return await stores.open_store(disk, SimIndex(index), settings=SETTINGS, seed=seed)


def strike(base: Base, name: str) -> Struck:
    """Damage a copy of the base and read everything. The same name is the same damage."""
    return asyncio.run(_Strike(base, name).run())


class _Strike:
    def __init__(self, base: Base, name: str) -> None:
        self._base = base
        self._chooser = random.Random(f"strike {name}")
        self._platter = base.platter.twin()
        self._vandal = Vandal(self._platter, base.older, base.places, f"vandal {name}")
        self._index = base.index.copy() if self._chooser.random() < 0.5 else IndexContent()
        self._struck = Struck(name)
        self._opened = 0

    async def run(self) -> Struck:
        live = self._chooser.random() < LIVE_RATE
        if not live:
            self._struck.damage = self._vandal.strike()
            if self._chooser.random() < CUT_RATE:
                await self._open_and_cut()
        await self._open_and_read(live=live)
        if not self._struck.wrong and self._chooser.random() < AGAIN_RATE:
            if self._chooser.random() < 0.5:
                self._index = IndexContent()
            await self._open_and_read(live=False)
        return self._struck

    async def _open_and_cut(self) -> None:
        """Lose power while the damage is being written down."""
        disk = SimDisk(self._platter, chooser=self._chooser)
        left = self._chooser.randrange(60)

        def step() -> float:
            nonlocal left
            left -= 1
            if left < 0:
                disk.failure = "the power is gone"
            return 0.0

        disk.delay_s = step
        try:
            store = await self._open_here(disk)
        except HoldfastError:
            store = None
        disk.failure = "the power is gone"
        if store is not None:
            await store.abandon()
        self._platter.power_cut(self._chooser)
        self._index.crash(self._chooser)

    async def _open_and_read(self, *, live: bool) -> None:
        disk = SimDisk(self._platter, chooser=self._chooser)
        try:
            store = await self._open_here(disk)
        except StoreRefused:
            self._struck.refused = True
            return
        try:
            if live:
                self._struck.damage = self._vandal.strike()
            wrong = [await self._wrong(store, fact) for fact in self._base.known.facts()]
            self._struck.wrong += [text for text in wrong if text]
        finally:
            disk.failure = "it was read"
            await store.abandon()

    async def _open_here(self, disk: SimDisk) -> Store:
        self._opened += 1
        return await _open(disk, self._index, f"opened {self._opened} {self._chooser.random()}")

    async def _wrong(self, store: Store, fact: Fact) -> str:
        right = self._base.known.settled[fact]
        found = await read_fact(store, fact)
        if found == right or _RULES.get(fact.kind, _never)(store, found, right):
            return ""
        ever = self._base.ever.get(fact, [])
        if fact.kind in _MAY_FALL_BACK and (found is None or found in ever or _is_error(found)):
            return ""
        return f"{fact} is {str(found)[:150]}, right is {str(right)[:150]}"


# --- what may be said instead of what is right --------------------------------------------------------------------

Rule = Callable[[Any, object, object], bool]

_MAY_FALL_BACK: Final = frozenset({"manifest", "shard", "header", "cell", "peer", "followed", "link", "kill"})
"""Missing, an error, or an older value: heal, peers or a later record make up for it. Never bytes of anything else."""


def _is_error(found: object) -> bool:
    return isinstance(found, str)


def _never(store: Any, found: object, right: object) -> bool:
    del store, found, right
    return False


def _register(store: Any, found: object, right: object) -> bool:
    """An error, or the partition does not vote."""
    if _is_error(found):
        return True
    known = right if isinstance(right, RegisterRecord) else found
    assert isinstance(known, RegisterRecord)
    return bool(store.partition(known.pool, known.partition).not_voting)


def _partition(store: Any, found: object, right: object) -> bool:
    del found
    assert isinstance(right, PartitionRecord)
    return bool(store.partition(right.pool, right.partition).not_voting)


def _vote(store: Any, found: object, right: object) -> bool:
    del store, right
    return _is_error(found)


def _whole_store(store: Any, found: object, right: object) -> bool:
    """Maps and buckets: if one was lost, no partition votes."""
    del found, right
    return bool(store.partition(0, 999).not_voting)


_RULES: Final[dict[str, Rule]] = {
    "register": _register,
    "partition": _partition,
    "vote": _vote,
    "map": _whole_store,
    "closing": _whole_store,
}
