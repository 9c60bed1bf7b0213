"""A pool of a real cluster changes its code under load: nothing is lost, no caller sees an error, no margin falls."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.recoding import recode


@pytest.mark.timeout(300)
def test_a_pool_changes_its_code_and_back_under_load(tmp_path: Path) -> None:
    report = recode(tmp_path / "cluster", seed=1, codes=("rs:2+1", "rs:4+2"), nodes=6, sans=3, operations=10)
    assert not report.wrong, str(report)
