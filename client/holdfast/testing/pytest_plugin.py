"""The pytest plugin: fixtures that give a test a running cluster. Loaded by pytest by itself, so it imports little."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.testing import LocalCluster

MARKER = "holdfast(nodes=6, sans=3, racks=0, code='rs:4+2'): what the fixture `holdfast_cluster` starts"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def holdfast_cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[LocalCluster, None, None]:
    """A healthy cluster of real processes, this test's own: 6 nodes on 3 SANs, code rs:4+2. Another shape by
    `@pytest.mark.holdfast(nodes=12, sans=4)`. The nodes are gone after the test, also if the test run is killed."""
    from holdfast.testing import LocalCluster

    marker = request.node.get_closest_marker("holdfast")
    shape = dict(marker.kwargs) if marker is not None else {}
    with LocalCluster(tmp_path / "cluster", **shape) as cluster:
        yield cluster
