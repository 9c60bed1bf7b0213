"""What a person sees of a run: a line that moves on a terminal, a line per event in a pipe. It decides nothing."""

from __future__ import annotations

import sys
import threading
import time
from typing import Final, TextIO

EVERY_S: Final = 1.0


class Screen:
    """`tick` is called often and draws seldom."""

    def __init__(self, length_s: float, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._length_s = length_s
        self._began = time.monotonic()
        self._drawn = 0.0
        self._live = out.isatty()
        self._lock = threading.Lock()

    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        with self._lock:
            clear = "\r\x1b[K" if self._live else ""
            print(f"{clear}{_clock(self.elapsed_s())} {text}", file=self._out, flush=True)

    def tick(self, text: str) -> None:
        now = time.monotonic()
        if not self._live or now - self._drawn < EVERY_S:
            return
        self._drawn = now
        left = max(0.0, self._length_s - self.elapsed_s())
        with self._lock:
            line = f"{_clock(self.elapsed_s())} elapsed, {_clock(left)} to go; {text}"
            print(f"\r\x1b[K{line[:110]}", end="", file=self._out, flush=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
