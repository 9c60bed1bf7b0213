"""What may happen to a real cluster, each as one function that tests run once and the soak many times.

Every scenario loads the cluster through the SDK, hurts it, lets it mend and returns what was wrong, what callers saw
and how long it took. Processes are killed by pid only; traffic stays on 127.0.0.1.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import holdfast
from holdfast.testing import LocalCluster
from tests.faults.support.wait import until
from tests.faults.workload import MIB, Load

HEAL_LIMIT_S: Final = 600.0
"""Every version ever written in a soak is kept and comes home again after each loss: gigabytes, beside a full load."""
WORK_LIMIT_S: Final = 60.0
LARGEST: Final = 64 * MIB


@dataclass
class Report:
    """`wrong` empty: every promise was kept."""

    name: str
    seed: int
    rounds: int
    wrong: list[str] = field(default_factory=list[str])
    heal_s: list[float] = field(default_factory=list[float])
    seen: str = ""

    def __str__(self) -> str:
        heals = f", healed in {', '.join(f'{s:.1f}' for s in self.heal_s)} s" if self.heal_s else ""
        verdict = "kept every promise" if not self.wrong else "WRONG:\n  " + "\n  ".join(self.wrong)
        return f"{self.name} seed {self.seed}, {self.rounds} rounds: {verdict}{heals}; {self.seen}"


def at_least(load: Load, more: int, what: str) -> None:
    """Wait until callers have got `more` operations done: life goes on."""
    before = load.done()
    until(lambda: load.done() >= before + more, WORK_LIMIT_S, f"{more} more operations {what}")


def lose_san(root: Path, *, seed: int, rounds: int = 1, largest: int = LARGEST) -> Report:
    """A SAN dies and is wiped at a random moment of a mixed load; replaced; healed; everything acked reads back."""
    report = Report("lose-san", seed, rounds)
    chooser = random.Random(seed)
    with LocalCluster(root, nodes=12, sans=4) as cluster:
        with Load(cluster.connect(), seed=seed, largest=largest) as load:
            for _ in range(rounds):
                at_least(load, chooser.randint(10, 60), "before the loss")
                san = f"san={chooser.choice('abcd')}"
                lost = cluster.lose(san)
                at_least(load, 30, f"while {san} is gone")
                cluster.start(*lost)
                cluster.replace(*lost)
                began = time.monotonic()
                at_least(load, 10, "while it heals")
                report.wrong += load.read_everything_back()
                _wait_full(cluster, report, began)
        report.wrong += load.read_everything_back()
        report.seen = load.record.tell()
    return report


def _wait_full(cluster: LocalCluster, report: Report, began: float) -> None:
    """Until status calls every blob safe at full margin and every store votes."""
    try:
        status = cluster.wait_healthy(HEAL_LIMIT_S)
    except holdfast.Unavailable as error:
        report.wrong.append(f"not healed: {error}")
        return
    report.heal_s.append(time.monotonic() - began)
    if not status.least_margin.full:
        report.wrong.append(f"healthy, but the least margin is {status.least_margin}")


def kill_all(root: Path, *, seed: int, rounds: int = 1, largest: int = LARGEST) -> Report:
    """SIGKILL of every node at once under load, then all start again: no acked write is lost."""
    report = Report("kill-all", seed, rounds)
    chooser = random.Random(seed)
    with LocalCluster(root, nodes=6, sans=3) as cluster:
        names = [state.node.name for state in cluster.nodes()]
        with Load(cluster.connect(), seed=seed, largest=largest) as load:
            for _ in range(rounds):
                at_least(load, chooser.randint(10, 60), "before the kill")
                cluster.kill(*names)
                cluster.start(*names)
                at_least(load, 10, "after the restart")
        cluster.wait_healthy(HEAL_LIMIT_S)
        report.wrong += load.read_everything_back()
        report.seen = load.record.tell()
    return report


def two_dead(root: Path, *, seed: int, largest: int = LARGEST) -> Report:
    """Two of six nodes dead and no spare: reads and writes go on, and acks say what margin they have."""
    report = Report("two-dead", seed, 1)
    with LocalCluster(root, nodes=6, sans=3) as cluster:
        client = cluster.connect()
        with Load(client, seed=seed, largest=largest) as load:
            at_least(load, 20, "before")
            cluster.kill(random.Random(seed).choice(["san=a", "san=b", "san=c"]))
            at_least(load, 60, "with two of six nodes dead")
            receipt = load.bucket.put("margin", b"x" * 100_000)
            if receipt.margin.full or min(receipt.margin.values()) > 1 or receipt.margin["node"] < 0:
                report.wrong.append(f"two nodes are dead, yet the ack says {receipt.margin}")
            if load.bucket.get("margin").read() != b"x" * 100_000:
                report.wrong.append("what was written with two nodes dead reads back wrong")
        report.wrong += load.read_everything_back()
        cluster.start()
        cluster.wait_healthy(HEAL_LIMIT_S)
        report.wrong += load.read_everything_back()
        report.seen = load.record.tell()
    return report
