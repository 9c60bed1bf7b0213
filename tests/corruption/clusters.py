"""A small simulated cluster, damaged on as many stores as its code survives, and read through every coordinator.

Whatever happens to m stores, every blob is read back whole through the others; through a damaged one, and whatever
happens to all of them, a read gives the right bytes or an error.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any, Final

from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.quorum import majority
from tests.corruption.damage import IN_PLACE, Extent, Vandal, extents
from tests.sim.cluster import Machine
from tests.support.small_clusters import SIX, SmallCluster, payload_of, run_story

SIZES: Final = (100, 400, 2000, 9000, 30_000, 70_000)
BLOBS: Final = 12
STRIKES_ON_FEW: Final = 40
STRIKES_ON_ALL: Final = 6
HURT_MAX: Final = min(2, 6 - majority(6))
"""Of 4+2 on six nodes: two shards may be gone, and two copies of a register."""


@dataclass(slots=True)
class Damaged:
    """Reads after the damage, and what was wrong with them."""

    strikes: int = 0
    reads: int = 0
    errors: int = 0
    wrong: tuple[str, ...] = ()


def damage_cluster(seed: int) -> Damaged:
    """One cluster: every other seed hurts all stores a little, the others hurt two stores much."""
    outcome = Damaged()

    async def story(small: SmallCluster) -> None:
        await _story(small, outcome, random.Random(f"damaged cluster {seed}"), everywhere=seed % 2 == 1)

    run_story(story, topology=SIX, seed=seed)
    return outcome


async def _story(small: SmallCluster, outcome: Damaged, chooser: random.Random, *, everywhere: bool) -> None:
    blobs = {b"key %d" % number: chooser.choice(SIZES) + number for number in range(BLOBS)}
    for key, size in blobs.items():
        await small.put(key, payload_of(size + 1), at=chooser.choice(sorted(small.cluster.machines)))
        await small.put(key, payload_of(size), at=chooser.choice(sorted(small.cluster.machines)))
    names = sorted(small.cluster.machines)
    hurt = names if everywhere else chooser.sample(names, HURT_MAX)
    for name in hurt:
        machine = small.machine(name)
        restart = chooser.random() < 0.5 and not everywhere
        if restart:
            await small.cluster.stop(machine)
            machine.index.crash(chooser)
        places = extents(machine.platter)
        for _ in range(STRIKES_ON_ALL if everywhere else STRIKES_ON_FEW):
            outcome.strikes += _strike(machine, places, chooser)
        if restart:
            await small.cluster.boot(machine)
        else:
            _forget_registers(machine)
    wrong: list[str] = []
    for key, size in blobs.items():
        for name in chooser.sample(small.cluster.choices(), 3):
            text = await _read(small, key, size, at=name, may_fail=everywhere or name in hurt)
            outcome.reads += 1
            outcome.errors += text == "error"
            if text not in ("", "error"):
                wrong.append(f"{key!r} at {name}, {hurt} hurt: {text}")
    outcome.wrong = tuple(wrong)


async def _read(small: SmallCluster, key: bytes, size: int, *, at: str, may_fail: bool) -> str:
    try:
        async with asyncio.timeout(600):
            found = await small.get(key, at=at)
    except (HoldfastError, TimeoutError) as error:
        return "error" if may_fail else f"it cannot be read: {error!r}"
    return "" if found == payload_of(size) else f"{len(found)} wrong bytes"


def _strike(machine: Machine, places: list[Extent], chooser: random.Random) -> bool:
    """In place: a node whose superblock is broken does not start, and nothing is to be seen."""
    vandal = Vandal(machine.platter, machine.platter.twin(), places, str(chooser.random()))
    return bool(vandal.strike(IN_PLACE))


def _forget_registers(machine: Machine) -> None:
    """So that they are read from the disk again."""
    node: Any = machine.node
    assert node is not None
    node.store._registers._cache.clear()
