"""Byte credits of one stream: how much unanswered request its receiver takes. Pure counting."""

from __future__ import annotations


class Credits:
    """`taken` never exceeds `window`, which the receiver granted in its Hello."""

    def __init__(self, window_bytes: int) -> None:
        self._window = window_bytes
        self._taken = 0

    @property
    def taken(self) -> int:
        return self._taken

    def fits_ever(self, size: int) -> bool:
        return size <= self._window

    def take(self, size: int) -> bool:
        """True if the request may go now. Ask for the oldest waiting request first, or large ones starve."""
        if self._taken + size > self._window:
            return False
        self._taken += size
        return True

    def give_back(self, size: int) -> None:
        assert size <= self._taken, "more credit came back than was taken"
        self._taken -= size
