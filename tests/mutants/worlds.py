"""`python -m tests.mutants.worlds --seeds N [--trouble KIND ...]`: aimed worlds, until the first that goes wrong.

Prints one line of JSON: how many worlds there were, and what was wrong in the last. Run in a copy of the sources with
a bug in it. A cluster that is merely late to converge proves no bug.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace

from tests.mutants.mutant import Aim
from tests.sim.nemesis import Trouble
from tests.sim.world import Plan, run_world

PATIENCE_S = 120.0
"""For convergence, whose lateness is not counted: a bug that keeps a cluster from it should cost no time."""


def arguments_of(aim: Aim, seeds: int) -> list[str]:
    """This program's, for `aim`."""
    numbers = [f"--seeds={seeds}", f"--clients={aim.clients}", f"--keys={aim.keys}", f"--rounds={aim.rounds}"]
    return ["-m", "tests.mutants.worlds", *numbers, "--trouble", *aim.trouble]


def first_wrong(aim: Aim, seeds: int) -> tuple[int, str]:
    """Worlds run, and what was wrong in the last of them; empty if nothing was wrong in any."""
    for seed in range(seeds):
        outcome = run_world(seed, _plan(aim, seed))
        wrong = [said for said in outcome.violations if not said.startswith("NOT CONVERGED")]
        if wrong:
            return seed + 1, wrong[0].splitlines()[0]
    return seeds, ""


def _plan(aim: Aim, seed: int) -> Plan:
    drawn = replace(Plan.drawn(seed), patience_s=PATIENCE_S)
    if not aim.trouble:
        return drawn
    trouble = Trouble(**dict.fromkeys(aim.trouble, True))
    return replace(drawn, trouble=trouble, clients=aim.clients, keys=aim.keys, rounds=aim.rounds)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.worlds", description=__doc__)
    parser.add_argument("--seeds", type=int, required=True)
    parser.add_argument("--trouble", nargs="*", default=())
    for name in ("clients", "keys", "rounds"):
        parser.add_argument(f"--{name}", type=int, required=True)
    asked = parser.parse_args(arguments)
    aim = Aim(tuple(asked.trouble), asked.clients, asked.keys, asked.rounds)
    worlds, wrong = first_wrong(aim, asked.seeds)
    print(json.dumps({"worlds": worlds, "wrong": wrong}))


if __name__ == "__main__":
    main()
