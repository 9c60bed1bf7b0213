"""`python -m tests.faults.soak [--what NAME|all]`: the fault scenarios of `KINDS`, at length.

Prints what each did and saw, how many rounds there were and how many went wrong. Exit status 1 if any did.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.faults.big import big
from tests.faults.compacting import compacting
from tests.faults.filling import filling, missing
from tests.faults.flips import flips
from tests.faults.grow import grow
from tests.faults.indexes import lose_indexes
from tests.faults.local_repair import local_repair
from tests.faults.poisoned import poisoned
from tests.faults.recoding import recode
from tests.faults.rejoining import rejoin
from tests.faults.scenarios import Report, kill_all, lose_san, two_dead
from tests.faults.scrubbing import scrubbing
from tests.faults.staying_away import stay_away

GIB: Final = 1024**3
KINDS: Final = (
    "lose-san",
    "kill-all",
    "two-dead",
    "flips",
    "big",
    "grow",
    "local-repair",
    "recode",
    "indexes",
    "scrubbing",
    "compacting",
    "filling",
    "poisoned",
    "rejoin",
    "stay-away",
)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--what", choices=(*KINDS, "all"), default="all")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000, help="the first seed")
    parser.add_argument("--losses", type=int, default=10, help="SANs lost, one after another")
    parser.add_argument("--kills", type=int, default=20, help="times all nodes are killed, or one")
    parser.add_argument("--flips", type=int, default=1000, help="single bytes flipped")
    parser.add_argument(
        "--bits",
        type=int,
        default=10_000,
        help="records hit by rot before one scrub; blobs beside the poisoned one; writes while a node is away",
    )
    parser.add_argument("--volumes", type=int, default=6, help="that every node has to give back")
    parser.add_argument(
        "--gib", type=float, default=5.0, help="size of the big blob, and five times the indexed"
    )
    return parser.parse_args()


def main() -> int:
    asked = _arguments()
    runs: dict[str, Callable[[Path], Report]] = {
        "lose-san": lambda root: lose_san(root, seed=asked.seed, rounds=asked.losses),
        "kill-all": lambda root: kill_all(root, seed=asked.seed, rounds=asked.kills),
        "two-dead": lambda root: two_dead(root, seed=asked.seed),
        "flips": lambda root: flips(root, seed=asked.seed, places=asked.flips),
        "grow": lambda root: grow(root, seed=asked.seed),
        "local-repair": lambda root: local_repair(root, seed=asked.seed),
        "recode": lambda root: recode(root, seed=asked.seed),
        "indexes": lambda root: lose_indexes(root, seed=asked.seed, size=int(asked.gib * GIB / 5)),
        "scrubbing": lambda root: scrubbing(
            root, seed=asked.seed, flips=asked.bits, blobs=max(200, asked.bits // 4)
        ),
        "compacting": lambda root: compacting(
            root, seed=asked.seed, volumes=asked.volumes, kills=asked.kills
        ),
        "poisoned": lambda root: poisoned(root, seed=asked.seed, blobs=asked.bits),
        "rejoin": lambda root: rejoin(root, seed=asked.seed, writes=asked.bits, deletes=asked.bits * 3 // 10),
        "stay-away": lambda root: stay_away(root, seed=asked.seed),
        "filling": lambda root: filling(root, seed=asked.seed),
        "big": lambda root: big(root, seed=asked.seed, size=int(asked.gib * GIB)),
    }
    rounds = failed = 0
    for kind in KINDS if asked.what == "all" else (asked.what,):
        if kind == "filling" and (why := missing()):
            print(f"filling is left out: {why}")
            continue
        with tempfile.TemporaryDirectory(prefix="holdfast-soak-") as root:
            began = time.monotonic()
            report = runs[kind](Path(root) / "cluster")
        rounds += report.rounds
        failed += bool(report.wrong)
        print(f"{report}\n  took {time.monotonic() - began:.0f} s", flush=True)
    print(f"{rounds} rounds, first seed {asked.seed}: {failed} scenarios went wrong")
    if not failed:
        print(f"0 failures in {rounds} rounds: the rate is below {3 / rounds:.2g} at 95 %")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
