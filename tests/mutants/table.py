"""The table in docs/testing.md: what is planted, who notices, and how soon. Rows of a part of the bugs can be renewed.

Knows nothing of how a bug is found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.mutants.hunt import Verdict
from tests.mutants.mutant import Mutant

BEGIN: Final = "<!-- mutants: written by `python -m tests.mutants --write-table` -->"
END: Final = "<!-- end of mutants -->"
HEADER: Final = "| bug | planted | noticed by | s | worlds |\n| --- | --- | --- | --- | --- |"

_ROW: Final = re.compile(r"^\| `([^`]+)` \|.*\|$", re.MULTILINE)


def row(verdict: Verdict) -> str:
    """Paths are from `tests/`; worlds are those it took."""
    found, worlds = verdict.by_test, ""
    if verdict.in_worlds is not None:
        worlds = (
            str(verdict.in_worlds.worlds) if verdict.in_worlds.by else f"none of {verdict.in_worlds.worlds}"
        )
    by = found.by.removeprefix("tests/").replace("::", ": ")
    cells = (f"`{verdict.mutant.name}`", verdict.mutant.says, by or "no test", f"{found.seconds:.0f}", worlds)
    return "| " + " | ".join(cells) + " |"


def rows_of(text: str) -> dict[str, str]:
    """Name -> row, of the table in this document."""
    return {found.group(1): found.group(0) for found in _ROW.finditer(_between(text))}


def renewed(text: str, mutants: Sequence[Mutant], verdicts: Iterable[Verdict]) -> str:
    """The document with these verdicts in its table, in the order of `mutants`; rows of bugs that are gone go."""
    rows: Mapping[str, str] = rows_of(text) | {verdict.mutant.name: row(verdict) for verdict in verdicts}
    kept = [rows[mutant.name] for mutant in mutants if mutant.name in rows]
    before, after = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[:before] + "\n\n" + "\n".join((HEADER, *kept)) + "\n\n" + text[after:]


def write(path: Path, mutants: Sequence[Mutant], verdicts: Iterable[Verdict]) -> None:
    path.write_text(renewed(path.read_text(), mutants, verdicts))


def _between(text: str) -> str:
    return text[text.index(BEGIN) : text.index(END)]
