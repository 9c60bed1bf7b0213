"""Randomness and wall time that one seed decides. Nothing here may matter to safety: the clock jumps as it likes."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.sim.coverage import Coverage


class SimEntropy:
    """Implements `ports.Entropy` from a generator of its own."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def token(self, count: int) -> bytes:
        return self._random.randbytes(count)

    def jitter(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)


class SimClock:
    """Implements `ports.Clock`: the loop's time plus an error that may change at any moment."""

    def __init__(self, elapsed_s: Callable[[], float], *, wrong_by_ms: int = 0) -> None:
        self._elapsed_s = elapsed_s
        self.wrong_by_ms = wrong_by_ms

    def now_ms(self) -> int:
        return max(0, 1_800_000_000_000 + int(self._elapsed_s() * 1000) + self.wrong_by_ms)


class SimEvents:
    """Implements `services.events.Events`: a list, and a place to look for what must not happen."""

    def __init__(
        self, who: str = "", note: Callable[[str], None] | None = None, coverage: Coverage | None = None
    ) -> None:
        self._who = who
        self._note = note
        self._coverage = coverage
        self.seen: list[tuple[str, dict[str, str | int | float | bool]]] = []

    def emit(self, event: str, **fields: str | float | bool) -> None:
        self.seen.append((event, fields))
        if self._coverage is not None:
            self._coverage.event(event, fields)
        if self._note is not None:
            said = " ".join(f"{name}={value}" for name, value in fields.items())
            self._note(f"{self._who} {event} {said}".rstrip())

    def count(self, event: str) -> int:
        return sum(1 for name, _ in self.seen if name == event)
