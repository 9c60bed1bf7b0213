"""Records every write and sync that the disk adapter makes, and rebuilds what a power cut could have left of them.

`Recorder` stands where the adapter expects the `os` module. A cut keeps what was synced; each 512-byte sector written
since is there or not, on its own; a new name or a rename whose directory was not synced happened or did not.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Final

SECTOR: Final = 512


@dataclass(frozen=True, slots=True)
class Made:
    """A name in the directory now means this file. `file` is a number of our own, for the inode."""

    name: str
    file: int


@dataclass(frozen=True, slots=True)
class Removed:
    """The name means no file any more."""

    name: str


@dataclass(frozen=True, slots=True)
class Wrote:
    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Sized:
    file: int
    length: int


@dataclass(frozen=True, slots=True)
class Synced:
    file: int


@dataclass(frozen=True, slots=True)
class DirectorySynced:
    pass


@dataclass(frozen=True, slots=True)
class Note:
    """Something the workload learned, in order with the writes: an acknowledgement, or that something was asked for."""

    what: str
    value: object


Event = Made | Removed | Wrote | Sized | Synced | DirectorySynced | Note


class Recorder:
    """The calls of `os` that the adapter uses, done and written down. `skip_sync` plants a bug."""

    def __init__(self, directory: Path, *, skip_sync: bool = False) -> None:
        self.events: list[Event] = []
        self._directory = directory
        self._skip_sync = skip_sync
        self._lock = Lock()
        self._names: dict[str, int] = {}
        self._open: dict[int, int | None] = {}
        self._files = 0

    def __getattr__(self, name: str) -> Any:  # whatever does not change the disk
        return getattr(os, name)

    def note(self, what: str, value: object) -> None:
        with self._lock:
            self.events.append(Note(what, value))

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        with self._lock:
            descriptor = os.open(path, flags, mode)
            if path == self._directory:
                self._open[descriptor] = None
                return descriptor
            name = path.name
            if name not in self._names:
                self._files += 1
                self._names[name] = self._files
                self.events.append(Made(name, self._files))
            if flags & os.O_TRUNC:
                self.events.append(Sized(self._names[name], 0))
            self._open[descriptor] = self._names[name]
            return descriptor

    def pwritev(self, descriptor: int, buffers: Iterable[memoryview], offset: int) -> int:
        (data,) = buffers
        file = self._file(descriptor)
        with self._lock:
            self.events.append(Wrote(file, offset, bytes(data)))
        return os.pwritev(descriptor, (data,), offset)

    def write(self, descriptor: int, data: memoryview) -> int:
        file = self._file(descriptor)
        with self._lock:
            self.events.append(Wrote(file, os.lseek(descriptor, 0, os.SEEK_CUR), bytes(data)))
        return os.write(descriptor, data)

    def posix_fallocate(self, descriptor: int, offset: int, length: int) -> None:
        with self._lock:
            self.events.append(Sized(self._file(descriptor), offset + length))
        os.posix_fallocate(descriptor, offset, length)

    def fdatasync(self, descriptor: int) -> None:
        if not self._skip_sync:
            self.fsync(descriptor)

    def fsync(self, descriptor: int) -> None:
        """Nothing is slower here, so the real sync is left out: the recorded one decides what survives."""
        file = self._open[descriptor]
        with self._lock:
            self.events.append(DirectorySynced() if file is None else Synced(file))

    def replace(self, source: Path, target: Path) -> None:
        with self._lock:
            source.replace(target)
            file = self._names.pop(source.name)
            self._names[target.name] = file
            self.events.append(Made(target.name, file))

    def unlink(self, path: Path) -> None:
        with self._lock:
            path.unlink()
            del self._names[path.name]
            self.events.append(Removed(path.name))

    def _file(self, descriptor: int) -> int:
        file = self._open[descriptor]
        assert file is not None, "the directory is not written to"
        return file


@dataclass(slots=True)
class _Inode:
    durable: dict[int, bytes] = field(default_factory=dict[int, bytes])
    length: int = 0
    written: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    """Sectors since the last sync, in order."""

    def write(self, offset: int, data: bytes) -> None:
        """`offset` and all writes but a file's last are whole sectors: the adapter writes blocks and small files."""
        assert offset % SECTOR == 0
        for at in range(0, len(data), SECTOR):
            self.written.append(((offset + at) // SECTOR, data[at : at + SECTOR]))
        self.length = max(self.length, offset + len(data))

    def sync(self) -> None:
        self.durable.update(self.written)
        self.written.clear()

    def survivors(self, chooser: random.Random) -> dict[int, bytes]:
        """Mostly all or nothing of what was not synced, often a mixture."""
        mood = chooser.choice((0.0, 1.0, 0.5, chooser.random()))
        return {**self.durable, **{number: data for number, data in self.written if chooser.random() < mood}}


class Disk:
    """What is on the disk after a prefix of the events."""

    def __init__(self) -> None:
        self._inodes: dict[int, _Inode] = {}
        self._names: dict[str, int] = {}
        self._unsynced_names: list[tuple[str, int | None]] = []

    def apply(self, event: Event) -> None:
        match event:
            case Made(name, file):
                self._inodes.setdefault(file, _Inode())
                self._unsynced_names.append((name, file))
            case Removed(name):
                self._unsynced_names.append((name, None))
            case Wrote(file, offset, data):
                self._inodes[file].write(offset, data)
            case Sized(file, length):
                inode = self._inodes[file]
                inode.length = max(inode.length, length) if length else 0
            case Synced(file):
                self._inodes[file].sync()
            case DirectorySynced():
                self._names = self._with(self._unsynced_names)
                self._unsynced_names.clear()
            case Note():
                pass

    def _with(self, changes: Iterable[tuple[str, int | None]]) -> dict[str, int]:
        names: dict[str, int | None] = {**self._names, **dict(changes)}
        return {name: file for name, file in names.items() if file is not None}

    def rebuild(self, directory: Path, chooser: random.Random) -> None:
        """Write one of the states that a power cut now could leave."""
        directory.mkdir()
        kept = chooser.choice((0, len(self._unsynced_names), chooser.randint(0, len(self._unsynced_names))))
        names = self._with(self._unsynced_names[:kept])
        contents: Mapping[int, dict[int, bytes]] = {
            file: self._inodes[file].survivors(chooser) for file in sorted(set(names.values()))
        }
        for name, file in names.items():
            with (directory / name).open("wb") as target:
                target.truncate(self._inodes[file].length)
                for number, data in sorted(contents[file].items()):
                    target.seek(number * SECTOR)
                    target.write(data)
