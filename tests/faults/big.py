"""One blob of several GiB in and out of a real cluster, while the memory of every process is watched."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import psutil

from holdfast.testing import LocalCluster
from tests.faults.scenarios import Report
from tests.faults.workload import MIB, Content, content_blocks

RSS_LIMIT_MIB: Final = 300
SAMPLE_S: Final = 0.2


@dataclass
class Memory:
    """The most resident memory each process was seen with, in MiB. Samples until `stop`."""

    pids: dict[str, int]
    most: dict[str, float] = field(default_factory=dict[str, float])
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        processes = {name: psutil.Process(pid) for name, pid in self.pids.items()}
        while not self._stop.wait(SAMPLE_S):
            for name, process in processes.items():
                self.most[name] = max(self.most.get(name, 0.0), process.memory_info().rss / MIB)


def big(root: Path, *, seed: int, size: int) -> Report:
    """Streams in and out under the memory limit; a range of one byte comes at once; every byte is compared."""
    report = Report("big", seed, 1)
    content = f"big {seed}"
    with LocalCluster(root) as cluster:
        bucket = cluster.connect().create_bucket("big")
        pids = {state.node.name: state.pid for state in cluster.nodes()} | {"caller": psutil.Process().pid}
        with Memory(pids) as memory:
            began = time.monotonic()
            receipt = bucket.put("big", Content(content, size))
            put_s = time.monotonic() - began
            began = time.monotonic()
            expected = content_blocks(content, size)
            left, pending = size, bytearray()
            for chunk in bucket.get("big").iter():
                left -= len(chunk)
                pending += chunk
                while pending and (len(pending) >= 256 * 1024 or not left):
                    block = next(expected)
                    if bytes(pending[: len(block)]) != block:
                        report.wrong.append(f"wrong bytes {left} bytes before the end")
                    del pending[: len(block)]
            get_s = time.monotonic() - began
            began = time.monotonic()
            one = bucket.get("big", range=(size // 3, size // 3 + 1)).read()
            one_s = time.monotonic() - began
        if one != byte_at(content, size, size // 3):
            report.wrong.append("the range of one byte is wrong")
        if left or receipt.size != size:
            report.wrong.append(f"{size} bytes put, {receipt.size} acked, {size - left} read")
        for name, most in sorted(memory.most.items()):
            if most > RSS_LIMIT_MIB:
                report.wrong.append(f"{name} had {most:.0f} MiB resident, more than {RSS_LIMIT_MIB}")
    rss = ", ".join(f"{name} {most:.0f}" for name, most in sorted(memory.most.items()))
    report.seen = (
        f"{size / MIB:.0f} MiB in at {size / MIB / put_s:.0f} MiB/s, out at {size / MIB / get_s:.0f} MiB/s, "
        f"one byte in {one_s * 1000:.0f} ms; most resident MiB: {rss}"
    )
    return report


def byte_at(content: str, size: int, offset: int) -> bytes:
    source = Content(content, size)
    source.seek(offset)
    return source.read(1)
