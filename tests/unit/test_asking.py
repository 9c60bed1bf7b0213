"""An answer that cannot be taken in ends the wait of who asked: nobody waits for ever."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Never, TypeVar

import pytest

from holdfast_node.adapters.erasure import EclibCodec
from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import DeadlineExceeded, IntegrityError, OutcomeUnknown
from holdfast_node.core.ids import BlobId, Digest, StoreId
from holdfast_node.core.messages import (
    Accept,
    Introduce,
    IntroduceReply,
    Prepare,
    PrepareReply,
    ReadCellsReply,
    ReadMap,
    RegisterView,
    Reply,
    Request,
    StageCellReply,
)
from holdfast_node.core.proposal import Proposal
from holdfast_node.core.quorum import Roster
from holdfast_node.core.register import head_hash
from holdfast_node.ports import Answer, Answered
from holdfast_node.services import reading
from holdfast_node.services.cells import CellFetch, PartSource
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.fanout import gather
from holdfast_node.services.pace import Pace
from holdfast_node.services.places import Place
from holdfast_node.services.rounds import Round
from holdfast_node.services.trail import Trail
from tests.properties.register_samples import BUCKET, CODEC, KEY, SCOPE, ballot, put, store
from tests.sim.loop import SimLoop
from tests.support.small_clusters import Serve, SmallCluster, pass_time, payload_of, run_story
from tests.support.street import cell

R = TypeVar("R")
HOMES = tuple(store(at) for at in range(3))
UNREADABLE = b"a head of nobody's making"
UNREADABLE_PROMISE = PrepareReply(True, None, ballot(3, 2), head_hash(UNREADABLE), UNREADABLE, 0, None, 1)
LATER_S = 0.06
"""Longer than anybody lingers, or waits before asking others."""


class Mistake(Exception):
    """What nobody foresaw."""


class Parrots:
    """`ports.Links` to stores that answer one after the other, in these words; the last are said again and again."""

    def __init__(self, loop: SimLoop, replies: Sequence[Reply]) -> None:
        self._loop = loop
        self._replies = replies
        self._sent = 0
        self.refuse: Exception | None = None

    def send(
        self, to: StoreId, request: Request, *, timeout_s: float, done: Callable[[Answer], None]
    ) -> None:
        if self.refuse is not None:
            raise self.refuse
        reply = self._replies[min(self._sent, len(self._replies) - 1)]
        self._sent += 1
        self._loop.call_later(LATER_S * self._sent, done, Answered(to, reply))

    def is_up(self, store: StoreId) -> bool:
        return True

    def patience_s(self, store: StoreId) -> float:
        return 1.0

    async def introduce(self, address: str, me: Introduce, *, timeout_s: float) -> IntroduceReply:
        raise NotImplementedError

    def learn(self, addresses: Mapping[StoreId, str]) -> None: ...


def mistaken(*_: object) -> Never:
    raise Mistake


def ends_with_a_mistake(replies: Sequence[Reply], ask: Callable[[Parrots], Awaitable[object]]) -> None:
    """A loop in which somebody waits for what never comes is an error of its own."""
    loop = SimLoop(1)

    async def scenario() -> None:
        with pytest.raises(Mistake):
            await ask(Parrots(loop, replies))

    loop.run(scenario())
    assert not loop.problems


def place() -> Place:
    return Place(BUCKET, KEY, SCOPE, HOMES, HOMES, Roster(frozenset(HOMES), 2), 2)


def test_who_counts_answers_wrongly_does_not_wait_for_more() -> None:
    async def ask(links: Parrots) -> None:
        await gather(links, dict.fromkeys(HOMES, ReadMap()), timeout_s=1, enough=mistaken)

    ends_with_a_mistake([StageCellReply()], ask)


class Illiterate:
    def encode(self, value: object) -> bytes:
        return CODEC.encode(value)

    def decode(self, cls: type[R], data: bytes) -> R:
        raise Mistake


def test_a_ballot_whose_promises_cannot_be_read_ends() -> None:
    async def ask(links: Parrots) -> None:
        proposal = Proposal(put("one"), Illiterate())
        effects = proposal.begin(ballot(5, 1), place().roster)
        await Round(links, place(), proposal, put("one")).run(effects)

    ends_with_a_mistake([UNREADABLE_PROMISE], ask)


def test_a_ballot_that_lingered_ends_too() -> None:
    """Its last promise would come later still."""

    async def ask(links: Parrots) -> None:
        proposal = Proposal(put("one"), Illiterate())
        effects = proposal.begin(ballot(5, 1), place().roster)
        await Round(links, place(), proposal, put("one")).run(effects)

    nothing = PrepareReply(True, None, None, head_hash(b""), b"", 0, None, 1)
    ends_with_a_mistake([UNREADABLE_PROMISE, nothing], ask)


def read(links: Parrots) -> Awaitable[object]:
    poll = reading._Poll(links, place(), order=HOMES, first=2, pace=Pace(), inline=0)
    return poll.run()


def test_a_read_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "agreement", mistaken)
    ends_with_a_mistake([RegisterView(None, head_hash(b""), b"", 0, 1)], read)


def test_a_read_in_a_hurry_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading._Poll, "_hurry", mistaken)
    ends_with_a_mistake([RegisterView(None, head_hash(b""), b"", 0, 1)], read)


def fetch(links: Parrots) -> Awaitable[object]:
    code = parse_code("rs:2+1")
    digests = tuple(Digest(bytes(16)) for _ in HOMES)
    source = PartSource(BlobId(bytes(16)), 0, 2, code, 8192, digests, [[each] for each in HOMES])
    return CellFetch(links, EclibCodec(), source, stripes=range(1), wanted=(0, 1), damage=mistaken).run()


def test_who_reads_cells_does_not_wait_for_more() -> None:
    ends_with_a_mistake([ReadCellsReply((3,), b"bad")], fetch)


def test_who_hurries_for_cells_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CellFetch, "_hurry", mistaken)
    ends_with_a_mistake([ReadCellsReply((1,), b"x")], fetch)


def test_what_a_trail_cannot_drop_is_no_reason_to_keep_an_answer() -> None:
    loop = SimLoop(1)

    async def scenario() -> None:
        links = Parrots(loop, [StageCellReply()])
        trail = Trail(links)
        got: list[Answer] = []
        trail.send(HOMES[0], cell(10), timeout_s=1, done=got.append)
        trail.drop()
        links.refuse = Mistake()
        await pass_time(1)
        assert len(got) == 1

    loop.run(scenario())
    assert len(loop.problems) == 1, "and it is heard of"


def unreadable(reply: Reply) -> PrepareReply:
    assert isinstance(reply, PrepareReply)
    return replace(reply, accepted=ballot(1, 2), head=UNREADABLE, head_hash=head_hash(UNREADABLE))


def test_a_head_that_nobody_can_read_fails_the_write() -> None:
    """It is of a newer build, say. Nothing was sent that could take effect: the error is that of the head."""

    async def story(small: SmallCluster) -> None:
        async def of_another_build(usual: Serve, caller: Caller, request: Request) -> Reply:
            return unreadable(await usual(caller, request))

        for name in small.cluster.machines:
            small.twist(name, Prepare, of_another_build)
        with pytest.raises(IntegrityError):
            await small.put(b"k", payload_of(30_000))

    run_story(story)


def test_a_head_that_nobody_can_read_leaves_open_what_was_sent_before() -> None:
    async def story(small: SmallCluster) -> None:
        accepted = False

        async def lose_answer(usual: Serve, caller: Caller, request: Request) -> Reply:
            nonlocal accepted
            accepted = True
            await usual(caller, request)
            raise DeadlineExceeded("the answer was lost")

        async def of_another_build(usual: Serve, caller: Caller, request: Request) -> Reply:
            reply = await usual(caller, request)
            return unreadable(reply) if accepted else reply

        for name in small.cluster.machines:
            small.twist(name, Accept, lose_answer)
            small.twist(name, Prepare, of_another_build)
        with pytest.raises(OutcomeUnknown):
            await small.put(b"k", payload_of(30_000))

    run_story(story)
