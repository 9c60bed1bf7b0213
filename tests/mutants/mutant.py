"""What a planted bug is: a small change of the text of the product, and who should notice.

Knows nothing of running tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Edit:
    """`old` occurs exactly once in `file`, whose path is from the root."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Aim:
    """Simulated worlds that bring the bug out: the kinds of trouble in them (fields of `Trouble`), how much is going
    on, how long a disk takes at most (0: as long as usual), the pool's code (empty: as drawn), and into how few
    partitions its keys fall (0: as drawn). No trouble: worlds as they are drawn."""

    trouble: tuple[str, ...] = ()
    clients: int = 4
    keys: int = 2
    rounds: int = 10
    disk_s: float = 0.0
    code: str = ""
    partitions: int = 0


@dataclass(frozen=True, slots=True)
class Mutant:
    """`says` is the rule as it is with the bug. `catcher` is the test, or file of tests, that holds the rule. With
    `aim`, simulated worlds must find the bug too, without help from that test."""

    name: str
    says: str
    edits: tuple[Edit, ...]
    catcher: str
    aim: Aim | None = None


class StaleMutantError(Exception):
    """The text that a mutant changes is not there, or not there once."""


def plant(mutant: Mutant, root: Path) -> None:
    """Change the files under `root`, which must be a private copy."""
    for edit in mutant.edits:
        path = root / edit.file
        path.write_text(edited(mutant, edit, path.read_text()))


def edited(mutant: Mutant, edit: Edit, text: str) -> str:
    count = text.count(edit.old)
    if count != 1:
        raise StaleMutantError(f"{mutant.name}: {count} times in {edit.file}, must be once:\n{edit.old}")
    if edit.old == edit.new:
        raise StaleMutantError(f"{mutant.name}: changes nothing in {edit.file}")
    return text.replace(edit.old, edit.new)


def repeated_names(mutants: Sequence[Mutant]) -> list[str]:
    names = [mutant.name for mutant in mutants]
    return sorted({name for name in names if names.count(name) > 1})
