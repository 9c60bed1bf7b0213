"""Which worlds a campaign has seen, and how they ended: it may be stopped at any time and goes on where it was.

One line for each world, in a file named by a digest of all code that decides what happens in it: what was seen of other
code counts for nothing. An empty line before each ends what a kill may have torn.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / ".campaigns"
_CODE: Final = ("node", "proto", "tests/sim")


@dataclass(frozen=True)
class Ending:
    """What a campaign keeps of a world. `told` is empty if nothing went wrong."""

    seed: int
    steps: int
    messages: int
    acked: int
    faults: dict[str, int]
    errors: dict[str, int]
    seen: list[str]
    told: str


def code_digest(root: Path = ROOT) -> str:
    """Of every source the worlds run on, the locked libraries, and the interpreter; tests of the machinery are none."""
    found = hashlib.blake2b(sys.version.encode(), digest_size=8)
    sources = {path for folder in _CODE for path in (root / folder).rglob("*.py")}
    sources -= set((root / "tests/sim").glob("test_*.py"))
    for path in sorted((*sources, root / "requirements.lock")):
        data = path.read_bytes()
        found.update(f"{path.relative_to(root)} {len(data)}\n".encode() + data)
    return found.hexdigest()


class Ledger:
    """Endings by seed. A line that was torn by whatever ended the campaign is a world not seen yet."""

    def __init__(self, path: Path) -> None:
        self._path: Final = path
        self._known: Final = {ending.seed: ending for ending in self._read()}

    @staticmethod
    def of_this_code() -> Ledger:
        return Ledger(FOLDER / f"sim-{code_digest()}.jsonl")

    def _read(self) -> Iterator[Ending]:
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        for line in lines:
            try:
                fields: dict[str, Any] = json.loads(line)
                yield Ending(**fields)
            except (ValueError, TypeError):
                continue

    def known(self, seeds: range) -> list[Ending]:
        """Of worlds among `seeds` that were seen before, in order."""
        return [self._known[seed] for seed in seeds if seed in self._known]

    def add(self, ending: Ending) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(asdict(ending))}\n")
        self._known[ending.seed] = ending
