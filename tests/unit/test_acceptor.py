"""A home's register on a disk that takes its time: what is spoken is durable, and of the generation adopted by then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from holdfast_node.core.errors import HoldfastError, NotVoting, StaleGeneration
from holdfast_node.core.head import Ballot, Manifest
from holdfast_node.core.ids import RESERVED_BUCKET, BlobId, BucketId, Epoch, Generation
from holdfast_node.core.index_rows import RegisterEntry
from holdfast_node.core.messages import (
    Accept,
    AcceptReply,
    CommitReply,
    CopyRegisters,
    ListRegisters,
    Prepare,
    PrepareReply,
    ReadFloors,
    ReadRegister,
    RegisterCopies,
    RegisterPage,
    RegisterView,
    Request,
    Scope,
)
from holdfast_node.core.operation import Operation
from holdfast_node.core.records import PartitionRecord, RegisterRecord
from holdfast_node.core.register import head_hash
from holdfast_node.core.topology import Topology
from holdfast_node.services.acceptor import Acceptor, Helpers
from holdfast_node.services.ballots import Ballots
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.store import Entry
from tests.support import stores
from tests.support.maps import cluster, node, nodes, store_id
from tests.support.stores import BODIES, BUCKET, ballot, head

ME = store_id(1)
HEAD = BODIES.encode(head(1))


class SlowStore:
    """Nothing is durable, nor any page read, before `release`."""

    def __init__(self) -> None:
        self.durable: dict[bytes, RegisterRecord] = {}
        self.reason = ""
        self._open = asyncio.Event()
        self._queued: list[tuple[list[RegisterRecord], asyncio.Future[None]]] = []

    def release(self) -> None:
        self._open.set()
        for records, done in self._queued:
            self.durable.update((record.key, record) for record in records)
            done.set_result(None)
        self._queued.clear()

    @property
    def store_time_s(self) -> int:
        return 0

    async def register(self, bucket: BucketId, key: bytes) -> RegisterRecord | None:
        return self.durable.get(key)

    def broken_register(self, bucket: BucketId, key: bytes) -> RegisterEntry | None:
        return None

    async def manifest(self, bucket: BucketId, key: bytes, blob_id: BlobId) -> Manifest | None:
        return None

    def append(self, entries: Sequence[Entry], *, bulk: bool = False) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        records = [entry.body for entry in entries if isinstance(entry.body, RegisterRecord)]
        self._queued.append((records, done))
        return done

    def partition(self, pool: int, partition: int) -> PartitionRecord:
        return stores.partition(partition, not_voting=self.reason)

    def bucket_closing(self, bucket: BucketId) -> bool:
        return False

    def closed_buckets(self) -> tuple[BucketId, ...]:
        return ()

    def register_rows(
        self,
        partitions: frozenset[tuple[int, int]],
        bucket: BucketId,
        prefix: bytes,
        start: bytes,
        limit: int,
    ) -> RegisterPage:
        return RegisterPage((), complete=True)

    async def register_copies(
        self, partitions: frozenset[tuple[int, int]], after_bucket: BucketId, after_key: bytes, limit: int
    ) -> RegisterCopies:
        await self._open.wait()
        return RegisterCopies((), complete=True)


class Nobody:
    """The other services, none of which is asked here."""

    async def serve_commit(
        self, scope: Scope, key: tuple[BucketId, bytes], operation: Operation
    ) -> CommitReply:
        raise AssertionError("nobody commits here")

    def forget(self, bucket: BucketId) -> None:
        pass

    async def is_open(self, bucket: BucketId) -> bool:
        return True


async def no_cell(manifest: Manifest) -> tuple[int, bytes] | None:
    return None


class Home:
    """An acceptor on a slow store, in a map of one partition; `topology` is the map it has adopted."""

    def __init__(self, *, homes: int = 6) -> None:
        self.store = SlowStore()
        self.topology: Topology | None = Topology(cluster(nodes(homes), partitions=1))
        self.reason = ""
        self._acceptor = Acceptor(
            store=self.store,
            maps=self,
            codec=BODIES,
            ballots=Ballots(ME, 1),
            helpers=Helpers(Nobody(), Nobody(), lambda: self.reason, no_cell),
        )

    def ask(self, request: Request) -> asyncio.Task[Any]:
        serve = self._acceptor.handlers()[type(request)]

        async def asked() -> object:
            return await serve(Caller(store_id(2), node(2).name), request)

        return asyncio.get_running_loop().create_task(asked())

    def adopt(self, generation: int, *, learners: Sequence[int] = (), homes: Sequence[int] = ()) -> None:
        assert self.topology is not None
        before = self.topology.map
        entry = before.pools[0].partitions[0]
        entry = replace(
            entry,
            generation=Generation(generation),
            homes=tuple(map(store_id, homes)) or entry.homes,
            learners=tuple(map(store_id, learners)),
        )
        pools = (replace(before.pools[0], partitions=(entry,)),)
        self.topology = Topology(replace(before, epoch=Epoch(before.epoch + 1), pools=pools))


def scope(generation: int = 1) -> Scope:
    return Scope(0, 0, generation)


def prepare(counter: int, generation: int = 1) -> Prepare:
    return Prepare(scope(generation), BUCKET, b"k", ballot(counter, generation), 1)


def accept(counter: int, generation: int = 1) -> Accept:
    at: Ballot = ballot(counter, generation)
    return Accept(scope(generation), BUCKET, b"k", at, 1, HEAD, head_hash(HEAD))


def read(generation: int = 1) -> ReadRegister:
    return ReadRegister(scope(generation), BUCKET, b"k", want_head=True, inline_bytes_max=0)


def pages(generation: int = 1) -> list[Request]:
    scopes = (scope(generation),)
    return [
        ListRegisters(scopes, BUCKET, b"", b"", 10),
        CopyRegisters(scopes, RESERVED_BUCKET, b"", 10),
        ReadFloors(scopes),
    ]


async def steps() -> None:
    """Whatever can go on has gone on."""
    for _ in range(20):
        await asyncio.sleep(0)


def play(story: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await story()

    asyncio.run(main())


async def refusal(home: Home, request: Request) -> HoldfastError:
    """Why the request was refused, once everything is durable."""
    answer = home.ask(request)
    await steps()
    home.store.release()
    with pytest.raises(HoldfastError) as refused:
        await answer
    return refused.value


@pytest.mark.parametrize("request_of", [prepare, accept], ids=["promise", "acceptance"])
def test_nothing_is_spoken_before_it_is_durable(request_of: Callable[[int], Request]) -> None:
    async def story() -> None:
        home = Home()
        answer = home.ask(request_of(5))
        await steps()
        assert not answer.done()
        home.store.release()
        reply = await answer
        assert isinstance(reply, PrepareReply | AcceptReply)
        assert home.store.durable[b"k"].promised == ballot(5)

    play(story)


def test_the_second_copy_of_an_accept_is_not_answered_before_the_first() -> None:
    async def story() -> None:
        home = Home()
        answers = [home.ask(accept(5)), home.ask(accept(5))]
        await steps()
        assert not any(answer.done() for answer in answers)
        home.store.release()
        assert [(await answer).accepted for answer in answers] == [True, True]
        again = await home.ask(accept(5))
        assert again.accepted, "and once it is durable, at once"

    play(story)


def test_a_read_shows_nothing_that_a_power_cut_could_take_back() -> None:
    async def story() -> None:
        home = Home()
        accepting = home.ask(accept(5))
        await steps()
        before: RegisterView = await home.ask(read())
        assert before.ballot is None
        home.store.release()
        assert (await accepting).accepted
        after: RegisterView = await home.ask(read())
        assert (after.ballot, after.head) == (ballot(5), HEAD)

    play(story)


@pytest.mark.parametrize("request_of", [prepare, accept], ids=["promise", "acceptance"])
def test_what_becomes_durable_in_a_newer_generation_is_not_spoken(
    request_of: Callable[[int], Request],
) -> None:
    async def story() -> None:
        home = Home()
        answer = home.ask(request_of(5))
        await steps()
        home.adopt(2)
        home.store.release()
        with pytest.raises(StaleGeneration):
            await answer

    play(story)


def test_a_page_read_while_a_newer_generation_was_adopted_teaches_nobody() -> None:
    async def story() -> None:
        home = Home()
        answer = home.ask(CopyRegisters((scope(),), RESERVED_BUCKET, b"", 10))
        await steps()
        home.adopt(2)
        home.store.release()
        with pytest.raises(StaleGeneration):
            await answer

    play(story)


@pytest.mark.parametrize("generation", [1, 3])
def test_pages_and_floors_are_of_the_generation_adopted(generation: int) -> None:
    async def story() -> None:
        for request in pages(generation):
            home = Home()
            home.adopt(2)
            assert isinstance(await refusal(home, request), StaleGeneration), request

    play(story)


def learns(home: Home) -> None:
    home.adopt(1, learners=[1])


def is_no_home(home: Home) -> None:
    home.adopt(1, homes=[2, 3, 4, 5, 6, 7])


def is_suspect(home: Home) -> None:
    home.reason = "a copy of this store is running"


def has_rotted(home: Home) -> None:
    home.store.reason = "part of the log is unreadable"


@pytest.mark.parametrize("condition", [learns, is_no_home, is_suspect, has_rotted])
def test_a_store_that_cannot_vouch_says_nothing(condition: Callable[[Home], None]) -> None:
    async def story() -> None:
        for request in (prepare(5), accept(5), read(), *pages()):
            home = Home(homes=7)
            condition(home)
            assert isinstance(await refusal(home, request), NotVoting), request

    play(story)


def test_a_learner_keeps_what_it_does_not_speak_of() -> None:
    async def story() -> None:
        home = Home()
        learns(home)
        assert isinstance(await refusal(home, accept(5)), NotVoting)
        assert home.store.durable[b"k"].accepted == ballot(5)

    play(story)
