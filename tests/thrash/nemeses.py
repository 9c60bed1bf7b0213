"""Everything that may happen to a node, a SAN or the network between them. Each nemesis strikes and takes itself back.

A nemesis that cannot work on this machine says why. None of them knows what callers do, or judges anything but whether
a node behaved as its own trouble demands.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import holdfast
from holdfast.testing.refusals import LocalRefused
from tests.faults.support.wait import until
from tests.thrash import enclosure
from tests.thrash.cluster import LOST_AFTER_S, ThrashCluster
from tests.thrash.network import Network

NOTICE_LIMIT_S: Final = 15.0
REPLACE_LIMIT_S: Final = 60.0
SPARE_BYTES: Final = 8 * 1024**2
"""What is left on an almost full disk: less than a volume."""
STARVED_PERCENT: Final = 8
START_ATTEMPTS: Final = 3
NETWORK: Final = "network"
PROCESS: Final = "process"
DISK: Final = "disk"
MAP: Final = "map"


@dataclass
class Stage:
    """What nemeses play on. `wrong`: what a node did that its trouble does not excuse."""

    cluster: ThrashCluster
    network: Network | None
    chooser: random.Random
    lost: Callable[[str], None]
    """Called just before data is destroyed, with the kind of domain."""
    wrong: list[str] = field(default_factory=list[str])

    def node(self) -> str:
        return self.chooser.choice(self.cluster.names())

    def need_network(self) -> Network:
        assert self.network is not None, "this nemesis is missing without a network"
        return self.network


class NotNowError(Exception):
    """A nemesis was refused, which is right, and is no strike."""


class Nemesis(ABC):
    """`hits`: what it plays with; two of the same are never at work together. `hold_s`: for how long, at most."""

    name: str
    hits: str = PROCESS
    destructive: bool = False
    hold_s: float = 8.0

    def missing(self, stage: Stage) -> str:
        """Why it cannot work here; empty if it can."""
        return ""

    @abstractmethod
    def strike(self, stage: Stage) -> str:
        """Do it; what was hit. Raises `NotNowError` if nothing was."""

    @abstractmethod
    def undo(self, stage: Stage) -> None:
        """Take it back. Also called after a strike that failed half-way."""


def _start_all(stage: Stage) -> None:
    """A node may answer late on a busy machine, or behind a bad network. The last try's refusal is told."""
    for _ in range(START_ATTEMPTS - 1):
        with contextlib.suppress(LocalRefused):
            stage.cluster.start()
            return
    stage.cluster.start()


# --- processes


class _Kill(Nemesis):
    hold_s = 5.0

    def strike(self, stage: Stage) -> str:
        hit = self.choose(stage)
        stage.cluster.kill(*hit)
        return " ".join(hit)

    @abstractmethod
    def choose(self, stage: Stage) -> list[str]: ...

    def undo(self, stage: Stage) -> None:
        _start_all(stage)


class KillOne(_Kill):
    name = "kill one node"

    def choose(self, stage: Stage) -> list[str]:
        return [stage.node()]


class KillSan(_Kill):
    name = "kill a SAN"

    def choose(self, stage: Stage) -> list[str]:
        return stage.cluster.domain(stage.chooser.choice(stage.cluster.sans()))


class KillAll(_Kill):
    name = "kill all nodes"
    hold_s = 1.0

    def choose(self, stage: Stage) -> list[str]:
        return stage.cluster.names()


class StayAway(KillOne):
    """For longer than others wait: they take over what was its, if there is room; when it is back it gets a share."""

    name = "stay away"
    hold_s = 2.5 * LOST_AFTER_S


class Pause(Nemesis):
    name = "pause"

    def strike(self, stage: Stage) -> str:
        sans = stage.cluster.sans()
        self._hit = (
            [stage.node()]
            if stage.chooser.random() < 0.5
            else stage.cluster.domain(stage.chooser.choice(sans))
        )
        stage.cluster.pause(*self._hit)
        return " ".join(self._hit)

    def undo(self, stage: Stage) -> None:
        stage.cluster.resume(*stage.cluster.names())


