"""Every reachable state of a small cluster running the real register code: `core.proposal` against `core.acceptance`.

The network may lose, delay without bound and reorder; a proposer may fall silent at any moment (it is then simply
never scheduled again) and its request may come again through another one. What is bounded is the number of ballots
and of lost replies. Duplicates add nothing: an acceptor answers the second copy without changing.

Reduction: an acceptor's handling of a request and the arrival of its reply are one step, unless the reply is lost.
That is no restriction, because what a proposer does with a reply reaches others only by messages that may themselves
be late.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

from holdfast_node.core.acceptance import Acceptance, Late, Promise, Standing, accept, late, prepare, view
from holdfast_node.core.errors import PeerUnreachable
from holdfast_node.core.forgetting import Word, floors_of, word
from holdfast_node.core.head import Applied, Ballot, Head, HeadKind, Retained, seeds_of
from holdfast_node.core.ids import StoreId, Version
from holdfast_node.core.messages import Accept, Floors, HeldKey, Prepare, ReadRegister
from holdfast_node.core.operation import Operation
from holdfast_node.core.proposal import (
    Effect,
    Failed,
    Finished,
    Linger,
    Proposal,
    SendAccept,
    SendPrepare,
)
from holdfast_node.core.quorum import Roster, Sight, agreement
from holdfast_node.core.records import RegisterRecord
from holdfast_node.core.register import head_hash
from tests.properties.register_samples import (
    BUCKET,
    CODEC,
    ERA,
    KEY,
    SCOPE,
    ballot,
    manifest,
    request,
    store,
)

Says = Callable[[RegisterRecord | None, Head | None, Standing, HeldKey], Word]


@dataclass(frozen=True)
class Rules:
    """What can be replaced to plant a bug."""

    prepare: Callable[[RegisterRecord | None, Standing, Prepare], Promise] = prepare
    accept: Callable[[RegisterRecord | None, Standing, Accept], Acceptance] = accept
    late: Callable[[RegisterRecord | None, Standing, RegisterRecord], Late] = late
    word: Says = word
    floors_of: Callable[[RegisterRecord, Head], Floors] = floors_of
    asked: int = 0
    """Homes that have to say that a key may be forgotten; 0: all."""
    proposal: type[Proposal] = Proposal
    quorum: int = 0
    """0: a majority."""
    prune: bool = True
    """Whether a home ignores for ever what it would refuse now (as the real ones do)."""


@dataclass(frozen=True)
class Scene:
    """Who wants what, with how many ballots each; `reader`: somebody reads in one round; `losses`: lost replies."""

    operations: tuple[Operation, ...]
    ballots: tuple[int, ...]
    homes: int = 3
    losses: int = 1
    follows: int = 0
    """How often a home takes what another one has accepted, as if the accept came late."""
    reader: bool = False
    existing: bool = False
    """Whether version 1 is there to begin with, at every home."""
    kept: bool = False
    """Whether it was overwritten by version 2 and is kept."""
    forgotten: Head | None = None
    """What every home holds to begin with, and is asked to forget."""
    lagging: int = 0
    """So many homes hold version 1 instead: they missed its deletion."""
    stray: bool = False
    """An accept of version 1 is still on its way to every home."""
    patient: frozenset[int] = frozenset()
    """Proposers that never give a ballot up of themselves: fewer states."""
    rules: Rules = field(default_factory=Rules)

    @property
    def roster(self) -> Roster:
        voters = frozenset(store(at) for at in range(self.homes))
        return Roster(voters, self.rules.quorum or self.homes // 2 + 1)


class Sent(NamedTuple):
    """A request on its way. `head` is 0 for a prepare, else the number of the accept's head."""

    at: int
    counter: int
    head: int


