"""A pool goes from one code to another under a checked load, through a wider one and one with groups, and back.

While blobs are made anew, what is really there is counted over and over: none may be one loss from being lost.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import holdfast
from holdfast.testing import LocalCluster
from holdfast_node.core.codes import parse_code
from tests.faults.grow import FloorWatch
from tests.faults.scenarios import HEAL_LIMIT_S, Report, at_least
from tests.faults.workload import MIB, Load

CODES: Final = ("rs:6+3", "lrc:8+4/2", "rs:4+2")
BEGIN_LIMIT_S: Final = 30.0
FIRST: Final = "rs:4+2"
POOL: Final = "main"
LARGEST: Final = 4 * MIB
OPERATIONS_BETWEEN: Final = 60


def recode(
    root: Path,
    *,
    seed: int,
    codes: Sequence[str] = CODES,
    nodes: int = 12,
    sans: int = 4,
    operations: int = OPERATIONS_BETWEEN,
) -> Report:
    """From rs:4+2 to each of `codes` in turn."""
    report = Report("recode", seed, len(codes))
    told: list[str] = []
    with (
        LocalCluster(root, nodes=nodes, sans=sans, code=FIRST) as cluster,
        Load(cluster.connect(), seed=seed, callers=2, largest=LARGEST, undo=0) as load,
    ):
        at_least(load, operations, "before anything changes")
        with FloorWatch(cluster) as watch:
            told.extend(_step(cluster, load, code, operations, report) for code in codes)
        load.stop()
        report.wrong += load.read_everything_back()
        if load.record.errors:
            report.wrong.append(f"callers saw errors: {dict(load.record.errors)}")
    if not watch.samples:
        report.wrong.append(f"nothing was ever counted: {watch.failure}")
    elif watch.least is not None and watch.least < min(parse_code(code).losses_survived for code in codes):
        report.wrong.append(f"a blob would have survived the loss of any {watch.least} nodes only")
    counted = f"counted {watch.samples} times what is there: any {watch.least} nodes could have gone"
    report.seen = "; ".join([load.record.tell(), *told, counted])
    return report


def _step(cluster: LocalCluster, load: Load, code: str, operations: int, report: Report) -> str:
    """One change of code, while callers go on. What it took."""
    began, made = time.monotonic(), _made(cluster)
    _begin(cluster, code)
    at_least(load, operations, f"while everything goes to {code}")
    try:
        cluster.wait_moved(HEAL_LIMIT_S)
    except holdfast.Unavailable as error:
        report.wrong.append(f"{code}: {error}")
    elapsed_s = time.monotonic() - began
    report.heal_s.append(elapsed_s)
    return f"{code} after {elapsed_s:.0f} s, {(_made(cluster) - made) / MIB:.0f} MiB written anew"


def _begin(cluster: LocalCluster, code: str) -> None:
    """Again while it is refused: a steward that does not answer for a moment, on a busy machine, cannot vouch."""
    deadline = time.monotonic() + BEGIN_LIMIT_S
    while True:
        try:
            cluster.recode(POOL, code)
        except holdfast.Refused:
            if time.monotonic() >= deadline:
                raise
        else:
            return


def _made(cluster: LocalCluster) -> int:
    return sum(worker.bytes_done for worker in cluster.status().workers if worker.name == "healer")
