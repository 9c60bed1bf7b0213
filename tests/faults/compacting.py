"""Small blobs are overwritten until every node has given volumes back, with nodes killed in the middle of it.

Afterwards every version that is kept reads back, the disks hold a part of what was written to them, scrub finds
nothing, and without any index the logs alone, with their holes, say the same.
"""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import holdfast
from holdfast.testing import LocalCluster
from tests.faults.indexes import INDEX
from tests.faults.scenarios import HEAL_LIMIT_S, Report
from tests.faults.support.wait import until
from tests.faults.workload import content_blocks

VOLUME_MIB: Final = 16
SIZES: Final = (60, 300, 900, 5000)
KEYS: Final = 40
CALLERS: Final = 3
WRITE_LIMIT_S: Final = 900.0


@dataclass
class _Written:
    """What callers were told. A write of unknown outcome may be any later version."""

    acked: dict[str, dict[int, str]] = field(default_factory=dict[str, dict[int, str]])
    """Per key, each by one caller: version -> content."""
    puts: int = 0
    errors: list[str] = field(default_factory=list[str])
    unknown: int = 0


def compacting(root: Path, *, seed: int, volumes: int, kills: int, callers: int = CALLERS) -> Report:
    """Until every node has given back so many volumes; nodes are killed `kills` times on the way. With one caller a
    volume is full sooner: each of its writes is a batch, with padding, of its own."""
    report = Report("compacting", seed, 1)
    chooser = random.Random(f"compacting {seed}")
    with LocalCluster(root, nodes=6, sans=3, volume=f"{VOLUME_MIB} MiB") as cluster:
        written = _Written()
        with _Callers(cluster, written, seed, callers):
            for kill in range(kills):
                goal = volumes * (kill + 1) // (kills + 1)
                _until_given_back(cluster, goal)
                name = chooser.choice(cluster.layout.nodes).name
                cluster.kill(name)
                cluster.start(name)
            _until_given_back(cluster, volumes)
        report.wrong += written.errors
        cluster.wait_healthy(HEAL_LIMIT_S)
        _compare(cluster, written, report, "as it is")
        made, kept = _volumes(cluster)
        found = cluster.admin().scrub(now=True)
        cluster.stop()
        for node in cluster.layout.nodes:
            shutil.rmtree(node.data_dir / INDEX)
        cluster.start()
        cluster.wait_healthy(HEAL_LIMIT_S)
        _compare(cluster, written, report, "from the logs alone")
        report.wrong += [f"{node.node}: scrub found {node.found}" for node in found.nodes if node.found]
    report.seen = (
        f"{written.puts} puts of {KEYS} keys, {kills} nodes killed, {written.unknown} outcomes unknown to callers; of "
        f"{made} volumes of {VOLUME_MIB} MiB {kept} are left; "
        f"{sum(map(len, written.acked.values()))} versions written, all that are kept read back twice"
    )
    return report


def _until_given_back(cluster: LocalCluster, volumes: int) -> None:
    """By number, not by the nodes' word: each directory begins at a later volume, or has holes."""

    def enough() -> bool:
        return all(made - kept >= volumes for made, kept in _per_node(cluster))

    until(enough, WRITE_LIMIT_S, f"every node to give back {volumes} volumes")


def _per_node(cluster: LocalCluster) -> Iterator[tuple[int, int]]:
    """How many volumes were made, spares included, and how many are there."""
    for node in cluster.layout.nodes:
        numbers = [int(path.name.removeprefix("volume-")) for path in node.data_dir.glob("volume-*")]
        yield max(numbers, default=0), len(numbers)


def _volumes(cluster: LocalCluster) -> tuple[int, int]:
    per_node = list(_per_node(cluster))
    return sum(made for made, _ in per_node), sum(kept for _, kept in per_node)


def _content(name: str) -> bytes:
    return b"".join(content_blocks(name, random.Random(name).choice(SIZES)))


def _compare(cluster: LocalCluster, written: _Written, report: Report, when: str) -> None:
    """Every version that the cluster says it keeps has the bytes that were acked for it; the newest is there."""
    bucket = cluster.connect().bucket("kept")
    for key, versions in sorted(written.acked.items()):
        kept = [info.version for info in bucket.versions(key)]
        if max(versions) not in kept and max(kept, default=0) < max(versions):
            report.wrong.append(f"{when}: {key}: version {max(versions)} was acked, {kept[:3]} are there")
        for version in kept:
            if version in versions and bucket.get(key, version=version).read() != _content(versions[version]):
                report.wrong.append(f"{when}: {key}: version {version} has other bytes than were written")


class _Callers:
    """Each overwrites keys of its own, over and over."""

    def __init__(self, cluster: LocalCluster, written: _Written, seed: int, callers: int) -> None:
        self._written = written
        self._count = callers
        self._stop = threading.Event()
        self._lock = threading.Lock()
        bucket = cluster.connect().create_bucket("kept")
        self._threads = [
            threading.Thread(target=self._write, args=(bucket, number, seed)) for number in range(callers)
        ]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, bucket: holdfast.Bucket, number: int, seed: int) -> None:
        chooser = random.Random(f"{seed} {number}")
        keys = [f"k{key:03d}" for key in range(number, KEYS, self._count)]
        count = 0
        while not self._stop.is_set():
            count += 1
            key, name = chooser.choice(keys), f"{number}.{count}"
            try:
                receipt = bucket.put(key, _content(name))
            except holdfast.OutcomeUnknown:
                with self._lock:
                    self._written.unknown += 1
                continue
            except holdfast.Error as error:
                with self._lock:
                    self._written.errors.append(f"a caller saw {error!r}")
                continue
            with self._lock:
                self._written.puts += 1
                self._written.acked.setdefault(key, {})[receipt.version] = name
