"""A node dies, then another's disk, and no operator says a word; then a third dies, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.staying_away import stay_away
from tests.faults.workload import MIB


@pytest.mark.timeout(400)
def test_others_take_over_from_nodes_that_stay_away(tmp_path: Path) -> None:
    report = stay_away(tmp_path / "cluster", seed=1, largest=2 * MIB)
    assert not report.wrong, str(report)
