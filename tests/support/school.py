"""An atlas whose nodes also keep registers and learn them: enough to see how homes catch up, without blobs."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.core.cluster_map import NodeEntry
from holdfast_node.core.errors import HoldfastError, Refused
from holdfast_node.core.head import Ballot, Head, HeadKind, Manifest
from holdfast_node.core.ids import BlobId, BucketId, Digest, Era, RequestId
from holdfast_node.core.map_moves import add_node, drain, plan_open
from holdfast_node.core.operation import Operation, OperationKind
from holdfast_node.services.acceptor import Acceptor, Helpers
from holdfast_node.services.ballots import Ballots
from holdfast_node.services.closed_doors import ClosedDoors
from holdfast_node.services.eras import Eras
from holdfast_node.services.learner import Learner
from holdfast_node.services.registers import Outcome, Registers
from holdfast_node.services.restoring import RegisterRestorer
from tests.sim.loop import SimLoop
from tests.support.atlas import Atlas, Process, pass_time, until
from tests.support.maps import node, seed

BUCKET = BucketId(b"bucket-of-tests!")


class OpenDoors:
    """Buckets that are always open, or were closed by somebody who does not come back."""

    def __init__(self) -> None:
        self.reopened: set[BucketId] = set()

    def forget(self, bucket: BucketId) -> None:
        pass

    async def is_open(self, bucket: BucketId) -> bool:
        return True

    async def is_gone(self, bucket: BucketId) -> bool:
        return False

    async def reopen(self, bucket: BucketId) -> None:
        self.reopened.add(bucket)


async def _restore(process: Process, broken: RegisterRestorer) -> None:
    """What the scrub worker does for registers: whatever could not be read is brought back."""
    while True:
        await pass_time(0.5)
        topology = process.cartographer.topology
        forgotten = process.store.forgotten_keys()
        for key in process.store.rotten_keys():
            if topology is not None and key not in forgotten:
                with contextlib.suppress(HoldfastError):
                    await broken.restore(topology, key)


@dataclass
class Pupil:
    """The services around one store's registers."""

    registers: Registers
    acceptor: Acceptor
    learner: Learner


