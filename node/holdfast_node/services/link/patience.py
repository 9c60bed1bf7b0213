"""How long one peer's bulk answers take, at p95 of the recent ones. Pure; durations come from the caller."""

from __future__ import annotations

from collections import deque

from holdfast_node.services.link.limits import PATIENCE_FLOOR_S, PATIENCE_SAMPLES

_RECOUNT_EVERY = 8


class Patience:
    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=PATIENCE_SAMPLES)
        self._fresh = 0
        self._p95_s = 0.0

    def note(self, seconds: float) -> None:
        self._recent.append(seconds)
        self._fresh += 1

    @property
    def p95_s(self) -> float:
        """At least the floor: a hedge that fires earlier costs more than it saves."""
        if self._fresh >= _RECOUNT_EVERY or (self._fresh and len(self._recent) <= _RECOUNT_EVERY):
            ordered = sorted(self._recent)
            self._p95_s = ordered[(len(ordered) * 95) // 100]
            self._fresh = 0
        return max(PATIENCE_FLOOR_S, self._p95_s)