class _Table:
    """Requests by what identifies them, and small numbers for heads: states hold only numbers."""

    def __init__(self) -> None:
        self.requests: dict[Sent, Prepare | Accept] = {}
        self.numbers: dict[bytes, int] = {b"": 0}
        self.heads: dict[int, Head] = {}

    def number(self, data: bytes) -> int:
        if data not in self.numbers:
            self.numbers[data] = len(self.numbers)
            self.heads[self.numbers[data]] = CODEC.decode(Head, data)
        return self.numbers[data]

    def prepare(self, at: int, of: Ballot) -> Sent:
        sent = Sent(at, of.counter, 0)
        self.requests.setdefault(sent, Prepare(SCOPE, BUCKET, KEY, of, ERA))
        return sent

    def accept(self, at: int, effect: SendAccept) -> Sent:
        sent = Sent(at, effect.ballot.counter, self.number(effect.head))
        self.requests.setdefault(
            sent, Accept(SCOPE, BUCKET, KEY, effect.ballot, ERA, effect.head, effect.head_hash)
        )
        return sent


TABLE = _Table()
Vote = tuple[int, int]
"""Ballot counter and head number."""
Trail = tuple["Trail", str] | None


@dataclass(frozen=True)
class State:
    records: tuple[RegisterRecord | None, ...]
    proposers: tuple[Proposal, ...]
    answers: tuple[Finished | Failed | None, ...]
    left: tuple[int, ...]
    network: tuple[frozenset[Sent], ...]
    """Per home, what may still arrive there and would change something."""
    losses: int
    follows: int
    votes: tuple[frozenset[Vote], ...]
    """Per home, everything it ever accepted."""
    seen: tuple[Sight | None, ...]
    """Per home, what the reader has been told."""
    floor: int
    """The highest version anybody was told of when the reader began."""
    read: int
    """The version the reader was told, -1: not yet."""
    counter: int
    trail: Trail
    floors: tuple[Floors, ...]
    words: tuple[int, ...]
    """Per home, how far forgetting has come: 1: it said yes, 2: it was told."""

    def but(self, **changes: Any) -> State:
        """`dataclasses.replace` without its checks: half of the run would go there."""
        twin = object.__new__(State)
        twin.__dict__.update(self.__dict__)
        twin.__dict__.update(changes)
        return twin

    def key(self) -> object:
        """The homes are interchangeable, so states that differ only by renaming them are one."""
        homes = sorted([self._home(at) for at in range(len(self.records))])
        proposers = tuple([_proposer_key(p) for p in self.proposers])
        answers = tuple([_answer_key(a) for a in self.answers])
        left = (self.left, self.losses, self.follows)
        return (tuple(homes), proposers, answers, left, self.floor, self.read)

    def _home(self, at: int) -> tuple[object, ...]:
        record = self.records[at]
        held = (
            (
                record.promised.counter if record.promised else 0,
                record.accepted.counter if record.accepted else 0,
                TABLE.number(record.head),
            )
            if record is not None
            else (0, 0, 0)
        )
        name = store(at)
        sight = self.seen[at]
        return (
            held,
            tuple(sorted(self.network[at])),
            tuple([_standing_with(p, name) for p in self.proposers]),
            tuple(sorted(self.votes[at])),
            (self.words[at], self.floors[at].version_floor),
            (-1,) if sight is None else (sight[0].counter if sight[0] is not None else 0,),
        )


def _standing_with(p: Any, name: StoreId) -> tuple[int, int]:
    """What a proposer has from one home."""
    if name in p._promises:
        accepted = p._promises[name].accepted
        return (1, accepted.counter if accepted is not None else 0)
    return (2, 0) if name in p._accepted else (3, 0) if name in p._rejected or name in p._errors else (0, 0)


def _proposer_key(p: Any) -> object:
    verdict = p._verdict
    about = (
        type(verdict).__name__,
        getattr(verdict, "version", 0),
        type(getattr(verdict, "error", None)).__name__,
    )
    counter = p.ballot.counter if p.ballot is not None else 0
    head = p._current
    blob = head.manifest and head.manifest.blob_id
    current = (head.version, head.kind, blob, head.recent, head.retained, head.fence)
    return (p._phase.value, counter, about, current, p._write_back, p._lingering, p.accept_sent)


