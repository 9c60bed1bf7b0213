"""A whole cluster in one thread: nodes made of their own services, on fakes that can be crashed, cut off and wiped.

It starts and stops processes and keeps what outlives them. It knows no workload and judges nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from holdfast_node.adapters.erasure import EclibCodec
from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.core.absence import NO_LIMIT, Patience
from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.ids import NodeName, StoreId
from holdfast_node.core.messages import Reply, Request
from holdfast_node.core.seed import Seed, SeedNode, SeedPool
from holdfast_node.ports import Links
from holdfast_node.services.admin import Admin
from holdfast_node.services.buckets import Buckets
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.events import Events
from holdfast_node.services.link.epochs import Epochs
from holdfast_node.services.node import LinkHooks, Node, NodePorts, NodeSettings
from holdfast_node.services.store import StoreSettings
from tests.sim.client import ConnectionLost, Coordinator
from tests.sim.coverage import Coverage
from tests.sim.disk import Platter, SimDisk
from tests.sim.entropy import SimClock, SimEntropy, SimEvents
from tests.sim.index import IndexContent, SimIndex
from tests.sim.loop import Life, SimLoop
from tests.sim.network import Network, Residence, SimLinks

T = TypeVar("T")

VOLUME_BYTES: Final = 256 * 1024
"""Small, so that worlds roll over to new volumes."""
DISK_BYTES: Final = 24 * 1024 * 1024
BATCH_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class Topology:
    """The nodes of a world and the pool they serve."""

    code: str
    sans: tuple[int, ...]
    """How many nodes each SAN has; the nodes of san 0 are n1, n2..."""
    partitions: int = 4
    scrub_cycle_s: float = 600.0
    patience: Patience = NO_LIMIT

    def nodes(self) -> list[tuple[str, str]]:
        """(name, san) of every node."""
        sans = [f"s{san}" for san, count in enumerate(self.sans) for _ in range(count)]
        return [(f"n{number}", san) for number, san in enumerate(sans, 1)]


@dataclass
class Machine:
    """What outlives a process: a name, an address and disks. `life` is its process, if it has one."""

    name: str
    address: str
    san: str
    platter: Platter = field(default_factory=lambda: Platter(capacity_bytes=DISK_BYTES))
    index: IndexContent = field(default_factory=IndexContent)
    life: Life | None = None
    node: Node | None = None
    disk: SimDisk | None = None
    index_full: bool = False
    boots: int = 0
    wiped: bool = False
    """Empty, or with a store the map does not know: it needs `replace --lost`."""
    stranger: bool = False
    """Nobody is known to have made it a member yet."""


class _Resident:
    """The node as the network sees it; it catches up with maps as the real link does."""

    def __init__(self, hooks: LinkHooks, events: Events) -> None:
        self._hooks = hooks
        self._epochs = Epochs(
            mine=hooks.epoch,
            on_epoch=lambda store, epoch: hooks.catch_up(epoch, store),
            tasks=hooks.tasks,
            events=events,
        )

    async def handle(self, caller: Caller, request: Request) -> Reply:
        return await self._hooks.handle(caller, request)

    def epoch(self) -> int:
        return self._hooks.epoch()

    def failure(self) -> str:
        return self._hooks.failure()

    def saw(self, store: StoreId, epoch: int) -> None:
        self._epochs.saw(store, epoch)

    async def caught_up(self, store: StoreId, epoch: int) -> None:
        await self._epochs.caught_up(store, epoch)


class Cluster:
    """Machines, their network, and the means to hurt them. Implements `client.Door`."""

    def __init__(self, loop: SimLoop, topology: Topology, *, seed: int, note: Callable[[str], None]) -> None:
        self.loop = loop
        self.topology = topology
        self.seed = seed
        self.note = note
        self.chooser = random.Random(f"cluster {seed}")
        self.bodies = ProtobufBodies()
        self.codec = EclibCodec()
        self.coverage = Coverage()
        self.network = Network(
            loop, self.bodies, chooser=random.Random(f"network {seed}"), note=note, coverage=self.coverage
        )
        self.machines = {name: Machine(name, f"{name}:1", san) for name, san in topology.nodes()}
        self.made = len(self.machines)
        self.disk_delay_s = (0.0, 0.002)
        self.slow_disks: dict[str, float] = {}
        self.clock = SimClock(loop.time)
        self.problems: list[str] = []
        self.events: list[tuple[str, SimEvents]] = []

    # --- processes

    async def boot(self, machine: Machine, *, format_if_empty: bool = False) -> None:
        """Start the node's process. Its start-up may fail or be killed; then there is no process."""
        assert machine.life is None, f"{machine.name} runs already"
        machine.boots += 1
        life = machine.life = Life(f"{machine.name}#{machine.boots}")
        self.note(f"BOOT {machine.name}")
        try:
            node = await self.run_in(life, lambda: self._open(machine, life, format_if_empty), timeout_s=60.0)
            life.context.copy().run(node.start)
        except ConnectionLost:
            if not life.dead:
                self.problems.append(f"{machine.name} did not start within 60 s")
        except HoldfastError as error:
            self.note(f"{machine.name} refused to start: {error}")
            self.problems.append(f"{machine.name} refused to start: {error!r}")
            self.stop_at_once(machine)
        else:
            machine.node = node

    async def _open(self, machine: Machine, life: Life, format_if_empty: bool) -> Node:
        random_here = random.Random(f"disk {machine.name} {machine.boots} {self.seed}")
        machine.disk = SimDisk(
            machine.platter,
            chooser=random_here,
            delay_s=lambda: self._disk_delay_s(machine.name, random_here),
        )
        events = SimEvents(machine.name, self.note, self.coverage)
        self.events.append((machine.name, events))
        ports = NodePorts(
            disk=machine.disk,
            index=SimIndex(machine.index, is_full=lambda: machine.index_full),
            codec=self.codec,
            bodies=ProtobufBodies(),
            entropy=SimEntropy(f"{machine.name} {machine.boots} {self.seed}"),
            clock=self.clock,
            events=events,
        )
        settings = NodeSettings(
            name=NodeName(machine.name),
            seeds=tuple(other.address for other in self.machines.values()),
            format_if_empty=format_if_empty,
            store=StoreSettings(
                volume_bytes=VOLUME_BYTES, batch_bytes_max=BATCH_BYTES, capacity_bytes=DISK_BYTES
            ),
            coordinate_bytes=8 << 20,
            keep_bytes=8 << 20,
            repair_bytes=4 << 20,
            scrub_cycle_s=self.topology.scrub_cycle_s,
            patience=self.topology.patience,
            version="sim",
        )
        return await Node.open(settings, ports, lambda hooks: self._links(machine, life, hooks, events))

    def _links(self, machine: Machine, life: Life, hooks: LinkHooks, events: Events) -> Links:
        block = hooks.superblock()
        residence = Residence(
            machine.address, block.store, NodeName(machine.name), life, _Resident(hooks, events)
        )
        self.network.attach(residence)
        return SimLinks(self.network, residence)

    def _disk_delay_s(self, name: str, chooser: random.Random) -> float:
        return chooser.uniform(*self.disk_delay_s) * self.slow_disks.get(name, 1.0)

    async def stop(self, machine: Machine) -> None:
        """An orderly stop, as on SIGTERM; killed if it takes too long."""
        life, node = machine.life, machine.node
        if life is None or node is None:
            return
        self.note(f"STOP {machine.name}")
        machine.node = None
        self.network.detach(machine.address)
        try:
            await self.run_in(life, node.stop, timeout_s=30.0)
        except ConnectionLost:
            self.problems.append(f"{machine.name} did not stop within 30 s")
        if machine.life is life:
            self.stop_at_once(machine)

    def stop_at_once(self, machine: Machine, *, power: bool = False) -> None:
        """SIGKILL, or with `power` also the loss of what was not synced."""
        if machine.life is None:
            return
        self.note(f"{'POWER CUT' if power else 'KILL'} {machine.name}")
        machine.life.kill()
        machine.life = machine.node = machine.disk = None
        torn = machine.platter.torn
        if not power:
            machine.platter.process_crash()
        elif machine.platter.power_cut(self.chooser):
            self.coverage.saw("a power cut took what was not synced")
        if machine.platter.torn > torn:
            self.coverage.saw("a power cut tore a sector")
        if machine.index.crash(self.chooser):
            self.coverage.saw("an index fell back")

    def add_machine(self, san: str) -> Machine:
        """One more, with nothing on it yet."""
        self.made += 1
        name = f"n{self.made}"
        machine = self.machines[name] = Machine(name, f"{name}:1", san, stranger=True)
        return machine

    def retire(self, machine: Machine) -> None:
        """It is switched off and taken away for good."""
        self.stop_at_once(machine)
        self.note(f"RETIRE {machine.name}")
        del self.machines[machine.name]

    def wipe(self, machine: Machine) -> None:
        """Kill it and lose its disk."""
        self.stop_at_once(machine)
        self.note(f"WIPE {machine.name}")
        machine.platter.wipe()
        machine.index = IndexContent()
        machine.wiped = True

    def pause(self, machine: Machine) -> None:
        if machine.life is not None:
            self.note(f"PAUSE {machine.name}")
            self.loop.pause(machine.life)

    def resume(self, machine: Machine) -> None:
        if machine.life is not None and machine.life.paused:
            self.note(f"RESUME {machine.name}")
            self.loop.resume(machine.life)

    # --- the door for callers

    def running(self) -> list[Machine]:
        """Members whose process is up."""
        return [m for m in self.machines.values() if m.node is not None and not m.stranger]

    def choices(self) -> list[str]:
        return [machine.name for machine in self.running()]

    async def run(self, node: str, work: Callable[[Coordinator], Awaitable[T]], timeout_s: float) -> T:
        machine = self.machines[node]
        if machine.life is None or machine.node is None:
            raise ConnectionLost
        coordinator = machine.node.coordinator
        try:
            return await self.run_in(machine.life, lambda: work(coordinator), timeout_s=timeout_s)
        except (HoldfastError, ConnectionLost):
            raise
        except Exception as error:  # a coordinator's mistake is a finding, and its caller hears no more
            self.problems.append(f"{node} as coordinator: {error!r}")
            raise ConnectionLost(node) from error

    async def admin(
        self, machine: Machine, work: Callable[[Admin], Awaitable[T]], timeout_s: float = 60.0
    ) -> T:
        if machine.life is None or machine.node is None:
            raise ConnectionLost
        admin = machine.node.admin
        return await self.run_in(machine.life, lambda: work(admin), timeout_s=timeout_s)

    async def run_in(self, life: Life, work: Callable[[], Awaitable[T]], *, timeout_s: float) -> T:
        """Run `work` as that process would, and hear of it from outside: its result, its error, or nothing more."""
        future: asyncio.Future[T] = self.loop.create_future()

        async def inside() -> None:
            try:
                result = await work()
            except Exception as error:  # noqa: BLE001 - carried to the caller as it is
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        def cut_off() -> None:
            if not future.done():
                if life.dead:
                    self.coverage.saw("a node died while a caller waited for it")
                future.set_exception(ConnectionLost(life.name))

        life.when_dead(cut_off)
        task = self.loop.start(life, inside())
        timer = self.loop.call_later(timeout_s, cut_off)
        try:
            return await future
        finally:
            timer.cancel()
            if not task.done() and not life.dead and self.chooser.random() < 0.5:
                life.context.copy().run(task.cancel)

    # --- birth

    async def found(self, pool: str = "main") -> None:
        """Boot every machine on empty disks and make them a cluster."""
        async with asyncio.TaskGroup() as group:
            _ = [group.create_task(self.boot(m, format_if_empty=True)) for m in self.machines.values()]
        nodes = tuple(
            SeedNode(m.name, m.address, (("host", m.name), ("san", m.san))) for m in self.machines.values()
        )
        seed = Seed(
            nodes,
            (SeedPool(pool, self.topology.code, self.topology.partitions, ("host", "san")),),
            simulated_domains=True,
        )
        first = next(iter(self.machines.values()))
        await self.admin(first, lambda admin: admin.init(seed))

    async def create_bucket(self, name: str, *, undo_seconds: int = -1) -> None:
        await self._with_buckets(lambda buckets: buckets.create(name, pool="main", undo_seconds=undo_seconds))

    async def delete_bucket(self, name: str, *, timeout_s: float = 30.0) -> None:
        await self._with_buckets(lambda buckets: buckets.delete(name), timeout_s)

    async def _with_buckets(self, work: Callable[[Buckets], Awaitable[T]], timeout_s: float = 30.0) -> T:
        running = self.running()
        machine = self.chooser.choice(running) if running else None
        if machine is None or machine.life is None or machine.node is None:
            raise ConnectionLost
        buckets = machine.node.buckets
        return await self.run_in(machine.life, lambda: work(buckets), timeout_s=timeout_s)
