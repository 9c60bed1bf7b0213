"""`python -m tests.sim.run --seeds N`: many worlds; `--seed S` or `--replay FILE`, with `--trace`: one of them again,
step by step; with `--shrink`: a smaller one that goes wrong as well, as a file for `tests/sim/seeds/`.

Prints each world that went wrong with the command that repeats it, and what happened in all of them together. When it
was stopped, the same command goes on from there, as long as the code is the same.
Exit status 1 if anything went wrong, or if something that should happen in so many worlds never did.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import track

from tests.sim.coverage import SOMETIMES, never_seen
from tests.sim.ledger import Ending, Ledger
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


def _ending(seed: int) -> Ending:
    outcome = run_world(seed)
    return Ending(
        seed=seed,
        steps=outcome.steps,
        messages=outcome.messages,
        acked=outcome.acked,
        faults=dict(outcome.faults),
        errors=outcome.errors,
        seen=sorted(outcome.seen),
        told=tell_failure(outcome) if outcome.violations else "",
    )


def _leave_it_to_the_first() -> None:
    """Whatever ends the campaign reaches every process of it at once: one of them is enough to act on it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _endings(seeds: Sequence[int], workers: int) -> Iterator[Ending]:
    """Until Ctrl-C, or SIGTERM: what was found by then is worth telling."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if workers == 1:
            yield from map(_ending, seeds)
            return
        pool = ProcessPoolExecutor(workers, initializer=_leave_it_to_the_first)
        try:
            yield from pool.map(_ending, seeds, chunksize=4)
        finally:
            pool.shutdown(cancel_futures=True)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", flush=True)


def _many(arguments: argparse.Namespace) -> int:
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    ledger = Ledger.of_this_code()
    endings = ledger.known(seeds)
    before = {ending.seed for ending in endings}
    if before:
        print(f"{len(before)} of {len(seeds)} worlds were seen before, on this very code", flush=True)
    bad = [ending for ending in endings if ending.told]
    for ending in bad:
        print(ending.told, flush=True)
    began = time.monotonic()
    left = [seed for seed in seeds if seed not in before]
    terminal = Console(stderr=True)
    for ending in track(
        _endings(left, arguments.workers) if not (bad and arguments.stop) else (),
        "worlds",
        total=len(left),
        console=terminal,
        disable=not terminal.is_terminal,
    ):
        ledger.add(ending)
        endings.append(ending)
        if ending.told:
            bad.append(ending)
            print(ending.told, flush=True)
            if arguments.stop:
                break
    took_s = time.monotonic() - began
    now = len(endings) - len(before)
    print(f"{len(endings)} worlds, {now} of them now, in {took_s:.1f} s ({now / took_s:.1f}/s)")
    missing = _tell_all(endings)
    print(f"violations: {len(bad)} of {len(endings)} worlds {sorted(each.seed for each in bad) or ''}")
    if not bad and endings:
        print(f"0 failures in {len(endings)} trials: the rate is below {3 / len(endings):.2g} at 95 %")
    return 1 if bad or len(endings) < len(seeds) or (missing and len(endings) >= ENOUGH_WORLDS) else 0


def _tell_all(endings: Sequence[Ending]) -> list[str]:
    """What happened in all worlds together, and what never did, which is returned."""
    faults: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for ending in endings:
        faults += Counter(ending.faults)
        errors += Counter(ending.errors)
        seen.update(ending.seen)
    missing = never_seen(seen)
    steps, messages = sum(ending.steps for ending in endings), sum(ending.messages for ending in endings)
    print(f"{steps} steps, {messages} messages, {sum(ending.acked for ending in endings)} acked puts")
    print("faults: " + ", ".join(f"{name} {count}" for name, count in sorted(faults.items())))
    print("errors callers saw: " + ", ".join(f"{name} {count}" for name, count in sorted(errors.items())))
    print(
        f"{len(SOMETIMES) - len(missing)} of {len(SOMETIMES)} things that should happen did, in so many worlds:"
    )
    for name, count in sorted(seen.items(), key=lambda item: item[1]):
        print(f"  {count:6} {name}")
    for name in missing:
        print(f"   NEVER {name}")
    return missing


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
