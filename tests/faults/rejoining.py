"""A node is away while thousands of blobs are written and deleted. It comes back, and reads what it missed: no more.

Then another node comes back with an older state of its disk, which no honest node would: it is refused, and replaced.
"""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Final

import holdfast
from holdfast.testing import LocalCluster
from tests.faults.scenarios import HEAL_LIMIT_S, Report
from tests.faults.support.wait import until
from tests.faults.workload import KIB, content_blocks

SIZE: Final = 2 * KIB
BATCH: Final = 200
AWAY: Final = "n6"
FORGETFUL: Final = "n4"
SETTLED_S: Final = 100.0
"""How far feeds were followed is written down half a minute and a record of store time later."""
SLACK: Final = 1.2
"""Cursors on the disk are a little old, and compaction gives registers new places in the feed."""
FEEDS: Final = 2
"""Whose feeds a home of rs:4+2 follows."""


def rejoin(root: Path, *, seed: int, writes: int, deletes: int) -> Report:
    report = Report("rejoin", seed, 2)
    with LocalCluster(root, nodes=6, sans=3) as cluster:
        bucket = cluster.connect().create_bucket("kept")
        expected: dict[str, int] = {}
        untouched = [f"untouched {number:05d}" for number in range(writes)]
        doomed = [f"doomed {number:05d}" for number in range(deletes)]
        _write(bucket, [*untouched, *doomed], expected, turn=1)
        _let_it_be_noted()
        cluster.kill(AWAY)
        _write(bucket, [f"new {number:05d}" for number in range(writes)], expected, turn=2)
        for first in range(0, deletes, BATCH):
            bucket.delete_many(doomed[first : first + BATCH])
        for name in doomed:
            del expected[name]
        cluster.start(AWAY)
        back_s = until(lambda: cluster.status().healthy, HEAL_LIMIT_S, f"{AWAY} to be proven again")
        report.heal_s.append(back_s)
        read, missed = _followed(cluster)
        if missed < writes + deletes:
            report.wrong.append(f"{AWAY} says that it missed {missed} registers of {writes + deletes}")
        if read > SLACK * FEEDS * (writes + deletes):
            report.wrong.append(f"{AWAY} read {read} changes for {missed} that it missed")
        report.wrong += _differences(cluster, expected)
        report.wrong += _set_back(cluster, bucket, expected, report)
    report.seen = (
        f"away for {writes} writes and {deletes} deletes of {2 * writes + deletes} keys: {read} changes read in "
        f"{FEEDS} feeds, {missed} registers taken; all {len(expected)} blobs read back, and no others"
    )
    return report


def _write(bucket: holdfast.Bucket, names: list[str], expected: dict[str, int], *, turn: int) -> None:
    for first in range(0, len(names), BATCH):
        some = names[first : first + BATCH]
        bucket.put_many([(name, _content(name, turn)) for name in some])
        expected.update(dict.fromkeys(some, turn))


def _let_it_be_noted() -> None:
    end_s = time.monotonic() + SETTLED_S
    _ = until(lambda: time.monotonic() >= end_s, 2 * SETTLED_S, "cursors to be written down")


def _followed(cluster: LocalCluster) -> tuple[int, int]:
    """How many changes the node that came back has read, and how many of them it had missed."""
    told = next(each for each in cluster.status().workers if each.node == AWAY and each.name == "follower")
    found = re.search(r"(\d+) of (\d+) changes read were missed", told.detail)
    return (int(found[2]), int(found[1])) if found else (0, 0)


def _set_back(
    cluster: LocalCluster, bucket: holdfast.Bucket, expected: dict[str, int], report: Report
) -> list[str]:
    """A store as it was some hundred writes ago: it must not vote, and a new one takes its place."""
    data_dir = cluster.layout.node(FORGETFUL).data_dir
    cluster.kill(FORGETFUL)
    older = data_dir.with_name(f"{data_dir.name}.older")
    shutil.copytree(data_dir, older)
    cluster.start(FORGETFUL)
    _ = until(lambda: cluster.status().healthy, HEAL_LIMIT_S, f"{FORGETFUL} to be back")
    _write(bucket, [f"forgotten {number:05d}" for number in range(BATCH)], expected, turn=3)
    _let_it_be_noted()  # its peers have seen how far it had come
    cluster.kill(FORGETFUL)
    shutil.rmtree(data_dir)
    older.rename(data_dir)
    cluster.start(FORGETFUL)
    _ = until(lambda: _is_suspect(cluster), HEAL_LIMIT_S, f"{FORGETFUL} to be found out")
    wrong = [f"with {FORGETFUL} set back: {each}" for each in _differences(cluster, expected)]
    cluster.lose(FORGETFUL)
    cluster.start(FORGETFUL)
    cluster.replace(FORGETFUL)
    healed_s = until(lambda: cluster.status().healthy, HEAL_LIMIT_S, f"{FORGETFUL} to be replaced")
    report.heal_s.append(healed_s)
    return wrong + _differences(cluster, expected)


def _is_suspect(cluster: LocalCluster) -> bool:
    return any(f"{FORGETFUL} is suspect" in problem for problem in cluster.status().problems)


def _differences(cluster: LocalCluster, expected: dict[str, int]) -> list[str]:
    bucket = cluster.connect().bucket("kept")
    names = {bytes(info.key).decode() for info in bucket.list()}
    wrong = [f"{name} is listed" for name in sorted(names - expected.keys())]
    wrong += [f"{name} is not listed" for name in sorted(expected.keys() - names)]
    for name, turn in expected.items():
        try:
            if bucket.get(name).read() != _content(name, turn):
                wrong.append(f"{name} is not as it was")
        except holdfast.Error as error:
            wrong.append(f"{name}: {error!r}")
    return wrong[:20]


def _content(name: str, turn: int) -> bytes:
    return b"".join(content_blocks(f"{name} {turn}", SIZE))
