"""`python -m tests.fuzz --minutes M`: every parser in turn, until the time is over.

Input number N of a parser follows from its name, the seed and N, so that a failure is repeated by
`--parser NAME --seed S --input N`. Watches memory too. Exit status 1 if anything but a value or a typed error came out.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import tracemalloc
from collections import Counter
from typing import Final

from tests.fuzz.parsers import Parser, all_parsers, check, input_of

TURN: Final = 200
"""Inputs for one parser before it is the next one's turn."""
MEMORY_BYTES_MAX: Final = 64 * 1024 * 1024
"""What one turn may take at its peak: inputs are small, and so is all that follows from them."""


def input_number(parser: Parser, seed: int, number: int) -> bytes:
    return input_of(parser, random.Random(f"{parser.name} {seed} {number}"))


def _try(parser: Parser, seed: int, number: int) -> str:
    data = input_number(parser, seed, number)
    try:
        check(parser, data)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
        return f"{type(error).__name__}: {str(error)[:200]} for {data[:100].hex()} ({len(data)} bytes)"
    return ""


def _turn(parser: Parser, seed: int, first: int) -> list[tuple[int, str]]:
    tracemalloc.reset_peak()
    found = [(number, text) for number in range(first, first + TURN) if (text := _try(parser, seed, number))]
    peak = tracemalloc.get_traced_memory()[1]
    if peak > MEMORY_BYTES_MAX:
        found.append((first, f"{peak} bytes of memory"))
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parser", help="this one only, by its name")
    parser.add_argument("--input", type=int, help="this input only")
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    parsers = [one for one in all_parsers() if arguments.parser in (None, one.name)]
    if arguments.input is not None:
        text = _try(parsers[0], arguments.seed, arguments.input)
        print(text or "nothing wrong")
        return 1 if text else 0
    tracemalloc.start()
    end, done, failures = time.monotonic() + arguments.minutes * 60, 0, Counter[str]()
    first = 0
    while time.monotonic() < end:
        for parser in parsers:
            for number, text in _turn(parser, arguments.seed, first):
                failures[parser.name] += 1
                if failures[parser.name] <= 3:
                    again = f'--parser "{parser.name}" --seed {arguments.seed} --input {number}'
                    print(f"{parser.name}: {text}\n  repeat: python -m tests.fuzz {again}", flush=True)
            done += TURN
        first += TURN
    count = failures.total()
    print(f"{done} inputs for {len(parsers)} parsers, seed {arguments.seed}; failures: {count}")
    if not count:
        print(f"0 failures in {done} trials: the rate is below {3 / done:.2g} at 95 %")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
