"""A local cluster grows and shrinks by `clusterctl`, as a person would do it: plan, change, progress, end."""

from __future__ import annotations

from pathlib import Path

import pytest

import holdfast
from tests.integration.test_clusterctl import ctl, document

pytestmark = pytest.mark.timeout(180)


def test_a_node_comes_and_goes_by_the_commands_in_the_runbook(tmp_path: Path) -> None:
    root = tmp_path / "here"
    try:
        _grow(root)
    finally:
        if (root / "cluster.toml").exists():
            ctl(root, "local", "wipe", "--yes")


def _grow(root: Path) -> None:
    ctl(root, "local", "up", "--nodes", "6", "--sans", "3")
    endpoints = document(root, "local", "status")["endpoints"]
    with holdfast.connect(endpoints) as client:
        bucket = client.create_bucket("kept")
        for number in range(20):
            bucket.put(f"{number}", b"%d" % number * 10_000)
    assert "no change" in ctl(root, "plan")
    refused = ctl(root, "node", "drain", "n1", "--yes", status=1)
    assert not refused
    added = document(root, "local", "add", "--tag", "san=d")
    assert (added["kind"], added["nodes"], added["applied"]) == ("add", ["n7"], True)
    [moves] = added["pools"]
    assert 0 < moves["slots"] <= 1.2 * moves["least_slots"]
    assert "done" in ctl(root, "plan", "--wait")
    planned = ctl(root, "node", "drain", "n7", "--plan")
    assert "nothing has changed yet" in planned
    assert document(root, "plan")["kind"] == "add"
    ctl(root, "local", "remove", "n7", "--yes", status=1)
    assert "applied" in ctl(root, "node", "drain", "n7", "--yes")
    assert "done" in ctl(root, "plan", "--wait")
    states = {node["id"]: node["state"] for node in document(root, "nodes")["nodes"]}
    assert states["n7"] == "drained"
    assert "removed: n7" in ctl(root, "local", "remove", "n7", "--yes")
    assert not (root / "n7").exists()
    ctl(root, "config", "check")
    ctl(root, "pool", "create", "wide", "--code", "rs:2+1")
    assert {pool["name"] for pool in document(root, "pools")["pools"]} == {"main", "wide"}
    with holdfast.connect(endpoints) as client:
        bucket = client.bucket("kept")
        assert all(bucket.get(f"{number}").read() == b"%d" % number * 10_000 for number in range(20))
        client.create_bucket("other", pool="wide").put("k", b"v")
