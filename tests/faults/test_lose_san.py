"""A SAN of a real cluster dies in the middle of a load: nothing acked is lost, work goes on, it heals."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.scenarios import lose_san
from tests.faults.workload import MIB


@pytest.mark.timeout(300)
def test_a_lost_san_costs_nothing_that_was_acked(tmp_path: Path) -> None:
    report = lose_san(tmp_path / "cluster", seed=1, largest=17 * MIB)
    assert not report.wrong, str(report)
