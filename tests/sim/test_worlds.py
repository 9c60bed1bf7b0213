"""Three hundred worlds, each of them right; and the same seed the same world."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sim.cluster import Topology
from tests.sim.nemesis import Trouble
from tests.sim.run import tell_failure
from tests.sim.shrink import read_world, shrink, smaller, to_json
from tests.sim.world import Plan, run_world

WORLDS = 204
CHUNK = 6
"""Small enough that a chunk stays far below its limit on a machine that is busy with something else."""
SEEDS = sorted((Path(__file__).parent / "seeds").glob("*.json"))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("first", range(0, WORLDS, CHUNK))
def test_worlds_come_right(first: int) -> None:
    wrong = [outcome for outcome in map(run_world, range(first, first + CHUNK)) if outcome.violations]
    assert not wrong, "\n\n".join(map(tell_failure, wrong))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("file", SEEDS, ids=lambda file: file.stem)
def test_a_seed_that_once_failed_comes_right(file: Path) -> None:
    outcome = run_world(*read_world(file))
    assert not outcome.violations, tell_failure(outcome)


@pytest.mark.timeout(240)
def test_a_seed_gives_the_same_world_whatever_the_hash_seed() -> None:
    program = "from tests.sim.world import run_world; print(*(run_world(seed).digest for seed in (11, 12)))"
    traces = {
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parents[2],
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(traces) == 1


def _syncs_nothing(_: object) -> None:
    """A disk that forgets at a power cut what it had called durable."""


def test_a_world_that_goes_wrong_shrinks_to_a_file_that_goes_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.sim.disk._File.sync", _syncs_nothing)
    monkeypatch.setattr("tests.sim.shrink.WORLDS_MAX", 5)  # enough to see it at work
    three = Topology("copy:3", (1, 1, 1), partitions=1)
    trouble = Trouble(power_cut=True, all_at_once=True, crash=True)
    for seed in range(12):
        plan = replace(Plan.drawn(seed), topology=three, trouble=trouble, clients=4, keys=2, patience_s=60.0)
        if (outcome := run_world(seed, plan)).violations:
            break
    else:
        pytest.fail("nothing to shrink")
    file = tmp_path / "small.json"
    small = shrink(outcome)
    file.write_text(to_json(small))
    again = run_world(*read_world(file))
    assert again.violations == small.violations
    assert len(list(smaller(small.plan))) < len(list(smaller(outcome.plan))), (
        "there is less left to take away"
    )
