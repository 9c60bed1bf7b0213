"""Random callers against real homes on bad disks and worse wires: every key's history must be linearizable."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest

from holdfast_node.core.errors import (
    AlreadyExists,
    BlobNotFound,
    ClusterError,
    OutcomeUnknown,
    PreconditionFailed,
)
from holdfast_node.core.head import HeadKind, Manifest
from holdfast_node.core.ids import BlobId, BucketId, Digest, Era, RequestId
from holdfast_node.core.operation import NO_VERSION, Operation, OperationKind
from tests.properties.register_bench import Bench, Member, alive, registers
from tests.sim.checker import Kind, Op, Result, linearizable, smallest_violation, tell
from tests.sim.loop import SimLoop
from tests.sim.network import Weather

BUCKET = BucketId(b"B" * 16)
KEYS: tuple[bytes, ...] = (b"a", b"b")


@dataclass
class Trouble:
    weather: Weather
    kills: int = 0
    partitions: bool = False


class Workload:
    def __init__(self, bench: Bench, *, callers: int, calls: int) -> None:
        self.bench = bench
        self.random = random.Random(f"work {bench.seed}")
        self.callers, self.calls = callers, calls
        self.history: dict[bytes, list[Op]] = {key: [] for key in KEYS}
        self.seen = dict.fromkeys(KEYS, 0)
        self.done = 0
        self.unknown = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self.callers):
                _ = group.create_task(self._caller(f"c{number}"))

    async def _caller(self, name: str) -> None:
        for number in range(self.calls):
            key = self.random.choice(KEYS)
            if self.random.random() < 0.4:
                await self._read(name, key)
            else:
                await self._write(name, key, f"{name}.{number}")
            await self.bench.later(self.random.uniform(0, 0.02))

    def _any(self) -> Member:
        return self.random.choice(list(self.bench.members.values()))

    async def _read(self, name: str, key: bytes) -> None:
        called, member = self.bench.loop.time(), self._any()
        try:
            reading = await self.bench.inside(member, lambda: registers(member).read(0, BUCKET, key))
        except (ClusterError, ConnectionError):
            return
        head = reading.head
        self.seen[key] = max(self.seen[key], head.version)
        found = head.kind is HeadKind.BLOB and head.manifest is not None
        content = head.manifest.blob_id.rstrip(b".").decode() if head.manifest is not None else ""
        result = Result.DONE if found else Result.ABSENT
        version = head.version if found else 0
        self._note(key, Op(Kind.READ, called, self.bench.loop.time(), result, version, content, who=name))

    async def _write(self, name: str, key: bytes, content: str) -> None:
        kind = OperationKind.DELETE if self.random.random() < 0.25 else OperationKind.PUT
        if_absent = kind is OperationKind.PUT and self.random.random() < 0.2
        if_version = (
            self.seen[key] if not if_absent and self.seen[key] and self.random.random() < 0.3 else NO_VERSION
        )
        request = RequestId(content.encode().ljust(16, b"."))
        called, unsure = self.bench.loop.time(), False
        result, version = Result.UNKNOWN, 0
        for attempt in range(3):
            blob = BlobId(content.encode().ljust(16, b"."))
            manifest = Manifest(blob, blob, 1, "copy:3", 1, 1, Digest(bytes([attempt]) * 16), ())
            operation = Operation(
                kind,
                request,
                Era(1),
                manifest=manifest if kind is OperationKind.PUT else None,
                if_absent=if_absent,
                if_version=if_version,
            )
            member = self._any()
            try:
                outcome = await self.bench.inside(
                    member,
                    lambda m=member, o=operation: registers(m).run(0, BUCKET, key, o),  # type: ignore[misc]
                )
                result, version = Result.DONE, outcome.version
                break
            except (AlreadyExists, PreconditionFailed):
                result = Result.CONDITION_FAILED
                break
            except BlobNotFound:
                result = Result.ABSENT
                break
            except (OutcomeUnknown, ConnectionError):
                unsure = True
            except ClusterError:
                continue
        if result is Result.UNKNOWN and not unsure:
            return
        self.unknown += result is Result.UNKNOWN
        returned = self.bench.loop.time()
        kind_seen = Kind.PUT if kind is OperationKind.PUT else Kind.DELETE
        put = content if kind is OperationKind.PUT else ""
        self._note(key, Op(kind_seen, called, returned, result, version, put, if_absent, if_version, name))

    def _note(self, key: bytes, op: Op) -> None:
        self.history[key].append(op)
        self.done += op.result is not Result.UNKNOWN


async def harass(bench: Bench, trouble: Trouble, stop: asyncio.Event) -> None:
    """Kill and restart, cut and mend, until told to stop; at most a minority is down at once."""
    chooser = random.Random(f"trouble {bench.seed}")
    for _ in range(trouble.kills):
        await bench.later(chooser.uniform(0.02, 0.3))
        if stop.is_set():
            return
        victim = chooser.choice(alive(bench))
        bench.kill(victim, power=chooser.random() < 0.7)
        await bench.later(chooser.uniform(0.0, 0.3))
        await bench.boot(victim)
        if trouble.partitions:
            one, other = chooser.sample(list(bench.members), 2)
            bench.network.block(f"{one}:1", f"{other}:1")
            await bench.later(chooser.uniform(0.0, 0.5))
            bench.network.unblock_all()


def run_world(
    seed: int, trouble: Trouble, *, code: str = "rs:1+2", callers: int = 5, calls: int = 12
) -> Workload:
    loop = SimLoop(seed)
    bench = Bench(loop, seed=seed, code=code)
    bench.network.weather = trouble.weather
    work = Workload(bench, callers=callers, calls=calls)

    async def main() -> None:
        await bench.start()
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            _ = group.create_task(harass(bench, trouble, stop))
            await work.run()
            stop.set()

    loop.run(main())
    assert not loop.problems, loop.problems
    assert not bench.network.problems, bench.network.problems
    for key, history in work.history.items():
        assert linearizable(history), f"seed {seed}, key {key!r}\n" + tell(smallest_violation(history))
    return work


CALM = Trouble(Weather())
LOSSY = Trouble(Weather(loss=0.05, duplicates=0.1, stragglers=0.05))
CRASHING = Trouble(Weather(loss=0.01, duplicates=0.05, stragglers=0.02), kills=6, partitions=True)


@pytest.mark.parametrize("seed", range(6))
def test_calm_histories_are_linearizable_and_complete(seed: int) -> None:
    work = run_world(seed, CALM)
    assert work.unknown == 0
    assert work.done == 5 * 12


@pytest.mark.parametrize("seed", range(12))
def test_histories_over_lossy_wires_are_linearizable(seed: int) -> None:
    assert run_world(100 + seed, LOSSY).done > 20


@pytest.mark.parametrize("seed", range(12))
def test_histories_with_crashes_and_partitions_are_linearizable(seed: int) -> None:
    assert run_world(200 + seed, CRASHING).done > 20


@pytest.mark.parametrize("seed", range(4))
def test_six_homes_under_trouble_are_linearizable(seed: int) -> None:
    assert run_world(300 + seed, CRASHING, code="rs:4+2").done > 20
