"""The demonstration as a process: it tells the truth, twice, and leaves nothing behind, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.timeout(180)


def demo(where: Path) -> subprocess.Popen[str]:
    """In a directory of its own with a small tree and a small generated file."""
    (where / "readme.txt").write_text("hello")
    command = [sys.executable, "-m", "holdfast_ctl.demo", "--big-mib", "8"]
    return subprocess.Popen(command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def nodes_of(where: Path) -> list[int]:
    found: list[int] = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(where) in line and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def test_nothing_is_lost(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        said, _ = running.communicate()
    assert running.returncode == 0, said
    rows = {
        line.rsplit(maxsplit=1)[0].strip(): line.rsplit(maxsplit=1)[1]
        for line in said.splitlines()
        if line.strip()
    }
    assert rows["lost"] == "0"
    assert rows["acknowledged"] == rows["read back, byte for byte"]
    assert int(rows["acknowledged"]) > 40
    assert "\x1b" not in said
    assert nodes_of(tmp_path) == []


@pytest.fixture
def heeded() -> Iterator[None]:
    """What a shell starts in the background ignores Ctrl-C, and so does all that it starts itself."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    with demo(tmp_path) as running:
        deadline = time.monotonic() + 60
        while len(nodes_of(tmp_path)) < 6:
            assert time.monotonic() < deadline
        running.send_signal(number)
        running.communicate()
    assert running.returncode == 130
    deadline = time.monotonic() + 5
    while left := nodes_of(tmp_path):  # one that was being started ends by itself
        assert time.monotonic() < deadline, left
