"""Finding a planted bug: its own test first, then ever dearer ones, up to the first that goes red.

A test counts only if it is green without the bug (`healthy`). Knows nothing of the single bugs.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

from tests.mutants.mutant import Aim, Mutant, plant
from tests.mutants.tree import Ran, Tree, copy_of_sources
from tests.mutants.worlds import arguments_of

SEEDS: Final = 300
DEARER: Final = (
    "tests/stories",
    "tests/properties",
    "tests/unit",
    "tests/conformance",
    "tests/faults/test_power_cut.py",
)
"""Asked, in this order, about a bug that its own test does not notice."""
ANY_WORLD: Final = Aim()
HANG_S: Final = 60
"""A single test that takes longer hangs: that is red."""

_RED: Final = re.compile(r"^(?:FAILED|ERROR) (\S+?)(?:\[.*)?(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Found:
    """`by` is a test's id, or what a world said; empty if nobody noticed. `worlds` is how many were asked."""

    by: str
    seconds: float
    worlds: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one mutant. `in_worlds` only if it has an aim, or if no test noticed."""

    mutant: Mutant
    by_test: Found
    in_worlds: Found | None

    @property
    def caught(self) -> bool:
        """By a test, and in worlds if it is aimed at."""
        if self.mutant.aim is not None:
            return bool(self.by_test.by and self.in_worlds and self.in_worlds.by)
        return bool(self.by_test.by or (self.in_worlds and self.in_worlds.by))


class BrokenMutantError(Exception):
    """The program with the bug does not even load: that tests nothing."""


def hunt(mutant: Mutant, seeds: int = SEEDS) -> Verdict:
    with copy_of_sources() as tree:
        plant(mutant, tree.root)
        tree.check_imports()
        by_test = _by_tests(mutant, tree)
        aim = mutant.aim if mutant.aim is not None or by_test.by else ANY_WORLD
        return Verdict(mutant, by_test, in_worlds(tree, aim, seeds) if aim is not None else None)


def _by_tests(mutant: Mutant, tree: Tree) -> Found:
    began = time.monotonic()
    for tests in _ordered(mutant):
        if by := red_test(tree, tests):
            return Found(by, time.monotonic() - began)
    return Found("", time.monotonic() - began)


def _ordered(mutant: Mutant) -> Iterator[str]:
    yield mutant.catcher
    yield from DEARER


def red_test(tree: Tree, *tests: str) -> str:
    """The first test of these that fails, without its parameters; empty if none does."""
    ran = tree.run(
        (
            "-m",
            "pytest",
            "-x",
            "-q",
            "--no-header",
            "--tb=no",
            "-p",
            "no:cacheprovider",
            f"--timeout={HANG_S}",
            *tests,
        )
    )
    if ran.status == 0:
        return ""
    found = _RED.search(ran.output)
    if ran.status != 1 or found is None:
        raise BrokenMutantError(f"{' '.join(tests)}: status {ran.status}\n{ran.output[-2000:]}")
    return found.group(1)


def in_worlds(tree: Tree, aim: Aim, seeds: int) -> Found:
    """What the worlds say; nothing, if they did not end in time: then the bug was not found, and others are still to
    be."""
    began = time.monotonic()
    ran = tree.run(arguments_of(aim, seeds))
    if ran.status is None:
        return Found("", time.monotonic() - began)
    told = _told(ran)
    return Found(str(told["wrong"]), time.monotonic() - began, int(told["worlds"]))


def _told(ran: Ran) -> dict[str, str | int]:
    if ran.status != 0:
        raise BrokenMutantError(f"worlds: status {ran.status}\n{ran.output[-2000:]}")
    told: dict[str, str | int] = json.loads(ran.output.splitlines()[-1])
    return told


def healthy(tree: Tree, verdicts: list[Verdict], *, jobs: int) -> list[str]:
    """Which of the tests and worlds that noticed something also notice it where nothing is planted."""
    tests = sorted({verdict.by_test.by for verdict in verdicts if verdict.by_test.by})
    red = red_test(tree, *tests) if tests else ""
    wrong = [f"{red} is red without any bug"] if red else []
    aims: dict[Aim, int] = {}
    for verdict in verdicts:
        if verdict.in_worlds is not None and verdict.in_worlds.by:
            aim = verdict.mutant.aim or ANY_WORLD
            aims[aim] = max(aims.get(aim, 0), verdict.in_worlds.worlds)
    with ThreadPoolExecutor(jobs) as pool:
        for aim, found in zip(aims, pool.map(partial(in_worlds, tree), aims, aims.values()), strict=True):
            if found.by:
                wrong.append(f"world {found.worlds} of {aim} is wrong without any bug: {found.by}")
    return wrong
