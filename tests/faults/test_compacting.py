"""A real cluster gives back the room of what nobody needs, while it is written to and nodes are killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.compacting import compacting


@pytest.mark.timeout(280)
def test_volumes_are_given_back_and_every_version_stays(tmp_path: Path) -> None:
    report = compacting(tmp_path / "cluster", seed=1, volumes=1, kills=1, callers=1)
    assert not report.wrong, str(report)
