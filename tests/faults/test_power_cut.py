"""After a power cut at any point, everything that was acknowledged is there and everything else is old or new.

The store's own writes and syncs are recorded under a real workload on the real disk adapter; for each of the seeded
cuts a directory is rebuilt with un-synced sectors dropped or torn, and the store opened on it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import pytest

from holdfast_node.adapters import disk as disk_module
from holdfast_node.adapters.disk import FileDisk
from holdfast_node.core import log_format
from holdfast_node.core.errors import HoldfastError, ShardMissing, StoreRefused
from holdfast_node.core.ids import ClusterId
from holdfast_node.core.messages import ShardName
from holdfast_node.core.records import MapRecord
from holdfast_node.ports import Buffer
from holdfast_node.services.log import replay as replay_module
from holdfast_node.services.store import Entry, Store
from tests.faults.support.power_cut import Disk, Note, Recorder
from tests.sim.index import IndexContent, SimIndex
from tests.support import stores

CUTS: Final = 200
KEYS: Final = 8
ROUNDS: Final = 10
CELL_BYTES: Final = 6000
INDEX_SNAPSHOT_EVERY: Final = 5
CLUSTER: Final = ClusterId(b"C" * 16)


@dataclass(slots=True)
class Known:
    """What must be there (acked) and what may be (asked) at some point of the recording."""

    acked: dict[str, object] = field(default_factory=dict[str, object])
    asked: dict[str, object] = field(default_factory=dict[str, object])

    def number(self, which: dict[str, object], what: str) -> int:
        value = which.get(what, 0)
        assert isinstance(value, int)
        return value


class SnapshotIndex(SimIndex):
    """An index whose states are kept: after a crash it may be any earlier one."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self._writes = 0

    def write(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes] = ()) -> None:
        super().write(puts, deletes)
        self._writes += 1
        if self._writes % INDEX_SNAPSHOT_EVERY == 0:
            self._recorder.note("index", self.content.copy())


def cell_bytes(writer: int, stripe: int) -> bytes:
    return random.Random(f"{writer} {stripe}").randbytes(CELL_BYTES)


async def write_registers(store: Store, recorder: Recorder, number: int) -> None:
    """One key, version after version: each may begin only when the one before is durable."""
    key = f"key {number}".encode()
    done = 0
    for version in range(1, ROUNDS + 1):
        recorder.note(f"key {number}", ("ask", version))
        await store.append([Entry(stores.register(key, version))])
        recorder.note(f"key {number}", ("ack", version))
        done = version
    assert done == ROUNDS


async def write_shards(store: Store, recorder: Recorder, writer: int) -> None:
    """Whole shards as one group, as a small blob's are."""
    for number in range(ROUNDS):
        seed = stores.blob_id(writer * 1000 + number)
        cells = [cell_bytes(writer * 1000 + number, stripe) for stripe in range(3)]
        entries = [stores.cell(seed, stripe, data) for stripe, data in enumerate(cells)]
        what = f"shard {writer * 1000 + number}"
        recorder.note(what, ("ask", 1))
        await store.append([*entries, stores.seal(seed, cells)], bulk=True)
        recorder.note(what, ("ack", 1))


async def write_maps(store: Store, recorder: Recorder) -> None:
    for epoch in range(1, ROUNDS + 1):
        recorder.note("map", ("ask", epoch))
        await store.append([Entry(MapRecord(epoch.to_bytes(8, "big")))])
        recorder.note("map", ("ack", epoch))


async def run_workload(directory: Path, recorder: Recorder) -> None:
    """Two lives of one store: born, loaded, closed; opened again, joined, loaded, left without a goodbye."""
    index = SnapshotIndex(recorder)
    for life, cluster in ((1, None), (2, CLUSTER)):
        file_disk = FileDisk(directory)
        recorder.note("boot", ("ask", life))
        store = await stores.open_store(file_disk, index, seed=f"life {life}")
        recorder.note("boot", ("ack", life))
        if cluster is not None:
            recorder.note("join", ("ask", 1))
            await store.join(cluster)
            recorder.note("join", ("ack", 1))
        if life == 1:
            async with asyncio.TaskGroup() as group:
                for number in range(KEYS):
                    group.create_task(write_registers(store, recorder, number))
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(write_maps(store, recorder))
                for writer in range(1, 4):
                    group.create_task(write_shards(store, recorder, writer))
                for number in range(KEYS, 2 * KEYS):
                    group.create_task(write_registers(store, recorder, number))
        await (store.close() if life == 1 else store.abandon())
        file_disk.close()


def record(directory: Path, monkeypatch: pytest.MonkeyPatch, *, skip_sync: bool = False) -> Recorder:
    recorder = Recorder(directory, skip_sync=skip_sync)
    with monkeypatch.context() as patch:
        patch.setattr(disk_module, "os", recorder)
        asyncio.run(run_workload(directory, recorder))
    return recorder


async def find_violations(directory: Path, known: Known, index: IndexContent) -> list[str]:
    """Open what the cut left and compare."""
    file_disk = FileDisk(directory)
    try:
        store = await stores.open_store(file_disk, SimIndex(index), seed="after the cut")
    except StoreRefused as refusal:
        file_disk.close()
        return [f"refused: {refusal}"]
    try:
        found = [
            *await wrong_registers(store, known),
            *await wrong_shards(store, known),
            *wrong_facts(store, known),
        ]
        await store.append([Entry(stores.register(b"after", 1))])
        if await store.register(stores.BUCKET, b"after") is None:
            found.append("what is written after the cut is not there")
        return found
    finally:
        await store.abandon()
        file_disk.close()


