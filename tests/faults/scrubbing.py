"""Thousands of bits rot over all kinds of records on all nodes; one scrub cycle finds and heals every one.

A key's records are hit on two of its six homes at most, a blob's on two nodes: as much as may be lost. The proof that
everything is healed is not the cluster's word: afterwards every index is deleted, so that the logs alone, with all the
broken records still in them, must bring everything back.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Final, Self

import holdfast
from holdfast.testing import LocalCluster
from holdfast_node.core import log_format
from holdfast_node.core.ids import ID_BYTES
from holdfast_node.core.log_format import Record
from holdfast_node.core.records import RecordType
from holdfastpb.v1 import admin_pb2
from tests.faults.indexes import INDEX
from tests.faults.scenarios import HEAL_LIMIT_S, Report
from tests.faults.support.wait import until
from tests.faults.workload import KIB, content_blocks

SIZES: Final = (500, 2 * KIB, 6 * KIB, 30 * KIB, 200 * KIB)
BATCH: Final = 200
MAY_BE_LOST: Final = 2
"""Shards of a blob, and copies of a register: rs:4+2, and a majority of six is four."""
CALM_READS: Final = 1000
SCRUB_LIMIT_S: Final = 1500.0
"""Unhurried by callers who wait, ten thousand findings take some minutes."""
OF_SHARDS: Final = frozenset(
    {RecordType.CELL, RecordType.SEAL, RecordType.STAGE, RecordType.DROP, RecordType.LINK}
)
OF_KEYS: Final = frozenset({RecordType.REGISTER, RecordType.MANIFEST})


def scrubbing(root: Path, *, seed: int, flips: int, blobs: int) -> Report:
    """`blobs` are stored, `flips` records hit by one flipped bit each."""
    report = Report("scrubbing", seed, 1)
    chooser = random.Random(f"scrubbing {seed}")
    with LocalCluster(root, nodes=6, sans=3) as cluster:
        _fill(cluster, blobs, chooser)
        before = _listed(cluster)
        with _Reader(cluster, sorted(key for key, *_ in before)) as reader:
            reader.wait_for(CALM_READS)
            calm = reader.take()
            kinds = _rot(cluster, flips, chooser)
            _ = reader.take()
            reader.wait_for(CALM_READS)
            rotten = reader.take()
            began = time.monotonic()
            nodes, cycle_s = _scrub(cluster)
            report.heal_s.append(time.monotonic() - began)
            busy = reader.take()
            report.wrong += reader.wrong
        found, healed, garbage = _totals(nodes)
        if found != healed:
            report.wrong.append(f"{found} found, {healed} healed")
        again = _totals(_scrub(cluster)[0])
        if again[:2] != (found, healed):
            report.wrong.append(f"a second cycle found {again[0] - found} more: missed, or false alarms")
        cluster.wait_healthy(HEAL_LIMIT_S)
        _without_indexes(cluster, report, before)
    report.seen = (
        f"{kinds.total()} bits flipped ({', '.join(f'{n} {kind}' for kind, n in kinds.most_common())}); found {found}, "
        f"healed {healed}, {garbage} were garbage; cycle {cycle_s:.1f} s; p99 of a get {calm * 1e3:.1f} ms before, "
        f"{rotten * 1e3:.1f} ms once bits had rotted ({rotten / calm:.2f}x), {busy * 1e3:.1f} ms while they were "
        f"found and healed ({busy / calm:.2f}x); the same {len(before)} blobs from the logs alone"
    )
    return report


def _fill(cluster: LocalCluster, blobs: int, chooser: random.Random) -> None:
    """Some overwritten, some deleted; small ones in batches, which is how many come in at once."""
    bucket = cluster.connect().create_bucket("kept")
    names = [f"k{number:05d}" for number in range(blobs)]
    for first in range(0, blobs, BATCH):
        some = names[first : first + BATCH]
        bucket.put_many([(name, _content(name, chooser.choice(SIZES))) for name in some])
    for name in chooser.sample(names, blobs // 20):
        bucket.put(name, _content(name, chooser.choice(SIZES)))
    for name in chooser.sample(names, blobs // 50):
        bucket.delete(name)


def _content(name: str, size: int) -> bytes:
    return b"".join(content_blocks(name, size))


def _listed(cluster: LocalCluster) -> set[tuple[bytes, int, int, str]]:
    bucket = cluster.connect().bucket("kept")
    return {(info.key, info.version, info.size, info.hash) for info in bucket.list()}


def _rot(cluster: LocalCluster, flips: int, chooser: random.Random) -> Counter[str]:
    """One bit in each of so many records, each node and each kind as often as there are records of it."""
    names = [node.name for node in cluster.layout.nodes]
    victims: dict[bytes, frozenset[str]] = {}
    eligible: list[tuple[Path, Record]] = []
    for node in cluster.layout.nodes:
        for path, record in records(node.data_dir):
            about = _about(record)
            chosen = victims.setdefault(about, frozenset(chooser.sample(names, MAY_BE_LOST)))
            if not about or node.name in chosen:
                eligible.append((path, record))
    kinds: Counter[str] = Counter()
    for path, record in chooser.sample(eligible, min(flips, len(eligible))):
        extent = record.extent
        flip_bit(path, extent.offset + chooser.randrange(extent.length), 1 << chooser.randrange(8))
        kinds[RecordType(record.kind).name.lower()] += 1
    return kinds


def _about(record: Record) -> bytes:
    """Whatever of which only so much may be lost: the blob, or the key; nothing for what is a node's own."""
    kind = RecordType(record.kind)
    if kind in OF_SHARDS:
        return record.key[:ID_BYTES]
    if kind is RecordType.MANIFEST:
        return record.key[:ID_BYTES] + record.key[2 * ID_BYTES :]
    return record.key if kind in OF_KEYS else b""


