"""A file that appears whole or not at all: written beside its target, synced, then renamed onto it."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final, Self

NAME_CHARS: Final = 32
"""Of the target's, in the name it is written under: four bytes each, and a name has 255."""


class Writer:
    """Blocking. Leaving the block without `publish` removes what was written."""

    def __init__(self, target: Path) -> None:
        if target.exists() and not target.is_file():
            raise FileExistsError(
                errno.EEXIST, "it is there, and no regular file to be replaced", str(target)
            )
        self._target = target
        descriptor, name = tempfile.mkstemp(
            prefix=f".{target.name[:NAME_CHARS]}.", suffix=".part", dir=target.parent
        )
        self._name = Path(name)
        self._published = False
        os.fchmod(descriptor, 0o666 & ~_umask())
        self._file = os.fdopen(descriptor, "wb")

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)

    def publish(self) -> Path:
        """Durable under its name: without the directory's fsync a power cut could bring the old file back."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._name.replace(self._target)
        self._published = True
        directory = os.open(self._target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        return self._target

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        finally:  # closing writes what is left, and there may be no room for it
            if not self._published:
                self._name.unlink(missing_ok=True)


def _umask() -> int:
    """The process's mask; there is no way to read it but to set it, so Linux's own record comes first."""
    for line in (
        Path("/proc/self/status").read_text().splitlines() if Path("/proc/self/status").exists() else ()
    ):
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022
