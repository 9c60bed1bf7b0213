"""A campaign that was stopped goes on where it was, and only on the same code."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.sim.ledger import ROOT, Ending, Ledger, code_digest


def _ending(seed: int, told: str = "") -> Ending:
    return Ending(seed, 10, 20, 3, {"crash": 1}, {"Unavailable": 2}, ["a tail was torn"], told)


def test_what_was_seen_is_known_again(tmp_path: Path) -> None:
    path = tmp_path / "campaigns" / "sim.jsonl"
    first = Ledger(path)
    for ending in (_ending(7), _ending(3, "seed 3: lost"), _ending(12)):
        first.add(ending)
    assert Ledger(path).known(range(10)) == [_ending(3, "seed 3: lost"), _ending(7)]


def test_a_torn_line_is_a_world_not_seen_yet(tmp_path: Path) -> None:
    path = tmp_path / "sim.jsonl"
    first = Ledger(path)
    first.add(_ending(1))
    first.add(_ending(2))
    path.write_bytes(path.read_bytes()[:-9])
    again = Ledger(path)
    assert [ending.seed for ending in again.known(range(9))] == [1]
    again.add(_ending(2))
    again.add(_ending(3))
    assert [ending.seed for ending in Ledger(path).known(range(9))] == [1, 2, 3]


def test_other_code_is_another_campaign(tmp_path: Path) -> None:
    for part in ("node/holdfast_node/core", "tests/sim"):
        shutil.copytree(ROOT / part, tmp_path / part)
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    before = code_digest(tmp_path)
    assert code_digest(tmp_path) == before
    source = tmp_path / "node/holdfast_node/core/head.py"
    source.write_text(source.read_text() + "\n# changed\n")
    assert code_digest(tmp_path) != before
