"""Every index on every node is deleted while the cluster is down: the logs alone bring it back, byte for byte."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from typing import Final

from holdfast.testing import LocalCluster
from tests.faults.scenarios import HEAL_LIMIT_S, Report
from tests.faults.workload import KIB, MIB, Content, content_blocks

INDEX: Final = "index"
SIZES: Final = (1 * KIB, 4 * KIB, 64 * KIB, 300_000, MIB + 1, 16 * MIB)
GB: Final = 1e9


def lose_indexes(root: Path, *, seed: int, size: int) -> Report:
    """`size` bytes of blobs, some overwritten, some deleted; the listing and all bytes before and after."""
    report = Report("lose-indexes", seed, 1)
    chooser = random.Random(seed)
    with LocalCluster(root) as cluster:
        bucket = cluster.connect().create_bucket("kept")
        written = 0
        while written < size:
            key, length = f"k{chooser.randrange(2000):04d}", chooser.choice(SIZES)
            bucket.put(key, Content(key, length))
            written += length
        for info in chooser.sample(list(bucket.list()), 5):
            bucket.delete(info.key)
        before = {(info.key, info.version, info.size, info.hash) for info in bucket.list()}
        cluster.stop()
        for node in cluster.layout.nodes:
            shutil.rmtree(node.data_dir / INDEX)
        began = time.monotonic()
        cluster.start()
        cluster.wait_healthy(HEAL_LIMIT_S)
        took = time.monotonic() - began
        bucket = cluster.connect().bucket("kept")
        after = {(info.key, info.version, info.size, info.hash) for info in bucket.list()}
        if after != before:
            report.wrong.append(f"the listing differs in {len(before ^ after)} lines")
        for found, _, length, _ in sorted(after):
            if bucket.get(found).read() != b"".join(content_blocks(found.decode(), length)):
                report.wrong.append(f"{found!r} has other bytes than were written")
    report.heal_s.append(took)
    report.seen = (
        f"{len(after)} blobs listed and read back; {written / GB:.2f} GB written, healthy {took:.1f} s after the start "
        f"without indexes: {took / (written / GB):.1f} s per GB"
    )
    return report
