"""A real cluster reads itself back: everything that rotted is found, and whole again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.scrubbing import scrubbing


@pytest.mark.timeout(200)
def test_one_cycle_finds_and_heals_whatever_rotted(tmp_path: Path) -> None:
    report = scrubbing(tmp_path / "cluster", seed=1, flips=400, blobs=150)
    assert not report.wrong, str(report)
