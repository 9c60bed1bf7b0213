"""A healthy simulated cluster for tests of the data path, with ways to make one node misbehave. Asserts nothing."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Final, TypeVar

from holdfast_node.core import geometry, index_rows
from holdfast_node.core.api import Bucket, GetResult, PutOptions, PutResult, Range
from holdfast_node.core.head import Head
from holdfast_node.core.ids import BlobId
from holdfast_node.core.index_keys import CELL_ROWS, SHARD_ROWS
from holdfast_node.core.messages import Reply, Request, ShardName
from holdfast_node.services import follower
from holdfast_node.services.coordinator import Coordinator
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.node import Node
from holdfast_node.services.worker import Work
from tests.sim.cluster import Cluster, Machine, Topology
from tests.sim.loop import SimLoop

T = TypeVar("T")
BUCKET: Final = "bucket"
KIB: Final = 1024
TIMEOUT_S: Final = 120.0
SIX: Final = Topology("rs:4+2", (2, 2, 2))
TWELVE: Final = Topology("rs:4+2", (3, 3, 3, 3))

Serve = Callable[[Caller, Request], Awaitable[Reply]]
Twist = Callable[[Serve, Caller, Request], Awaitable[Reply]]


def payload_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


async def chunked(data: bytes, chunk_bytes: int = 5000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), chunk_bytes):
        yield data[at : at + chunk_bytes]


async def read_all(result: GetResult) -> bytes:
    return b"".join([chunk async for chunk in result.chunks])


@contextmanager
def small_geometry() -> Generator[None]:
    """The same arithmetic on small numbers."""
    wanted = {
        "STRIPE_BYTES": 8 * KIB,
        "WIDE_STRIPE_BYTES": 16 * KIB,
        "WIDE_FROM_BYTES": 64 * KIB,
        "PART_BYTES": 32 * KIB,
        "TINY_TOTAL_BYTES": 3 * KIB,
    }
    before = {name: getattr(geometry, name) for name in wanted}
    for name, value in wanted.items():
        setattr(geometry, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(geometry, name, value)


async def pass_time(seconds: float) -> None:
    """Let virtual time pass: the loop jumps, nobody waits."""
    passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(seconds, passed.set_result, None)
    await asyncio.shield(passed)


class SmallCluster:
    """Nodes n1, n2, ... on small geometry: stripes of 8 KiB (16 from 64 KiB on), parts of 32 KiB, tiny to 512 bytes."""

    def __init__(self, loop: SimLoop, topology: Topology, seed: int) -> None:
        self.cluster = Cluster(loop, topology, seed=seed, note=lambda _: None)
        self.served: Counter[type[Request]] = Counter()
        """Requests of the types watched that any node was asked, its own included."""
        self.record_seeds: set[bytes] = set()
        """Those of bucket records, if a test noted them."""

    def watch(self, request: type[Request]) -> None:
        async def count(usual: Serve, caller: Caller, asked: Request) -> Reply:
            self.served[request] += 1
            return await usual(caller, asked)

        for machine in self.cluster.running():
            self.twist(machine.name, request, count)

    def machine(self, name: str) -> Machine:
        return self.cluster.machines[name]

    def node(self, name: str) -> Node:
        node = self.machine(name).node
        assert node is not None, f"{name} does not run"
        return node

    def name_of(self, store: bytes) -> str:
        running = self.cluster.running()
        return next((m.name for m in running if m.node and m.node.store.superblock.store == store), "")

    async def at(self, name: str, work: Callable[[Node], Awaitable[T]]) -> T:
        """Run `work` as the node's own process."""
        machine, node = self.machine(name), self.node(name)
        assert machine.life is not None
        return await self.cluster.run_in(machine.life, lambda: work(node), timeout_s=TIMEOUT_S)

    async def call(self, name: str, work: Callable[[Coordinator], Awaitable[T]]) -> T:
        return await self.at(name, lambda node: work(node.coordinator))

    async def put(
        self, key: bytes, data: bytes, *, at: str = "n1", options: PutOptions | None = None
    ) -> PutResult:
        wanted = options or PutOptions(size=len(data))
        return await self.call(at, lambda c: c.put(BUCKET, key, wanted, chunked(data)))

    async def get(self, key: bytes, *, at: str = "n1", version: int = 0, range: Range = Range()) -> bytes:  # noqa: A002, B008
        async def work(coordinator: Coordinator) -> bytes:
            return await read_all(await coordinator.get(BUCKET, key, version=version, range=range))

        return await self.call(at, work)

    async def bucket(self, at: str = "n1") -> tuple[Bucket, int]:
        return await self.at(at, lambda node: node.buckets.resolve(BUCKET))

    async def head(self, key: bytes, *, at: str = "n1") -> Head:
        bucket, pool = await self.bucket(at)
        return await self.at(at, lambda node: node.registers.head(pool, bucket.id, key))

    async def homes(self, key: bytes, *, at: str = "n1") -> list[str]:
        """The names of the homes of a key, in shard order."""
        bucket, pool = await self.bucket(at)
        topology = self.node(at).cartographer.topology
        assert topology is not None
        partition = topology.key_partition(pool, bucket.id, key)
        return [topology.name(store) for store in topology.entry(pool, partition).homes]

    def sealed(self, seed: BlobId) -> dict[str, list[ShardName]]:
        """Node -> the shards of the seed that it holds sealed."""
        held = {m.name: list(m.node.store.shards_of(seed)) for m in self.cluster.machines.values() if m.node}
        return {name: names for name, names in held.items() if names}

    def kept_seeds(self) -> set[bytes]:
        """Seeds of which any running node keeps anything, sealed or not."""
        kept: set[bytes] = set()
        for machine in self.cluster.running():
            for key in machine.index.keys:
                row = index_rows.decode_shard(machine.index.rows[key]) if key[:1] == SHARD_ROWS else None
                if key[:1] == CELL_ROWS or (row is not None and (row.is_sealed or row.is_staged)):
                    kept.add(key[1:17])
        return kept

    def twist(self, name: str, request: type[Request], how: Twist) -> None:
        """Have one node answer one kind of request differently."""
        handlers = self.node(name).dispatcher._handlers
        usual = handlers[request]

        async def twisted(caller: Caller, asked: Request) -> Reply:
            return await how(usual, caller, asked)

        handlers[request] = twisted

    def stop_following(self) -> None:
        """From now on no node that runs catches up on anything by itself, until told to go on."""

        async def idle() -> Work:
            return Work.IDLE

        for machine in self.cluster.running():
            vars(self.node(machine.name).follower)["work_once"] = idle

    async def go_on_following(self) -> None:
        for machine in self.cluster.running():
            vars(self.node(machine.name).follower).pop("work_once", None)
        await pass_time(2 * follower.ROUND_S)

    def memory_taken(self) -> int:
        """Bytes that budgets of running nodes have granted and not got back."""
        return sum(m.node.path.coordinate.used_bytes for m in self.cluster.machines.values() if m.node)


