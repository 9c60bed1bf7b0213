"""Waiting for what must become true, with a limit. The only place where fault tests let time pass."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_S = 0.05


def until(condition: Callable[[], bool], limit_s: float, what: str) -> float:
    """How many seconds it took. Fails loudly, by name, if it never does."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s, f"not within {limit_s:g} s: {what}"
        time.sleep(POLL_S)
    return time.monotonic() - began
