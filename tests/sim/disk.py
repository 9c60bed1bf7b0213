"""A disk that knows written from durable and crashes truthfully.

Fault model: a power cut leaves each 512-byte sector that was written and not yet synced old, new or torn (a prefix of
the new bytes), each independently. A crash of the process alone leaves the page cache, so everything written. A
failed sync loses an arbitrary part of what it should have kept and kills the handle for ever. Reads fail now and then.
A lying disk loses one write or puts it elsewhere, and says it is durable; it only goes unpunished until the next write
to the same file is durable, for nobody could tell a lost last write from one that never was. Bits flip, disks fill up,
directories are wiped, copied and rolled back. What was synced is only hurt on purpose.

`Platter` is what outlives a process; `SimDisk` is one process's handle on it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NoReturn

from holdfast_node.core.errors import IntegrityError, StoreFailed, StoreFull
from holdfast_node.ports import Buffer

SECTOR: Final = 512
ALIGNMENT: Final = 4096
CAPACITY_BYTES: Final = 1 << 30


@dataclass(slots=True)
class _File:
    """`durable` is what a power cut leaves; `dirty` are whole sectors written since, by number."""

    durable: bytearray
    dirty: dict[int, bytes] = field(default_factory=dict[int, bytes])
    astray: tuple[int, bytes] | None = None
    """The last write, if the disk lied about it: a crash shows it after all, the next sync makes it lost for good."""

    def write(self, offset: int, data: bytes) -> None:
        for start in range(0, len(data), SECTOR):
            self.dirty[(offset + start) // SECTOR] = data[start : start + SECTOR]

    def sync(self) -> None:
        for sector, data in self.dirty.items():
            self.durable[sector * SECTOR : sector * SECTOR + len(data)] = data
        self.dirty.clear()
        self.astray = None

    def lead_back(self) -> None:
        """Nothing was written after it: what the disk lied about is where it should be."""
        if self.astray is not None:
            offset, data = self.astray
            self.durable[offset : offset + len(data)] = data
            self.astray = None

    def read(self, offset: int, length: int) -> bytes:
        if not self.dirty:
            return bytes(self.durable[offset : offset + length])
        end = min(offset + length, len(self.durable))
        first, last = offset // SECTOR, -(-end // SECTOR)
        whole = bytearray(self.durable[first * SECTOR : last * SECTOR])
        for sector in range(first, last):
            data = self.dirty.get(sector)
            if data is not None:
                whole[(sector - first) * SECTOR : (sector - first) * SECTOR + len(data)] = data
        return bytes(whole[offset - first * SECTOR : end - first * SECTOR])

    def copy(self) -> _File:
        return _File(bytearray(self.durable), dict(self.dirty), self.astray)


class Platter:
    """Files of one directory, and everything that can happen to them behind the process's back."""

    def __init__(self, *, capacity_bytes: int = CAPACITY_BYTES) -> None:
        self.capacity_bytes = capacity_bytes
        self.files: dict[str, _File] = {}
        self.torn = 0
        """How many sectors power cuts have torn."""

    # --- what happens at a crash

    def power_cut(self, chooser: random.Random) -> int:
        """Decide each unsynced sector's fate; returns how many there were."""
        cut = 0
        for name in sorted(self.files):
            file = self.files[name]
            mood = chooser.choice((0.0, 1.0, chooser.random()))
            for sector in sorted(file.dirty):
                cut += 1
                if chooser.random() < mood:
                    self._keep(file, sector, chooser)
            file.dirty.clear()
            file.lead_back()
        return cut

    def _keep(self, file: _File, sector: int, chooser: random.Random) -> None:
        data = file.dirty[sector]
        kept = chooser.randrange(1, len(data)) if chooser.random() < 0.1 else len(data)
        self.torn += kept < len(data)
        file.durable[sector * SECTOR : sector * SECTOR + kept] = data[:kept]

    def process_crash(self) -> None:
        """The kernel goes on: what was written reaches the disk."""
        for file in self.files.values():
            file.lead_back()
            file.sync()

    def unsynced(self) -> bool:
        """Whether a power cut now would take something."""
        return any(file.dirty for file in self.files.values())

    # --- faults aimed by tests

    def lay(self, name: str, durable: bytearray, dirty: dict[int, bytes] | None = None) -> None:
        """Put a file there, whatever was there: `dirty` are sectors that can be read and may still be lost."""
        self.files[name] = _File(durable, dirty or {})

    def twin(self) -> Platter:
        """The same once more, with all that is not durable yet."""
        other = Platter(capacity_bytes=self.capacity_bytes)
        other.files = {name: file.copy() for name, file in self.files.items()}
        return other

    def wipe(self) -> None:
        self.files.clear()

    def snapshot(self) -> Platter:
        twin = self.twin()
        for file in twin.files.values():
            file.dirty.clear()
            file.lead_back()
        return twin

    def roll_back(self, earlier: Platter) -> None:
        self.files = {name: file.copy() for name, file in earlier.files.items()}

    def flip(self, name: str, offset: int, mask: int = 1) -> None:
        """Rot: one byte of the medium changes."""
        self.files[name].durable[offset] ^= mask

    def used_bytes(self) -> int:
        return sum(len(file.durable) for file in self.files.values())


