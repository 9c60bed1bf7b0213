"""Homes and proposers alone on simulated disks and wires: the register's services without shards around them.

Each node is a real store, acceptor, proposer and listing over the fakes of `tests.sim`; the map is handed to them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.core.cluster_map import ClusterMap, NodeEntry, PartitionEntry, Pool
from holdfast_node.core.errors import InternalError
from holdfast_node.core.head import Manifest
from holdfast_node.core.ids import ClusterId, Epoch, Era, Generation, NodeName, StoreId
from holdfast_node.core.messages import Reply, Request
from holdfast_node.core.topology import Topology
from holdfast_node.services.acceptor import Acceptor, Helpers
from holdfast_node.services.ballots import Ballots
from holdfast_node.services.dispatcher import Caller, Dispatcher
from holdfast_node.services.eras import Eras
from holdfast_node.services.listing import Listing
from holdfast_node.services.registers import Registers
from holdfast_node.services.store import Store, StoreSettings
from holdfast_node.services.tasks import Tasks
from tests.sim.disk import Platter, SimDisk
from tests.sim.entropy import SimEntropy, SimEvents
from tests.sim.index import IndexContent, SimIndex
from tests.sim.loop import Life, SimLoop
from tests.sim.network import Network, Residence, SimLinks

T = TypeVar("T")
SETTINGS = StoreSettings(volume_bytes=256 * 1024, batch_bytes_max=64 * 1024)


class NoDoors:
    """No buckets here: nothing is cached and nothing says that a bucket is open."""

    def __init__(self) -> None:
        self.opened = False

    def forget(self, bucket: bytes) -> None:
        pass

    async def is_open(self, bucket: bytes) -> bool:
        return self.opened


class HeldMap:
    """One node's map: what the bench gave it or what it fetched from another node."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.topology: Topology | None = None
        self.changes = 0

    @property
    def epoch(self) -> int:
        return self.topology.map.epoch if self.topology is not None else 0

    async def catch_up(self, epoch: int, source: StoreId) -> None:
        del epoch
        for member in self._bench.members.values():
            other = member.maps.topology
            if member.store_id == source and other is not None and other.map.epoch > self.epoch:
                self.topology = other

    async def change(self, change: Callable[[ClusterMap], ClusterMap | None], /) -> ClusterMap:
        self.changes += 1
        changed = change(self._bench.map)
        if changed is not None:
            self._bench.map = changed
            self.topology = Topology(changed)
        return self._bench.map


@dataclass
class Member:
    """One node: what outlives its process, and its process if it runs."""

    name: NodeName
    maps: HeldMap
    platter: Platter = field(default_factory=Platter)
    index: IndexContent = field(default_factory=IndexContent)
    store_id: StoreId = StoreId(b"")
    life: Life | None = None
    store: Store | None = None
    registers: Registers | None = None
    acceptor: Acceptor | None = None
    listing: Listing | None = None
    doors: NoDoors = field(default_factory=NoDoors)
    ballots: Ballots | None = None


class _Resident:
    def __init__(self, member: Member, dispatcher: Dispatcher) -> None:
        self._member = member
        self._dispatcher = dispatcher

    async def handle(self, caller: Caller, request: Request) -> Reply:
        return await self._dispatcher.handle(caller, request)

    def epoch(self) -> int:
        return self._member.maps.epoch

    def failure(self) -> str:
        return ""

    def saw(self, store: StoreId, epoch: int) -> None:
        pass

    async def caught_up(self, store: StoreId, epoch: int) -> None:
        if epoch > self._member.maps.epoch:
            await self._member.maps.catch_up(epoch, store)


