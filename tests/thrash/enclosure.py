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
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

ENCLOSED: Final = "HOLDFAST_THRASH_ENCLOSED"
"""Set inside: the id of the outer process, with which everything is named."""
ROOT: Final = "HOLDFAST_THRASH_ROOT"
GROUPS: Final = Path("/sys/fs/cgroup/cpu")
"""The controller of version 1; a machine with version 2 alone has `GROUPS_UNIFIED`."""
GROUPS_UNIFIED: Final = Path("/sys/fs/cgroup")
NAMED: Final = Path("/run/netns")
DIRECTORIES: Final = "holdfast-thrash-"
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


def run(module: str, arguments: Sequence[str], *, enclose: bool) -> int:
    """Run a module, enclosed or not, in a directory that goes with it. A first signal lets it end in order; if this
    process dies, the run dies, too."""
    _sweep()
    directory = tempfile.mkdtemp(prefix=f"{DIRECTORIES}{os.getpid()}-")
    environment = {**os.environ, ROOT: directory}
    command = [sys.executable, "-m", module, *arguments]
    if enclose:
        environment[ENCLOSED] = str(os.getpid())
        command = ["unshare", *KINDS, *command]
    try:
        child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)
        for number in FORWARDED:
            signal.signal(number, lambda number, _: _forward(child.pid, number, enclosed=enclose))
        return child.wait()
    finally:
        _sweep({os.getpid()})


def _forward(child: int, number: int, *, enclosed: bool) -> None:
    """A terminal interrupts the run as well as this process; everybody else signals this process alone."""
    if number == signal.SIGINT and os.isatty(sys.stdout.fileno()):
        return
    pids = [child]
    if enclosed:
        pids = [int(pid) for pid in Path(f"/proc/{child}/task/{child}/children").read_text().split()]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _sweep(ours: Collection[int] = ()) -> None:
    """Remove what is left of this run, or of runs whose outer process was killed."""
    for base in (GROUPS, GROUPS_UNIFIED):
        for path in base.glob("holdfast-[0-9]*-*"):
            if _is_over(path.name.split("-")[1], ours):
                with contextlib.suppress(OSError):
                    path.rmdir()
    for path in Path(tempfile.gettempdir()).glob(f"{DIRECTORIES}[0-9]*-*"):
        if _is_over(path.name.removeprefix(DIRECTORIES).partition("-")[0], ours):
            shutil.rmtree(path, ignore_errors=True)


def _is_over(pid: str, ours: Collection[int]) -> bool:
    return pid.isdigit() and (int(pid) in ours or not Path(f"/proc/{pid}").exists())


def die_with_the_outer_process() -> None:
    """Inside: standard input is a pipe that only the outer process holds. The first process of a namespace cannot be
    killed from within; it leaves, and the kernel kills the rest."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="leash", daemon=True).start()


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


def sh(*command: str) -> str:
    """Run it; what it said. A failure names the command and its words."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def python() -> str:
    return sys.executable