def _answer_key(answer: Finished | Failed | None) -> object:
    if isinstance(answer, Finished):
        return (answer.version, answer.repeated, seeds_of(answer.head), answer.head.fence)
    return None if answer is None else type(answer.error).__name__


def clone(p: Any) -> Any:
    twin: Any = copy.copy(p)
    for name, value in cast("dict[str, object]", p.__dict__).items():
        if isinstance(value, (dict, set)):
            setattr(twin, name, copy.copy(cast("object", value)))
    return twin


def beginning(scene: Scene) -> State:
    nothing: frozenset[Any] = frozenset()
    votes, record = nothing, None
    if scene.existing:
        applied = Applied(request("u0"), Version(1), ERA)
        first = Head(Version(1), HeadKind.BLOB, manifest("u0"), recent=(applied,))
        head = CODEC.encode(first)
        votes = frozenset({(0, TABLE.number(head))})
        if scene.kept:
            old = Retained(Version(1), HeadKind.BLOB, manifest("u0").blob_id, 1, 0)
            over = Head(Version(2), HeadKind.TOMBSTONE, retained=(old,), recent=(applied,))
            votes, head = frozenset({(-1, TABLE.number(head))}), CODEC.encode(over)
            votes |= {(0, TABLE.number(head))}
        record = RegisterRecord(BUCKET, KEY, 0, 0, ballot(0, 8), ballot(0, 8), head)
    records = [record] * scene.homes
    if scene.forgotten is not None:
        records, votes, network = _deleted(scene, scene.forgotten)
    else:
        network = nothing
    return State(
        records=tuple(records),
        proposers=tuple(scene.rules.proposal(o, CODEC) for o in scene.operations),
        answers=(None,) * len(scene.operations),
        left=scene.ballots,
        network=(network,) * scene.homes,
        losses=scene.losses,
        follows=scene.follows,
        votes=(votes,) * scene.homes,
        seen=(None,) * scene.homes,
        floor=0,
        read=-1,
        counter=0,
        trail=None,
        floors=(Floors(0, 0, 0, None),) * scene.homes,
        words=(0,) * scene.homes,
    )


def _deleted(
    scene: Scene, held: Head
) -> tuple[list[RegisterRecord | None], frozenset[Vote], frozenset[Sent]]:
    """What homes hold, what each of them has accepted so far, and what is on its way to each."""
    first = Head(Version(1), HeadKind.BLOB, manifest("u0"), recent=held.recent[:1])
    before, after = CODEC.encode(first), CODEC.encode(held)
    votes = frozenset({(-1, TABLE.number(before)), (0, TABLE.number(after))})
    records: list[RegisterRecord | None] = [
        RegisterRecord(BUCKET, KEY, 0, 0, at, at, head)
        for at, head in [(ballot(-1, 8), before)] * scene.lagging
        + [(ballot(0, 8), after)] * (scene.homes - scene.lagging)
    ]
    stray = Accept(SCOPE, BUCKET, KEY, ballot(-1, 8), ERA, before, head_hash(before))
    sent = Sent(0, -1, TABLE.number(before))
    TABLE.requests[sent] = stray
    return records, votes, frozenset({sent} if scene.stray else ())


def standing_of(state: State, home: int) -> Standing:
    floors = state.floors[home]
    return Standing(1, ERA, version_floor=floors.version_floor, ballot_floor=floors.ballot_floor)


def steps(scene: Scene, state: State) -> Iterator[State]:
    for move in moves(scene, state):
        yield from move()


def moves(scene: Scene, state: State) -> list[Callable[[], Iterator[State]]]:
    """Who may do something now; each move leads to a few states."""
    found: list[Callable[[], Iterator[State]]] = [
        partial(_proposer_steps, scene, state, at) for at in range(len(scene.operations))
    ]
    for home in range(scene.homes):
        found += [partial(_deliver, scene, state, home, sent) for sent in sorted(state.network[home])]
    if state.follows > 0:
        found += [partial(_follow, scene, state, home) for home in range(scene.homes)]
    if scene.forgotten is not None:
        found += [partial(_forget, scene, state, home) for home in range(scene.homes)]
    if scene.reader and state.read < 0:
        found.append(partial(_reader_steps, scene, state))
    return found


