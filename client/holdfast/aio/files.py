"""A file that appears whole or not at all: written beside its target, synced, then renamed onto it."""

from __future__ import annotations

import errno
import os
import secrets
import threading
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

NAME_CHARS: Final = 32
"""Of the target's, in the name it is written under: four bytes each, and a name has 255."""


class Writer:
    """Blocking. Leaving the block without `publish` removes what was written, whenever it is left: the name is known
    before the file is there, and a thread that opens it late opens nothing any more."""

    def __init__(self, target: Path) -> None:
        self._target = target
        name = f".{target.name[:NAME_CHARS]}.{secrets.token_hex(8)}.part"
        self._name = target.parent / name
        self._file: BinaryIO | None = None
        self._left = False
        self._published = False
        self._turn = threading.Lock()

    def open(self) -> None:
        """Within the block. Raises `FileExistsError` if the target is there and no regular file."""
        if self._target.exists() and not self._target.is_file():
            raise FileExistsError(
                errno.EEXIST, "it is there, and no regular file to be replaced", str(self._target)
            )
        with self._turn:
            if not self._left:
                self._file = self._name.open("xb")

    def write(self, chunk: bytes) -> None:
        assert self._file is not None, "it is open"
        self._file.write(chunk)

    def publish(self) -> Path:
        """Durable under its name: without the directory's fsync a power cut could bring the old file back."""
        assert self._file is not None, "it is open"
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
        with self._turn:
            self._left = True
        try:
            if self._file is not None:
                self._file.close()
        finally:  # closing writes what is left, and there may be no room for it
            if not self._published:
                self._name.unlink(missing_ok=True)
