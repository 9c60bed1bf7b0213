"""A blank or doubtful store learns its partitions' registers before it votes, whatever happens meanwhile."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest
from xxhash import xxh3_128_digest

from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.head import Ballot, Head, HeadKind, Manifest
from holdfast_node.core.ids import BlobId, BucketId, Digest, Era, RequestId
from holdfast_node.core.messages import RegisterCopy
from holdfast_node.core.operation import Operation, OperationKind
from holdfast_node.core.records import BucketRecord
from holdfast_node.services.acceptor import Acceptor, Helpers
from holdfast_node.services.ballots import Ballots
from holdfast_node.services.eras import Eras
from holdfast_node.services.learner import Learner
from holdfast_node.services.registers import Outcome, Registers
from holdfast_node.services.store import Entry
from tests.sim.loop import SimLoop
from tests.support.atlas import Atlas, Process, pass_time, until
from tests.support.maps import seed

BUCKET = BucketId(b"bucket-of-tests!")


class OpenDoors:
    """Buckets that are always open."""

    def forget(self, bucket: BucketId) -> None:
        pass

    async def is_open(self, bucket: BucketId) -> bool:
        return True


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
            helpers=Helpers(registers, OpenDoors(), lambda: "", _inline_nothing),
        )
        learner = Learner(cartographer=maps, pupil=acceptor, settler=registers)
        process.dispatcher.add(acceptor.handlers())
        _ = process.tasks.spawn(learner.run(), "learner")
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
        await self.atlas.run(asked, lambda c: c.replace_lost(selector))

    async def all_vote(self) -> None:
        await until(lambda: self.learning() == 0)


async def _inline_nothing(_: Manifest) -> tuple[int, bytes] | None:
    return None


def _put(number: int, base: Ballot) -> Operation:
    blob = BlobId(number.to_bytes(16, "big"))
    manifest = Manifest(blob, blob, 0, "copy:6", 1, 1, Digest(bytes(16)), ())
    return Operation(OperationKind.PUT, RequestId(b"r" + number.to_bytes(15, "big")), Era(1), manifest, base)


Story = Callable[[School], Awaitable[None]]


def play(story: Story, number: int = 0) -> None:
    loop = SimLoop(number)
    atlas = Atlas(loop, seed(), number=number)
    school = School(atlas)

    async def whole() -> None:
        await school.start()
        await atlas.run("n1", lambda c: c.init(seed()))
        await story(school)

    loop.run(whole())
    assert not atlas.network.problems
    assert not loop.problems


def test_replaced_stores_learn_everything_and_then_decide_with_a_bare_majority() -> None:
    async def story(school: School) -> None:
        for number in range(90):
            await school.put("n5", b"key %03d" % number)
        await school.replace("n4", "san=s0", "n1", "n2")
        assert school.learning() == 8
        await school.all_vote()
        school.atlas.kill("n3", "n4")
        await school.check("n1")
        for number in range(0, 90, 10):
            await school.put("n2", b"key %03d" % number)
        await school.check("n6")
        assert school.pupils["n1"].learner.status().done == 4

    play(story)


@pytest.mark.parametrize("number", range(4))
def test_what_is_acked_while_stores_learn_survives_the_loss_of_others(number: int) -> None:
    async def story(school: School) -> None:
        school.atlas.network.weather.loss = 0.03 if number % 2 else 0.0
        school.atlas.network.weather.duplicates = 0.05 if number % 3 else 0.0
        names = ["n3", "n4", "n5", "n6"]
        await school.write_for(0.5, names, 40)
        school.atlas.begin("n5", lambda _: school.write_for(1.0, names, 40))
        school.atlas.begin("n6", lambda _: school.write_for(1.0, names, 40))
        await pass_time(0.1)
        await school.replace("n4", "san=s0", "n1", "n2")
        await school.all_vote()
        await pass_time(1.0)
        school.atlas.network.weather.loss = 0.0
        assert len(school.acked) > 20
        school.atlas.kill("n3", "n4")
        await school.check("n1")
        await school.check("n6")

    play(story, number)


@pytest.mark.parametrize("number", range(4))
def test_a_learner_that_crashes_starts_over(number: int) -> None:
    async def story(school: School) -> None:
        for key in range(100):
            await school.put("n5", b"key %03d" % key)
        await school.replace("n4", "n1", "n1")
        for _ in range(4):
            await pass_time(0.004 * (number + 1))
            school.atlas.kill("n1", power=True)
            await school.start("n1")
        await school.all_vote()
        school.atlas.kill("n2", "n3")
        await school.check("n1")

    play(story, number)


@pytest.mark.parametrize("number", range(4))
def test_a_second_loss_meanwhile_starts_over_in_another_generation(number: int) -> None:
    async def story(school: School) -> None:
        for key in range(70):
            await school.put("n5", b"key %03d" % key)
        await school.replace("n4", "n1", "n1")
        await pass_time(0.005 * number)
        await school.replace("n4", "n3", "n3")
        await school.all_vote()
        school.atlas.kill("n4", "n5")
        await school.check("n3")
        generations = [
            entry.generation for entry in school.atlas["n3"].cartographer.require().pool(0).partitions
        ]
        assert min(generations) >= 4

    play(story, number)


def test_floors_closed_buckets_and_era_are_learned_by_their_maximum() -> None:
    closed = BucketId(b"a closed bucket!")

    async def story(school: School) -> None:
        atlas = school.atlas
        floor = Ballot(1, 77, atlas["n3"].store, 1, 1)
        record = atlas["n3"].process.store.partition(0, 2)
        await atlas["n3"].process.store.append([Entry(replace(record, version_floor=41, ballot_floor=floor))])
        record = atlas["n4"].process.store.partition(0, 2)
        await atlas["n4"].process.store.append([Entry(replace(record, version_floor=55))])
        for name in ("n3", "n4", "n5", "n6"):
            await atlas[name].process.store.append([Entry(BucketRecord(closed, closing=True))])
        atlas.kill("n5")
        await school.replace("n4", "n1", "n1")
        await school.all_vote()
        learned = atlas["n1"].process.store.partition(0, 2)
        assert learned.learned_generation == 2
        assert learned.version_floor == 55
        assert learned.ballot_floor == floor
        assert atlas["n1"].process.store.bucket_closing(closed)

    play(story)


def test_a_store_whose_partition_rotted_learns_it_again_and_votes_again() -> None:
    async def story(school: School) -> None:
        for key in range(60):
            await school.put("n5", b"key %03d" % key)
        store = school.atlas["n2"].process.store
        record = store.partition(0, 1)
        await store.append([Entry(replace(record, not_voting="the record rotted"))])
        await until(lambda: school.learning() > 0)
        await school.all_vote()
        assert not store.partition(0, 1).not_voting
        entry = school.atlas["n2"].cartographer.require().entry(0, 1)
        assert (entry.generation, entry.learners) == (3, ())
        school.atlas.kill("n3", "n4")
        await school.check("n2")

    play(story)


def test_a_learner_waits_for_enough_voting_homes_and_says_so() -> None:
    async def story(school: School) -> None:
        await school.put("n5", b"key 000")
        school.atlas.wipe("n1", "n2")
        await school.start("n1", "n2")
        await school.atlas.run("n4", lambda c: c.replace_lost("san=s0"))
        school.atlas.kill("n5", "n6")
        await pass_time(8)
        assert school.learning() == 8
        status = school.pupils["n1"].learner.status()
        assert status.state == "throttled"
        assert "voting homes" in status.detail
        assert (status.done, status.total) == (0, 4)
        await school.start("n5", "n6")
        await school.all_vote()

    play(story)


def test_manifests_of_retained_versions_are_learned_too() -> None:
    async def story(school: School) -> None:
        first = await school.put("n5", b"key")
        await school.put("n5", b"key")
        blob = first.head.manifest
        assert blob is not None
        await school.replace("n4", "n1", "n1")
        await school.all_vote()
        known = await school.atlas["n1"].process.store.manifest(BUCKET, b"key", blob.blob_id)
        assert known == blob

    play(story)


async def accept_at_one_home(school: School, name: str) -> bytes:
    """A later head of the key that nobody else has; returns it encoded."""
    bodies = ProtobufBodies()
    decided = await school.atlas[name].process.store.register(BUCKET, b"key")
    assert decided is not None
    assert decided.accepted is not None
    later = replace(decided.accepted, counter=decided.accepted.counter + 100)
    head = replace(bodies.decode(Head, decided.head), created_ms=77)
    encoded = bodies.encode(head)
    copy = RegisterCopy(
        BUCKET, b"key", 0, decided.partition, later, encoded, Digest(xxh3_128_digest(encoded)), ()
    )
    assert await school.pupils[name].acceptor.learn(copy)
    return encoded


def test_what_was_half_accepted_is_decided_before_a_learner_votes() -> None:
    async def story(school: School) -> None:
        await school.put("n5", b"key")
        encoded = await accept_at_one_home(school, "n3")
        await school.replace("n4", "n1", "n1")
        await school.all_vote()
        holding = [
            record is not None and record.head == encoded
            for member in school.atlas.running()
            for record in [await member.process.store.register(BUCKET, b"key")]
        ]
        assert sum(holding) >= 4

    play(story)


def test_a_closed_bucket_keeps_no_learner_from_voting() -> None:
    """Homes accept nothing behind a closed door, so what was half-accepted there cannot be decided any more."""

    async def story(school: School) -> None:
        await school.put("n5", b"key")
        encoded = await accept_at_one_home(school, "n3")
        for member in school.atlas.running():
            await member.process.store.append([Entry(BucketRecord(BUCKET, closing=True))])
        await school.replace("n4", "n1", "n1")
        await school.all_vote()
        record = await school.atlas["n1"].process.store.register(BUCKET, b"key")
        assert record is not None
        assert record.head == encoded, "the highest pair there is"

    play(story)