class Starve(Nemesis):
    """A node gets a few percent of a CPU: by a control group, or by stopping it most of the time."""

    name = "starve of CPU"

    def strike(self, stage: Stage) -> str:
        self._node = stage.node()
        self._stop = threading.Event()
        self._flicker: threading.Thread | None = None
        process = stage.cluster.process(self._node)
        if process is None:
            return f"{self._node} (not running)"
        group = enclosure.group_of(self._node) if enclosure.inside() else None
        self._group = group
        if group is not None:
            enclosure.limit_cpu(group, STARVED_PERCENT)
            (group / "cgroup.procs").write_text(str(process.pid))
            return f"{self._node} by control group"
        self._flicker = threading.Thread(target=self._stop_and_go, args=(stage,), daemon=True)
        self._flicker.start()
        return f"{self._node} by SIGSTOP in turns"

    def _stop_and_go(self, stage: Stage) -> None:
        while not self._stop.is_set():
            stage.cluster.pause(self._node)
            self._stop.wait(0.1 * (100 - STARVED_PERCENT) / 100)
            stage.cluster.resume(self._node)
            self._stop.wait(0.1 * STARVED_PERCENT / 100)

    def undo(self, stage: Stage) -> None:
        self._stop.set()
        if self._flicker is not None:
            self._flicker.join()
        if self._group is not None:
            for line in (self._group / "cgroup.procs").read_text().split():
                (self._group.parent / "cgroup.procs").write_text(line)
            until(lambda: self._gone(), 5.0, f"{self._group} is empty")
        stage.cluster.resume(self._node)

    def _gone(self) -> bool:
        assert self._group is not None
        try:
            self._group.rmdir()
        except OSError:
            return False
        return True


class ClockJump(Nemesis):
    """The wall clock of some nodes jumps by hours or years, either way; monotonic time does not."""

    name = "clock jump"

    def missing(self, stage: Stage) -> str:
        return "" if stage.cluster.clock_library else "libfaketime is not installed (package faketime)"

    def strike(self, stage: Stage) -> str:
        told: list[str] = []
        for name in stage.chooser.sample(stage.cluster.names(), 2):
            jump = stage.chooser.choice(["+7200", "-7200", "+315360000", "-86400000", "+1"])
            stage.cluster.clock_file(name).write_text(f"{jump}\n")
            told.append(f"{name} {jump} s")
        return ", ".join(told)

    def undo(self, stage: Stage) -> None:
        for name in stage.cluster.names():
            stage.cluster.clock_file(name).write_text("+0\n")


# --- the network


class _Packets(Nemesis):
    hits = NETWORK

    def missing(self, stage: Stage) -> str:
        return "" if stage.network is not None else "it needs network namespaces, and those need root"

    def undo(self, stage: Stage) -> None:
        stage.need_network().mend()


