"""`python -m tests.corruption --times N`: so many damaged stores, read whole, and a small cluster for every thousand.

`--store NAME` or `--cluster SEED` repeats one, `--plants` tries the planted bugs. Prints what went wrong with the
command that repeats it. Exit status 1 if anything did.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from tests.corruption.clusters import damage_cluster
from tests.corruption.plants import PLANTS
from tests.corruption.stores import Base, make_base, strike
from tests.crashes.plants import patched

STRIKES_OF_EACH: Final = 500
"""Damaged copies of one store."""
TIMES_PER_CLUSTER: Final = 1000
PLANT_STRIKES: Final = 3000
SHOWN_MAX: Final = 20

cached_base = lru_cache(maxsize=2)(make_base)


@dataclass(slots=True)
class Outcome:
    """Of some damaged stores: how many, how many refused to open, which were wrong and how."""

    struck: int = 0
    unharmed: int = 0
    refused: int = 0
    kinds: Counter[str] = field(default_factory=Counter[str])
    failed: list[tuple[str, str, list[str]]] = field(default_factory=list[tuple[str, str, list[str]]])


def damage_stores(seed: int, times: int, plant: str = "", *, stop: bool = False) -> Outcome:
    """So many damaged copies of store `seed`; up to the first that is wrong if `stop`."""
    base: Base = cached_base(seed)
    outcome = Outcome()
    with patched(PLANTS[plant]() if plant else ()):
        for number in range(times):
            struck = strike(base, f"{seed}:{number}")
            outcome.struck += 1
            outcome.unharmed += not struck.damage
            outcome.refused += struck.refused
            outcome.kinds[struck.damage.partition(" ")[0]] += 1
            if struck.wrong:
                outcome.failed.append((struck.name, struck.damage, struck.wrong))
                if stop:
                    break
    return outcome


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.corruption", description=__doc__)
    parser.add_argument("--times", type=int, default=5000, help="how many damaged stores")
    parser.add_argument("--first", type=int, default=0, help="the first store")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--store", help="one damaged store, by its name")
    parser.add_argument("--cluster", type=int, help="one damaged cluster, by its seed")
    parser.add_argument("--plants", action="store_true", help="try every planted bug")
    return parser.parse_args()


def _many(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    bases = -(-arguments.times // STRIKES_OF_EACH)
    sizes = [min(STRIKES_OF_EACH, arguments.times - at * STRIKES_OF_EACH) for at in range(bases)]
    seeds = range(arguments.first, arguments.first + bases)
    clusters = range(arguments.first, arguments.first + max(2, arguments.times // TIMES_PER_CLUSTER))
    struck = refused = failures = reads = errors = strikes = 0
    kinds: Counter[str] = Counter()
    with ProcessPoolExecutor(arguments.workers) as pool:
        damaged = pool.map(damage_cluster, clusters)
        for outcome in pool.map(damage_stores, seeds, sizes):
            struck, refused = struck + outcome.struck - outcome.unharmed, refused + outcome.refused
            kinds += outcome.kinds
            for name, damage, wrong in outcome.failed:
                failures += 1
                if failures <= SHOWN_MAX:
                    print(f"store {name}: {damage}\n  " + "\n  ".join(wrong[:5]))
                    print(f"  repeat: python -m tests.corruption --store {name}", flush=True)
        for seed, found in zip(clusters, damaged, strict=True):
            reads, errors, strikes = reads + found.reads, errors + found.errors, strikes + found.strikes
            failures += bool(found.wrong)
            for text in found.wrong[:5]:
                print(f"cluster {seed}: {text}\n  repeat: python -m tests.corruption --cluster {seed}")
    took = time.monotonic() - began
    print(f"{struck} damaged stores from seed {arguments.first} on, {took:.0f} s; {refused} refused to open")
    print("damage: " + ", ".join(f"{name} {count}" for name, count in sorted(kinds.items()) if name))
    print(f"{len(clusters)} damaged clusters, {strikes} places, {reads} reads, {errors} errors where allowed")
    print(f"failures: {failures}")
    if not failures:
        print(f"0 failures in {struck} trials: the rate is below {3 / struck:.2g} at 95 %")
    return 1 if failures else 0


def _one_store(name: str) -> int:
    struck = strike(make_base(int(name.partition(":")[0])), name)
    print(f"store {name}: {struck.damage}{', refused' if struck.refused else ''}")
    print("\n".join(struck.wrong) or "nothing wrong")
    return 1 if struck.wrong else 0


def _one_cluster(seed: int) -> int:
    found = damage_cluster(seed)
    print("\n".join(found.wrong) or f"cluster {seed}: {found.reads} reads, nothing wrong")
    return 1 if found.wrong else 0


def _plants() -> int:
    missed = 0
    for plant in PLANTS:
        outcome = damage_stores(0, PLANT_STRIKES, plant, stop=True)
        if outcome.failed:
            name, damage, wrong = outcome.failed[0]
            print(f"{plant:22} found after {outcome.struck} stores, {name}: {damage[:60]}: {wrong[0][:80]}")
        else:
            missed += 1
            print(f"{plant:22} NOT FOUND in {outcome.struck} stores", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    asked = _arguments()
    if asked.plants:
        sys.exit(_plants())
    if asked.cluster is not None:
        sys.exit(_one_cluster(asked.cluster))
    sys.exit(_one_store(asked.store) if asked.store else _many(asked))
