"""A real cluster grows and shrinks under load: nothing acked is lost, no caller sees an error, little moves in vain."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.grow import grow


@pytest.mark.timeout(300)
def test_nodes_come_and_go_under_load_and_nobody_notices(tmp_path: Path) -> None:
    report = grow(tmp_path / "cluster", seed=1, most=7, operations=10)
    assert not report.wrong, str(report)
