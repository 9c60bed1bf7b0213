"""One blob is beyond help among thousands that only need healing: it must not hold them up, and must be named.

A node is lost and replaced twice, with every blob degraded each time; the second time one blob has lost more shards
than its code stands. The others heal in the time they took before, and the quarantine says which blob it is and why.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import holdfast
from holdfast.testing import LocalCluster
from holdfast_node.core.records import RecordType
from tests.faults.scenarios import HEAL_LIMIT_S, Report
from tests.faults.scrubbing import flip_bit, records
from tests.faults.support.wait import until
from tests.faults.workload import KIB, content_blocks

SIZES: Final = (500, 2 * KIB, 6 * KIB, 20 * KIB)
BATCH: Final = 200
POISONED: Final = "poisoned"
LOST: Final = "n6"
HURT: Final = ("n1", "n2")
"""With what is lost, one shard more than rs:4+2 stands."""
SLOWER_MAX: Final = 1.5
"""Times are those of a machine that others use too."""
GRACE_S: Final = 30.0
QUARANTINE_LIMIT_S: Final = 900.0
"""Eight tries, each after twice as long a pause."""


def poisoned(root: Path, *, seed: int, blobs: int) -> Report:
    report = Report("poisoned", seed, 1)
    with LocalCluster(root, nodes=6, sans=3) as cluster:
        bucket = cluster.connect().create_bucket("kept")
        bucket.put(POISONED, _content(POISONED, 20 * KIB))
        names = [f"k{number:05d}" for number in range(blobs)]
        sizes = {name: random.Random(name).choice(SIZES) for name in names}
        for first in range(0, blobs, BATCH):
            some = names[first : first + BATCH]
            bucket.put_many([(name, _content(name, sizes[name])) for name in some])
        calm_s = _lose_and_heal(cluster, beyond_help=0)
        for name in HURT:
            if not list(_poison(cluster.layout.node(name).data_dir)):
                report.wrong.append(f"{name} has no cell of the blob")
        with_poison_s = _lose_and_heal(cluster, beyond_help=1)
        report.heal_s += [calm_s, with_poison_s]
        if with_poison_s > SLOWER_MAX * calm_s + GRACE_S:
            report.wrong.append(f"one blob beyond help made heal {with_poison_s / calm_s:.1f} times as slow")
        until(lambda: bool(_quarantined(cluster)), QUARANTINE_LIMIT_S, "the blob beyond help to be put aside")
        told = _quarantined(cluster)
        if [name for name, _ in told] != [POISONED]:
            report.wrong.append(f"the quarantine lists {told}")
        report.wrong += [
            f"{name} is not as it was" for name in names if not _reads(bucket, name, sizes[name])
        ]
        report.wrong += _is_refused(bucket)
    report.seen = f"{blobs} blobs read back; quarantine: {told}"
    return report


def _lose_and_heal(cluster: LocalCluster, *, beyond_help: int) -> float:
    """How long it takes until nothing ails but what is beyond help, and what scrub has found of that."""
    cluster.lose(LOST)
    cluster.start(LOST)
    cluster.replace(LOST)
    unproven = f"{LOST}: its shards are not proven"
    broken = [f"{name}: 1 broken records" for name in HURT]
    left = (f"{beyond_help} keys", f"{beyond_help} partitions", unproven, *broken)

    def healed() -> bool:
        problems = cluster.admin().status().problems
        return all(beyond_help > 0 and line.startswith(left) for line in problems)

    return until(healed, HEAL_LIMIT_S, f"everything to be healed but {beyond_help}")


def _poison(data_dir: Path) -> Iterator[Path]:
    """Flip a bit in the blob's only cell there, and in whatever compaction has left of it."""
    found = list(records(data_dir))
    seeds = {
        record.key[:16]
        for _, record in found
        if record.kind == RecordType.SEAL and POISONED.encode() in bytes(record.body)
    }
    for path, record in found:
        if record.kind == RecordType.CELL and record.key[:16] in seeds:
            flip_bit(path, record.extent.payload_offset + record.extent.payload_length // 2, 1)
            yield path


def _quarantined(cluster: LocalCluster) -> list[tuple[str, str]]:
    return [(found.key.decode(), found.why) for found in cluster.admin().quarantine().blobs]


def _reads(bucket: holdfast.Bucket, name: str, size: int) -> bool:
    try:
        return bucket.get(name).read() == _content(name, size)
    except holdfast.Error:
        return False


def _is_refused(bucket: holdfast.Bucket) -> list[str]:
    try:
        data = bucket.get(POISONED).read()
    except (holdfast.Unavailable, holdfast.IntegrityError):
        return []
    except holdfast.Error as error:
        return [f"the blob beyond help: {error!r}"]
    return [f"the blob beyond help was read: {len(data)} bytes"]


def _content(name: str, size: int) -> bytes:
    return b"".join(content_blocks(name, size))
