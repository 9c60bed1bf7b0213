"""One operation on its way to a decision, as a machine: answers in, effects out, no clock and no wire.

The shell mints ballots, sends what it is told to send and brings every answer back with the ballot it
belongs to; answers to an earlier ballot are ignored. Rules R1 to R9 of docs/protocol.md; who is asked after
a refusal (R10) is the shell's business.

    begin -> SendPrepare -> promises -> SendAccept -> acceptances -> Finished
                              |  current not complete: SendAccept of it, then Again(COMPLETED)
                              |  nothing to write: Finished
                              `- a quorum is out of reach: Again or Finished with an error
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from holdfast_node.core.errors import (
    BucketClosing,
    Evidence,
    HoldfastError,
    IntegrityError,
    OutcomeUnknown,
    Overloaded,
    StaleEra,
    StaleGeneration,
)
from holdfast_node.core.head import ABSENT_HEAD, Ballot, Head
from holdfast_node.core.ids import Digest, StoreId, Version
from holdfast_node.core.messages import AcceptReply, PrepareReply
from holdfast_node.core.operation import Operation
from holdfast_node.core.quorum import Roster
from holdfast_node.core.register import (
    Change,
    Facts,
    HeadCodec,
    Keep,
    Refuse,
    Sealed,
    Verdict,
    decide,
    fits,
    head_hash,
    seal,
)


@dataclass(frozen=True, slots=True)
class SendPrepare:
    """To every voter."""

    ballot: Ballot


@dataclass(frozen=True, slots=True)
class SendAccept:
    """To every home, learners too; only voters' answers come back here."""

    ballot: Ballot
    head: bytes
    head_hash: Digest


@dataclass(frozen=True, slots=True)
class Linger:
    """A quorum promised but does not show a decided value, and more answers may: call `overdue` after a
    moment."""

    ballot: Ballot


@dataclass(frozen=True, slots=True)
class Finished:
    """`accepted` are the voters known to hold `head`. `repeated`: the request was applied by an attempt in
    which this proposer sent no accept, so nothing this one staged can be named."""

    version: Version
    head: Head
    ballot: Ballot | None
    accepted: frozenset[StoreId]
    repeated: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """The end, without a write that could still take effect, or `OutcomeUnknown`."""

    error: HoldfastError


class Reason(Enum):
    COMPLETED = "completed"
    """The value found was written back; the change goes under the next ballot, at once."""
    CONTENDED = "contended"
    """A higher ballot stood in the way."""
    STALE = "stale"
    """A home is in another generation: get the newer map first."""
    SHORT = "short"
    """Too few voters answered."""


@dataclass(frozen=True, slots=True)
class Again:
    """This ballot is spent. `begin` again under a higher one, or give up with `give_up`."""

    reason: Reason
    source: StoreId | None = None


Effect = SendPrepare | SendAccept | Linger | Finished | Failed | Again


class _Phase(Enum):
    RESTING = 0
    PREPARING = 1
    ACCEPTING = 2


