"""`python -m tests.mutants.worlds --seeds N --aim JSON`: aimed worlds, until the first that goes wrong.

Prints one line of JSON: how many worlds there were, and what was wrong in the last. Run in a copy of the sources with
a bug in it. A cluster that is merely late to converge proves no bug.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Sequence
from dataclasses import asdict, replace

from tests.mutants.mutant import Aim
from tests.sim.loop import nobody_listening
from tests.sim.nemesis import Trouble
from tests.sim.world import RECODED, TOPOLOGIES, Outcome, Plan, World, run_world, small_numbers

PATIENCE_S = 120.0
"""For convergence, whose lateness is not counted: a bug that keeps a cluster from it should cost no time."""


def arguments_of(aim: Aim, seeds: int) -> list[str]:
    """This program's, for `aim`."""
    return ["-m", "tests.mutants.worlds", f"--seeds={seeds}", "--aim", json.dumps(asdict(aim))]


def first_wrong(aim: Aim, seeds: int) -> tuple[int, str]:
    """Worlds run, and what was wrong in the last of them; empty if nothing was wrong in any."""
    for seed in range(seeds):
        outcome = _run(aim, seed)
        wrong = [said for said in outcome.violations if not said.startswith("NOT CONVERGED")]
        if wrong:
            return seed + 1, wrong[0].splitlines()[0]
    return seeds, ""


def _plan(aim: Aim, seed: int) -> Plan:
    drawn = replace(Plan.drawn(seed), patience_s=PATIENCE_S)
    if not aim.trouble:
        return drawn
    recode = "recode" in aim.trouble
    topologies = RECODED if recode else TOPOLOGIES
    topology = next((known for known in topologies if known.code == aim.code), drawn.topology)
    topology = replace(topology, partitions=aim.partitions or topology.partitions)
    trouble = Trouble(**dict.fromkeys(aim.trouble, True))
    return replace(
        drawn,
        topology=topology,
        trouble=trouble,
        clients=aim.clients,
        keys=aim.keys,
        rounds=aim.rounds,
        watched=drawn.watched or recode,
    )


def _run(aim: Aim, seed: int) -> Outcome:
    if not aim.disk_s:
        return run_world(seed, _plan(aim, seed), hasty=False)
    gc.disable()
    try:
        with small_numbers():
            world = World(seed, _plan(aim, seed), tidy=False)
            world.cluster.disk_delay_s = (0.0, aim.disk_s)
            outcome = world.run()
        with nobody_listening():
            del world
            gc.collect()
    finally:
        gc.enable()
    return outcome


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.worlds", description=__doc__)
    parser.add_argument("--seeds", type=int, required=True)
    parser.add_argument("--aim", required=True, help="the fields of `Aim`, as JSON")
    asked = parser.parse_args(arguments)
    fields = json.loads(asked.aim)
    aim = replace(Aim(**fields), trouble=tuple(fields["trouble"]))
    worlds, wrong = first_wrong(aim, asked.seeds)
    print(json.dumps({"worlds": worlds, "wrong": wrong}))


if __name__ == "__main__":
    main()
