"""`python -m tests.thrash [--minutes 30] [--seed N]`: the live thrasher. Exit status 1 if any promise was broken.

The program first encloses itself (`enclosure.py`) where root allows; without root it says which nemeses are left out.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from types import FrameType

from tests.thrash import enclosure, report
from tests.thrash.cluster import ThrashCluster
from tests.thrash.deck import ALL
from tests.thrash.network import Network
from tests.thrash.run import SHORT, Plan, Run
from tests.thrash.screen import Screen

SHORT_S = 15.0
_NAMES = tuple(kind.name for kind in ALL)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.thrash", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--nodes", type=int, default=6)
    parser.add_argument("--sans", type=int, default=3)
    parser.add_argument("--spare", type=int, default=1, help="nodes beside them, which come and go")
    parser.add_argument(
        "--frozen", type=float, default=10.0, help="seconds of each part of that measurement; 0: none"
    )
    parser.add_argument("--only", action="append", choices=_NAMES, help="this nemesis; may be repeated")
    parser.add_argument("--open", action="store_true", help="without namespaces of its own, even for root")
    parser.add_argument(
        "--short", action="store_true", help="half a minute and three nemeses that need no root"
    )
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    asked = _arguments()
    if asked.inside:
        return _inside(asked)
    why = "--open was given" if asked.open else enclosure.missing()
    if why:
        print(f"no namespaces of its own: {why}", flush=True)
    arguments = ["--inside", "--seed", str(asked.seed), *sys.argv[1:]]
    return enclosure.run("tests.thrash", arguments, enclose=not why)


def _inside(asked: argparse.Namespace) -> int:
    enclosure.die_with_the_outer_process()
    signal.signal(signal.SIGTERM, _interrupt)
    seconds = SHORT_S if asked.short else asked.minutes * 60
    plan = Plan(
        root=enclosure.root() / "cluster",
        seed=asked.seed,
        seconds=seconds,
        kinds=SHORT if asked.short else tuple(kind for kind in ALL if kind.name in (asked.only or _NAMES)),
        nodes=asked.nodes,
        sans=asked.sans,
        frozen_s=0.0 if asked.short else asked.frozen,
        hold_share=0.4 if asked.short else 1.0,
        spare=0 if asked.short else asked.spare,
    )
    try:
        return thrash(plan, Screen(plan.seconds))
    except KeyboardInterrupt:
        print("\ninterrupted", flush=True)
        return 130


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def thrash(plan: Plan, screen: Screen) -> int:
    """One run, from the first namespace to the last line of the table."""
    network = None
    if enclosure.inside():
        enclosure.furnish()
        network = Network([f"n{number + 1}" for number in range(plan.nodes + plan.spare)])
        network.build()
    cluster = ThrashCluster(
        plan.root,
        nodes=plan.nodes,
        sans=plan.sans,
        network=network,
        disks=enclosure.inside(),
        spare=plan.spare,
    )
    plan.root.mkdir(parents=True)
    cluster.prepare()
    screen.say(f"seed {plan.seed}: {plan.nodes} nodes on {plan.sans} SANs")
    with cluster:
        run = Run(plan, cluster, network, screen)
        try:
            run.play()
        finally:
            if run.verdict.load is not None:
                print(report.table(run.verdict), flush=True)
    return 1 if report.failed(run.verdict) else 0


if __name__ == "__main__":
    sys.exit(main())
