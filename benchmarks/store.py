"""What one store does on this machine: appends, cells, reads, replay; operations a second and CPU per operation.

`python -m benchmarks.store [DIRECTORY]`. Uses the real disk and index adapters, one process, no network.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from holdfast_node.adapters.disk import FileDisk
from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.adapters.rocks import RocksIndex
from holdfast_node.core.checksums import cell_checksum
from holdfast_node.core.head import Ballot, Head, HeadKind, Manifest, Part
from holdfast_node.core.ids import BlobId, BootId, BucketId, Digest, NodeName, StoreId, Version
from holdfast_node.core.messages import ShardName
from holdfast_node.core.records import CellRecord, PeerRecord, RegisterRecord
from holdfast_node.services.store import Entry, Store, StoreSettings

KIB: Final = 1024
MIB: Final = 1024 * KIB
GB: Final = 1_000_000_000
BUCKET: Final = BucketId(b"B" * 16)
STORE: Final = StoreId(b"S" * 16)
BODIES: Final = ProtobufBodies()


class Silent:
    def emit(self, event: str, **fields: str | float | bool) -> None:
        pass


class SystemEntropy:
    def token(self, count: int) -> bytes:
        return os.urandom(count)

    def jitter(self, low: float, high: float) -> float:
        return (low + high) / 2


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    operations: int
    wall_s: float
    cpu_s: float
    bytes_moved: int = 0

    def __str__(self) -> str:
        rate = f"{self.operations / self.wall_s:12,.0f} ops/s {self.cpu_s / self.operations * 1e6:9.1f} us CPU/op"
        moved = f" {self.bytes_moved / self.wall_s / GB:7.2f} GB/s" if self.bytes_moved else ""
        return f"{self.name:<38}{rate}{moved}"


async def measure(
    name: str, count: int, work: Callable[[int], Awaitable[object]], *, in_flight: int, bytes_each: int = 0
) -> Row:
    """Run `work(0..count)` with so many at a time."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await work(number)

    began, cpu = time.perf_counter(), cpu_s()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(worker())
    return Row(name, count, time.perf_counter() - began, cpu_s() - cpu, count * bytes_each)


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def register(number: int) -> RegisterRecord:
    ballot = Ballot(1, number + 1, STORE, 1, number)
    identity = BlobId(number.to_bytes(16, "big"))
    digest = Digest(b"h" * 16)
    manifest = Manifest(
        identity, identity, 4096, "copy:6", MIB, 64 * MIB, digest, (Part(4096, (STORE,) * 6, (digest,) * 6),)
    )
    head = BODIES.encode(Head(Version(1), HeadKind.BLOB, manifest))
    return RegisterRecord(BUCKET, b"key-%012d" % number, 0, number % 64, ballot, ballot, head)


async def open_store(directory: Path) -> tuple[Store, Callable[[], None]]:
    disk, index = FileDisk(directory), RocksIndex(directory / "index")
    store = await Store.open(
        disk=disk,
        index=index,
        bodies=BODIES,
        entropy=SystemEntropy(),
        events=Silent(),
        node=NodeName("bench"),
        settings=StoreSettings(volume_bytes=256 * MIB),
        format_if_empty=True,
    )

    def release() -> None:
        index.close()
        disk.close()

    return store, release


async def small_appends(store: Store) -> list[Row]:
    rows: list[Row] = []
    for in_flight, count in ((1, 2000), (16, 20_000), (64, 60_000)):
        entry = Entry(PeerRecord(STORE, 1, BootId(b"b" * 16), 7))

        def append(_: int, entry: Entry = entry) -> Awaitable[None]:
            return store.append([entry])

        rows.append(
            await measure(f"append small record, {in_flight} in flight", count, append, in_flight=in_flight)
        )
    payload, digest = os.urandom(KIB), Digest(b"c" * 16)

    def cell(number: int) -> Awaitable[None]:
        return store.append([Entry(CellRecord(BlobId(b"s" * 16), 0, 0, number, digest), payload)])

    rows.append(await measure("append 1 KiB cell, 64 in flight", 40_000, cell, in_flight=64))
    records = [register(number) for number in range(20_000)]

    def accept(number: int) -> Awaitable[None]:
        return store.append([Entry(records[number])])

    def read(number: int) -> Awaitable[object]:
        return store.register(BUCKET, records[number].key)

    rows.append(await measure("append register, 64 in flight", len(records), accept, in_flight=64))
    rows.append(await measure("read register, cold and cached", len(records), read, in_flight=1))
    return rows


async def large_cells(store: Store) -> list[Row]:
    rows: list[Row] = []
    for size, count in ((256 * KIB, 3000), (MIB, 800)):
        seed = BlobId(size.to_bytes(16, "big"))
        payload = os.urandom(size)
        entries = [
            Entry(CellRecord(seed, 0, 0, stripe, cell_checksum(seed, 0, 0, stripe, payload)), payload)
            for stripe in range(count)
        ]
        name = ShardName(seed, 0, 0)
        label = f"{size // KIB} KiB cells, 16 in flight"

        def append(number: int, entries: list[Entry] = entries) -> Awaitable[None]:
            return store.append([entries[number]], bulk=True)

        rows.append(await measure(f"append {label}", count, append, in_flight=16, bytes_each=size))
        for what, fresh in (("read cold", False), ("read again", False), ("read fresh", True)):

            def read(number: int, name: ShardName = name, fresh: bool = fresh) -> Awaitable[object]:
                return store.cells(name, number, 1, fresh=fresh)

            rows.append(await measure(f"{what} {label}", count, read, in_flight=16, bytes_each=size))
    return rows


async def reopen(directory: Path, name: str) -> Row:
    began, cpu = time.perf_counter(), cpu_s()
    store, release = await open_store(directory)
    row = Row(name, store.durable_sequence, time.perf_counter() - began, cpu_s() - cpu)
    await store.close()
    release()
    return row


async def run(directory: Path) -> list[Row]:
    store, release = await open_store(directory)
    rows = await small_appends(store)
    await store.close()
    release()
    shutil.rmtree(directory / "index")
    rows.append(await reopen(directory, "replay of all of it (records)"))
    store, release = await open_store(directory)
    rows += await large_cells(store)
    await store.close()
    release()
    return rows


def main() -> None:
    """Print one line per measurement."""
    parent = sys.argv[1] if len(sys.argv) > 1 else "."
    with tempfile.TemporaryDirectory(prefix=".holdfast-bench-", dir=parent) as directory:
        for row in asyncio.run(run(Path(directory) / "store")):
            print(row)


if __name__ == "__main__":
    main()
