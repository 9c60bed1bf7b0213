"""The machine's own clock, randomness, log lines and limits: the ports that need no library at all."""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import sys
import time
from typing import Final

LOGGER: Final = "holdfast"


class SystemClock:
    """Wall time, for display only."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


class SystemEntropy:
    """The kernel's randomness for identities, a cheap generator for jitter."""

    def __init__(self) -> None:
        self._jitter = random.Random(os.urandom(16))  # noqa: S311 - spreads retries, guards nothing

    def token(self, count: int) -> bytes:
        return os.urandom(count)

    def jitter(self, low: float, high: float) -> float:
        return self._jitter.uniform(low, high)


class LogEvents:
    """Events as log lines on standard error: one JSON document a line, with the time and the node's name.

    The standard library's logging and not a structured-logging package: the one that was tried took 0.2 s of each
    node's start, which is most of it.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._log = logging.getLogger(LOGGER)
        if not self._log.handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("%(message)s"))
            self._log.addHandler(handler)
            self._log.setLevel(logging.INFO)

    def emit(self, event: str, **fields: str | float | bool) -> None:
        now_s = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s)) + f".{int(now_s * 1000) % 1000:03d}Z"
        self._log.info(json.dumps({"time": stamp, "node": self._node, "event": event, **fields}, default=str))


def raise_open_files() -> int:
    """Let this process open as many files as it may: the usual soft limit is for programs that use `select`. How many
    that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # the kernel's own limit is lower by now, or a sandbox forbids it
        return soft
    return hard
