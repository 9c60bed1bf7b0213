"""Buckets that are made, written to, deleted and made again: a blob that was acked is never in a bucket that is gone.

Each race has a name and keys of its own. Either the write was first, and the bucket stays, or the bucket was gone first
and the write is refused; then there is a new bucket of that name, which some nodes have not heard of.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from holdfast_node.core.api import Condition
from holdfast_node.core.errors import CallerError, HoldfastError
from tests.sim.claims import Witness
from tests.sim.client import ConnectionLost, SimClient
from tests.sim.cluster import Cluster
from tests.sim.history import History

T = TypeVar("T")

BUCKETS_MAX: Final = 3
"""Of one name, one after another."""
SIZES: Final = (20, 20, 5000, 40_000)
GIVEN_UP_S: Final = (0.0, 0.05)
"""When nobody goes on with a deletion."""
DELETIONS_S: Final = (0.0, 2.0)
"""Between tries to delete a bucket that somebody has written to."""


class Doors:
    """Every race of a world, and what must be read in the end."""

    def __init__(self, cluster: Cluster, history: History) -> None:
        self._cluster = cluster
        self._history = history
        self._races = 0
        self.kept: list[tuple[str, SimClient, bytes]] = []

    async def race(self, chooser: random.Random) -> None:
        """Make a bucket, then write to it and delete it at the same time, through any nodes, until a write wins."""
        self._races += 1
        name = f"door-{self._races}"
        writer = SimClient(name, self._cluster, self._history, chooser=chooser, bucket=name)
        for number in range(BUCKETS_MAX):
            if not await _done(self._cluster.create_bucket(name)):
                return
            if number:
                self._cluster.coverage.saw("a bucket was made again")
            if await self._one(chooser, writer, name, f"{name}.{number}".encode()):
                return

    async def _one(self, chooser: random.Random, writer: SimClient, name: str, key: bytes) -> bool:
        """Whether the write won."""
        moments = [chooser.uniform(0.0, 0.05) for _ in range(2)]
        size = chooser.choice(SIZES)
        putting = asyncio.create_task(_after(moments[0], lambda: writer.put(key, size, Condition())))
        patience_s = chooser.choice((30.0, chooser.uniform(*GIVEN_UP_S)))
        deleting = asyncio.create_task(
            _done(_after(moments[1], lambda: self._cluster.delete_bucket(name, timeout_s=patience_s)))
        )
        acked, deleted = await putting is not None, await deleting
        if deleted:
            self._cluster.coverage.saw("a bucket was deleted under a writer")
        if acked:
            self._cluster.coverage.saw("a write won the race for a door")
            self.kept.append((name, writer, key))
            if not deleted:
                await asyncio.sleep(chooser.uniform(*DELETIONS_S))
                deleted = await _done(self._cluster.delete_bucket(name))
        if acked and deleted:
            self._history.violations.append(f"LOST BEHIND A DOOR: {key!r} was acked, and its bucket deleted")
        return acked

    async def claims(self) -> list[str]:
        """What status claims of the buckets that were written to, and is not true."""
        wrong: list[str] = []
        for name, _, key in self.kept:
            witness = Witness(self._cluster, self._history, bucket=name, keys=[key], registers=False)
            await witness.look(self._cluster.running()[0])
            wrong += witness.violations
        return wrong

    async def read_back(self, excused: set[bytes]) -> list[str]:
        """What is wrong with the buckets that were written to: each is there, and what is in it can be read."""
        wrong: list[str] = []
        for name, writer, key in self.kept:
            if await _done(self._cluster.delete_bucket(name)):
                wrong.append(f"LOST BEHIND A DOOR: {key!r} was acked, and its bucket deleted in the end")
                continue
            try:
                found = await writer.get(key, patience=6)
            except CallerError as error:
                wrong.append(f"LOST BEHIND A DOOR: {key!r}: {error!r}")
                continue
            if found is None and key not in excused:
                wrong.append(
                    f"UNREADABLE: {key!r} after faults stopped: {self._history.last_errors.get(name)}"
                )
        return wrong


async def _after(seconds: float, work: Callable[[], Awaitable[T]]) -> T:
    await asyncio.sleep(seconds)
    return await work()


async def _done(work: Awaitable[None]) -> bool:
    """Whether it was done for certain."""
    try:
        await work
    except (HoldfastError, ConnectionLost):
        return False
    return True