class SimDisk:
    """Implements `ports.Disk` on a platter. `delay_s` says how long each half of an operation takes."""

    def __init__(
        self, platter: Platter, *, chooser: random.Random, delay_s: Callable[[], float] | None = None
    ) -> None:
        self.platter = platter
        self.failure = ""
        self.fail_syncs = False
        """Set by a test: the next commit's sync fails."""
        self.failing_reads = 0.0
        """Set by a test: the share of reads that fail."""
        self.lie: Literal["", "lost", "misdirected"] = ""
        """Set by a test: what becomes of the next write."""
        self.syncs = 0
        self._chooser = chooser
        self.delay_s = delay_s or (lambda: 0.0)

    async def create(self, name: str, size_bytes: int) -> None:
        self._check()
        await self._wait()
        if name not in self.platter.files:
            self.platter.files[name] = _File(bytearray())
            await self._wait()
        file = self.platter.files[name]
        missing = size_bytes - len(file.durable)
        if missing > self.free_bytes():
            raise StoreFull(f"no room for {size_bytes} bytes")
        file.durable.extend(bytes(max(0, missing)))
        await self._wait()

    async def commit(self, name: str, offset: int, buffers: Sequence[Buffer]) -> None:
        self._check()
        data = b"".join(buffers)
        file = self.platter.files[name]
        assert offset % ALIGNMENT == 0, f"offset {offset} is not aligned"
        assert len(data) % ALIGNMENT == 0, f"length {len(data)} is not aligned"
        assert offset + len(data) <= len(file.durable), "a commit beyond the end of its file"
        await self._wait()
        lied = self._told_a_lie(file, offset, data)
        if not lied:
            file.write(offset, data)
        await self._wait()
        if self.fail_syncs:
            self.platter.power_cut(self._chooser)
            self._fail(f"fdatasync of {name}: EIO")
        if not lied:
            file.sync()
        self.syncs += 1
        await self._wait()

    def _told_a_lie(self, file: _File, offset: int, data: bytes) -> bool:
        lie, self.lie = self.lie, ""
        if not lie or file.dirty:
            return False
        if lie == "misdirected":
            blocks = (len(file.durable) - len(data)) // ALIGNMENT
            elsewhere = self._chooser.randint(0, blocks) * ALIGNMENT
            if elsewhere == offset:
                return False
            file.durable[elsewhere : elsewhere + len(data)] = data
        file.astray = (offset, data)
        return True

    async def read(self, name: str, offset: int, length: int, *, fresh: bool = False) -> bytes:
        self._check()
        await self._wait()
        if self.failing_reads and self._chooser.random() < self.failing_reads:
            raise IntegrityError(f"cannot read {name} at {offset}: EIO")
        return self.platter.files[name].read(offset, length)

    async def replace(self, name: str, content: bytes) -> None:
        self._check()
        await self._wait()
        self.platter.files[name] = _File(bytearray(content))
        await self._wait()

    async def remove(self, name: str) -> None:
        self._check()
        await self._wait()
        del self.platter.files[name]
        await self._wait()

    def names(self) -> list[str]:
        self._check()
        return sorted(self.platter.files)

    def free_bytes(self) -> int:
        return self.platter.capacity_bytes - self.platter.used_bytes()

    async def _wait(self) -> None:
        await asyncio.sleep(self.delay_s())
        self._check()

    def _check(self) -> None:
        if self.failure:
            raise StoreFailed(self.failure)

    def _fail(self, why: str) -> NoReturn:
        self.failure = why
        raise StoreFailed(why)
