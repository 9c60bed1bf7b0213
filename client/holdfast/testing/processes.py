"""Starts, recognises and ends processes. It knows pids and nothing of clusters.

A pid alone names nothing: the kernel uses it again. A process is a pid and the time it was started, and a signal goes
only to the process that was meant.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

POLL_S: Final = 0.01
LISTENING: Final = "0A"
SOCKET_INODE: Final = 9
STAT_STARTED: Final = 19
"""Fields of /proc/PID/stat counted after the name: the state, then 18 more, then the start time."""


@dataclass(frozen=True, slots=True)
class Process:
    """`started`: clock ticks since boot."""

    pid: int
    started: int

    def alive(self) -> bool:
        """Runs, and is the same process. Collects it if it is our child and has ended."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return _started(self.pid) == self.started

    def signal(self, number: signal.Signals) -> bool:
        """False if the process is gone, or its pid is another's now."""
        if not self.alive():
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def listens_at(self, port: int) -> bool:
        """Whether it is this process, and not another program, that takes connections at the port."""
        try:
            sockets = {f"socket:[{inode}]" for inode in _listening(self.pid, port)}
            return any(
                str(descriptor.readlink()) in sockets for descriptor in Path(f"/proc/{self.pid}/fd").iterdir()
            )
        except OSError:
            return False  # it ended meanwhile


def spawn(command: Sequence[str], *, log: Path, stdin: int | None = None) -> Process:
    """Starts a process in a session of its own, so that Ctrl-C in the terminal is not for it; output goes to `log`."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        files = [
            (os.POSIX_SPAWN_DUP2, null if stdin is None else stdin, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ]
        pid = os.posix_spawn(command[0], list(command), os.environ, file_actions=files, setsid=True)
    finally:
        os.close(output)
        os.close(null)
    try:
        return Process(pid, _started(pid) or 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)  # interrupted before anybody knew of it
        raise


def wait_gone(processes: Iterable[Process], limit_s: float) -> list[Process]:
    """Those that still run after `limit_s`."""
    deadline = time.monotonic() + limit_s
    left = list(processes)
    while left := [process for process in left if process.alive()]:
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL_S)
    return left


def kill(processes: Iterable[Process]) -> None:
    """SIGKILL, and waits until they are gone."""
    hit = [process for process in processes if process.signal(signal.SIGKILL)]
    left = wait_gone(hit, 30.0)
    assert not left, f"{left} survived SIGKILL"


def _listening(pid: int, port: int) -> list[str]:
    """Inodes of the sockets that listen at a port, in the network that the process sees."""
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
    ]
    wanted = f"{port:04X}"
    return [
        line[SOCKET_INODE] for line in lines if line[3] == LISTENING and line[1].rpartition(":")[2] == wanted
    ]


def _started(pid: int) -> int | None:
    """None if there is no such process, or only its exit status is left."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[STAT_STARTED])
