"""What `ports.Links` promises, held on carriers in memory under virtual time and on real gRPC streams."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import TypeVar

import pytest

from holdfast_node.core.errors import (
    DeadlineExceeded,
    ErrorCode,
    Evidence,
    InternalError,
    NotVoting,
    PeerUnreachable,
    TooLarge,
)
from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import BlobId, BootId, BucketId, ClusterId, Digest, NodeName, StoreId
from holdfast_node.core.messages import (
    DropShards,
    DropShardsReply,
    FindShards,
    Holdings,
    Introduce,
    IntroduceReply,
    MapReply,
    ReadCells,
    ReadCellsReply,
    ReadMap,
    ReadRegister,
    RegisterView,
    Reply,
    Request,
    Scope,
    ShardName,
    StageCell,
    StageCellReply,
)
from holdfast_node.ports import Answer, Answered, Failed
from holdfast_node.services.dispatcher import Caller
from tests.support.carriers import LinkNode, Serve
from tests.support.link_worlds import GrpcWorld, MemoryWorld, World

T = TypeVar("T")
ID = bytes(range(16))
BALLOT = Ballot(1, 2, StoreId(ID), 3, 4)


def drop(number: int) -> DropShards:
    return DropShards((ShardName(BlobId(ID), 0, number),))


def cell(payload: bytes, stripe: int = 0) -> StageCell:
    return StageCell(BucketId(ID), b"key", BlobId(ID), 0, 0, stripe, Digest(ID), BALLOT, payload)


@dataclass
class Echo:
    """A handler that answers most things, remembers who asked, and can be told to wait or to fail."""

    asked: list[tuple[Caller, Request]] = field(default_factory=list[tuple[Caller, Request]])
    gate: asyncio.Event | None = None
    error: Exception | None = None
    working: int = 0

    async def __call__(self, caller: Caller, request: Request) -> Reply:
        self.asked.append((caller, request))
        self.working += 1
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.error is not None:
                raise self.error
            return self.reply_to(caller, request)
        finally:
            self.working -= 1

    def reply_to(self, caller: Caller, request: Request) -> Reply:
        match request:
            case DropShards():
                return DropShardsReply(request.shards[0].index)
            case StageCell():
                return StageCellReply()
            case ReadCells():
                return ReadCellsReply((request.count,), bytes(request.count))
            case ReadRegister():
                return RegisterView(None, Digest(b""), b"", 0, 0, 2, b"an inlined cell")
            case ReadMap():
                return MapReply(b"m" * 1_000_000)
            case Introduce():
                me = (NodeName("far"), StoreId(ID), ClusterId(b""))
                return IntroduceReply(*me, 1, BootId(ID), 7, 1, BootId(ID), request.durable_sequence)
            case FindShards():
                return Holdings(tuple(ShardName(seed, 0, 0) for seed in request.seed_ids))
            case _:
                raise AssertionError(f"{caller} asked {request}")


@pytest.fixture(params=[MemoryWorld, GrpcWorld], ids=["memory", "grpc"])
def world(request: pytest.FixtureRequest) -> World:
    made: World = request.param()
    return made


def spawn(work: Coroutine[object, object, T]) -> asyncio.Task[T]:
    return asyncio.get_running_loop().create_task(work)


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a condition on either clock."""
    async with asyncio.timeout(20):
        while not condition():
            await turn()


async def turn() -> None:
    """A moment of either clock."""
    passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.005, passed.set_result, None)
    await passed


async def pair(world: World, serve: Serve, *, window_bytes: int = 8 << 20) -> tuple[LinkNode, LinkNode]:
    near = await world.node("near", Echo())
    far = await world.node("far", serve, window_bytes=window_bytes)
    near.links.learn({far.store: world.address(far), near.store: world.address(near)})
    return near, far


def reply_of(answer: Answer) -> Reply:
    assert isinstance(answer, Answered), answer
    return answer.reply


def error_of(answer: Answer) -> Exception:
    assert isinstance(answer, Failed), answer
    return answer.error


