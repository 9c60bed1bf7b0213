"""The command lines when a signal ends them: at once, with the status shells expect, and nothing half-done stays."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import click
import pytest

import holdfast
from holdfast.cli.shell import run
from tests.faults.support.wait import until
from tests.support.faulty_server import Fault, Running, running

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def servers() -> Iterator[Running]:
    with running(1) as found, holdfast.connect(found.endpoints) as client:
        client.create_bucket("photos").put("k", b"x" * 100_000)
        yield found


@pytest.fixture(autouse=True)
def _as_from_a_terminal() -> Iterator[None]:
    """Whoever runs the tests in the background may have them ignore these signals, which children inherit. What is
    handled is not inherited."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ended(
    servers: Running,
    number: signal.Signals,
    *arguments: str,
    under_way: Callable[[], object],
    stdin: int = subprocess.DEVNULL,
) -> int:
    command = [sys.executable, "-m", "holdfast", "--endpoints", servers.endpoints, *arguments]
    with subprocess.Popen(command, stdin=stdin, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: bool(under_way()), 20.0, "it is under way")
            process.send_signal(number)
            return process.wait(10)
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_an_upload_of_silence_is_interrupted(servers: Running, name: str) -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb"), os.fdopen(write, "wb"):
        calls = servers.servers[0].calls
        put = ["put", name, "photos/silent"]
        assert ended(servers, signal.SIGINT, *put, under_way=lambda: len(calls) == 2, stdin=read) == 130
    assert [key for _, key in servers.state.blobs] == [b"k"]


@pytest.mark.parametrize("number", ENDING)
def test_a_download_leaves_no_half_a_file(servers: Running, tmp_path: Path, number: signal.Signals) -> None:
    servers.servers[0].faults["Get"].append(Fault(at_bytes=1000, hang=True))
    get = ["get", "photos/k", str(tmp_path / "k")]
    assert ended(servers, number, *get, under_way=lambda: list(tmp_path.iterdir())) == 128 + number
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_status_is_the_same_if_nobody_is_left_to_be_told(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Most programs that are told that their terminal hung up have it as standard error."""

    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.EIO, "hung up")

    @click.command()
    def endless() -> None:
        signal.raise_signal(number)

    signal.signal(number, signal.SIG_DFL)
    monkeypatch.setattr(sys, "stderr", Gone())
    assert run(endless, [], program="holdfast") == 128 + number