def records(directory: Path) -> Iterator[tuple[Path, Record]]:
    for path in sorted(directory.glob("volume-*")):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            content = memoryview(bytes(mapped))
        for at, header in log_format.batch_headers(content, 0):
            for record in log_format.read_batch(content[at : at + header.length], at, header)[0]:
                yield path, record


def flip_bit(path: Path, offset: int, mask: int) -> None:
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, offset)[0]
        os.pwrite(file.fileno(), bytes([byte ^ mask]), offset)


def _scrub(cluster: LocalCluster) -> tuple[list[admin_pb2.NodeScrub], float]:
    """One cycle on every node, asked for, and everything found healed; and how long the reading took."""
    admin = cluster.admin()
    began = time.monotonic()
    goal = {node.node: node.cycle for node in admin.scrub(now=True).nodes}
    last: list[admin_pb2.NodeScrub] = []

    def read() -> bool:
        last[:] = admin.scrub().nodes
        return len(last) == len(goal) and all(node.completed >= goal[node.node] for node in last)

    until(read, SCRUB_LIMIT_S, "a cycle of every node")
    read_s = time.monotonic() - began
    until(
        lambda: read() and all(node.found == node.healed for node in last), SCRUB_LIMIT_S, "all to be healed"
    )
    return last, read_s


def _totals(nodes: list[admin_pb2.NodeScrub]) -> tuple[int, int, int]:
    return (
        sum(node.found for node in nodes),
        sum(node.healed for node in nodes),
        sum(node.garbage for node in nodes),
    )


def _without_indexes(cluster: LocalCluster, report: Report, before: set[tuple[bytes, int, int, str]]) -> None:
    cluster.stop()
    for node in cluster.layout.nodes:
        shutil.rmtree(node.data_dir / INDEX)
    cluster.start()
    cluster.wait_healthy(HEAL_LIMIT_S)
    after = _listed(cluster)
    if after != before:
        report.wrong.append(f"the listing differs in {len(before ^ after)} lines")
    bucket = cluster.connect().bucket("kept")
    for key, _, size, _ in sorted(after):
        if bucket.get(key).read() != _content(key.decode(), size):
            report.wrong.append(f"{key!r} has other bytes than were written")


@dataclass
class _Reader:
    """Somebody who reads all the time, and looks at the clock."""

    cluster: LocalCluster
    keys: list[bytes]
    wrong: list[str] = field(default_factory=list[str])
    _seconds: list[float] = field(default_factory=list[float])
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        bucket = self.cluster.connect().bucket("kept")
        chooser = random.Random("reader")
        while not self._stop.is_set():
            key = chooser.choice(self.keys)
            began = time.monotonic()
            try:
                _ = bucket.get(key).read()
            except holdfast.Error as error:
                self.wrong.append(f"a reader saw {error!r}")
            self._seconds.append(time.monotonic() - began)

    def wait_for(self, reads: int) -> None:
        until(lambda: len(self._seconds) >= reads, HEAL_LIMIT_S, f"{reads} reads")

    def take(self) -> float:
        """The p99 of what was read since, in seconds."""
        seconds, self._seconds = self._seconds, []
        return quantiles(seconds, n=100)[-1]