async def until_healthy(small: SmallCluster, patience_s: float = 120.0) -> None:
    """Until status says so, asked of the first node that runs."""
    deadline = small.cluster.loop.time() + patience_s
    machine = small.cluster.running()[0]
    problems: tuple[str, ...] = ("nobody was asked",)
    while small.cluster.loop.time() < deadline:
        status = await small.cluster.admin(machine, lambda admin: admin.status())
        if status.healthy:
            return
        problems = status.problems
        await pass_time(1)
    raise AssertionError(f"not healthy after {patience_s} s: {problems}")


async def stop_last_home(small: SmallCluster, key: bytes) -> str:
    """Of a healthy cluster, so that the key's steward stays; returns once the others count it as down."""
    await until_healthy(small)
    away = (await small.homes(key))[-1]
    small.cluster.stop_at_once(small.machine(away))
    await pass_time(5)
    return away


def run_story(
    story: Callable[[SmallCluster], Awaitable[None]],
    *,
    topology: Topology = SIX,
    seed: int = 1,
    undo_seconds: int = -1,
) -> None:
    """Found a cluster with one bucket and run a story on it. Nobody's mistake may go unheard."""
    loop = SimLoop(seed)
    small: list[SmallCluster] = []

    async def main() -> None:
        small.append(SmallCluster(loop, topology, seed))
        await small[0].cluster.found()
        await small[0].cluster.create_bucket(BUCKET, undo_seconds=undo_seconds)
        await asyncio.wait_for(asyncio.ensure_future(story(small[0])), 3600)

    with small_geometry():
        loop.run(main())
    mistakes = loop.problems + small[0].cluster.network.problems + small[0].cluster.problems
    assert not mistakes, mistakes
