"""A directory under the rules of a power cut: what is durable, what is only written, and each thing a cut can leave.

Every 512-byte sector written since its file's last sync is there, gone, or torn within, each on its own; so is each
name and each new size that was not synced. A rename happened or did not. Knows nothing of stores.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.faults.support.power_cut import (
    SECTOR,
    DirectorySynced,
    Event,
    Made,
    Note,
    Removed,
    Sized,
    Synced,
    Wrote,
)
from tests.sim.disk import Platter

TEMPORARY: Final = ".tmp"
SINGLES: Final = 6
"""How many single sectors of one write get states of their own: the first, the last, and some between."""
MIXTURES: Final = 4
CACHED: Final = 3
"""The first crash leaves one state of this kind; it is the crashes after it that differ."""
TORN_RATE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of the sectors on their way: `kind` is a word of `_survivors`, `sector` which one it is about.

    `seed` decides all else: names and sizes on their way, where a sector tears, which sectors a mixture keeps.
    """

    kind: str
    sector: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Cut:
    """A power cut in the middle of a recording."""

    fate: Fate


@dataclass(slots=True)
class _Inode:
    durable: bytearray = field(default_factory=bytearray)
    size: int = 0
    """With what is not durable yet."""
    dirty: dict[int, bytes] = field(default_factory=dict[int, bytes])

    def write(self, offset: int, data: bytes) -> None:
        assert offset % SECTOR == 0
        for at in range(0, len(data), SECTOR):
            self.dirty[(offset + at) // SECTOR] = data[at : at + SECTOR]
        self.size = max(self.size, offset + len(data))

    def sync(self) -> None:
        del self.durable[self.size :]
        self.durable.extend(bytes(self.size - len(self.durable)))
        for sector, data in self.dirty.items():
            self.durable[sector * SECTOR : sector * SECTOR + len(data)] = data
        self.dirty.clear()


class Directory:
    """What a prefix of the events leaves. `visible` is what a living process sees: names and their files."""

    def __init__(self) -> None:
        self.visible: dict[str, int] = {}
        self._names: dict[str, int] = {}
        self._unsynced_names: list[tuple[str, int | None]] = []
        self._inodes: dict[int, _Inode] = {}

    def apply(self, event: Event | Cut) -> None:
        match event:
            case Made(name, file):
                self._inodes.setdefault(file, _Inode())
                self._name(self.visible, name, file)
                self._unsynced_names.append((name, file))
            case Removed(name):
                del self.visible[name]
                self._unsynced_names.append((name, None))
            case Wrote(file, offset, data):
                self._inodes[file].write(offset, data)
            case Sized(file, length):
                inode = self._inodes[file]
                inode.size = max(inode.size, length) if length else 0
            case Synced(file):
                self._inodes[file].sync()
            case DirectorySynced():
                self._names = dict(self.visible)
                self._unsynced_names.clear()
            case Cut(fate):
                self._cut(fate)
            case Note():
                pass

    @staticmethod
    def _name(names: dict[str, int], name: str, file: int | None) -> None:
        """A file has one name: a second one was a rename. None: the name is gone."""
        if file is None:
            names.pop(name, None)
            return
        for other in [other for other, known in names.items() if known == file]:
            del names[other]
        names[name] = file

    def read(self, name: str, offset: int, length: int) -> bytes:
        inode = self._inodes[self.visible[name]]
        content = bytearray(inode.durable.ljust(inode.size, b"\0"))
        for sector, data in inode.dirty.items():
            content[sector * SECTOR : sector * SECTOR + len(data)] = data
        return bytes(content[offset : offset + length])

    # --- what a cut leaves

    def fates(self, chooser: random.Random) -> list[Fate]:
        """The states worth trying now. Without anything on its way there is only one."""
        sectors = sum(len(inode.dirty) for inode in self._inodes.values())
        unsynced = len(self._unsynced_names) + sum(
            len(inode.durable) < inode.size for inode in self._inodes.values()
        )
        fates = [Fate("none")]
        if sectors + unsynced:
            fates += [Fate("all"), *(Fate("cached", seed=seed) for seed in range(CACHED))]
            fates += [Fate("mixture", seed=chooser.getrandbits(32)) for _ in range(MIXTURES)]
        if sectors:
            some = {0, sectors - 1, *(chooser.randrange(sectors) for _ in range(SINGLES - 2))}
            fates += [
                Fate(kind, sector, chooser.getrandbits(32))
                for kind in ("without", "only", "first", "torn")
                for sector in sorted(some)
            ]
        return fates

    def leave(self, fate: Fate) -> Platter:
        """The disk as that fate leaves it. `cached`: the process died and the kernel lived, so all is to be read,
        and what was not synced may still be lost."""
        platter = Platter()
        names, contents = self._left(fate)
        for name, file in names.items():
            if name.endswith(TEMPORARY):
                continue
            dirty = dict(self._inodes[file].dirty) if fate.kind == "cached" else None
            platter.lay(name, contents[file], dirty)
        return platter

    def _cut(self, fate: Fate) -> None:
        assert fate.kind != "cached", "that is no power cut"
        names, contents = self._left(fate)
        self._names, self.visible = names, dict(names)
        self._unsynced_names.clear()
        self._inodes = {file: _Inode(content, len(content)) for file, content in contents.items()}

    def _left(self, fate: Fate) -> tuple[dict[str, int], dict[int, bytearray]]:
        """Names, and what is durable of each file: without the sectors on their way if they are only `cached`."""
        chooser = random.Random(fate.seed)
        everything = fate.kind in ("all", "cached")
        names = dict(self._names)
        for name, file in self._unsynced_names:
            if everything or (fate.kind != "none" and chooser.random() < 0.5):
                self._name(names, name, file)
        contents: dict[int, bytearray] = {}
        for file in sorted(set(names.values())):
            inode = self._inodes[file]
            content = contents[file] = bytearray(inode.durable)
            if everything or (fate.kind != "none" and chooser.random() < 0.5):
                content.extend(bytes(inode.size - len(content)))
        if fate.kind != "cached":
            for file, sector, data in self._survivors(fate, chooser):
                if file in contents:
                    _put(contents[file], sector * SECTOR, data)
        return names, contents

    def _survivors(self, fate: Fate, chooser: random.Random) -> Iterator[tuple[int, int, bytes]]:
        """The sectors on their way that reached the disk, with as much of each as did."""
        written = [
            (file, sector, data)
            for file, inode in self._inodes.items()
            for sector, data in inode.dirty.items()
        ]
        mood = chooser.choice((0.5, chooser.random()))
        for number, (file, sector, data) in enumerate(written):
            match fate.kind:
                case "all":
                    kept = True
                case "none":
                    kept = False
                case "without":
                    kept = number != fate.sector
                case "only":
                    kept = number == fate.sector
                case "first" | "torn":
                    kept = number <= fate.sector
                case _:
                    kept = chooser.random() < mood
            torn = (fate.kind == "torn" and number == fate.sector) or (
                fate.kind == "mixture" and chooser.random() < TORN_RATE
            )
            if kept:
                yield file, sector, data[: chooser.randrange(1, len(data))] if torn else data


def _put(content: bytearray, at: int, data: bytes) -> None:
    content.extend(bytes(max(0, at - len(content))))
    content[at : at + len(data)] = data
