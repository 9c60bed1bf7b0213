"""`python -m tests.crashes --states N`: crash states of recording after recording, until N were tried.

`--state NAME` tries one of them again, `--plants` tries the planted bugs. Prints each state that went wrong with the
command that repeats it. Exit status 1 if anything went wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Final

from tests.crashes.plants import PLANTS, planted
from tests.crashes.trial import state, states, try_state
from tests.crashes.workload import WentWrong, record

SHOWN_MAX: Final = 20
PLANT_STATES: Final = 2500


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one recording: states tried, crashes in them, and (state, what was wrong) for those that failed."""

    tried: int
    crashes: int
    failed: tuple[tuple[str, tuple[str, ...]], ...]


def try_recording(seed: int, wanted: int, plant: str = "", *, stop: bool = False) -> Outcome:
    """All states of a recording, or `wanted` of them evenly spread; up to the first failure if `stop`."""
    tried = crashes = 0
    failed: list[tuple[str, tuple[str, ...]]] = []
    with planted(plant):
        try:
            recording = record(seed)
        except WentWrong as error:
            return Outcome(1, 1, ((f"{seed}:recording", tuple(map(str, error.args))),))
        for one in states(recording, seed, wanted=wanted):
            wrong, count = try_state(one)
            tried, crashes = tried + 1, crashes + count
            if wrong:
                failed.append((one.name, tuple(wrong)))
                if stop:
                    break
    return Outcome(tried, crashes, tuple(failed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.crashes", description=__doc__)
    parser.add_argument("--states", type=int, default=5000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first recording")
    parser.add_argument("--each", type=int, default=0, help="states of each recording; 0: all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--state", help="one state only, by its name")
    parser.add_argument("--plant", choices=sorted(PLANTS), default="", help="with this bug")
    parser.add_argument("--plants", action="store_true", help="try every planted bug")
    return parser.parse_args()


def _outcomes(arguments: argparse.Namespace) -> Iterator[Outcome]:
    """Recordings in turn, a few at a time, until there were enough states."""
    left, seed = arguments.states, arguments.first
    with ProcessPoolExecutor(arguments.workers) as pool:
        while left > 0:
            wanted = arguments.each or (left if left < PLANT_STATES else 0)
            calls = [
                pool.submit(try_recording, seed + number, wanted, arguments.plant)
                for number in range(arguments.workers if left >= PLANT_STATES or arguments.each else 1)
            ]
            seed += len(calls)
            for call in calls:
                outcome = call.result()
                left -= outcome.tried
                yield outcome


def _many(arguments: argparse.Namespace) -> int:
    began = time.monotonic()
    tried = crashes = recordings = failures = 0
    for outcome in _outcomes(arguments):
        recordings, tried, crashes = recordings + 1, tried + outcome.tried, crashes + outcome.crashes
        for name, wrong in outcome.failed:
            failures += 1
            if failures <= SHOWN_MAX:
                print(f"state {name}: " + "\n  ".join(wrong))
                print(f"  repeat: {repeat_command(name, arguments.plant)}", flush=True)
    took = time.monotonic() - began
    seeds = f"recordings {arguments.first} to {arguments.first + recordings - 1}"
    print(f"{tried} crash states, {crashes} crashes, {seeds}, {took:.0f} s ({tried / took:.0f}/s)")
    print(f"failures: {failures} of {tried} states")
    if not failures:
        print(f"0 failures in {tried} trials: the rate is below {3 / tried:.2g} at 95 %")
    return 1 if failures else 0


def repeat_command(name: str, plant: str = "") -> str:
    return f"python -m tests.crashes --state {name}" + (f" --plant {plant}" if plant else "")


def _one(name: str, plant: str) -> int:
    number = int(name.split(":", maxsplit=1)[0])
    with planted(plant):
        try:
            recording = record(number)
        except WentWrong as error:
            print(f"recording {number}: {error}")
            return 1
        if name.endswith("recording"):
            print("nothing wrong")
            return 0
        wrong, crashes = try_state(state(recording, name))
    print("\n".join(wrong) or f"state {name}: {crashes} crashes, nothing wrong")
    return 1 if wrong else 0


def _plants() -> int:
    missed = 0
    for name in PLANTS:
        began = time.monotonic()
        outcome = try_recording(0, PLANT_STATES, name, stop=True)
        took = time.monotonic() - began
        if outcome.failed:
            state_name, wrong = outcome.failed[0]
            print(
                f"{name:20} found after {outcome.tried} states ({took:.0f} s), {state_name}: {wrong[0][:120]}"
            )
        else:
            missed += 1
            print(f"{name:20} NOT FOUND in {outcome.tried} states ({took:.0f} s)")
    return 1 if missed else 0


if __name__ == "__main__":
    asked = _arguments()
    if asked.plants:
        sys.exit(_plants())
    sys.exit(_one(asked.state, asked.plant) if asked.state else _many(asked))
