"""Every node of a real cluster is killed at once in the middle of a load: nothing acked is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.scenarios import kill_all
from tests.faults.workload import MIB


@pytest.mark.timeout(300)
def test_killing_every_node_at_once_loses_nothing_that_was_acked(tmp_path: Path) -> None:
    report = kill_all(tmp_path / "cluster", seed=1, largest=17 * MIB)
    assert not report.wrong, str(report)
