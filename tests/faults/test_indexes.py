"""A real cluster without any of its indexes: the logs are the truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.indexes import lose_indexes
from tests.faults.workload import MIB


@pytest.mark.timeout(200)
def test_without_any_index_everything_is_listed_and_read_as_before(tmp_path: Path) -> None:
    report = lose_indexes(tmp_path / "cluster", seed=1, size=48 * MIB)
    assert not report.wrong, str(report)