class Bench:
    """`code` decides how many homes a key has; every node is a home of every partition."""

    def __init__(self, loop: SimLoop, *, seed: int, code: str = "rs:1+2", partitions: int = 2) -> None:
        self.loop = loop
        self.seed = seed
        self.random = random.Random(f"bench {seed}")
        self.bodies = ProtobufBodies()
        self.network = Network(loop, self.bodies, chooser=random.Random(f"network {seed}"))
        self.events = SimEvents()
        k, _, m = code.removeprefix("rs:").partition("+")
        names = [NodeName(f"n{at}") for at in range(int(k) + int(m))]
        self.members = {name: Member(name, HeldMap(self)) for name in names}
        self._code, self._partitions = code, partitions
        self.map = ClusterMap(ClusterId(b"c" * 16), Epoch(0), Era(1), 1, True, (), (), ())

    async def start(self) -> None:
        """Boot everybody and hand out the first map."""
        for member in self.members.values():
            await self.boot(member)
        stores = tuple(member.store_id for member in self.members.values())
        nodes = tuple(
            NodeEntry(m.name, f"{m.name}:1", m.store_id, (("host", m.name),)) for m in self.members.values()
        )
        entries = tuple(PartitionEntry(Generation(1), stores) for _ in range(self._partitions))
        pool = Pool("main", self._code, ("host",), "any-node", entries)
        self.map = replace(self.map, epoch=Epoch(1), nodes=nodes, pools=(pool,), voters=stores)
        self.hand_out()

    def hand_out(self, *names: str) -> None:
        """Give the bench's map to these nodes, by default to all."""
        topology = Topology(self.map)
        for member in self.members.values():
            if not names or member.name in names:
                member.maps.topology = topology

    async def boot(self, member: Member) -> None:
        life = member.life = Life(member.name)
        await self.inside(member, lambda: self._open(member, life))

    async def _open(self, member: Member, life: Life) -> None:
        chooser = random.Random(f"disk {member.name} {self.seed} {self.loop.time()}")
        entropy = SimEntropy(f"{member.name} {self.seed} {self.loop.time()}")
        store = await Store.open(
            disk=SimDisk(member.platter, chooser=chooser, delay_s=lambda: chooser.uniform(0, 0.001)),
            index=SimIndex(member.index),
            bodies=self.bodies,
            entropy=entropy,
            events=self.events,
            node=member.name,
            settings=SETTINGS,
            format_if_empty=not member.store_id,
        )
        block = store.superblock
        member.store, member.store_id = store, block.store
        dispatcher = Dispatcher()
        residence = Residence(
            f"{member.name}:1", block.store, member.name, life, _Resident(member, dispatcher)
        )
        self.network.attach(residence)
        links = SimLinks(self.network, residence)
        member.ballots = ballots = Ballots(block.store, block.boot)
        member.registers = Registers(
            links=links,
            maps=member.maps,
            codec=self.bodies,
            entropy=entropy,
            ballots=ballots,
            eras=Eras(maps=member.maps, tasks=Tasks(self.events), events=self.events),
        )
        member.acceptor = Acceptor(
            store=store,
            maps=member.maps,
            codec=self.bodies,
            ballots=ballots,
            helpers=Helpers(member.registers, member.doors, lambda: "", no_cells),
        )
        dispatcher.add(member.acceptor.handlers())
        member.listing = Listing(me=block.store, links=links, maps=member.maps, registers=member.registers)
        for other in self.members.values():
            if other.store_id:
                self._introduce()
                break

    def _introduce(self) -> None:
        known = {m.store_id: f"{m.name}:1" for m in self.members.values() if m.store_id}
        for member in self.members.values():
            residence = self.network.resident_at(f"{member.name}:1")
            if residence is not None and member.registers is not None:
                member.registers.__dict__["_links"].learn(known)

    def kill(self, member: Member, *, power: bool = True) -> None:
        """The process is gone; with `power` also what its disk had not synced."""
        assert member.life is not None
        member.life.kill()
        member.life = member.store = member.registers = member.acceptor = member.listing = None
        if power:
            member.platter.power_cut(self.random)
        else:
            member.platter.process_crash()
        member.index.crash(self.random)

    async def later(self, seconds: float) -> None:
        """Let so much of the world's own time pass; none of ours does."""
        future: asyncio.Future[None] = self.loop.create_future()
        timer = self.loop.call_later(seconds, future.set_result, None)
        try:
            await future
        finally:
            timer.cancel()

    async def inside(self, member: Member, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work` as that process. `ConnectionError` if it dies meanwhile."""
        life = member.life
        if life is None:
            raise ConnectionError
        future = self.loop.create_future()

        async def run() -> None:
            try:
                result = await work()
            except Exception as error:  # noqa: BLE001 - carried to the caller as it is
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        def lost() -> None:
            if not future.done():
                future.set_exception(ConnectionError())

        life.when_dead(lost)
        _ = self.loop.start(life, run())
        value: T = await future
        return value


async def no_cells(manifest: Manifest) -> tuple[int, bytes] | None:
    del manifest
    return None


def alive(bench: Bench) -> list[Member]:
    return [member for member in bench.members.values() if member.registers is not None]


def registers(member: Member) -> Registers:
    if member.registers is None:
        raise ConnectionError
    return member.registers


def acceptor(member: Member) -> Acceptor:
    if member.acceptor is None:
        raise InternalError("not running")
    return member.acceptor
