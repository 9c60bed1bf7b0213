"""A cluster that grows node by node and shrinks again, under a checked load, with a pool that comes in on the way.

While shards move, what is really there is counted over and over: no blob may be one loss from being lost.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import holdfast
from holdfast.testing import LocalCluster
from holdfastpb.v1 import admin_pb2
from tests.faults.scenarios import HEAL_LIMIT_S, Report, at_least
from tests.faults.workload import MIB, Load

FIRST: Final = 5
WIDE: Final = 6
"""From so many nodes on there is a second pool."""
WIDE_POOL: Final = "wide"
LARGEST: Final = 4 * MIB
OPERATIONS_BETWEEN: Final = 60
MOVED_MAX: Final = 1.2
"""Times the least that any change to the same nodes could move."""


@dataclass
class Moved:
    """Of all changes together."""

    slots: int = 0
    least_slots: int = 0
    bytes: int = 0
    least_bytes: float = 0.0
    told: list[str] = field(default_factory=list[str])


class FloorWatch(threading.Thread):
    """Counts what is really there, again and again: how many nodes could go at the worst moment."""

    def __init__(self, cluster: LocalCluster) -> None:
        super().__init__(name="floor", daemon=True)
        self._cluster = cluster
        self._end = threading.Event()
        self.samples = 0
        self.least: int | None = None
        self.failure = ""

    def run(self) -> None:
        while not self._end.is_set():
            try:
                with self._cluster.admin() as admin:
                    last = list(admin.prove())[-1]
            except holdfast.Error as error:
                self.failure = str(error)
                continue
            found = [entry.survives for entry in last.least_margin.entries if entry.tag == "node"]
            if last.blobs and found:
                self.samples += 1
                self.least = min(found[0], found[0] if self.least is None else self.least)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self.join(120.0)


def grow(root: Path, *, seed: int, most: int = 12, operations: int = OPERATIONS_BETWEEN) -> Report:
    """5 nodes, one more at a time, then back to 6; a pool of rs:3+2 from the start, one of rs:4+2 from six on."""
    report = Report("grow", seed, 2 * (most - FIRST) - 1)
    moved = Moved()
    with LocalCluster(root, nodes=FIRST, sans=0, code="rs:3+2") as cluster, ExitStack() as stack:
        loads = [stack.enter_context(Load(cluster.connect(), seed=seed, callers=2, largest=LARGEST, undo=0))]
        at_least(loads[0], operations, "before anything moves")
        watch = stack.enter_context(FloorWatch(cluster))
        names: list[str] = []
        while len(cluster.layout.nodes) < most:
            names.append(_step(cluster, loads, moved, operations, report))
            if len(cluster.layout.nodes) == WIDE:
                cluster.create_pool(WIDE_POOL, "rs:4+2")
                client = cluster.connect()
                load = Load(client, seed=seed + 1, callers=2, largest=LARGEST, pool=WIDE_POOL, undo=0)
                loads.append(stack.enter_context(load))
        for name in reversed(names[1:]):
            _step(cluster, loads, moved, operations, report, leaving=name)
            report.wrong += _remove(cluster, name)
        report.wrong += _impossible(cluster, names[0])
        watch.__exit__(None, None, None)
        for load in loads:
            load.stop()
            report.wrong += load.read_everything_back()
            if load.record.errors:
                report.wrong.append(f"callers saw errors: {dict(load.record.errors)}")
    _judge(report, moved, watch)
    report.seen = "; ".join([*(load.record.tell() for load in loads), *moved.told, _summary(moved, watch)])
    return report


def _step(
    cluster: LocalCluster,
    loads: list[Load],
    moved: Moved,
    operations: int,
    report: Report,
    *,
    leaving: str = "",
) -> str:
    """One node comes, or goes, while callers go on. Returns its name."""
    before, stored = _written(cluster), cluster.status()
    began = time.monotonic()
    if leaving:
        name, plan = leaving, cluster.drain(leaving)
    else:
        plan = cluster.add()
        name = plan.nodes[0]
    for load in loads:
        at_least(load, operations, f"while {name} {'leaves' if leaving else 'comes'}")
    try:
        cluster.wait_moved(HEAL_LIMIT_S)
    except holdfast.Unavailable as error:
        report.wrong.append(f"{name}: {error}")
    _count(moved, plan, stored, _written(cluster) - before)
    moved.told.append(f"{'-' if leaving else '+'}{name} {time.monotonic() - began:.0f} s")
    return name


def _remove(cluster: LocalCluster, name: str) -> list[str]:
    """Again while it is refused: a steward that does not answer for a moment, on a busy machine, cannot vouch."""
    deadline = time.monotonic() + HEAL_LIMIT_S
    while True:
        try:
            cluster.remove(name)
        except holdfast.Refused as error:
            if time.monotonic() >= deadline:
                return [f"{name} could not be removed: {error}"]
        else:
            return []


def _count(moved: Moved, plan: admin_pb2.PlanReply, stored: admin_pb2.StatusReply, written: int) -> None:
    sizes = {pool.name: (pool.bytes, pool.code) for pool in stored.pools}
    moved.bytes += written
    for part in plan.pools:
        size, code = sizes[part.pool]
        k, _, m = code.removeprefix("rs:").partition("+")
        moved.slots += part.slots
        moved.least_slots += part.least_slots
        moved.least_bytes += size * (int(k) + int(m)) / int(k) * part.least_slots / part.all_slots


def _written(cluster: LocalCluster) -> int:
    """What heal has brought anywhere so far, by the nodes that run."""
    return sum(worker.bytes_done for worker in cluster.status().workers if worker.name == "healer")


def _impossible(cluster: LocalCluster, name: str) -> list[str]:
    """The last of six nodes cannot go: a pool needs six."""
    try:
        cluster.drain(name)
    except holdfast.Refused:
        return []
    return [f"{name} may be drained although rs:4+2 needs six nodes"]


def _judge(report: Report, moved: Moved, watch: FloorWatch) -> None:
    if moved.slots > MOVED_MAX * moved.least_slots:
        report.wrong.append(f"{moved.slots} shard slots moved, {moved.least_slots} would have been enough")
    if not watch.samples:
        report.wrong.append(f"nothing was ever counted: {watch.failure}")
    elif watch.least is not None and watch.least < 1:
        report.wrong.append("a blob was one loss from being lost")


def _summary(moved: Moved, watch: FloorWatch) -> str:
    return (
        f"{moved.slots} shard slots moved, at least {moved.least_slots} had to: "
        f"{moved.slots / max(1, moved.least_slots):.2f}; {moved.bytes / MIB:.0f} MiB moved, "
        f"{moved.least_bytes / MIB:.0f} MiB of what was stored had to; counted {watch.samples} times what is there: "
        f"any {watch.least} nodes could have gone at the worst moment"
    )