def _proposer_steps(scene: Scene, state: State, at: int) -> Iterator[State]:
    proposer: Any = state.proposers[at]
    idle = proposer._phase.value == 0
    if idle and state.answers[at] is None and state.left[at] > 0:
        counter = state.counter + 1
        mine = clone(proposer)
        effects: list[Effect] = mine.begin(ballot(counter, at), scene.roster)
        left = tuple(n - (i == at) for i, n in enumerate(state.left))
        begun = state.but(left=left, counter=counter, trail=(state.trail, f"p{at} begins {counter}"))
        yield _perform(scene, begun, at, mine, effects)
    elif not idle and at not in scene.patient:
        mine, effects = clone(proposer), []
        for home in sorted(scene.roster.voters):
            error = PeerUnreachable("lost")
            effects += mine.not_promised(mine.ballot, home, error) or mine.not_accepted(
                mine.ballot, home, error
            )
            if mine._phase.value == 0:
                break
        if mine._phase.value == 0:
            late = state.but(trail=(state.trail, f"p{at} gives the ballot up"))
            yield _perform(scene, late, at, mine, effects)


def _perform(scene: Scene, state: State, at: int, mine: Proposal, effects: list[Effect]) -> State:
    sent: list[Sent] = []
    answers, trail = list(state.answers), state.trail
    queue = list(effects)
    while queue:
        effect = queue.pop(0)
        if isinstance(effect, SendPrepare):
            sent.append(TABLE.prepare(at, effect.ballot))
        elif isinstance(effect, SendAccept):
            sent.append(TABLE.accept(at, effect))
        elif isinstance(effect, Linger):
            queue += mine.overdue(effect.ballot)
        elif isinstance(effect, (Finished, Failed)):
            answers[at] = effect
            trail = (trail, f"p{at}: {_told(effect)}")
        elif state.left[at] == 0:
            answers[at] = Failed(mine.give_up(PeerUnreachable("out of ballots")))
            trail = (trail, f"p{at}: {_told(answers[at])}")
    proposers = tuple(mine if i == at else p for i, p in enumerate(state.proposers))
    network = tuple(
        _arriving(scene, state.records[home], (*state.network[home], *sent)) for home in range(scene.homes)
    )
    return state.but(proposers=proposers, network=network, answers=tuple(answers), trail=trail)


def _arriving(scene: Scene, record: RegisterRecord | None, sent: Iterable[Sent]) -> frozenset[Sent]:
    return frozenset([m for m in sent if not _useless(record, m, scene)])


def _useless(record: RegisterRecord | None, sent: Sent, scene: Scene) -> bool:
    """Would be refused now and ever after. A refusal and silence lead a proposer to the same: another ballot."""
    if not scene.rules.prune or record is None or record.promised is None:
        return False
    promised = record.promised.counter
    if promised <= 0:
        return False  # what may be forgotten: what its promise refuses now, a floor must refuse later
    return sent.counter < promised or (sent.counter == promised and sent.head == 0)


def _deliver(scene: Scene, state: State, home: int, sent: Sent) -> Iterator[State]:
    asked = TABLE.requests[sent]
    record, standing, name = state.records[home], standing_of(state, home), store(home)
    votes = state.votes
    done: Promise | Acceptance
    mine = clone(state.proposers[sent.at])
    if isinstance(asked, Prepare):
        promise = done = scene.rules.prepare(record, standing, asked)
        said = f"s{home} {'promises' if done.record else 'refuses'} p{sent.at} {sent.counter}"
        waiting = mine._expects(asked.ballot, name, mine._phase) and mine._phase.value == 1
        effects = mine.promised(asked.ballot, name, promise.reply)
    else:
        acceptance = done = scene.rules.accept(record, standing, asked)
        said = f"s{home} {'accepts' if acceptance.reply.accepted else 'refuses'} p{sent.at} {sent.counter}"
        if acceptance.reply.accepted:
            vote = (sent.counter, sent.head)
            votes = tuple(v | {vote} if i == home else v for i, v in enumerate(votes))
        waiting = mine._expects(asked.ballot, name, mine._phase) and mine._phase.value == 2
        effects = mine.accepted(asked.ballot, name, acceptance.reply)
    after = state.but(
        records=tuple(done.record or r if i == home else r for i, r in enumerate(state.records)),
        network=tuple(m - {sent} if i == home else m for i, m in enumerate(state.network)),
        votes=votes,
        trail=(state.trail, said),
    )
    yield _perform(scene, after, sent.at, mine, effects)
    if waiting and state.losses > 0:
        lost = after.but(losses=state.losses - 1, trail=(after.trail, "(the reply is lost)"))
        yield _perform(scene, lost, sent.at, state.proposers[sent.at], [])


