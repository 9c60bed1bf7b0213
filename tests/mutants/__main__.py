"""`python -m tests.mutants [NAME...]`: plant one bug after another in private copies, and see who notices.

Exit status 1 if a bug went unnoticed, if the test that noticed it fails without it as well, or if a mutant no longer
fits the source.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from tests.mutants import table
from tests.mutants.catalogue import MUTANTS
from tests.mutants.hunt import SEEDS, Verdict, healthy, hunt
from tests.mutants.mutant import Mutant
from tests.mutants.tree import ROOT, copy_of_sources

DOCUMENT: Final = ROOT / "docs" / "testing.md"


def chosen(names: Sequence[str]) -> list[Mutant]:
    known = {mutant.name for mutant in MUTANTS}
    if unknown := sorted(set(names) - known):
        raise SystemExit(f"no such bug: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return [mutant for mutant in MUTANTS if not names or mutant.name in names]


def tell(verdict: Verdict) -> str:
    found, worlds = verdict.by_test, verdict.in_worlds
    said = f"{found.by or 'NO TEST'} ({found.seconds:.1f} s)"
    if worlds is not None:
        said += f"; world {worlds.worlds}" if worlds.by else f"; NONE OF {worlds.worlds} WORLDS"
        said += f" ({worlds.seconds:.0f} s) {worlds.by[:100]}"
    return f"{'caught' if verdict.caught else 'MISSED':7} {verdict.mutant.name:32} {said}"


def run(mutants: Sequence[Mutant], *, jobs: int, seeds: int) -> list[Verdict]:
    """Those with worlds first: they take longest."""
    verdicts: list[Verdict] = []
    with ThreadPoolExecutor(jobs) as pool:
        ordered = sorted(mutants, key=lambda mutant: mutant.aim is None)
        for verdict in pool.map(partial(hunt, seeds=seeds), ordered):
            print(tell(verdict), flush=True)
            verdicts.append(verdict)
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which bugs; all if none is named")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--seeds", type=int, default=SEEDS, help="how many worlds a bug may stay unnoticed in"
    )
    parser.add_argument("--write-table", action="store_true", help=f"into {DOCUMENT.relative_to(ROOT)}")
    asked = parser.parse_args()
    began = time.monotonic()
    verdicts = run(chosen(asked.names), jobs=asked.jobs, seeds=asked.seeds)
    with copy_of_sources() as tree:
        tree.check_imports()
        wrong = healthy(tree, verdicts, jobs=asked.jobs)
    print("\n".join(wrong))
    if asked.write_table:
        table.write(DOCUMENT, MUTANTS, verdicts)
    missed = [verdict.mutant.name for verdict in verdicts if not verdict.caught]
    print(f"{len(verdicts)} bugs in {time.monotonic() - began:.0f} s; missed: {', '.join(missed) or 'none'}")
    return 1 if missed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
