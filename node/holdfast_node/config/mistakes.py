"""What is wrong with a file: where, what, and what to write instead. Knows nothing of what a key means."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

KeyPath = tuple[str | int, ...]
"""Where a value is: table and key names, and positions (from 0) in arrays."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake. `line` counts from 1; 0 means the file as a whole."""

    line: int
    key: str
    wrong: str
    instead: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        key = f"{self.key}: " if self.key else ""
        return f"{where}{key}{self.wrong}; {self.instead}"


class ConfigError(Exception):
    """The file cannot be used. `mistakes` holds every mistake, in the order of their lines; `str()` is a report."""

    def __init__(self, mistakes: tuple[Mistake, ...], path: Path | None = None) -> None:
        super().__init__(mistakes, path)
        self.mistakes = tuple(sorted(mistakes, key=lambda mistake: mistake.line))
        self.path = path

    def __str__(self) -> str:
        count = "1 mistake" if len(self.mistakes) == 1 else f"{len(self.mistakes)} mistakes"
        return "\n  ".join([f"{self.path or 'the configuration'} has {count}:", *map(str, self.mistakes)])


def suggestion(word: str, known: Iterable[str]) -> str:
    """`did you mean "..."?` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f'did you mean "{near[0]}"?' if near else ""
