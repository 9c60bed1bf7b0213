"""A lost node is made again in a pool of lrc:8+4/2 and in one of rs:8+4: the first reads half as much.

The same blobs in both, one after another, on twelve processes; what heal read is what the nodes tell. Of a code with
groups a data shard or a local parity is made from the four others of its group, a global parity from eight.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Final

from holdfast.testing import LocalCluster
from holdfast_node.core.codes import parse_code
from tests.faults.scenarios import HEAL_LIMIT_S, Report
from tests.faults.workload import KIB

GROUPED: Final = "lrc:8+4/2"
PLAIN: Final = "rs:8+4"
BLOBS: Final = 24
SIZES: Final = (300 * KIB, 2048 * KIB, 5000 * KIB)
LOST: Final = "n5"


def local_repair(root: Path, *, seed: int) -> Report:
    report = Report("local-repair", seed, 1)
    told: list[str] = []
    for code in (GROUPED, PLAIN):
        made, read = _lose_one(root / code.replace(":", "-").replace("/", "-"), code, seed, report)
        told.append(f"{code}: {made >> 10} KiB made from {read >> 10} KiB ({read / made:.2f} to 1)")
        if not _least(code) <= read / made <= _most(code):
            report.wrong.append(f"{told[-1]}, should be from {_least(code)} to {_most(code):.2f}")
    report.seen = "; ".join(told)
    return report


def _lose_one(root: Path, code: str, seed: int, report: Report) -> tuple[int, int]:
    """How many bytes of shards were made, and what was read for it."""
    with LocalCluster(root, nodes=12, sans=4, code=code) as cluster:
        bucket = cluster.connect().create_bucket("kept")
        chooser = random.Random(seed)
        contents = {f"k{number}": chooser.randbytes(chooser.choice(SIZES)) for number in range(BLOBS)}
        for name, data in contents.items():
            bucket.put(name, data)
        cluster.wait_healthy(HEAL_LIMIT_S)
        cluster.lose(LOST)
        cluster.start(LOST)
        began = time.monotonic()
        cluster.replace(LOST)
        status = cluster.wait_healthy(HEAL_LIMIT_S)
        report.heal_s.append(time.monotonic() - began)
        report.wrong += [
            f"{code}: {name} is not as it was"
            for name in contents
            if bucket.get(name).read() != contents[name]
        ]
        healers = [worker for worker in status.workers if worker.name == "healer"]
        return sum(worker.bytes_done for worker in healers), sum(worker.bytes_read for worker in healers)


def _least(code: str) -> float:
    """Copies of tiny records, some hundred bytes each, are made from as much."""
    parsed = parse_code(code)
    return 0.99 * (len(parsed.group_of(0)) or parsed.k)


def _most(code: str) -> float:
    """A node holds a global parity of at most as many parts as there are shards of that kind, on average; the bound is
    for any draw of homes."""
    parsed = parse_code(code)
    return 0.75 * parsed.k if parsed.groups else 1.01 * parsed.k
