"""What was acknowledged, and what it must read back as. It trusts no hash: contents are compared byte for byte."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

CHUNK_BYTES: Final = 4 * 1024 * 1024


class Content(Protocol):
    """Bytes that can be had again."""

    @property
    def size(self) -> int: ...

    def chunks(self) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes kept in memory: what a file held when it was stored, whatever happens to the file."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def chunks(self) -> Iterator[bytes]:
        yield self.data


@dataclass(frozen=True, slots=True)
class Generated:
    """Random bytes that follow from a seed."""

    seed: str
    size: int

    def chunks(self) -> Iterator[bytes]:
        source = random.Random(self.seed)  # noqa: S311  # content to compare, nothing secret
        for start in range(0, self.size, CHUNK_BYTES):
            yield source.randbytes(min(CHUNK_BYTES, self.size - start))


@dataclass(frozen=True, slots=True)
class Filed:
    """A file of our own making."""

    path: Path
    size: int

    def chunks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk


@dataclass(frozen=True, slots=True)
class Acked:
    key: bytes
    version: int
    content: Content


class Ledger:
    """Filled by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._acked: list[Acked] = []
        self.written = 0
        self.errors: list[str] = []

    def attempted(self) -> None:
        with self._lock:
            self.written += 1

    def acked(self, key: bytes, version: int, content: Content) -> None:
        with self._lock:
            self._acked.append(Acked(key, version, content))

    def failed(self, error: Exception) -> None:
        """A write the caller was told had not, or may not have, been stored: it promises nothing."""
        with self._lock:
            self.errors.append(str(error))

    def entries(self) -> list[Acked]:
        with self._lock:
            return list(self._acked)

    def __len__(self) -> int:
        return len(self._acked)

    @property
    def bytes(self) -> int:
        return sum(entry.content.size for entry in self.entries())


def same(content: Content, read: Iterator[bytes]) -> bool:
    """Whether what was read is the content, byte for byte, in memory bounded by two chunks."""
    ours, theirs = b"", b""
    expected = content.chunks()
    while True:
        ours = ours or next(expected, b"")
        theirs = theirs or next(read, b"")
        if not ours or not theirs:
            return not ours and not theirs
        length = min(len(ours), len(theirs))
        if ours[:length] != theirs[:length]:
            return False
        ours, theirs = ours[length:], theirs[length:]
