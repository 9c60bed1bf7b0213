"""`clusterctl` and local clusters: one life, from up to wipe, with a SAN lost and replaced in between."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import holdfast
from holdfast.testing import LocalCluster, LocalRefused
from holdfast.testing.layout import free_ports
from tests.faults.places import flip, places
from tests.faults.support.wait import until

pytestmark = pytest.mark.timeout(180)


def ctl(root: Path, *arguments: str, status: int = 0) -> str:
    """Runs `clusterctl --dir ROOT ...` as a person would; what it printed."""
    done = _run(root, *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def _run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "HOLDFAST_ENDPOINTS"}
    command = [sys.executable, "-m", "holdfast_ctl", "--dir", str(root), *arguments]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL
    )


def document(root: Path, *arguments: str, status: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ctl(root, *arguments, "--json", status=status))
    return found


def test_the_life_of_a_local_cluster(tmp_path: Path) -> None:
    root = tmp_path / "here"
    try:
        _live(root)
    finally:
        if (root / "cluster.toml").exists():
            ctl(root, "local", "wipe", "--yes")
    assert not [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(root) in " ".join(process.info["cmdline"] or [])
    ]


def _set_undo(root: Path) -> None:
    assert "24.0 h" in ctl(root, "bucket", "list")
    ctl(root, "bucket", "set", "bbb", "--undo", "1h", status=2)  # nobody there to ask
    assert [each["undo_s"] for each in document(root, "bucket", "list")["buckets"]] == [86400]
    assert document(root, "bucket", "set", "bbb", "--undo", "1h", "--yes")["undo_s"] == 3600
    assert "7.0 d" in ctl(root, "bucket", "set", "bbb", "--undo", "7d")
    ctl(root, "bucket", "set", "bbb", "--undo", "soon", status=2)
    ctl(root, "bucket", "set", "bbb", status=2)
    ctl(root, "bucket", "set", "bbb", "--quota", "much", status=2)
    assert document(root, "bucket", "set", "bbb", "--quota", "1GiB")["quota"] == 1 << 30
    assert "1.0 GiB" in ctl(root, "bucket", "list")
    (listed,) = document(root, "bucket", "list")["buckets"]
    assert listed["usage"]["whole"]
    assert listed["usage"]["blobs"] >= 1
    ctl(root, "bucket", "set", "nobodys", "--undo", "1h", status=1)


def _live(root: Path) -> None:
    ctl(root, "local", "up", "--nodes", "6", "--sans", "3", "--racks", "3")
    local = document(root, "local", "status")
    nodes = local["nodes"]
    assert [node["id"] for node in nodes] == ["n1", "n2", "n3", "n4", "n5", "n6"]
    assert [node["tags"]["san"] for node in nodes] == ["a", "a", "b", "b", "c", "c"]
    assert [node["tags"]["rack"] for node in nodes] == ["r1", "r2", "r3"] * 2
    assert all(node["state"] == "running" and psutil.pid_exists(node["pid"]) for node in nodes)
    assert set(nodes[0]) == {"id", "pid", "address", "tags", "data_dir", "log", "state"}

    ctl(root, "local", "up")  # nothing to do
    assert document(root, "local", "status") == local
    ctl(root, "local", "up", "--nodes", "7", status=2)

    status = document(root, "status")
    assert status["healthy"] is True
    assert document(root, "heal", "status")["healthy"] is True
    assert all(node["unproven_s"] <= node["promised_s"] == 600 for node in status["nodes"])
    assert "6 stores on one device (simulated)" in ctl(root, "status")
    assert document(root, "init")["already"] is True
    assert len(document(root, "nodes")["nodes"]) == 6
    assert document(root, "pools")["pools"][0]["code"] == "rs:4+2"
    assert len(document(root, "map", "show")["pools"][0]["partitions"]) == 64
    ctl(root, "config", "check")
    for command in (
        ["nodes"],
        ["pools"],
        ["map", "show"],
        ["heal", "status"],
        ["local", "status"],
        ["local", "logs", "n1"],
    ):
        assert ctl(root, *command).strip()

    data = os.urandom(3_000_000)
    with holdfast.connect(str(local["endpoints"])) as client:
        bucket = client.create_bucket("bbb")
        bucket.put("k\x1b", data)
        _set_undo(root)
        _lose_and_replace(root, bucket, data)
        _scrub(root, bucket, data)
        _rebuild_index(root, bucket)

    ctl(root, "local", "down")
    local = document(root, "local", "status", status=1)
    assert {node["state"] for node in local["nodes"]} == {"stopped"}
    ctl(root, "status", status=3)
    ctl(root, "local", "wipe", status=2)
    ctl(root, "local", "wipe", "--yes")
    assert not root.exists()
    ctl(root, "local", "status", status=1)


def _scrub(root: Path, bucket: holdfast.Bucket, data: bytes) -> None:
    """A byte of a cell rots on one disk; nobody has read it; scrub finds it, and it is whole again."""
    cells = [place for place in places(root / "n1") if (place.kind, place.record) == ("payload", "cell")]
    flip(cells[-1:], random.Random(1))
    found = document(root, "scrub", "--now", "--wait")
    assert [node["id"] for node in found["nodes"]] == ["n1", "n2", "n3", "n4", "n5", "n6"]
    assert all(node["found"] == node["healed"] and not node["waiting"] for node in found["nodes"])
    assert found["nodes"][0]["found"] + found["nodes"][0]["garbage"] == 1
    assert all(node["completed"] == node["cycle"] and node["promised_s"] == 600 for node in found["nodes"])
    assert "promised" in ctl(root, "scrub")
    assert bucket.get("during").read() == data


def _rebuild_index(root: Path, bucket: holdfast.Bucket) -> None:
    pids = [node["pid"] for node in document(root, "local", "status")["nodes"]]
    rebuilt = document(root, "rebuild-index", "n2")
    assert (rebuilt["node"], rebuilt["voting"]) == ("n2", True)
    assert "n2 has a new index" in ctl(root, "rebuild-index", "n2")
    assert [node["pid"] for node in document(root, "local", "status")["nodes"]] == pids
    ctl(root, "rebuild-index", "n99", status=2)
    assert ctl(root, "local", "logs", "n2").count("index_rebuilt") + 1
    assert bucket.get("during").read()


def _lose_and_replace(root: Path, bucket: holdfast.Bucket, data: bytes) -> None:
    explained = document(root, "explain", "bbb", "k\x1b")
    assert [shard["found_at"] for shard in explained["shards"]] == [
        [shard["home"]] for shard in explained["shards"]
    ]
    assert "\x1b" not in ctl(root, "explain", "bbb", "k\x1b")
    assert document(root, "prove")["safe"] is True
    assert document(root, "prove", "--lose", "san=a", "--lose", "n3", status=1)["safe"] is False
    assert "nothing would become unreadable" in ctl(root, "prove", "--lose", "san=b")
    assert document(root, "risk", "list")["at_risk"] == []
    assert "0 at margin 0 or under" in ctl(root, "risk", "list", "--pool", "main")
    ctl(root, "risk", "list", "--pool", "none", status=2)
    ctl(root, "risk", "list", "--margin", "-2", status=2)

    ctl(root, "local", "lose", "san=b", status=2)
    ctl(root, "local", "lose", "san=q", "--yes", status=2)
    assert document(root, "local", "lose", "san=b", "--yes") == {"lost": ["n3", "n4"]}
    assert not (root / "n3").exists()
    assert bucket.get("k\x1b").read() == data
    bucket.put("during", data)
    status = document(root, "status", status=1)
    assert status["healthy"] is False
    assert [node["id"] for node in status["nodes"] if node["promised_s"] is None] == ["n3", "n4"]
    assert "; not known of n3 n4" in ctl(root, "status", status=1)
    _at_risk(root, len(data))
    ctl(root, "node", "replace", "--lost", "san=b", status=2)

    assert document(root, "local", "start", "san=b") == {"started": ["n3", "n4"]}
    assert document(root, "node", "replace", "--lost", "san=b", "--yes")["replaced"] == ["n3", "n4"]
    LocalCluster.at(root).wait_healthy(60)
    # A machine that stands still for a second may look ill once more: others may have been stewards meanwhile.
    until(lambda: _run(root, "status").returncode == 0, 60, "a healthy status")
    assert bucket.get("during").read() == data
    assert document(root, "prove")["safe"] is True
    assert document(root, "risk", "list")["total"] == 0


def _at_risk(root: Path, size: int) -> None:
    """With a SAN lost, what was there before has no shard to spare."""
    found = document(root, "risk", "list", status=1)
    assert (found["margin"], found["pool"], found["total"], found["blobs"]) == (0, None, 3, 2)
    assert "(buckets)" in {blob["bucket"] for blob in found["at_risk"]}, (
        "the record of the bucket is as much at risk"
    )
    blob = next(blob for blob in found["at_risk"] if blob["key"] not in {"during", "bbb"})
    assert set(blob) == {"bucket", "key", "version", "size", "code", "margin", "weakest"}
    assert (blob["bucket"], blob["version"], blob["size"], blob["code"]) == ("bbb", 1, size, "rs:4+2")
    assert blob["margin"] == {"survives": dict.fromkeys(("node", "host", "san", "rack"), 0), "full": False}
    assert blob["weakest"] == ["shards", "register", "voters"]
    assert found["unreachable"] == ["n3", "n4"]
    said = ctl(root, "risk", "list", status=1)
    assert "bbb/during" in said
    assert "\x1b" not in said
    assert "did not answer, so their shards do not count: n3 n4" in said
    assert document(root, "risk", "list", "--margin", "-1")["total"] == 0


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    base = free_ports(6, 21_000)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 2))
        taken.listen()
        with pytest.raises(LocalRefused, match=str(base + 2)):
            LocalCluster(tmp_path / "c", port_base=base).up()


def test_an_impossible_placement_is_refused_with_its_reason_and_leaves_nothing(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "holdfast_ctl",
        "local",
        "up",
        "--dir",
        str(tmp_path / "c"),
        "--sans",
        "2",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "has 3 of 6 nodes" in done.stderr
    assert not (tmp_path / "c" / "cluster.toml").exists()


def test_nobody_there(tmp_path: Path) -> None:
    ctl(tmp_path / "none", "local", "down", status=1)
    ctl(tmp_path / "none", "status", status=1)
    ctl(tmp_path / "none", "--endpoints", "127.0.0.1:1", "status", status=3)


def test_nodes_on_a_leash_end_with_their_starter(tmp_path: Path) -> None:
    code = f"""
import os, signal
from holdfast.testing import LocalCluster
cluster = LocalCluster({str(tmp_path / "c")!r}, nodes=3, sans=3, code="rs:2+1").up()
print(*[state.pid for state in cluster.nodes()], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 3
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.holdfast(nodes=3, sans=3, code="rs:2+1")
def test_the_fixture(holdfast_cluster: LocalCluster) -> None:
    bucket = holdfast_cluster.connect().create_bucket("bbb")
    bucket.put("k", b"x" * 100_000)
    assert holdfast_cluster.lose("san=a") == ("n1",)  # the one that is asked first
    assert bucket.get("k").read() == b"x" * 100_000
    holdfast_cluster.start("san=a")
    assert holdfast_cluster.replace("san=a") == ("n1",)
    holdfast_cluster.wait_healthy(60)
    holdfast_cluster.pause("n2")
    assert bucket.get("k").read() == b"x" * 100_000
    holdfast_cluster.resume("n2")
