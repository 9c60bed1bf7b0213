"""What the whole product does on this machine: `make bench`. Six real nodes, one caller with the SDK, all on loopback.

For each size and number of calls in flight: operations and megabytes a second, how long one call takes (p50, p99),
CPU milliseconds per operation of all nodes and of the caller, and the most memory a node had. Then how fast a lost
node, and a lost SAN, are rebuilt, and at what cost. Seven processes share the cores: only ratios between runs on the
same machine mean much.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from holdfast import aio
from holdfast.testing import LocalCluster

KIB: Final = 1024
MIB: Final = 1024 * KIB
MB: Final = 1_000_000
SIZES: Final = (4 * KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB)
IN_FLIGHT: Final = (1, 16, 64)
BYTES_IN_FLIGHT_MAX: Final = 512 * MIB
"""More would measure how the caller swaps."""
REPEATS: Final = 3
HEADINGS: Final = (
    "",
    "size",
    "in flight",
    "ops/s",
    "MB/s",
    "p50 ms",
    "p99 ms",
    "nodes ms/op",
    "caller ms/op",
    "RSS MiB",
)


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    size: int
    in_flight: int
    rate: float
    p50_ms: float
    p99_ms: float
    nodes_ms: float
    caller_ms: float
    rss_mib: float

    def cells(self) -> tuple[str, ...]:
        return (
            self.what,
            f"{self.size // KIB} KiB" if self.size < MIB else f"{self.size // MIB} MiB",
            str(self.in_flight),
            f"{self.rate:.0f}" if self.rate >= 10 else f"{self.rate:.1f}",
            f"{self.rate * self.size / MB:.1f}",
            f"{self.p50_ms:.1f}",
            f"{self.p99_ms:.1f}",
            f"{self.nodes_ms:.2f}",
            f"{self.caller_ms:.2f}",
            f"{self.rss_mib:.0f}",
        )


class Meter:
    """CPU seconds of the nodes and of this process, and the nodes' memory."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._nodes = [psutil.Process(state.pid) for state in cluster.nodes()]
        self._me = psutil.Process()

    def cpu_s(self) -> tuple[float, float]:
        return sum(_cpu_s(node) for node in self._nodes), _cpu_s(self._me)

    def rss_mib(self) -> float:
        return max(node.memory_info().rss for node in self._nodes) / MIB


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def _measure(
    meter: Meter, work: Callable[[int], Awaitable[None]], in_flight: int, seconds: float
) -> tuple[list[float], float, float, float]:
    """Latencies, wall seconds, CPU seconds of nodes and caller of as many calls as fit in `seconds`."""
    latencies: list[float] = []
    numbers = iter(range(sys.maxsize))
    nodes_before, caller_before = meter.cpu_s()
    began = time.perf_counter()

    async def one_after_another() -> None:
        while time.perf_counter() - began < seconds:
            started = time.perf_counter()
            await work(next(numbers))
            latencies.append(time.perf_counter() - started)

    async with asyncio.TaskGroup() as group:
        _ = [group.create_task(one_after_another()) for _ in range(in_flight)]
    wall = time.perf_counter() - began
    nodes_after, caller_after = meter.cpu_s()
    return latencies, wall, nodes_after - nodes_before, caller_after - caller_before


async def _row(
    what: str,
    size: int,
    in_flight: int,
    *,
    meter: Meter,
    work: Callable[[int], Awaitable[None]],
    seconds: float,
) -> Row:
    """The median run of a few, by rate."""
    rows: list[Row] = []
    for _ in range(REPEATS):
        latencies, wall, nodes_s, caller_s = await _measure(meter, work, in_flight, seconds)
        count = len(latencies)
        ordered = sorted(latencies)
        rows.append(
            Row(
                what=what,
                size=size,
                in_flight=in_flight,
                rate=count / wall,
                p50_ms=statistics.median(ordered) * 1000,
                p99_ms=ordered[min(count - 1, count * 99 // 100)] * 1000,
                nodes_ms=nodes_s / count * 1000,
                caller_ms=caller_s / count * 1000,
                rss_mib=meter.rss_mib(),
            )
        )
    return sorted(rows, key=lambda row: row.rate)[REPEATS // 2]


async def _blobs(cluster: LocalCluster, sizes: Sequence[int], seconds: float) -> None:
    meter = Meter(cluster)
    async with aio.connect(cluster.endpoints) as client:
        bucket = await client.create_bucket("bench")
        for size in sizes:
            data = bytes(range(256)) * (size // 256)
            for in_flight in IN_FLIGHT:
                if size * in_flight > BYTES_IN_FLIGHT_MAX:
                    continue
                keys = 4 * in_flight

                async def put(number: int, size: int = size, data: bytes = data, keys: int = keys) -> None:
                    await bucket.put(f"{size}/{number % keys}", data)

                async def get(number: int, size: int = size, keys: int = keys) -> None:
                    blob = await bucket.get(f"{size}/{number % keys}")
                    read = await blob.read()
                    assert len(read) == size

                for number in range(keys):
                    await put(number)
                for what, work in (("put", put), ("get", get)):
                    row = await _row(what, size, in_flight, meter=meter, work=work, seconds=seconds)
                    print(_line(row.cells()), flush=True)


def _line(cells: Sequence[str]) -> str:
    return "".join(f"{cell:>13}" for cell in cells)


def _heal(cluster: LocalCluster, selector: str) -> None:
    """Nodes are lost with their disks and replaced by empty ones: until every blob is at full margin."""
    lost = cluster.lose(selector)
    cluster.start(*lost)
    meter, before = Meter(cluster), _rebuilt(cluster)
    cpu_before, _ = meter.cpu_s()
    began = time.monotonic()
    cluster.replace(*lost)
    cluster.wait_healthy(900.0)
    took = time.monotonic() - began
    cpu_s = meter.cpu_s()[0] - cpu_before
    made = (_rebuilt(cluster) - before) / MB
    print(
        f"{selector} lost and replaced: {made:.0f} MB of shards rebuilt in {took:.1f} s, {made / took:.0f} MB/s, "
        f"{cpu_s / (made / 1000):.1f} CPU seconds of all nodes per GB",
        flush=True,
    )


def _rebuilt(cluster: LocalCluster) -> int:
    """Bytes of shards that healers have written so far."""
    return sum(worker.bytes_done for worker in cluster.status().workers if worker.name == "healer")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="bytes, multiples of 256")
    parser.add_argument("--no-heal", action="store_true")
    asked = parser.parse_args()
    print(_line(HEADINGS))
    with (
        tempfile.TemporaryDirectory(prefix="holdfast-bench-") as root,
        LocalCluster(Path(root) / "c") as cluster,
    ):
        asyncio.run(_blobs(cluster, asked.sizes, asked.seconds))
        if not asked.no_heal:
            _heal(cluster, "n1")
            _heal(cluster, "san=b")
    return 0


if __name__ == "__main__":
    sys.exit(main())