def _follow(scene: Scene, state: State, home: int) -> Iterator[State]:
    """From each other home: what it takes is accepted like any vote, unless a promise is in the way."""
    for other in range(scene.homes):
        theirs = state.records[other]
        if other == home or theirs is None or theirs.accepted is None:
            continue
        taken = scene.rules.late(state.records[home], standing_of(state, home), theirs).record
        if taken is None:
            continue
        vote = (theirs.accepted.counter, TABLE.number(theirs.head))
        yield state.but(
            follows=state.follows - 1,
            records=tuple(taken if i == home else r for i, r in enumerate(state.records)),
            votes=tuple(v | {vote} if i == home else v for i, v in enumerate(state.votes)),
            trail=(state.trail, f"s{home} takes {theirs.accepted.counter} from s{other}"),
        )


def _forget(scene: Scene, state: State, home: int) -> Iterator[State]:
    """A home says that it may forget what all held in the beginning, or is told that so did the others."""
    assert scene.forgotten is not None
    record, words = state.records[home], state.words
    held = HeldKey(BUCKET, KEY, ballot(0, 8), scene.forgotten.version)
    head = CODEC.decode(Head, record.head) if record is not None and record.accepted is not None else None
    if scene.rules.word(record, head, standing_of(state, home), held) is not Word.YES:
        return
    if words[home] == 0:
        said = tuple(1 if i == home else word for i, word in enumerate(words))
        yield state.but(words=said, trail=(state.trail, f"s{home} says yes"))
    if words[home] < 2 and sum(word > 0 for word in words) >= (scene.rules.asked or scene.homes):
        told = tuple(2 if i == home else word for i, word in enumerate(words))
        records, floors = list(state.records), list(state.floors)
        if record is not None and head is not None:
            records[home], floors[home] = None, scene.rules.floors_of(record, head)
        yield state.but(
            records=tuple(records),
            floors=tuple(floors),
            words=told,
            trail=(state.trail, f"s{home} forgets"),
        )


def _reader_steps(scene: Scene, state: State) -> Iterator[State]:
    told = [a.version for a in state.answers if isinstance(a, Finished)]
    floor = state.floor if any(state.seen) else max(told, default=0)
    for home in range(scene.homes):
        if state.seen[home] is not None:
            continue
        asked = ReadRegister(SCOPE, BUCKET, KEY, True, 0)
        shown = view(state.records[home], standing_of(state, home), asked)
        sights = list(state.seen)
        sights[home] = (shown.ballot, shown.head_hash)
        named = {store(at): sight for at, sight in enumerate(sights) if sight is not None}
        agreed = agreement(named, scene.roster)
        read = state.read
        if agreed is not None:
            read = 0 if agreed.ballot is None else _version(state, agreed.ballot.counter)
        trail = (state.trail, f"s{home} shows {shown.ballot.counter if shown.ballot else 'nothing'}")
        yield state.but(seen=tuple(sights), floor=floor, read=read, trail=trail)


def _version(state: State, counter: int) -> int:
    return next(TABLE.heads[head].version for votes in state.votes for at, head in votes if at == counter)


def _told(answer: Finished | Failed | None) -> str:
    if isinstance(answer, Finished):
        return f"version {answer.version}"
    return "" if answer is None else type(answer.error).__name__
