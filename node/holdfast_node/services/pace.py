"""How long register answers take lately, per store, and when to stop waiting for one. Estimates, never
decisions."""

from __future__ import annotations

from typing import Final

from holdfast_node.core.ids import StoreId

HEDGE_MIN_S: Final = 0.005
HEDGE_MAX_S: Final = 0.25
_UNKNOWN_S: Final = 0.05
_WEIGHT: Final = 0.125
_SLOW_FACTOR: Final = 4.0
_SLOW_MIN_S: Final = 0.004


class Pace:
    """Smoothed mean and deviation as TCP keeps them for its retransmission timer."""

    def __init__(self) -> None:
        self._mean: dict[StoreId, float] = {}
        self._deviation: dict[StoreId, float] = {}

    def observe(self, store: StoreId, elapsed_s: float) -> None:
        mean = self._mean.get(store)
        if mean is None:
            self._mean[store], self._deviation[store] = elapsed_s, elapsed_s / 2
            return
        off = abs(elapsed_s - mean)
        self._deviation[store] += _WEIGHT * (off - self._deviation[store])
        self._mean[store] = mean + _WEIGHT * (elapsed_s - mean)

    def hedge_s(self, stores: tuple[StoreId, ...]) -> float:
        """After this long without an answer from one of `stores`, somebody else should be asked too."""
        known = [self._mean[s] + 4 * self._deviation[s] for s in stores if s in self._mean]
        usual = sorted(known)[len(known) // 2] if known else _UNKNOWN_S
        return min(HEDGE_MAX_S, max(HEDGE_MIN_S, usual))

    def slow(self, store: StoreId) -> bool:
        """Far slower than the best: ask it last."""
        mean = self._mean.get(store)
        if mean is None or mean < _SLOW_MIN_S:
            return False
        return mean > _SLOW_FACTOR * min(self._mean.values())