class School:
    """An atlas whose nodes also keep registers and learn them."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas
        self.pupils: dict[str, Pupil] = {}
        self.chooser = random.Random(f"school {atlas.number}")
        self.acked: dict[bytes, int] = {}
        self.tried = 0
        self.failed = 0
        self.doors = OpenDoors()
        self.by_hand: set[str] = set()
        """Nodes whose learner works only when it is told to."""

    async def start(self, *names: str) -> None:
        await self.atlas.start(*names, prepare=self._enrol)

    def _enrol(self, process: Process) -> None:
        block, maps = process.store.superblock, process.cartographer
        ballots = Ballots(block.store, block.boot)
        bodies = ProtobufBodies()
        registers = Registers(
            links=maps.ports.links,
            maps=maps,
            codec=bodies,
            entropy=maps.ports.entropy,
            ballots=ballots,
            eras=Eras(maps=maps, tasks=process.tasks, events=process.events),
        )
        acceptor = Acceptor(
            store=process.store,
            maps=maps,
            codec=bodies,
            ballots=ballots,
            helpers=Helpers(registers, self.doors, lambda: "", _inline_nothing),
        )
        learner = Learner(cartographer=maps, pupil=acceptor, settler=registers, doors=self.doors)
        broken = RegisterRestorer(
            me=block.store,
            store=process.store,
            own=acceptor,
            registers=registers,
            closed=ClosedDoors(self.doors),
        )
        process.dispatcher.add(acceptor.handlers())
        if block.node not in self.by_hand:
            _ = process.tasks.spawn(learner.run(), "learner")
            _ = process.tasks.spawn(_restore(process, broken), "restorer")
        self.pupils[block.node] = Pupil(registers, acceptor, learner)

    async def put(self, name: str, key: bytes) -> Outcome:
        """One write; its version is remembered once it is acked."""
        number = self.tried = self.tried + 1

        async def write(_: object) -> Outcome:
            registers = self.pupils[name].registers
            attempt = registers.attempt(0, BUCKET, key, 1)
            return await registers.commit(attempt, _put(number, attempt.base))

        outcome = await self.atlas.run(name, write)
        self.acked[key] = max(self.acked.get(key, 0), outcome.version)
        return outcome

    async def get(self, name: str, key: bytes) -> Head:
        async def read(_: object) -> Head:
            return (await self.pupils[name].registers.read(0, BUCKET, key)).head

        return await self.atlas.run(name, read)

    async def write_for(self, seconds: float, names: list[str], keys: int) -> None:
        """A writer that goes on whatever it meets."""
        end = self.atlas.loop.time() + seconds
        while self.atlas.loop.time() < end:
            try:
                await self.put(self.chooser.choice(names), b"key %03d" % self.chooser.randrange(keys))
            except HoldfastError:
                self.failed += 1
            await pass_time(0.002)

    async def check(self, name: str) -> None:
        """Everything acked is read back at least as new."""
        for key, version in sorted(self.acked.items()):
            head = await self.get(name, key)
            assert head.version >= version, key
            assert head.kind is HeadKind.BLOB

    def learning(self) -> int:
        topology = max(
            (member.cartographer.require() for member in self.atlas.running() if member.cartographer.epoch),
            key=lambda one: one.map.epoch,
        )
        return sum(len(topology.learned_by(store)) for store in topology.stores)

    async def replace(self, asked: str, selector: str, *names: str) -> None:
        self.atlas.wipe(*names)
        await self.start(*names)
        for _ in range(4):
            try:
                await self.atlas.run(asked, lambda c: c.replace_lost(selector))
            except Refused:  # it asks every new store once who it is, and the network loses messages
                await pass_time(0.1)
            else:
                return
        raise AssertionError(f"{selector} was refused four times")

    async def all_vote(self) -> None:
        await until(lambda: self.learning() == 0)

    def entry(self, number: int) -> NodeEntry:
        """A node as a map would describe it: the store that lives there now."""
        described = node(number, {"host": f"h{number}", "san": f"extra{number}"})
        return replace(described, store=self.atlas[f"n{number}"].store)

    async def add(self, number: int) -> None:
        entry = self.entry(number)
        await self.atlas.run("n1", lambda c: c.change(lambda current: add_node(current, entry)))

    async def drain(self, number: int) -> None:
        names = {self.entry(number).name}
        await self.atlas.run("n1", lambda c: c.change(lambda current: drain(current, names)))

    def moving(self) -> bool:
        newest = max((member.cartographer for member in self.atlas.running()), key=lambda one: one.epoch)
        return plan_open(newest.require().map)

    async def settled(self) -> None:
        """No move is open, and everybody has heard of it: here nobody talks for no reason."""
        await until(lambda: not self.moving())
        newest = max(self.atlas.running(), key=lambda member: member.cartographer.epoch)
        epoch, source = newest.cartographer.epoch, newest.store
        for member in self.atlas.running():
            while 0 < member.cartographer.epoch < epoch:
                await self.atlas.run(member.name, lambda c: c.catch_up(epoch, source))
                await pass_time(0.1)


async def _inline_nothing(_: Manifest) -> tuple[int, bytes] | None:
    return None


def _put(number: int, base: Ballot) -> Operation:
    blob = BlobId(number.to_bytes(16, "big"))
    manifest = Manifest(blob, blob, 0, "copy:6", 1, 1, Digest(bytes(16)), ())
    return Operation(OperationKind.PUT, RequestId(b"r" + number.to_bytes(15, "big")), Era(1), manifest, base)


Story = Callable[[School], Awaitable[None]]


def play(story: Story, number: int = 0, *, spare: int = 0) -> None:
    """Six nodes become a cluster; `spare` more are there and belong to nobody."""
    loop = SimLoop(number)
    atlas = Atlas(loop, seed(6 + spare, 3 if not spare else 0), number=number)
    school = School(atlas)

    async def whole() -> None:
        await school.start()
        await atlas.run("n1", lambda c: c.init(seed()))
        await story(school)

    loop.run(whole())
    assert not atlas.network.problems
    assert not loop.problems