class Halves(_Packets):
    name = "partition: halves"

    def strike(self, stage: Stage) -> str:
        names = stage.cluster.names()
        one = stage.chooser.sample(names, len(names) // 2)
        other = [name for name in names if name not in one]
        stage.need_network().cut(one, other)
        stage.need_network().cut(other, one)
        return f"{' '.join(one)} | {' '.join(other)}"


class Bridge(_Packets):
    name = "partition: bridge"

    def strike(self, stage: Stage) -> str:
        names = stage.chooser.sample(stage.cluster.names(), len(stage.cluster.names()))
        middle, rest = names[0], names[1:]
        one, other = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        stage.need_network().cut(one, other)
        stage.need_network().cut(other, one)
        return f"{' '.join(one)} | {' '.join(other)}, {middle} sees both"


class OneWay(_Packets):
    name = "partition: one way"

    def strike(self, stage: Stage) -> str:
        deaf = stage.node()
        others = [name for name in stage.cluster.names() if name != deaf]
        mute = stage.chooser.sample(others, stage.chooser.randint(1, len(others)))
        stage.need_network().cut(mute, [deaf])
        return f"{deaf} does not hear {' '.join(mute)}"


class Isolate(_Packets):
    name = "partition: isolate one"

    def strike(self, stage: Stage) -> str:
        node = stage.node()
        stage.need_network().cut_off(node)
        return node


class Delay(_Packets):
    name = "delay and jitter"

    def strike(self, stage: Stage) -> str:
        hit = stage.chooser.sample(stage.cluster.names(), 2)
        delay_ms, jitter_ms = stage.chooser.choice([(5, 10), (20, 40), (100, 100), (400, 300)])
        for node in hit:
            stage.need_network().delay(node, delay_ms=delay_ms, jitter_ms=jitter_ms)
        return f"{' '.join(hit)} {delay_ms} ms + up to {jitter_ms}"


class Lossy(_Packets):
    name = "packet loss"

    def strike(self, stage: Stage) -> str:
        share = stage.chooser.choice([0.02, 0.1, 0.3])
        hit = stage.chooser.sample(stage.cluster.names(), stage.chooser.randint(1, 3))
        for node in hit:
            stage.need_network().lose(node, share)
        return f"{' '.join(hit)} {share:.0%}"


# --- disks


class _Wipe(Nemesis):
    destructive = True
    hits = DISK
    hold_s = 3.0

    @abstractmethod
    def choose(self, stage: Stage) -> tuple[str, str]:
        """The kind of domain, and what to lose."""

    def strike(self, stage: Stage) -> str:
        tag, selector = self.choose(stage)
        self._lost: tuple[str, ...] = ()
        stage.lost(tag)
        self._lost = stage.cluster.lose(selector)
        return " ".join(self._lost)

    def undo(self, stage: Stage) -> None:
        """New, empty stores in the places of the lost ones, as an operator would do it."""
        _start_all(stage)
        deadline = time.monotonic() + REPLACE_LIMIT_S
        for name in self._lost:
            self._replace(stage, name, deadline)

    def _replace(self, stage: Stage, name: str, deadline: float) -> None:
        while not stage.cluster.is_of_the_map(name):
            try:
                stage.cluster.replace(name)
            except holdfast.Error as error:
                if time.monotonic() >= deadline:
                    stage.wrong.append(f"{name} cannot be replaced: {error}")
                    return


class WipeNode(_Wipe):
    name = "wipe a node"

    def choose(self, stage: Stage) -> tuple[str, str]:
        return "node", stage.chooser.choice(stage.cluster.members())


class WipeSan(_Wipe):
    name = "wipe a SAN"

    def choose(self, stage: Stage) -> tuple[str, str]:
        members = set(stage.cluster.members())
        sans = [san for san in stage.cluster.sans() if members.issuperset(stage.cluster.domain(san))]
        return "san", stage.chooser.choice(sans)


class FullDisk(Nemesis):
    """A ballast takes all room but a little; when it goes, the node must go on by itself."""

    name = "full disk"
    hits = DISK
    hold_s = 12.0

    def missing(self, stage: Stage) -> str:
        return "" if stage.cluster.disks else "it needs loop devices, mkfs.ext4 and root"

    def strike(self, stage: Stage) -> str:
        self._ballasts: list[Path] = []
        hit = stage.chooser.sample(stage.cluster.names(), stage.chooser.randint(1, 2))
        to_the_last_byte = stage.chooser.random() < 0.5
        for name in hit:
            ballast = stage.cluster.layout.node(name).data_dir.parent / "ballast"
            self._ballasts.append(ballast)
            enclosure.sh("fallocate", "-l", str(stage.cluster.free_bytes(name) - SPARE_BYTES), str(ballast))
            if to_the_last_byte:
                _fill(ballast)
        return f"{' '.join(hit)}, {'nothing' if to_the_last_byte else 'a little'} left"

    def undo(self, stage: Stage) -> None:
        for ballast in self._ballasts:
            ballast.unlink(missing_ok=True)


def _fill(file: Path) -> None:
    with contextlib.suppress(OSError), file.open("ab", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))


class FailedSync(Nemesis):
    """One fdatasync of a node says EIO. It must call its store failed; a restart reads back what is there."""

    name = "EIO from fdatasync"
    hits = DISK
    hold_s = 8.0

    def missing(self, stage: Stage) -> str:
        if shutil.which("strace") is None:
            return "strace is not installed (package strace)"
        return "" if enclosure.inside() else "attaching strace needs root"

    def strike(self, stage: Stage) -> str:
        self._node = stage.node()
        process = stage.cluster.process(self._node)
        if process is None:
            return f"{self._node} (not running)"
        size, trace = stage.cluster.log_size(self._node), stage.cluster.root / f"{self._node}.trace"
        command = ["strace", "-f", "-qq", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=1"]
        tracer = subprocess.Popen(
            [*command, "-o", str(trace), "-p", str(process.pid)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until(lambda: self._noticed(stage, size), NOTICE_LIMIT_S, "the failed sync is noticed")
        except AssertionError:
            if not trace.exists() or "INJECTED" not in trace.read_text():
                return f"{self._node} (which had nothing to sync)"
            stage.wrong.append(f"{self._node} did not call its store failed after EIO from fdatasync")
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait()
        return self._node

    def _noticed(self, stage: Stage, from_byte: int) -> bool:
        return "store_failed" in stage.cluster.log_tail(self._node, from_byte)

    def undo(self, stage: Stage) -> None:
        stage.cluster.terminate(self._node)
        _start_all(stage)
