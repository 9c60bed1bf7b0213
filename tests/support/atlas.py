"""A few simulated nodes that know maps and nothing else: store, links, cartographer and introductions.

Enough to hold how maps are decided, told and lost to account, without keys and blobs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.ids import NodeName, StoreId
from holdfast_node.core.messages import Introduce, IntroduceReply, Reply, Request
from holdfast_node.core.seed import Seed
from holdfast_node.services.cartographer import Cartographer
from holdfast_node.services.dispatcher import Caller, Dispatcher, handler
from holdfast_node.services.link.epochs import Epochs
from holdfast_node.services.store import Store, StoreSettings
from holdfast_node.services.tasks import Tasks
from tests.sim.disk import Platter, SimDisk
from tests.sim.entropy import SimEntropy, SimEvents
from tests.sim.index import IndexContent, SimIndex
from tests.sim.loop import Life, SimLoop
from tests.sim.network import Network, Residence, SimLinks
from tests.support.maps import seed

T = TypeVar("T")
SETTINGS = StoreSettings(volume_bytes=256 * 1024, batch_bytes_max=64 * 1024, capacity_bytes=16 * 1024 * 1024)


@dataclass
class Member:
    """One node: what outlives its process, and its process."""

    name: str
    address: str
    platter: Platter = field(default_factory=Platter)
    index: IndexContent = field(default_factory=IndexContent)
    boots: int = 0
    life: Life | None = None
    _process: Process | None = None

    @property
    def process(self) -> Process:
        assert self._process is not None, f"{self.name} is not running"
        return self._process

    @property
    def cartographer(self) -> Cartographer:
        return self.process.cartographer

    @property
    def store(self) -> StoreId:
        return self.process.store.superblock.store

    def runs(self, process: Process) -> None:
        self._process = process


@dataclass
class Process:
    store: Store
    cartographer: Cartographer
    events: SimEvents
    dispatcher: Dispatcher
    tasks: Tasks


class Atlas:
    """The members and their network."""

    def __init__(self, loop: SimLoop, seed: Seed, *, number: int = 0) -> None:
        self.loop = loop
        self.number = number
        self.chooser = random.Random(f"atlas {number}")
        self.network = Network(loop, ProtobufBodies(), chooser=random.Random(f"network {number}"))
        self._begun: list[asyncio.Task[None]] = []
        self.members = {node.name: Member(node.name, node.address) for node in seed.nodes}

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    async def start(self, *names: str, prepare: Callable[[Process], None] | None = None) -> None:
        for name in names or self.members:
            await self._boot(self.members[name], prepare)

    async def _boot(self, member: Member, prepare: Callable[[Process], None] | None) -> None:
        member.boots += 1
        life = member.life = Life(f"{member.name}#{member.boots}")
        process = await self.loop.start(life, self._open(member, life, prepare))
        member.runs(process)

    async def _open(self, member: Member, life: Life, prepare: Callable[[Process], None] | None) -> Process:
        events = SimEvents(member.name)
        entropy = SimEntropy(f"{member.name} {member.boots} {self.number}")
        chooser = random.Random(f"disk {member.name} {member.boots} {self.number}")
        disk = SimDisk(member.platter, chooser=chooser, delay_s=lambda: chooser.uniform(0, 0.001))
        store = await Store.open(
            disk=disk,
            index=SimIndex(member.index),
            bodies=ProtobufBodies(),
            entropy=entropy,
            events=events,
            node=NodeName(member.name),
            settings=SETTINGS,
            format_if_empty=True,
        )
        dispatcher = Dispatcher()
        tasks = Tasks(events)
        resident = _Door(dispatcher, tasks, events)
        block = store.superblock
        residence = Residence(member.address, block.store, NodeName(member.name), life, resident)
        self.network.attach(residence)
        cartographer = Cartographer(
            store=store,
            links=SimLinks(self.network, residence),
            bodies=ProtobufBodies(),
            entropy=entropy,
            events=events,
            tasks=tasks,
        )
        process = Process(store, cartographer, events, dispatcher, tasks)
        resident.process = process
        dispatcher.add(cartographer.handlers())
        dispatcher.add(dict([handler(Introduce, _introducer(process))]))
        if prepare is not None:
            prepare(process)
        return process

    def kill(self, *names: str, power: bool = False) -> None:
        for name in names:
            member = self.members[name]
            if member.life is None:
                continue
            member.life.kill()
            member.life = None
            if power:
                member.platter.power_cut(self.chooser)
            else:
                member.platter.process_crash()
            member.index.crash(self.chooser)

    def wipe(self, *names: str) -> None:
        self.kill(*names)
        for name in names:
            self.members[name].platter.wipe()
            self.members[name].index = IndexContent()

    def cut_off(self, name: str) -> None:
        """Nobody hears it and it hears nobody."""
        for other in self.members.values():
            if other.name != name:
                self.network.block(self.members[name].address, other.address)
                self.network.block(other.address, self.members[name].address)

    async def run(self, name: str, work: Callable[[Cartographer], Awaitable[T]]) -> T:
        """Do something as a task of this node's process."""
        member = self.members[name]
        assert member.life is not None, f"{name} is not running"

        async def inside() -> T:
            return await work(member.cartographer)

        return await self.loop.start(member.life, inside())

    def begin(self, name: str, work: Callable[[Cartographer], Awaitable[object]]) -> None:
        """The same, without waiting for it and whatever becomes of it."""
        member = self.members[name]
        assert member.life is not None, f"{name} is not running"

        async def inside() -> None:
            try:
                await work(member.cartographer)
            except HoldfastError:
                return

        self._begun.append(self.loop.start(member.life, inside()))

    def running(self) -> Iterable[Member]:
        return [member for member in self.members.values() if member.life is not None]


