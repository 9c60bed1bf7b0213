"""Two of six nodes are dead and there is no spare: reads and writes go on, and acks tell the truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.scenarios import two_dead
from tests.faults.workload import MIB


@pytest.mark.timeout(300)
def test_reads_and_writes_go_on_with_two_of_six_nodes_dead(tmp_path: Path) -> None:
    report = two_dead(tmp_path / "cluster", seed=1, largest=17 * MIB)
    assert not report.wrong, str(report)
