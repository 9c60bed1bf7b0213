"""What a worker has done, and how fast of late: counts and a window of time, no opinion of when it is done.

`now_s` is the loop's time; nothing is decided by it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

RATE_WINDOW_S: Final = 10.0
STEPS_KEPT_MAX: Final = 4_000
"""For the rates: more than are done in that time."""


@dataclass(frozen=True, slots=True)
class _Step:
    at_s: float
    bytes_made: int
    finished: bool


@dataclass(slots=True)
class Progress:
    done: int = 0
    bytes_made: int = 0
    bytes_read: int = 0
    _steps: deque[_Step] = field(default_factory=lambda: deque(maxlen=STEPS_KEPT_MAX))

    def step(self, now_s: float, *, bytes_made: int, bytes_read: int, finished: bool) -> None:
        """One piece of work, whether it was finished or has to be tried again."""
        self.done += finished
        self.bytes_made += bytes_made
        self.bytes_read += bytes_read
        self._steps.append(_Step(now_s, bytes_made, finished))

    def rate_bytes_s(self, now_s: float) -> float:
        return sum(step.bytes_made for step in self._of_late(now_s)) / RATE_WINDOW_S

    def time_for_s(self, left: int, now_s: float) -> float:
        """How long so many pieces take at the rate measured; 0 if there is none."""
        finished = sum(step.finished for step in self._of_late(now_s))
        return left * RATE_WINDOW_S / finished if finished else 0.0

    def _of_late(self, now_s: float) -> list[_Step]:
        return [step for step in self._steps if step.at_s > now_s - RATE_WINDOW_S]