class _Door:
    """What the network sees before and after the services behind it exist."""

    def __init__(self, dispatcher: Dispatcher, tasks: Tasks, events: SimEvents) -> None:
        self._dispatcher = dispatcher
        self.process: Process | None = None
        self._epochs = Epochs(mine=self.epoch, on_epoch=self._catch_up, tasks=tasks, events=events)

    async def handle(self, caller: Caller, request: Request) -> Reply:
        return await self._dispatcher.handle(caller, request)

    def failure(self) -> str:
        return ""

    def epoch(self) -> int:
        return self.process.cartographer.epoch if self.process is not None else 0

    def saw(self, store: StoreId, epoch: int) -> None:
        self._epochs.saw(store, epoch)

    async def caught_up(self, store: StoreId, epoch: int) -> None:
        await self._epochs.caught_up(store, epoch)

    async def _catch_up(self, store: StoreId, epoch: int) -> None:
        if self.process is not None:
            await self.process.cartographer.catch_up(epoch, store)


def _introducer(process: Process) -> Callable[[Caller, Introduce], Awaitable[Reply]]:
    async def serve(_: Caller, __: Introduce) -> Reply:
        block = process.store.superblock
        return IntroduceReply(
            node=NodeName(block.node),
            store=block.store,
            cluster_id=block.cluster_id,
            boot=block.boot,
            boot_id=block.boot_id,
            epoch=process.cartographer.epoch,
            seen_boot=0,
            seen_boot_id=block.boot_id,
            seen_sequence=0,
        )

    return serve


Story = Callable[[Atlas], Awaitable[None]]


def play(story: Story, *, number: int = 0, plan: Seed | None = None) -> Atlas:
    loop = SimLoop(number)
    atlas = Atlas(loop, plan or seed(), number=number)
    loop.run(_whole(atlas, story))
    assert not atlas.network.problems
    assert not loop.problems
    return atlas


async def _whole(atlas: Atlas, story: Story) -> None:
    async with asyncio.timeout(600):
        await story(atlas)


async def founded(atlas: Atlas) -> None:
    await atlas.start()
    await atlas.run("n1", lambda c: c.init(seed()))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await pass_time(0.01)


async def pass_time(seconds: float) -> None:
    """Virtual time: nobody waits."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    loop.call_later(seconds, future.set_result, None)
    await future


def epochs(atlas: Atlas) -> set[int]:
    return {member.cartographer.epoch for member in atlas.running()}
