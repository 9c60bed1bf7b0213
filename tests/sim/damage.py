"""What destroys data, one store or one domain at a time, so that everything acked can stand it.

A domain is wiped, a store rolled back or copied, a disk lies, rots or cannot be read. It knows what it may take; when
is the nemesis's business.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Final, Literal

from holdfast_node.core.log_format import batch_headers, read_batch
from holdfast_node.core.records import RecordType
from tests.sim.cluster import Cluster, Machine
from tests.sim.coverage import rotten_type

MARKS_S: Final = (15.0, 20.0)
"""Until peers have noted a store's latest record: what nobody saw is the published residual."""
LONELY_S: Final = 40.0
"""Longer than a change of the map is tried."""
ROT_FROM_BYTES: Final = 65536
READ_ERRORS_S: Final = (0.5, 6.0)


class Damage:
    """`settle` brings the cluster to health without help, `replace_lost` is what an operator does."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        chooser: random.Random,
        note_loss: Callable[[str], None],
        settle: Callable[[], Awaitable[bool]],
        replace_lost: Callable[[], Awaitable[str]],
        done: Counter[str],
    ) -> None:
        self._cluster = cluster
        self._chooser = chooser
        self._note_loss = note_loss
        self._settle = settle
        self._replace_lost = replace_lost
        self._done = done

    async def _later(self, low_s: float, high_s: float) -> None:
        await asyncio.sleep(self._chooser.uniform(low_s, high_s))

    # --- whole stores

    async def lose_domain(self) -> None:
        """A SAN or a part of it is wiped; now and then once more while the new stores are still learning."""
        if not await self._settle():
            return
        machines = [machine for machine in self._cluster.machines.values() if not machine.stranger]
        san = self._chooser.choice(sorted({machine.san for machine in machines}))
        victims = [machine for machine in machines if machine.san == san]
        if self._chooser.random() < 0.3:
            victims = victims[:1]
        self._note_loss("san")
        await self._lose(victims)

    async def lose_node_later(self) -> None:
        """A while after the cluster was in health one node is wiped: what is acked survives that at any time."""
        if not await self._settle():
            return
        await self._later(1.0, 6.0)
        self._note_loss("node")
        await self._lose(
            [self._chooser.choice([m for m in self._cluster.machines.values() if not m.stranger])]
        )

    async def _lose(self, victims: list[Machine]) -> None:
        self._wipe(victims)
        await self._later(0.0, 5.0)
        if self._chooser.random() < 0.7:
            await self._replace_lost()
            if self._chooser.random() < 0.3:
                await self._later(0.0, 0.3)
                self._wipe(victims[:1])
                self._done["wipe while learning"] += 1
                if self._chooser.random() < 0.5:
                    await self._replace_lost()

    def _wipe(self, victims: list[Machine]) -> None:
        for machine in victims:
            self._cluster.wipe(machine)
        self._done["wipe"] += 1

    async def roll_back(self) -> None:
        """An old snapshot of one store comes up in its place."""
        machine = self._one()
        if machine is None:
            return
        snapshot = machine.platter.snapshot()
        await self._later(*MARKS_S)
        if not await self._settle() or machine.life is None:
            return
        self._note_loss("node")
        self._cluster.stop_at_once(machine)
        machine.platter.roll_back(snapshot)
        machine.index.wipe()
        self._cluster.note(f"ROLL BACK {machine.name}")
        self._done["rollback"] += 1
        silenced = self._silence_most() if self._chooser.random() < 0.3 else []
        await self._cluster.boot(machine)
        await self._later(0.0, LONELY_S if silenced else 10.0)
        for other in silenced:
            if other.life is None:
                await self._cluster.boot(other)
        self._cluster.wipe(machine)
        await self._replace_lost()

    def _silence_most(self) -> list[Machine]:
        """Kill all that run but one: it tells an old store what it is, and is too few to write it into the map."""
        silenced = self._cluster.running()
        if silenced:
            silenced.remove(self._chooser.choice(silenced))
        for machine in silenced:
            self._cluster.stop_at_once(machine)
        return silenced

    async def clone(self) -> None:
        """A copy of one store runs beside it, on an address of its own, until somebody throws both away."""
        if not await self._settle():
            return
        machine = self._one()
        if machine is None:
            return
        copy = Machine(machine.name, f"{machine.name}-copy:1", machine.san, machine.platter.snapshot())
        copy.boots = 1000
        self._cluster.note(f"CLONE {machine.name}")
        self._done["clone"] += 1
        self._note_loss("node")
        self._cluster.stop_at_once(machine)
        await self._cluster.boot(copy)
        await self._later(0.0, 3.0)
        await self._cluster.boot(machine)
        await self._later(0.0, 10.0)
        self._cluster.stop_at_once(copy)
        self._cluster.wipe(machine)
        await self._replace_lost()

    def _one(self) -> Machine | None:
        running = self._cluster.running()
        return self._chooser.choice(running) if running else None

    # --- one disk: always the same one, so that no blob loses more than one shard and one register copy

    def _patient(self) -> Machine:
        return min(self._cluster.machines.values(), key=lambda machine: machine.name)

    async def rot(self) -> None:
        """One flipped byte, or a handful: anywhere in a volume, or in a record of some type."""
        machine = self._patient()
        files = machine.platter.files
        volumes = [name for name in sorted(files) if len(files[name].durable) > ROT_FROM_BYTES]
        if not volumes:
            return
        name = self._chooser.choice(volumes)
        content = memoryview(bytes(files[name].durable))
        places = [range(len(bytes(content).rstrip(b"\0")) or 1)]
        if self._chooser.random() < 0.7:
            places = self._records_of_some_type(content) or places
        for _ in range(self._chooser.choice((1, 1, 16))):
            offset = self._chooser.choice(self._chooser.choice(places))
            self._cluster.note(f"ROT {machine.name} {name} {offset}")
            machine.platter.flip(name, offset, self._chooser.randint(1, 255))

    def _records_of_some_type(self, volume: memoryview) -> list[range]:
        """Where the records of one type are, whichever types there are being as likely."""
        places: defaultdict[RecordType, list[range]] = defaultdict(list)
        for at, header in batch_headers(volume, 0):
            for record in read_batch(volume[at : at + header.length], at, header)[0]:
                extent = record.extent
                places[RecordType(record.kind)].append(range(extent.offset, extent.offset + extent.length))
        if not places:
            return []
        kind = self._chooser.choice(sorted(places))
        self._cluster.coverage.saw(rotten_type(kind))
        return places[kind]

    async def lose_write(self) -> None:
        await self._lie("lost")

    async def misdirect_write(self) -> None:
        await self._lie("misdirected")

    async def _lie(self, lie: Literal["lost", "misdirected"]) -> None:
        machine = self._patient()
        if machine.disk is not None:
            self._cluster.note(f"LIE {machine.name} {lie}")
            machine.disk.lie = lie

    async def fail_reads(self) -> None:
        """For a while some reads of one disk fail."""
        machine = self._patient()
        disk = machine.disk
        if disk is None:
            return
        self._cluster.note(f"EIO {machine.name}")
        disk.failing_reads = self._chooser.choice((0.1, 0.5, 1.0))
        await self._later(*READ_ERRORS_S)
        disk.failing_reads = 0.0
