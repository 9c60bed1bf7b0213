"""`holdfast` against a server that keeps blobs in a dict: what it prints, and how it exits."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import holdfast
from holdfast.cli import main
from holdfast.cli.places import Place, place
from holdfast.cli.shell import Usage, seconds, size_text
from holdfast_ctl.cli import main as clusterctl
from tests.support.faulty_server import Fault, Running, running


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    with running() as found:
        monkeypatch.setenv("HOLDFAST_ENDPOINTS", found.endpoints)
        yield found


@pytest.fixture
def bucket(servers: Running) -> str:
    assert main(["mb", "photos"]) == 0
    return "photos"


Said = Callable[[], str]


@pytest.fixture
def out(capfd: pytest.CaptureFixture[str]) -> Said:
    return lambda: capfd.readouterr().out


def test_put_and_get(bucket: str, tmp_path: Path, out: Said) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"meow" * 1000)
    assert main(["put", str(path), "photos/cats/"]) == 0
    assert main(["get", "photos/cats/cat.jpg", str(tmp_path / "copy")]) == 0
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    out()
    assert main(["cat", "hf://photos/cats/cat.jpg"]) == 0
    assert out() == "meow" * 1000
    assert main(["get", "photos/cats/cat.jpg", "-", "--range", "2-6"]) == 0
    assert out() == "owme"


def test_standard_input_is_a_blob(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: Said
) -> None:
    path = tmp_path / "stdin"
    path.write_bytes(b"typed")
    with path.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert main(["put", "-", "photos/note", "--meta", "a=b", "--content-type", "text/plain"]) == 0
    out()
    assert main(["stat", "photos/note", "--json"]) == 0
    document = json.loads(out())
    assert document["blob"]["metadata"] == {"a": "b"}
    assert document["versions"][0]["current"]


def test_documents(bucket: str, tmp_path: Path, out: Said) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x")
    out()
    assert main(["--json", "put", str(path), "photos/k"]) == 0
    receipt = json.loads(out())
    assert receipt["margin"] == {"san": 1}
    assert (receipt["bucket"], receipt["key"], receipt["version"], receipt["full"]) == (
        "photos",
        "k",
        1,
        True,
    )
    assert main(["ls", "--json"]) == 0
    assert [info["name"] for info in json.loads(out())["buckets"]] == ["photos"]
    assert main(["ls", "photos", "-r", "--json"]) == 0
    assert [entry["key"] for entry in json.loads(out())["entries"]] == ["k"]
    assert main(["ls", "photos/none", "--json"]) == 0
    assert json.loads(out()) == {"entries": []}


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["get", "photos/absent", "/dev/null"], 1),
        (["mb", "photos"], 1),
        (["put", "/dev/null", "nothere/k"], 1),
        (["put", "/no/such/file", "photos/k"], 2),
        (["put", "/dev/null"], 2),
        (["put", "/dev/null", "photos"], 2),
        (["get", "photos/" + "x" * 1025, "/dev/null"], 2),
        (["get", "photos/k", "--range", "nonsense"], 2),
        (["get", "photos/k", "--range", f"{10**19}-"], 2),
        (["get", "photos/k", "--version", f"{10**19}"], 2),
        (["put", "/dev/null", "photos/k", "--if-version", f"{10**19}"], 2),
        (["put", "/dev/null", "photos/k", "--meta", "a=\udcff"], 2),
        (["put", "/dev/null", "photos/k", "--content-type", "\udcff"], 2),
        (["mb", "more", "--pool", "\udcff"], 2),
        (["mb", "more", "--undo", f"{10**19}d"], 2),
        (["--timeout", "nan", "ls"], 2),
        (["rm", "-r", "photos"], 2),
        (["nonsense"], 2),
        (["--endpoints", "127.0.0.1:1", "--timeout", "0.5", "ls"], 3),
        (["--endpoints", "nonsense", "ls"], 2),
        (["--help"], 0),
        (["put", "--help"], 0),
    ],
)
def test_exit_status(
    bucket: str, arguments: list[str], status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "a mistake of this program" not in said
    if status:
        assert said.strip()


def test_an_error_is_a_document_with_json(bucket: str, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    assert main(["stat", "photos/absent", "--json"]) == 1
    captured = capfd.readouterr()
    assert json.loads(captured.err)["error"]["kind"] == "BlobNotFound"
    assert captured.out == ""


def test_an_error_says_who_said_what(
    servers: Running, bucket: str, capfd: pytest.CaptureFixture[str]
) -> None:
    servers.servers[0].faults["Put"].extend([Fault(37)] * 9)
    assert main(["put", "/dev/null", "photos/k"]) == 1
    assert "n1: no" in capfd.readouterr().err


def test_control_bytes_in_keys_are_escaped(servers: Running, bucket: str, out: Said) -> None:
    with holdfast.connect(servers.endpoints) as client:
        client.bucket("photos").put("evil\x1b[2J\nkey", b"x")
        client.bucket("photos").put(b"\xff\xfe", b"x")
    out()
    assert main(["ls", "-r", "photos"]) == 0
    text = out()
    assert "\x1b" not in text
    assert text.splitlines() == ["evil\\x1b[2J\\nkey", "\\udcff\\udcfe"]
    assert main(["rm", os.fsdecode(b"photos/\xff\xfe")]) == 0


def test_rm(bucket: str, out: Said) -> None:
    for key in ("a/1", "a/2", "b"):
        assert main(["put", "/dev/null", f"photos/{key}"]) == 0
    assert main(["rm", "-r", "photos/a", "--yes"]) == 0
    out()
    assert main(["ls", "-r", "photos"]) == 0
    assert out() == "b\n"
    assert main(["rm", "photos/b"]) == 0
    assert main(["rb", "photos"]) == 0


def test_cp_keeps_a_tree(bucket: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source"
    files = {"a": b"1", "sub/b": b"22", "sub/deep/c": b"333", "empty": b"", os.fsdecode(b"odd\xff"): b"4"}
    for name, data in files.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert main(["cp", str(source), "hf://photos/x"]) == 2
    assert main(["cp", "-r", str(source), "hf://photos/x"]) == 0
    assert main(["cp", "-r", "hf://photos/x", "hf://photos/y/"]) == 0
    assert main(["cp", "-r", "hf://photos/y", str(tmp_path / "target")]) == 0
    for name, data in files.items():
        assert (tmp_path / "target" / name).read_bytes() == data
    assert main(["cp", "hf://photos/x/a", str(tmp_path)]) == 0
    assert (tmp_path / "a").read_bytes() == b"1"
    assert main(["cp", str(tmp_path / "a"), str(tmp_path / "b")]) == 2


def test_cp_makes_no_copies_of_its_copies(servers: Running, bucket: str) -> None:
    """A page of a listing would show those of the page before, for ever."""
    with holdfast.connect(servers.endpoints) as client:
        for number in range(4):
            client.bucket("photos").put(f"x/{number}", b"x")
    for target in ("photos/x", "photos/x/", "photos/x/y"):
        assert main(["cp", "-r", "hf://photos/x", f"hf://{target}"]) == 2
    assert main(["cp", "-r", "hf://photos", "hf://photos/all"]) == 2
    for target in ("photos/x/0", "photos/x/", "photos"):
        assert main(["cp", "hf://photos/x/0", f"hf://{target}"]) == 2
    assert servers.state.applications == 4
    assert main(["cp", "-r", "hf://photos/x", "hf://photos/xy"]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["node", "drain", "\udcff", "--yes"],
        ["node", "add", "n7", "--address", "h:1", "--tag", "san=\udcff"],
        ["node", "add", "n7", "--address", "h:1", "--weight", f"{10**19}"],
        ["prove", "--lose", "\udcff"],
        ["risk", "list", "--margin", f"{10**19}"],
        ["pool", "create", "p", "--code", "rs:2+1", "--partitions", f"{10**19}"],
        ["local", "up", "--nodes", f"{10**19}"],
        ["local", "up", "--code", "\udcff"],
        ["--timeout", "0", "status"],
    ],
)
def test_what_no_message_can_hold_is_refused(
    servers: Running, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert clusterctl(arguments) == 2
    assert not list(tmp_path.glob("*/cluster.toml"))


def test_cp_writes_nothing_outside_its_target(servers: Running, bucket: str, tmp_path: Path) -> None:
    with holdfast.connect(servers.endpoints) as client:
        for key in ("../escape", "/etc/x", "a//b", "nul\x00", "good"):
            client.bucket("photos").put(key, b"x")
    target = tmp_path / "target"
    target.mkdir()
    (target / "link").symlink_to(tmp_path)
    assert main(["cp", "-r", "hf://photos", str(target)]) == 1
    assert sorted(path.name for path in target.iterdir()) == ["good", "link"]
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_reader_that_leaves_is_no_error(servers: Running, bucket: str) -> None:
    with holdfast.connect(servers.endpoints) as client:
        client.bucket("photos").put("k", b"x" * 1_000_000)
    command = f"{sys.executable} -m holdfast cat photos/k | head -c 10"
    done = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("x" * 10, "")


def test_bars_are_drawn_on_a_terminal_only(servers: Running, bucket: str, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100_000)
    command = [sys.executable, "-m", "holdfast", "put", str(path), "photos/k"]
    quiet = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "\x1b" not in quiet.stdout + quiet.stderr
    master, slave = pty.openpty()
    subprocess.run(command, check=True, stderr=slave)
    drawn = os.read(master, 65536)
    os.close(slave)
    os.close(master)
    assert b"\x1b" in drawn


def test_the_local_cluster_is_found_by_itself(
    servers: Running, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: Said
) -> None:
    monkeypatch.delenv("HOLDFAST_ENDPOINTS")
    monkeypatch.chdir(tmp_path)
    assert main(["ls"]) == 2
    (tmp_path / ".holdfast").mkdir()
    config = f"""
[cluster]
name = "x"
[[pool]]
name = "main"
code = "rs:4+2"
[[node]]
name = "n1"
address = "{servers.endpoints}"
data_dir = "n1"
"""
    (tmp_path / ".holdfast" / "cluster.toml").write_text(config)
    out()
    assert main(["ls"]) == 0
    assert out() == "photos/\n"


def test_places() -> None:
    assert place("b/k/x") == place("hf://b/k/x") == Place("b", "k/x")
    for wrong in ("", "/k", "hf:///k", "b"):
        with pytest.raises(Usage):
            place(wrong)
    assert place("b", key=False) == Place("b", "")


def test_sizes_and_durations() -> None:
    assert [size_text(size) for size in (0, 1023, 1536, 5 << 30, 3 << 41)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 GiB",
        "6.0 TiB",
    ]
    assert [seconds(text) for text in ("90", "90s", "15m", "24h", "7d")] == [90, 90, 900, 86400, 604800]
    with pytest.raises(Usage):
        seconds("soon")