async def wrong_registers(store: Store, known: Known) -> list[str]:
    found: list[str] = []
    for what in known.asked:
        if not what.startswith("key "):
            continue
        try:
            record = await store.register(stores.BUCKET, what.encode())
        except HoldfastError as error:
            found.append(f"{what}: {error}")
            continue
        version = 0 if record is None or record.accepted is None else record.accepted.counter
        if not known.number(known.acked, what) <= version <= known.number(known.asked, what):
            found.append(f"{what} has version {version}, acked {known.acked.get(what)}")
        elif version and record != stores.register(what.encode(), version):
            found.append(f"{what} has wrong content at version {version}")
    return found


async def wrong_shards(store: Store, known: Known) -> list[str]:
    found: list[str] = []
    for what in known.asked:
        if not what.startswith("shard "):
            continue
        number = int(what.removeprefix("shard "))
        name = ShardName(stores.blob_id(number), 0, 0)
        try:
            cells = await store.cells(name, 0, 3)
            right = cells == [cell_bytes(number, stripe) for stripe in range(3)]
            whole = right and await store.shard_header(name) is not None
        except ShardMissing:
            whole = False
            if store.shard(name) is not None:
                found.append(f"{what} is there in part")
        except HoldfastError as error:
            whole = False
            found.append(f"{what}: {error}")
        if not whole and what in known.acked:
            found.append(f"{what} was acked and is not there")
    return found


def wrong_facts(store: Store, known: Known) -> list[str]:
    found: list[str] = []
    epoch = int.from_bytes(store.map(), "big")
    if not known.number(known.acked, "map") <= epoch <= known.number(known.asked, "map"):
        found.append(f"map {epoch}, acked {known.acked.get('map')}")
    if store.superblock.boot <= known.number(known.acked, "boot"):
        found.append(f"boot {store.superblock.boot} is not above {known.acked['boot']}")
    if "join" in known.acked and store.superblock.cluster_id != CLUSTER:
        found.append("the store forgot its cluster")
    if store.rotten():
        found.append(f"a power cut was taken for rot: {store.rotten()}")
    return found


def cut_everywhere(
    recorder: Recorder, tmp_path: Path, *, cuts: int = CUTS, stop_early: bool = True
) -> list[str]:
    """Violations at `cuts` seeded points of the recording; of the first point that has any, if `stop_early`."""
    events = recorder.events
    chooser = random.Random("cuts")
    points = sorted(chooser.randrange(1, len(events) + 1) for _ in range(cuts))
    disk, known, index = Disk(), Known(), IndexContent()
    found: list[str] = []
    done = 0
    for number, point in enumerate(points):
        for event in events[done:point]:
            disk.apply(event)
            if isinstance(event, Note):
                index = learn(known, event) or index
        done = point
        directory = tmp_path / f"cut {number}"
        disk.rebuild(directory, random.Random(f"cut {number}"))
        state = index.copy() if chooser.random() < 0.7 else IndexContent()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(disk_module, "os", Recorder(directory))  # nothing to sync for: one cut is enough
            violations = asyncio.run(find_violations(directory, known, state))
        found += [f"cut {number} at event {point}: {violation}" for violation in violations]
        if found and stop_early:
            break
    return found


def learn(known: Known, note: Note) -> IndexContent | None:
    if isinstance(note.value, IndexContent):
        return note.value
    kind, value = cast("tuple[str, int]", note.value)
    (known.acked if kind == "ack" else known.asked)[note.what] = value
    return None


def test_no_power_cut_loses_what_was_acked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = record(tmp_path / "recorded", monkeypatch)
    acks = sum(isinstance(event, Note) and event.what != "index" for event in recorder.events)
    assert acks > 300
    assert not cut_everywhere(recorder, tmp_path, stop_early=False)


Commit = Callable[[FileDisk, str, int, Sequence[Buffer]], Awaitable[None]]


def plant_resolve_before_commit(patch: pytest.MonkeyPatch) -> None:
    commit: Commit = FileDisk.commit
    late: set[asyncio.Task[None]] = set()

    async def commit_later(self: FileDisk, name: str, offset: int, buffers: Sequence[Buffer]) -> None:
        held = [bytes(buffer) for buffer in buffers]

        async def run() -> None:
            await commit(self, name, offset, held)

        late.add(asyncio.get_running_loop().create_task(run()))

    patch.setattr(FileDisk, "commit", commit_later)


def plant_trust_in_every_batch(patch: pytest.MonkeyPatch) -> None:
    class Trusting:
        def __getattr__(self, name: str) -> object:
            return getattr(log_format, name)

        def read_batch(
            self, data: memoryview, offset: int, header: log_format.BatchHeader
        ) -> tuple[list[log_format.Record], bool]:
            return log_format.read_batch(data, offset, header)[0], True

    patch.setattr(replay_module, "log_format", Trusting())


def test_acking_before_the_commit_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_resolve_before_commit(monkeypatch)
    recorder = record(tmp_path / "recorded", monkeypatch)
    monkeypatch.undo()
    assert cut_everywhere(recorder, tmp_path)


def test_a_skipped_sync_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = record(tmp_path / "recorded", monkeypatch, skip_sync=True)
    assert cut_everywhere(recorder, tmp_path)


def test_believing_torn_batches_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = record(tmp_path / "recorded", monkeypatch)
    plant_trust_in_every_batch(monkeypatch)
    assert cut_everywhere(recorder, tmp_path)
