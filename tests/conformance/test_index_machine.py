"""Any sequence of writes and scans, on the real index and on the simulator's, beside a dictionary.

The simulator believes its own index: a world cannot find what only the real one does. Scans stay open while others
write, and their keys are made anew each time, as those of the product are.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from holdfast_node.adapters.rocks import RocksIndex
from holdfast_node.ports import Index
from tests.sim.index import IndexContent, SimIndex

Row = tuple[bytes, bytes]
Bounds = tuple[bytes, bytes]


def _key(letter: int, rest: bytes) -> bytes:
    return bytes((letter,)) + rest


def _beneath(key: bytes, more: bytes) -> Bounds:
    return key, key + more


KEYS = st.builds(_key, st.sampled_from(b"kcf"), st.binary(max_size=3))
ROWS = st.lists(st.tuples(KEYS, st.binary(max_size=40)), max_size=20)
BOUNDS = st.builds(_beneath, KEYS, st.binary(min_size=1, max_size=2)) | st.tuples(KEYS, KEYS)
SCANS_MAX = 4


class _Machine(RuleBasedStateMachine):
    """`_open` opens the index that was there before."""

    def __init__(self) -> None:
        super().__init__()
        self._open = self.opener()
        self._index = self._open()
        self._rows: dict[bytes, bytes] = {}
        self._scans: list[tuple[Iterator[Row], Iterator[Row]]] = []

    def opener(self) -> Callable[[], Index]:
        raise NotImplementedError

    @rule(puts=ROWS, deletes=st.lists(KEYS, max_size=8))
    def write(self, puts: list[Row], deletes: list[bytes]) -> None:
        self._index.write(puts, deletes)
        self._rows.update(puts)
        for key in deletes:
            self._rows.pop(key, None)

    @rule(bounds=BOUNDS)
    def delete_what_a_scan_finds(self, bounds: Bounds) -> None:
        found = [key for key, _ in self._scanned(bounds)]
        self._index.write([], found)
        for key, _ in self._between(*bounds):
            del self._rows[key]

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        assert self._index.get(key) == self._rows.get(key)

    @rule(bounds=BOUNDS)
    def scan(self, bounds: Bounds) -> None:
        assert list(self._scanned(bounds)) == self._between(*bounds)

    @precondition(lambda self: len(self._scans) < SCANS_MAX)
    @rule(bounds=BOUNDS)
    def begin_a_scan(self, bounds: Bounds) -> None:
        self._scans.append((self._scanned(bounds), iter(self._between(*bounds))))

    @precondition(lambda self: self._scans)
    @rule(which=st.integers(min_value=0, max_value=SCANS_MAX - 1), rows=st.integers(min_value=1, max_value=8))
    def go_on_with_a_scan(self, which: int, rows: int) -> None:
        at = which % len(self._scans)
        found, wanted = self._scans[at]
        for _ in range(rows):
            row = next(wanted, None)
            assert next(found, None) == row
            if row is None:
                del self._scans[at]
                return

    @rule()
    def start_again(self) -> None:
        self._scans.clear()
        asyncio.run(self._index.flush())
        self._index.close()
        self._index = self._open()

    @rule()
    def clear(self) -> None:
        self._scans.clear()
        self._index.clear()
        self._rows.clear()

    def teardown(self) -> None:
        assert list(self._index.scan(b"", b"\xff")) == sorted(self._rows.items())
        self._scans.clear()
        self._index.close()

    def _scanned(self, bounds: Bounds) -> Iterator[Row]:
        """The bounds themselves are kept by whoever made them up: these are gone once the scan has begun."""
        start, end = (bytes(bytearray(bound)) for bound in bounds)
        return self._index.scan(start, end)

    def _between(self, start: bytes, end: bytes) -> list[Row]:
        return sorted(row for row in self._rows.items() if start <= row[0] < end)


class RealIndex(_Machine):
    def opener(self) -> Callable[[], Index]:
        self._directory = Path(tempfile.mkdtemp(prefix="holdfast-index-"))
        return lambda: RocksIndex(self._directory / "index")

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self._directory)


class SimulatedIndex(_Machine):
    def opener(self) -> Callable[[], Index]:
        content = IndexContent()
        return lambda: SimIndex(content)


TestRealIndex = RealIndex.TestCase
TestRealIndex.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestSimulatedIndex = SimulatedIndex.TestCase
TestSimulatedIndex.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