async def answered(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask until there is an answer: a lost link is opened again after a pause."""
    async with asyncio.timeout(20):
        while True:
            answer = await ask()
            if isinstance(answer, Answered):
                return answer
            await turn()


def test_each_request_gets_its_own_reply_and_payload(world: World) -> None:
    async def scenario() -> None:
        echo = Echo()
        near, far = await pair(world, echo)
        answers = await asyncio.gather(*(near.ask(far.store, drop(number)) for number in range(300)))
        assert [reply_of(answer) for answer in answers] == [DropShardsReply(n) for n in range(300)]
        assert {answer.store for answer in answers} == {far.store}
        read = await near.ask(far.store, ReadCells(BlobId(ID), 0, 0, 0, 3_000_000))
        assert reply_of(read) == ReadCellsReply((3_000_000,), bytes(3_000_000))
        payload = bytes(range(256)) * 4096
        assert reply_of(await near.ask(far.store, cell(payload))) == StageCellReply()
        staged = echo.asked[-1][1]
        assert isinstance(staged, StageCell)
        assert staged.payload == payload
        look = ReadRegister(Scope(0, 1, 1), BucketId(ID), b"k", want_head=False, inline_bytes_max=100)
        view = reply_of(await near.ask(far.store, look))
        assert isinstance(view, RegisterView)
        assert view.payload == b"an inlined cell"
        large = reply_of(await near.ask(far.store, ReadMap()))
        assert isinstance(large, MapReply)
        assert len(large.map) == 1_000_000

    world.run(scenario)


def test_the_handler_is_told_who_asks(world: World) -> None:
    async def scenario() -> None:
        echo = Echo()
        near, far = await pair(world, echo)
        await near.ask(far.store, drop(1))
        assert echo.asked[0][0] == Caller(near.store, NodeName("near"))

    world.run(scenario)


def test_an_error_is_the_answer_to_its_request_alone(world: World) -> None:
    async def scenario() -> None:
        echo = Echo()
        near, far = await pair(world, echo)
        gate = echo.gate = asyncio.Event()
        slow = spawn(near.ask(far.store, drop(1)))
        await until(lambda: echo.working == 1)
        echo.gate = None
        echo.error = NotVoting(
            "learning", hint="wait", evidence=[Evidence("n3", "page 2")], retry_after_ms=70
        )
        error = error_of(await near.ask(far.store, drop(2)))
        assert isinstance(error, NotVoting)
        assert (error.message, error.hint, error.retry_after_ms) == ("learning", "wait", 70)
        assert error.evidence == (Evidence("n3", "page 2"),)
        echo.error = None
        gate.set()
        assert reply_of(await slow) == DropShardsReply(1)

    world.run(scenario)


def test_an_unexpected_error_has_an_incident_and_no_traceback(world: World) -> None:
    async def scenario() -> None:
        echo = Echo(error=ZeroDivisionError("secret"))
        near, far = await pair(world, echo)
        error = error_of(await near.ask(far.store, drop(1)))
        assert isinstance(error, InternalError)
        assert "secret" not in str(error)
        incident = str(far.events.seen[0][1]["incident"])
        assert incident in error.hint
        assert far.events.count("request_failed") == 1

    world.run(scenario)


def test_the_own_store_is_asked_without_a_wire(world: World) -> None:
    async def scenario() -> None:
        near = await world.node("near", Echo())
        assert reply_of(await near.ask(near.store, drop(5))) == DropShardsReply(5)
        assert near.links.is_up(near.store)
        near.serve = Echo(error=NotVoting("no"))
        assert isinstance(error_of(await near.ask(near.store, drop(5))), NotVoting)
        near.serve = Echo(gate=asyncio.Event())
        assert isinstance(error_of(await near.ask(near.store, drop(5), 0.05)), DeadlineExceeded)

    world.run(scenario)


def test_a_store_without_an_address_is_unreachable(world: World) -> None:
    async def scenario() -> None:
        near = await world.node("near", Echo())
        assert isinstance(error_of(await near.ask(StoreId(bytes(16)), drop(1))), PeerUnreachable)

    world.run(scenario)


def test_another_store_at_the_address_never_answers(world: World) -> None:
    async def scenario() -> None:
        near, far = await pair(world, Echo())
        await near.ask(far.store, drop(1))
        echo = Echo()
        other = await world.replace(far, "other", echo)
        await until(lambda: not near.links.is_up(far.store))
        errors: list[Exception] = []
        while "another store" not in str(errors[-1:]):
            errors.append(error_of(await near.ask(far.store, drop(2))))
            assert isinstance(errors[-1], PeerUnreachable)
            await turn()
        assert echo.asked == []
        near.links.learn({other.store: world.address(far)})
        assert reply_of(await answered(lambda: near.ask(other.store, drop(3)))) == DropShardsReply(3)

    world.run(scenario)


def test_another_cluster_is_refused(world: World) -> None:
    async def scenario() -> None:
        near, far = await pair(world, Echo())
        near.cluster_id, far.cluster_id = ClusterId(bytes(16)), ClusterId(ID)
        error = error_of(await near.ask(far.store, drop(1)))
        assert isinstance(error, PeerUnreachable)
        assert "another cluster" in str(error)
        near.cluster_id = ClusterId(b"")
        await answered(lambda: near.ask(far.store, drop(1)))

    world.run(scenario)


def test_a_deadline_ends_one_request_and_its_late_reply_harms_nobody(world: World) -> None:
    async def scenario() -> None:
        echo = Echo()
        near, far = await pair(world, echo)
        await near.ask(far.store, drop(0))
        gate = echo.gate = asyncio.Event()
        error = error_of(await near.ask(far.store, drop(1), 0.05))
        assert isinstance(error, DeadlineExceeded)
        echo.gate = None
        assert reply_of(await near.ask(far.store, drop(2))) == DropShardsReply(2)
        gate.set()
        await until(lambda: echo.working == 0)
        assert reply_of(await near.ask(far.store, drop(3))) == DropShardsReply(3)

    world.run(scenario)


def test_a_lost_stream_fails_what_is_pending_and_opens_again(world: World) -> None:
    async def scenario() -> None:
        echo = Echo()
        near, far = await pair(world, echo)
        await near.ask(far.store, drop(0))
        echo.gate = asyncio.Event()
        waiting = [spawn(near.ask(far.store, drop(n))) for n in range(5)]
        await until(lambda: echo.working == 5)
        await world.break_streams(far)
        for answer in await asyncio.gather(*waiting):
            assert isinstance(error_of(answer), PeerUnreachable)
        echo.gate.set()
        echo.gate = None
        assert reply_of(await answered(lambda: near.ask(far.store, drop(7)))) == DropShardsReply(7)
        assert near.links.is_up(far.store)
        assert near.events.count("link_lost") >= 1

    world.run(scenario)


def test_a_store_that_stops_is_down_and_one_that_returns_is_up_unasked(world: World) -> None:
    async def scenario() -> None:
        near, far = await pair(world, Echo())
        assert near.links.is_up(far.store), "nothing is known yet"
        await near.ask(far.store, drop(0))
        await world.stop(far)
        await until(lambda: not near.links.is_up(far.store))
        assert isinstance(error_of(await near.ask(far.store, drop(1))), PeerUnreachable)
        await world.replace(far, "far", Echo())
        await until(lambda: near.links.is_up(far.store))
        assert reply_of(await near.ask(far.store, drop(2))) == DropShardsReply(2)

    world.run(scenario)


def test_credits_bound_what_is_unanswered(world: World) -> None:
    window, size, count = 5 << 20, 1 << 20, 24
    echo = Echo()

    async def scenario() -> None:
        gate = echo.gate = asyncio.Event()
        near, far = await pair(world, echo, window_bytes=window)
        asks = [spawn(near.ask(far.store, cell(bytes(size), n), 60)) for n in range(count)]
        await until(lambda: echo.working >= 4)
        await near.ask(far.store, drop(1), 0.05)  # control goes on while bulk waits
        cells = [request for _, request in echo.asked if isinstance(request, StageCell)]
        assert len(cells) == 4, "five cells and their headers do not fit the window"
        gate.set()
        for answer in await asyncio.gather(*asks):
            reply_of(answer)
        stripes = [request.stripe for _, request in echo.asked if isinstance(request, StageCell)]
        assert sorted(stripes) == list(range(count))

    world.run(scenario)


def test_credit_of_an_expired_request_comes_back_with_its_late_reply(world: World) -> None:
    async def scenario() -> None:
        echo = Echo()
        near, far = await pair(world, echo, window_bytes=5 << 20)
        gate = echo.gate = asyncio.Event()
        asks = [near.ask(far.store, cell(bytes(1 << 20), n), 0.3) for n in range(8)]
        for answer in await asyncio.gather(*asks):
            assert isinstance(error_of(answer), DeadlineExceeded)
        echo.gate = None
        gate.set()
        for n in range(20):
            reply_of(await near.ask(far.store, cell(bytes(1 << 20), n)))

    world.run(scenario)


def test_what_fits_no_frame_is_refused_at_once(world: World) -> None:
    async def scenario() -> None:
        near, far = await pair(world, Echo())
        assert isinstance(error_of(await near.ask(far.store, cell(bytes(5 << 20)))), TooLarge)
        too_much = ReadCells(BlobId(ID), 0, 0, 0, 5 << 20)
        assert isinstance(error_of(await near.ask(far.store, too_much)), TooLarge)
        for count, fits in ((14_000, True), (220_000, False)):
            many = FindShards(tuple(BlobId(n.to_bytes(16)) for n in range(count)))
            answer = await near.ask(far.store, many)
            assert fits == (not isinstance(answer, Failed)), "the reply is the larger one"
            assert fits or isinstance(error_of(answer), TooLarge)
        assert reply_of(await near.ask(far.store, drop(1))) == DropShardsReply(1)

    world.run(scenario)


def test_whoever_answers_an_introduction_says_who_it_is(world: World) -> None:
    async def scenario() -> None:
        near = await world.node("near", Echo())
        far = await world.node("far", Echo())
        me = Introduce(NodeName("near"), near.store, ClusterId(b""), 1, BootId(ID), 42)
        reply = await near.links.introduce(world.address(far), me, timeout_s=5)
        assert (reply.node, reply.epoch, reply.seen_sequence) == ("far", 7, 42)
        await world.stop(far)
        with pytest.raises(PeerUnreachable):
            await near.links.introduce(world.address(far), me, timeout_s=5)

    world.run(scenario)


def test_whoever_is_behind_takes_the_map_before_it_answers(world: World) -> None:
    async def scenario() -> None:
        echo = Echo()
        near, far = await pair(world, echo)
        await near.ask(far.store, drop(0))
        near.epoch = 5
        await near.ask(far.store, drop(1))
        assert far.epoch == 5
        assert far.caught_up[-1] == (near.store, 5)
        far.epoch = 9
        await near.ask(far.store, drop(2))
        await until(lambda: near.epoch == 9)
        assert near.caught_up[-1] == (far.store, 9)

    world.run(scenario)


def test_links_to_stores_no_longer_named_are_closed(world: World) -> None:
    async def scenario() -> None:
        echo = Echo(gate=asyncio.Event())
        near, far = await pair(world, echo)
        pending = spawn(near.ask(far.store, drop(0)))
        await until(lambda: echo.working == 1)
        near.links.learn({})
        assert isinstance(error_of(await pending), PeerUnreachable)
        assert isinstance(error_of(await near.ask(far.store, drop(1))), PeerUnreachable)

    world.run(scenario)


def test_patience_follows_the_peer_and_has_a_floor(world: World) -> None:
    async def scenario() -> None:
        echo = Echo()
        near, far = await pair(world, echo)
        assert near.links.patience_s(far.store) == 0.05
        echo.gate = asyncio.Event()
        for _ in range(4):
            await near.ask(far.store, cell(b"x"), 0.2)
        assert near.links.patience_s(far.store) >= 0.2

    world.run(scenario)


def test_a_draining_node_finishes_what_it_began_and_takes_nothing_new(world: World) -> None:
    async def scenario() -> None:
        echo = Echo()
        near, far = await pair(world, echo)
        await near.ask(far.store, drop(0))
        gate = echo.gate = asyncio.Event()
        begun = spawn(near.ask(far.store, drop(1)))
        await until(lambda: echo.working == 1)
        draining = spawn(far.server.drain(5.0))
        await asyncio.sleep(0)
        refused = error_of(await near.ask(far.store, drop(2)))
        assert getattr(refused, "code", None) in {ErrorCode.UNAVAILABLE, ErrorCode.PEER_UNREACHABLE}
        gate.set()
        assert reply_of(await begun) == DropShardsReply(1)
        await draining

    world.run(scenario)