class Proposal:
    """Use one per operation; a ballot is given to `begin` or `resume` once and never again."""

    def __init__(self, operation: Operation, codec: HeadCodec) -> None:
        self._operation: Final = operation
        self._codec: Final = codec
        self._phase = _Phase.RESTING
        self._roster = Roster(frozenset(), 1)
        self._promises: dict[StoreId, PrepareReply] = {}
        self._accepted: set[StoreId] = set()
        self._rejected: dict[StoreId, Ballot | None] = {}
        self._errors: dict[StoreId, HoldfastError] = {}
        self._lingering = False
        self._current = ABSENT_HEAD
        self._verdict: Verdict = Keep(Version(0))
        self._write_back = False
        self.ballot: Ballot | None = None
        self.highest = 0
        """The highest ballot counter met: the next ballot must be above it."""
        self.accept_sent = False
        """Whether a head of this operation's own making may be on its way to being decided."""
        self.recent_count = 0
        """How many applied writes the last head seen remembers."""

    # --- events ---------------------------------------------------------------------------------------------

    def begin(self, ballot: Ballot, roster: Roster) -> list[Effect]:
        """Start over under `ballot`: promises of earlier ballots are forgotten."""
        assert self._phase is _Phase.RESTING, "a ballot is still running"
        assert self.ballot is None or ballot > self.ballot, "ballots only rise"
        self._reset(ballot, roster)
        self._phase = _Phase.PREPARING
        return [SendPrepare(ballot)]

    def resume(
        self, ballot: Ballot, roster: Roster, promises: Mapping[StoreId, PrepareReply]
    ) -> list[Effect]:
        """Start with the promises that came back with the staged shards. They must be a quorum of the
        roster."""
        assert self.ballot is None, "only a first ballot has promises beforehand"
        self._reset(ballot, roster)
        self._phase = _Phase.PREPARING
        self._lingering = True
        self._promises = {store: promises[store] for store in sorted(promises) if store in roster.everyone}
        assert roster.decides(self._promises)
        return self._decide()

    def promised(self, ballot: Ballot, store: StoreId, reply: PrepareReply) -> list[Effect]:
        if not self._expects(ballot, store, _Phase.PREPARING):
            return []
        if not reply.promised:
            self._reject(store, reply.higher)
        elif reply.accepted is not None and head_hash(reply.head) != reply.head_hash:
            self._errors[store] = IntegrityError("the head does not hash to what the home said")
        else:
            self._promises[store] = reply
        return self._weigh_promises()

    def accepted(self, ballot: Ballot, store: StoreId, reply: AcceptReply) -> list[Effect]:
        if not self._expects(ballot, store, _Phase.ACCEPTING):
            return []
        if reply.accepted:
            self._accepted.add(store)
        else:
            self._reject(store, reply.higher)
        return self._weigh_acceptances()

    def not_promised(self, ballot: Ballot, store: StoreId, error: HoldfastError) -> list[Effect]:
        """The prepare got a refusal that is no vote, or no answer at all."""
        if not self._expects(ballot, store, _Phase.PREPARING):
            return []
        self._errors[store] = error
        return self._weigh_promises()

    def not_accepted(self, ballot: Ballot, store: StoreId, error: HoldfastError) -> list[Effect]:
        """The accept got a refusal that is no vote, or no answer at all."""
        if not self._expects(ballot, store, _Phase.ACCEPTING):
            return []
        self._errors[store] = error
        return self._weigh_acceptances()

    def overdue(self, ballot: Ballot) -> list[Effect]:
        """Lingered long enough: go on with the promises there are."""
        if self._phase is not _Phase.PREPARING or ballot != self.ballot or not self._lingering:
            return []
        return self._decide()

    def give_up(self, error: HoldfastError) -> HoldfastError:
        """What to tell the caller when the shell stops trying because of `error`."""
        if not self.accept_sent:
            return error
        return OutcomeUnknown(
            f"the write may or may not take effect: {error.message}",
            hint="retry with the same request id",
            evidence=error.evidence,
        )

    def evidence(self, name: Callable[[StoreId], str]) -> tuple[Evidence, ...]:
        """Who answered what under the last ballot."""
        said = dict.fromkeys(self._rejected, "refused for a higher ballot")
        said |= {store: error.message for store, error in self._errors.items()}
        return tuple(Evidence(name(store), said[store]) for store in sorted(said))

    # --- rules ----------------------------------------------------------------------------------------------

    def _reset(self, ballot: Ballot, roster: Roster) -> None:
        self.ballot, self._roster = ballot, roster
        self.highest = max(self.highest, ballot.counter)
        self._promises, self._accepted, self._rejected, self._errors = {}, set(), {}, {}
        self._lingering = False

    def _expects(self, ballot: Ballot, store: StoreId, phase: _Phase) -> bool:
        """Counted once each, from voters of this generation only, for this ballot and phase only."""
        if phase is not self._phase or ballot != self.ballot or store not in self._roster.everyone:
            return False
        return store not in self._answered()

    def _answered(self) -> set[StoreId]:
        yes = self._promises.keys() if self._phase is _Phase.PREPARING else self._accepted
        return {*yes, *self._rejected, *self._errors}

    def _reject(self, store: StoreId, higher: Ballot | None) -> None:
        self._rejected[store] = higher
        if higher is not None:
            self.highest = max(self.highest, higher.counter)

    def _outstanding(self) -> frozenset[StoreId]:
        return self._roster.everyone - self._answered()

    def _weigh_promises(self) -> list[Effect]:
        if not self._roster.decides(self._promises):
            if self._roster.decides(self._outstanding().union(self._promises)):
                return []
            return self._lost()
        if self._shown(self._highest_promise()) or not self._outstanding():
            return self._decide()
        if self._lingering:
            return []
        self._lingering = True
        return [] if self.ballot is None else [Linger(self.ballot)]

    def _highest_promise(self) -> PrepareReply:
        """The promise that shows the highest accepted ballot: its head is *current*."""
        best = next(iter(self._promises.values()))
        for promise in self._promises.values():
            if promise.accepted is not None and (best.accepted is None or promise.accepted > best.accepted):
                best = promise
        return best

    def _shown(self, current: PrepareReply) -> bool:
        """R4: whether a quorum shows the current head at one ballot (or none at all), so that it is
        decided. While a move is open, of both sets, also if the old one decided it: whoever writes brings it over."""
        same = (current.accepted, current.head_hash)
        alike = [store for store, p in self._promises.items() if (p.accepted, p.head_hash) == same]
        return self._roster.decides(alike)

    def _decide(self) -> list[Effect]:
        current = self._highest_promise()
        complete = self._shown(current)
        self._current = (
            self._codec.decode(Head, current.head) if current.accepted is not None else ABSENT_HEAD
        )
        self.recent_count = len(self._current.recent)
        facts = self._facts()
        for met in (current.accepted, self._current.fence, facts.ballot_floor):
            self.highest = max(self.highest, met.counter if met is not None else 0)
        self._verdict = decide(self._current, self._operation, facts)
        if not complete:
            self._write_back = True
            return self._send_accept(current.head, current.head_hash)
        self._write_back = False
        if not isinstance(self._verdict, Change):
            shows = (current.accepted, current.head_hash)
            holders = frozenset(s for s, p in self._promises.items() if (p.accepted, p.head_hash) == shows)
            return [self._finish(current.accepted, holders)]
        sealed = seal(self._verdict.head, self._codec)
        return self._propose(sealed)

    def _propose(self, sealed: Sealed) -> list[Effect]:
        error = fits(sealed, self._codec)
        if error is not None:
            self._phase = _Phase.RESTING
            return [Failed(self.give_up(error))]
        self.accept_sent = True
        self.recent_count = len(sealed.head.recent)
        self._current = sealed.head
        return self._send_accept(sealed.data, sealed.hash)

    def _facts(self) -> Facts:
        replies = list(self._promises.values())
        floors = [p.ballot_floor for p in replies if p.ballot_floor is not None]
        eras = sorted(
            (p.era for store, p in self._promises.items() if store in self._roster.voters), reverse=True
        )
        return Facts(
            version_floor=max(p.version_floor for p in replies),
            ballot_floor=max(floors, default=None),
            era=eras[self._roster.quorum - 1],
        )

    def _send_accept(self, head: bytes, digest: Digest) -> list[Effect]:
        assert self.ballot is not None
        self._phase = _Phase.ACCEPTING
        self._accepted, self._rejected, self._errors = set(), {}, {}
        return [SendAccept(self.ballot, head, digest)]

    def _weigh_acceptances(self) -> list[Effect]:
        if not self._roster.decides(self._accepted):
            if self._roster.decides(self._outstanding().union(self._accepted)):
                return []
            return self._lost()
        if self._write_back and isinstance(self._verdict, Change):
            self._phase = _Phase.RESTING
            return [Again(Reason.COMPLETED)]
        return [self._finish(self.ballot, frozenset(self._accepted))]

    def _finish(self, ballot: Ballot | None, holders: frozenset[StoreId]) -> Effect:
        """The current head is decided and the verdict over it stands."""
        self._phase = _Phase.RESTING
        verdict = self._verdict
        if isinstance(verdict, Refuse):
            return Failed(verdict.error if verdict.settled else self.give_up(verdict.error))
        repeated = isinstance(verdict, Keep) and verdict.repeated and not self.accept_sent
        version = verdict.version if isinstance(verdict, Keep) else verdict.head.version
        return Finished(version, self._current, ballot, holders, repeated)

    def _lost(self) -> list[Effect]:
        """No quorum can come of this ballot any more."""
        why = self._why_lost()
        if why is None:
            return []
        self._phase = _Phase.RESTING
        return [why]

    def _why_lost(self) -> Effect | None:
        """None: it hangs on who has not answered yet. One home that is away or broken must not hide for ever that the
        others will never accept."""
        for store in sorted(self._errors):
            if isinstance(self._errors[store], StaleGeneration):
                return Again(Reason.STALE, store)
        for kind in (StaleEra, BucketClosing):
            refusals = {store: e for store, e in self._errors.items() if isinstance(e, kind)}
            if refusals and not self._roster.decides(self._roster.everyone - refusals.keys()):
                return Failed(self.give_up(refusals[min(refusals)]))
            if refusals and self._outstanding():
                return None
        return Again(Reason.CONTENDED if self._rejected else Reason.SHORT)

    def overload(self) -> Overloaded | None:
        """The homes' own overload, if that is what kept a quorum away."""
        found = [e for e in self._errors.values() if isinstance(e, Overloaded)]
        return found[0] if found else None
