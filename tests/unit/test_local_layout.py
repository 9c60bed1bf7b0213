"""Local clusters on paper and as processes, without a node: layouts, files, pids, locks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import holdfast
from holdfast.testing import LocalRefused, processes, state
from holdfast.testing.layout import (
    Shape,
    build,
    cluster_name,
    free_ports,
    is_free,
    letters,
    newcomer,
    read,
    to_toml,
)
from holdfast.testing.processes import Process


def test_sans_are_blocks_and_racks_go_round(tmp_path: Path) -> None:
    layout = build(Shape(nodes=12, sans=4, racks=3), tmp_path, "x")
    assert [node.tags["san"] for node in layout.nodes] == list("aaabbbcccddd")
    assert [node.tags["rack"] for node in layout.nodes] == ["r1", "r2", "r3"] * 4
    assert len({node.tags["host"] for node in layout.nodes}) == 12
    uneven = build(Shape(nodes=7, sans=3), tmp_path, "x")
    assert sorted(Counter(node.tags["san"] for node in uneven.nodes).values()) == [2, 2, 3]
    assert "san" not in build(Shape(nodes=3, sans=0), tmp_path, "x").nodes[0].tags


def test_the_file_says_what_was_built(tmp_path: Path) -> None:
    layout = build(Shape(racks=2), tmp_path / 'odd "name"', "x")
    path = tmp_path / "cluster.toml"
    path.write_text(to_toml(layout))
    assert read(path) == layout


def test_selectors(tmp_path: Path) -> None:
    layout = build(Shape(), tmp_path, "x")
    assert [node.name for node in layout.select(["san=b"])] == ["n3", "n4"]
    assert [node.name for node in layout.select(["n6", "san=a"])] == ["n1", "n2", "n6"]
    for wrong in ("n7", "san=q", "b", ""):
        with pytest.raises(holdfast.InvalidArgument, match="names no node"):
            layout.select([wrong])


@pytest.mark.parametrize(
    "shape", [Shape(nodes=0), Shape(nodes=101), Shape(sans=7), Shape(racks=-1), Shape(port_base=80)]
)
def test_impossible_shapes_are_refused(shape: Shape, tmp_path: Path) -> None:
    with pytest.raises(holdfast.InvalidArgument):
        build(shape, tmp_path, "x")


def test_what_the_file_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(holdfast.InvalidArgument, match="UTF-8"):
        build(Shape(), tmp_path / "\udcff", "x")
    layout = build(Shape(), tmp_path, "x")
    with pytest.raises(holdfast.InvalidArgument, match="UTF-8"):
        newcomer(layout, tmp_path, {"san": "\udcff"})


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    with pytest.raises(LocalRefused):
        read(path)
    for text in ("[[", "", "[cluster]\nname = 'x'\npool = 1\nnode = 2"):
        path.write_text(text)
        with pytest.raises(holdfast.InvalidArgument):
            read(path)


def test_letters() -> None:
    assert [letters(index) for index in (0, 25, 26, 51, 52)] == ["a", "z", "aa", "az", "ba"]


def test_ports_that_are_taken_are_left_alone() -> None:
    base = free_ports(3, 20_000)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 1))
        taken.listen()
        assert not is_free(base + 1)
        assert free_ports(3, base) > base
        assert Process(os.getpid(), 0).listens_at(base + 1)
        assert not Process(os.getppid(), 0).listens_at(base + 1)


def test_a_process_is_known_by_its_start_time(tmp_path: Path) -> None:
    process = processes.spawn([sys.executable, "-c", "input()"], log=tmp_path / "log")
    other = Process(process.pid, process.started - 1)
    assert not other.alive()
    assert not other.signal(signal.SIGKILL)
    processes.kill([process])
    assert not process.alive()
    assert os.getsid(0) != process.pid


def test_output_goes_to_the_log(tmp_path: Path) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr)"
    process = processes.spawn([sys.executable, "-c", code], log=tmp_path / "log")
    assert processes.wait_gone([process], 30.0) == []
    assert sorted((tmp_path / "log").read_text().split()) == ["err", "out"]


def test_the_state_file_survives_a_round_trip_and_damage_is_refused(tmp_path: Path) -> None:
    assert state.load(tmp_path) == {}
    state.save(tmp_path, {"n1": Process(5, 7)})
    assert state.load(tmp_path) == {"n1": Process(5, 7)}
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(LocalRefused, match="damaged"):
        state.load(tmp_path)


def test_the_lock_goes_with_its_holder(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from holdfast.testing import state
with state.locked(Path({str(tmp_path)!r})):
    print("locked", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        holder.kill()
    with state.locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        (".holdfast", "holdfast"),
        ("my cluster+", "my-cluster-"),
        ("Größe", "Gr-e"),
        ("+++", "local"),
        ("x" * 200, "x" * 63),
        ("_dev", "dev"),
    ],
)
def test_any_directory_gives_a_cluster_a_name(tmp_path: Path, directory: str, name: str) -> None:
    assert cluster_name(tmp_path / directory) == name
