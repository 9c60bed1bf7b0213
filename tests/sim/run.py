"""`python -m tests.sim.run --seeds N`: many worlds; `--seed S` or `--replay FILE`, with `--trace`: one of them again,
step by step; with `--shrink`: a smaller one that goes wrong as well, as a file for `tests/sim/seeds/`.

Prints each world that went wrong with the command that repeats it, and what happened in all of them together.
Exit status 1 if anything went wrong, or if something that should happen in so many worlds never did.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import track

from tests.sim.coverage import SOMETIMES, never_seen
from tests.sim.shrink import read_world, shrink, to_json
from tests.sim.world import Outcome, Plan, run_world

ENOUGH_WORLDS: Final = 10_000
"""In so many, everything of `coverage.SOMETIMES` should have happened."""


def repeat_command(seed: int) -> str:
    return f"python -m tests.sim.run --seed {seed} --trace (or --shrink)"


def tell_failure(outcome: Outcome) -> str:
    said = "\n".join(outcome.violations)
    plan = outcome.plan
    return (
        f"seed {outcome.seed}: {len(outcome.violations)} violations\n{said}\n"
        f"  {plan.topology.code} on {plan.topology.sans}, trouble: {plan.trouble}\n"
        f"  repeat: {repeat_command(outcome.seed)}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="one world only")
    parser.add_argument("--replay", type=Path, help="one world only: the one of this file")
    parser.add_argument("--shrink", action="store_true", help="find a smaller world that goes wrong")
    parser.add_argument("--trace", action="store_true", help="print everything that happens in it")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--stop", action="store_true", help="stop at the first world that goes wrong")
    return parser.parse_args()


def _outcomes(seeds: range, workers: int) -> Iterator[Outcome]:
    """Until Ctrl-C, or SIGTERM: what was found by then is worth telling."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if workers == 1:
            yield from map(run_world, seeds)
            return
        pool = ProcessPoolExecutor(
            workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
        )
        try:
            yield from pool.map(run_world, seeds, chunksize=4)
        finally:
            pool.shutdown(cancel_futures=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)


def _many(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    faults: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    bad: list[int] = []
    steps = messages = acked = done = 0
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    terminal = Console(stderr=True)
    for outcome in track(
        _outcomes(seeds, arguments.workers),
        "worlds",
        total=len(seeds),
        console=terminal,
        disable=not terminal.is_terminal,
    ):
        done += 1
        steps, messages, acked = steps + outcome.steps, messages + outcome.messages, acked + outcome.acked
        faults += outcome.faults
        errors += Counter(outcome.errors)
        seen.update(outcome.seen.keys())
        if outcome.violations:
            bad.append(outcome.seed)
            print(tell_failure(outcome), flush=True)
            if arguments.stop:
                break
    took = time.monotonic() - began
    print(
        f"{done} worlds in {took:.1f} s ({done / took:.1f}/s): {steps} steps, {messages} messages, {acked} acked puts"
    )
    print("faults: " + ", ".join(f"{name} {count}" for name, count in sorted(faults.items())))
    print("errors callers saw: " + ", ".join(f"{name} {count}" for name, count in sorted(errors.items())))
    missing = never_seen(seen)
    print(
        f"{len(SOMETIMES) - len(missing)} of {len(SOMETIMES)} things that should happen did, in so many worlds:"
    )
    for name, count in sorted(seen.items(), key=lambda item: item[1]):
        print(f"  {count:6} {name}")
    for name in missing:
        print(f"   NEVER {name}")
    print(f"violations: {len(bad)} of {done} worlds {bad or ''}")
    if not bad and done:
        print(f"0 failures in {done} trials: the rate is below {3 / done:.2g} at 95 %")
    return 1 if bad or done < len(seeds) or (missing and done >= ENOUGH_WORLDS) else 0


def _one(arguments: argparse.Namespace) -> int:
    seed, plan = (
        read_world(arguments.replay) if arguments.replay else (arguments.seed, Plan.drawn(arguments.seed))
    )
    outcome = run_world(seed, plan, keep_trace=arguments.trace)
    for line in outcome.trace:
        print(line)
    print(f"trace {outcome.digest}: {outcome.steps} steps, {outcome.seconds:.1f} virtual seconds")
    if not outcome.violations:
        print(f"seed {outcome.seed}: {outcome.acked} acked puts, nothing wrong ({outcome.plan.trouble})")
        return 0
    print(tell_failure(outcome))
    if arguments.shrink:
        print(to_json(shrink(outcome)))
    return 1


if __name__ == "__main__":
    asked = _arguments()
    sys.exit(_many(asked) if asked.seed is None and asked.replay is None else _one(asked))
