"""A place of its own for one run: namespaces for network, mounts and processes, which the kernel takes down with it.

Nothing outside changes, so nothing has to be put back: when the run ends, in whatever way, its processes are killed,
its bridges, rules, mounts and loop devices vanish. Only control groups outlive their makers; the outer process,
which waits for the run, removes them. It knows nothing of clusters.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

ENCLOSED: Final = "HOLDFAST_THRASH_ENCLOSED"
"""Set inside: the id of the outer process, with which everything is named."""
ROOT: Final = "HOLDFAST_THRASH_ROOT"
GROUPS: Final = Path("/sys/fs/cgroup/cpu")
"""The controller of version 1; a machine with version 2 alone has `GROUPS_UNIFIED`."""
GROUPS_UNIFIED: Final = Path("/sys/fs/cgroup")
NAMED: Final = Path("/run/netns")
FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def missing() -> str:
    """Why a run cannot have a place of its own; empty if it can."""
    if os.geteuid() != 0:
        return "it needs root"
    lacks = [tool for tool in ("unshare", "nsenter", "ip", "iptables", "mount") if shutil.which(tool) is None]
    if lacks:
        return f"{', '.join(lacks)} not installed (packages util-linux, iproute2, iptables)"
    tried = subprocess.run(["unshare", *KINDS, "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() if tried.returncode else ""


KINDS: Final = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def inside() -> bool:
    return ENCLOSED in os.environ


def label() -> str:
    """What everything of this run is called by."""
    return f"holdfast-{os.environ.get(ENCLOSED, os.getpid())}"


def root() -> Path:
    return Path(os.environ[ROOT])


def run(command: Sequence[str], *, enclose: bool) -> int:
    """Run a command, enclosed or not, in a directory that goes with it. A first interrupt lets it end in order."""
    directory = tempfile.mkdtemp(prefix="holdfast-thrash-")
    environment = {**os.environ, ROOT: directory}
    if enclose:
        environment[ENCLOSED] = str(os.getpid())
        command = ["unshare", *KINDS, *command]
    try:
        child = subprocess.Popen(command, env=environment)
        for number in FORWARDED:
            # A terminal tells both; a program tells only this one. The run itself knows what to do.
            signal.signal(number, _leave_it_to_the_run)
        return _wait(child)
    finally:
        _remove_groups(f"holdfast-{os.getpid()}")
        shutil.rmtree(directory, ignore_errors=True)


def _leave_it_to_the_run(_number: int, _frame: FrameType | None) -> None:
    pass


def _wait(child: subprocess.Popen[bytes]) -> int:
    while True:
        with contextlib.suppress(InterruptedError):
            return child.wait()


def furnish() -> None:
    """Inside: mounts that nobody else sees, and a loopback that leaves 127.0.0.0/8 to the bridge."""
    sh("mount", "--make-rprivate", "/")
    NAMED.mkdir(exist_ok=True)
    sh("mount", "-t", "tmpfs", "none", str(NAMED))
    sh("mount", "-t", "tmpfs", "none", "/dev/shm")
    for kind in ("all", "default"):
        allow_loopback_routes(kind)
    sh("ip", "link", "set", "lo", "up")
    narrow_loopback()


def allow_loopback_routes(interface: str, within: Sequence[str] = ()) -> None:
    """Addresses of 127.0.0.0/8 may leave by a wire: nodes refuse every other address while there is no TLS."""
    settings = [f"net.ipv4.conf.{interface}.route_localnet=1", f"net.ipv4.conf.{interface}.rp_filter=0"]
    sh(*within, "sysctl", "-q", "-w", *settings)


def narrow_loopback(within: Sequence[str] = ()) -> None:
    sh(*within, "ip", "address", "del", "127.0.0.1/8", "dev", "lo")
    sh(*within, "ip", "address", "add", "127.0.0.1/32", "dev", "lo")


def group_of(name: str) -> Path | None:
    """A new control group that can limit CPU, or None if this machine lets nobody make one."""
    for base in (GROUPS, GROUPS_UNIFIED):
        path = base / f"{label()}-{name}"
        with contextlib.suppress(OSError):
            path.mkdir()
            if (path / "cpu.cfs_quota_us").exists() or (path / "cpu.max").exists():
                return path
            path.rmdir()
    return None


def limit_cpu(group: Path, percent: int) -> None:
    """How much of one CPU its processes may have together; 100 is not a limit that anybody notices."""
    period = 100_000
    if (group / "cpu.max").exists():
        (group / "cpu.max").write_text(f"{period * percent // 100} {period}")
    else:
        (group / "cpu.cfs_period_us").write_text(str(period))
        (group / "cpu.cfs_quota_us").write_text(str(period * percent // 100))


def _remove_groups(prefix: str) -> None:
    for base in (GROUPS, GROUPS_UNIFIED):
        for path in base.glob(f"{prefix}-*"):
            with contextlib.suppress(OSError):
                path.rmdir()


def sh(*command: str) -> str:
    """Run it; what it said. A failure names the command and its words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def python() -> str:
    return sys.executable
