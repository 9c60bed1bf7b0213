"""The index in memory. Like the real one it forgets what was not flushed, and only in whole batches from the end.

The rows outlive the process: `IndexContent` is what is on the disk, `SimIndex` is one process's handle on it.
"""

from __future__ import annotations

import asyncio
import random
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from holdfast_node.ports import IndexBroken, IndexFull

FLUSH_S: Final = 0.002

_Undo = list[tuple[bytes, bytes | None]]


class IndexContent:
    """Ordered rows, and how to undo each batch since the last flush."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []
        self.unflushed: list[_Undo] = []

    def put(self, key: bytes, value: bytes | None) -> None:
        known = key in self.rows
        if value is None:
            if known:
                del self.rows[key]
                del self.keys[bisect_left(self.keys, key)]
            return
        if not known:
            insort(self.keys, key)
        self.rows[key] = value

    def crash(self, chooser: random.Random) -> int:
        """Fall back to any state between the last flush and now. A database often survives better than it promised.
        Returns how many batches were forgotten."""
        keep = chooser.choice((0, len(self.unflushed), chooser.randint(0, len(self.unflushed))))
        forgotten = len(self.unflushed) - keep
        while len(self.unflushed) > keep:
            for key, before in reversed(self.unflushed.pop()):
                self.put(key, before)
        self.unflushed.clear()
        return forgotten

    def copy(self) -> IndexContent:
        twin = IndexContent()
        twin.rows, twin.keys = dict(self.rows), list(self.keys)
        return twin

    def wipe(self) -> None:
        self.rows.clear()
        self.keys.clear()
        self.unflushed.clear()


class SimIndex:
    """Implements `ports.Index`."""

    def __init__(
        self, content: IndexContent | None = None, *, is_full: Callable[[], bool] = lambda: False
    ) -> None:
        self.content = content or IndexContent()
        self.broken = ""
        """Set by a test: every later call raises `IndexBroken` until the rows are cleared."""
        self._is_full = is_full
        self._closed = False

    def get(self, key: bytes) -> bytes | None:
        self._check()
        return self.content.rows.get(key)

    def write(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes] = ()) -> None:
        self._check_room()
        content = self.content
        undo: _Undo = []
        changes: list[tuple[bytes, bytes | None]] = [(bytes(key), bytes(value)) for key, value in puts]
        changes += [(bytes(key), None) for key in deletes]
        for key, value in changes:
            undo.append((key, content.rows.get(key)))
            content.put(key, value)
        content.unflushed.append(undo)

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._check()
        keys = self.content.keys
        chosen = keys[bisect_left(keys, start) : bisect_left(keys, end)]
        return iter([(key, self.content.rows[key]) for key in chosen])

    async def flush(self) -> None:
        self._check_room()
        batches = len(self.content.unflushed)
        await asyncio.sleep(FLUSH_S)
        self._check()
        del self.content.unflushed[:batches]

    def clear(self) -> None:
        assert not self._closed, "the index is closed"
        self.broken = ""
        self.content.wipe()

    def close(self) -> None:
        self._closed = True

    def _check_room(self) -> None:
        self._check()
        if self._is_full():
            raise IndexFull("no space left in the simulated index")

    def _check(self) -> None:
        if self._closed:
            raise IndexBroken("the index is closed")
        if self.broken:
            raise IndexBroken(self.broken)
