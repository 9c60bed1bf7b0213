"""The proposer's side of the register, on any node: read, attempt, commit, and the steward's queue.

Drives `core.proposal` over the links: one ballot after another until the operation is decided, refused or
out of time. Before any accept of the operation's own making was sent, an error means that nothing happened;
after that it is `OutcomeUnknown` unless the decided head tells. Knows nothing of shards.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from holdfast_node.core.errors import (
    AlreadyExists,
    BlobNotFound,
    BucketClosing,
    Evidence,
    HoldfastError,
    NotInitialised,
    NotVoting,
    OutcomeUnknown,
    Overloaded,
    PreconditionFailed,
    StaleEra,
    StaleGeneration,
    TooLarge,
    Unavailable,
    Unimplemented,
    UploadExpired,
    VersionNotFound,
)
from holdfast_node.core.head import Ballot, Head
from holdfast_node.core.ids import ID_BYTES, BucketId, Era, RequestId, StoreId, Version
from holdfast_node.core.messages import Commit, CommitReply, Prepare, PrepareReply, Scope
from holdfast_node.core.operation import Operation, OperationKind
from holdfast_node.core.proposal import Again, Effect, Failed, Finished, Proposal, Reason
from holdfast_node.core.register import HeadCodec
from holdfast_node.ports import Entropy, Links
from holdfast_node.services.ballots import Ballots
from holdfast_node.services.eras import Eras
from holdfast_node.services.fanout import call
from holdfast_node.services.places import Maps, Place, current_topology, newer_map, place_of
from holdfast_node.services.reading import Reader, Reading
from holdfast_node.services.rounds import Rest, Round
from holdfast_node.services.turns import KeyId, Turns

COMMIT_TIMEOUT_S: Final = 10.0
"""No new ballot is begun after this long; the running one ends within its own timeouts."""
STEWARD_TIMEOUT_S: Final = 3.0
SHORT_TRIES_MAX: Final = 4
"""Ballots in a row that too few homes answered, before the caller hears of it."""
SHORT_JITTER_S: Final = 0.1
CONTENDED_JITTER_S: Final = 0.02
SETTLE_TRIES_MAX: Final = 4
COMMITS_WAITING_MAX: Final = 1024
"""Commits queued on one key at one node."""

_NOBODY: Final = RequestId(bytes(ID_BYTES))
_NAMING: Final = (OperationKind.PUT, OperationKind.DELETE, OperationKind.RECODE)
_SETTLED: Final = (AlreadyExists, PreconditionFailed, BlobNotFound, VersionNotFound)
_FINAL: Final = (StaleEra, BucketClosing, TooLarge, UploadExpired)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A decided write. `head` is the head decided when the answer was known, `accepted` the voters that
    hold it (empty if a steward committed it: a quorum, which is not told). `repeated`: an earlier attempt
    of this request was applied and this one sent no accept, so its own shards are named by nothing."""

    version: Version
    head: Head
    accepted: frozenset[StoreId]
    repeated: bool


class Attempt:
    """One attempt's base ballot, and the promises that came back with its staged shards."""

    def __init__(self, place: Place, ballot: Ballot, stamp: int, *, background: bool = False) -> None:
        self.place: Final = place
        self.base: Final = ballot
        self.prepare: Final = Prepare(place.scope, place.bucket, place.key, ballot, stamp, background)
        self.promises: dict[StoreId, PrepareReply] = {}
        self.refused = False
        self.accept_sent = False
        """Once True, the shards of this attempt may only be dropped through the register."""

    def promised(self, store: StoreId, reply: PrepareReply) -> None:
        """What a home answered to `prepare`, whichever way it travelled."""
        if reply.promised:
            self.promises[store] = reply
        else:
            self.refused = True


class Registers:
    """Reads and writes the registers of any key. Also the steward's side of `Commit`."""

    def __init__(
        self,
        *,
        links: Links,
        maps: Maps,
        codec: HeadCodec,
        entropy: Entropy,
        ballots: Ballots,
        eras: Eras,
    ) -> None:
        self._me: Final = ballots.store
        self._links: Final = links
        self._maps: Final = maps
        self._codec: Final = codec
        self._entropy: Final = entropy
        self._ballots: Final = ballots
        self._eras: Final = eras
        self._turns: Final = Turns(COMMITS_WAITING_MAX)
        self._reader: Final = Reader(
            me=self._me, links=links, maps=maps, codec=codec, entropy=entropy, settle=self._settle
        )

    # --- reading --------------------------------------------------------------------------------------------

    async def read(self, pool: int, bucket: BucketId, key: bytes, *, inline_bytes_max: int = 0) -> Reading:
        """The decided head (its kind may be ABSENT or TOMBSTONE). Linearizable; raises `Unavailable`.

        An attempt begun afterwards has its base above the fence that was read, or the floor.
        """
        reading = await self._reader.read(pool, bucket, key, inline_bytes_max=inline_bytes_max)
        for ballot in (reading.ballot, reading.head.fence, reading.floor):
            if ballot is not None:
                self._ballots.observe(ballot.counter)
        return reading

    async def head(self, pool: int, bucket: BucketId, key: bytes) -> Head:
        return (await self.read(pool, bucket, key)).head

    async def _settle(self, pool: int, bucket: BucketId, key: bytes) -> Reading:
        """For a reader: nobody's stamp is at stake, so one that has become old is taken anew."""
        for _ in range(SETTLE_TRIES_MAX):
            era = Era(current_topology(self._maps).map.era)
            operation = Operation(kind=OperationKind.SETTLE, request_id=_NOBODY, stamp=era)
            try:
                outcome = await self.run(pool, bucket, key, operation)
            except StaleEra:
                await self.pause(SHORT_JITTER_S)
                continue
            return Reading(outcome.head, None, {}, outcome.accepted)
        raise Unavailable("the era keeps rising", retry_after_ms=1000)

    # --- writing --------------------------------------------------------------------------------------------

    def attempt(
        self, pool: int, bucket: BucketId, key: bytes, stamp: int, *, background: bool = False
    ) -> Attempt:
        """A new base ballot. Its `prepare` may travel with the shards; `commit` works without that too. `background`:
        no caller waits for it."""
        place = place_of(self._maps, pool, bucket, key)
        return Attempt(place, self._ballots.mint(place.scope.generation), stamp, background=background)

    async def commit(self, attempt: Attempt, operation: Operation) -> Outcome:
        """Carry out the operation, once, whatever happens on the way. Use an attempt for one commit."""
        key = (attempt.place.bucket, attempt.place.key)
        async with self._turns.turn(key):
            return await _Drive(self, attempt, operation, may_forward=True).run()

    async def run(self, pool: int, bucket: BucketId, key: bytes, operation: Operation) -> Outcome:
        """An attempt and its commit in one, for writes that stage nothing."""
        attempt = self.attempt(pool, bucket, key, operation.stamp, background=operation.background)
        if operation.kind is OperationKind.PUT and operation.base is None:
            operation = replace(operation, base=attempt.base)
        return await self.commit(attempt, operation)

    async def rewrite(self, pool: int, bucket: BucketId, key: bytes, *, above: Ballot | None) -> None:
        """Have the current head decided once more, above a ballot that a home has promised: a home whose copy is broken
        takes it then. Raises `Unavailable`, `BucketClosing`."""
        if above is not None:
            self._ballots.observe(above.counter)
        era = Era(current_topology(self._maps).map.era)
        _ = await self.run(pool, bucket, key, Operation(OperationKind.REWRITE, _NOBODY, era))

    async def fence(self, pool: int, bucket: BucketId, key: bytes, base: Ballot) -> Head:
        """Have it decided that no attempt based at or under `base` can commit any more, and return the head that says
        so: shards of such an attempt that it does not name are nobody's, now and for ever (R7). Raises `ClusterError`.
        """
        era = Era(current_topology(self._maps).map.era)
        operation = Operation(OperationKind.FENCE, _NOBODY, era, base=base)
        return (await self.run(pool, bucket, key, operation)).head

    async def expire(self, pool: int, bucket: BucketId, key: bytes, below: int) -> Head:
        """Let go of the kept versions below that one. Raises `ClusterError`."""
        era = Era(current_topology(self._maps).map.era)
        operation = Operation(OperationKind.EXPIRE, _NOBODY, era, below=below)
        return (await self.run(pool, bucket, key, operation)).head

    async def serve_commit(self, scope: Scope, key: KeyId, operation: Operation) -> CommitReply:
        """As steward: run another node's commit in this key's queue. Never forwards it further."""
        attempt = self.attempt(scope.pool, *key, operation.stamp, background=operation.background)
        async with self._turns.turn(key):
            outcome = await _Drive(self, attempt, operation, may_forward=False).run()
        return CommitReply(outcome.version, self._codec.encode(outcome.head))

    # --- for _Drive -----------------------------------------------------------------------------------------

    def place_again(self, place: Place) -> Place:
        return place_of(self._maps, place.scope.pool, place.bucket, place.key)

    def observe(self, counter: int) -> None:
        self._ballots.observe(counter)

    def mint(self, place: Place, above: int) -> Ballot:
        self._ballots.observe(above)
        return self._ballots.mint(place.scope.generation)

    def proposal(self, operation: Operation) -> Proposal:
        return Proposal(operation, self._codec)

    async def play(
        self, place: Place, proposal: Proposal, operation: Operation, effects: list[Effect]
    ) -> Rest:
        return await Round(self._links, place, proposal, operation).run(effects)

    async def pause(self, most_s: float) -> None:
        await asyncio.sleep(self._entropy.jitter(0.0, most_s))

    async def newer_map(self, place: Place, source: StoreId | None) -> None:
        await newer_map(self._maps, place.scope, source)

    def steward_of(self, place: Place) -> StoreId | None:
        """The first live voting home, or None if that is this store."""
        for store in place.voters:
            if store == self._me:
                return None
            if self._links.is_up(store):
                return store
        return None

    async def ask_steward(self, steward: StoreId, place: Place, operation: Operation) -> Outcome:
        request = Commit(place.scope, place.bucket, place.key, self._codec.encode(operation))
        reply = await call(self._links, steward, request, expect=CommitReply, timeout_s=STEWARD_TIMEOUT_S)
        head = self._codec.decode(Head, reply.head)
        return Outcome(Version(reply.version), head, frozenset(), repeated=False)

    def name(self, store: StoreId) -> str:
        topology = self._maps.topology
        return topology.name(store) if topology is not None else store.hex()[:8]

    def note_recent(self, head: Head) -> None:
        self._eras.note(head)


class _Drive:
    """One operation from its first ballot to its end."""

    def __init__(self, home: Registers, attempt: Attempt, operation: Operation, *, may_forward: bool) -> None:
        self._home: Final = home
        self._attempt: Final = attempt
        self._operation: Final = operation
        self._may_forward = may_forward
        self._place = attempt.place
        self._proposal: Final = home.proposal(operation)
        self._short = 0
        self._forwarded: bool = False

    async def run(self) -> Outcome:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + COMMIT_TIMEOUT_S
        try:
            outcome = await self._through_attempt()
            while outcome is None:
                if loop.time() >= deadline:
                    raise self._give_up(Unavailable("the key is contended", evidence=self._evidence()))
                outcome = await self._ballot(self._begin())
            return outcome
        finally:
            self._attempt.accept_sent = self._touched
            self._home.observe(self._proposal.highest)

    @property
    def _touched(self) -> bool:
        return self._proposal.accept_sent or self._forwarded

    async def _through_attempt(self) -> Outcome | None:
        """Use the promises that came with the shards if they are a quorum; a refusal among too few is
        R10's."""
        attempt = self._attempt
        self._place = self._home.place_again(attempt.place)
        roster = self._place.roster
        promises = {s: p for s, p in attempt.promises.items() if s in roster.everyone}
        if self._place.scope == attempt.place.scope and roster.decides(promises):
            return await self._ballot(self._proposal.resume(attempt.base, roster, promises))
        return await self._contended() if attempt.refused else await self._ballot(self._begin())

    def _begin(self) -> list[Effect]:
        try:
            self._place = self._home.place_again(self._place)
        except HoldfastError as error:
            raise self._give_up(error) from error
        ballot = self._home.mint(self._place, self._proposal.highest)
        return self._proposal.begin(ballot, self._place.roster)

    async def _ballot(self, effects: list[Effect]) -> Outcome | None:
        """One ballot to its rest; None: another is needed."""
        try:
            rest = await self._home.play(self._place, self._proposal, self._operation, effects)
        except HoldfastError as error:
            raise self._give_up(error) from error
        if isinstance(rest, Finished):
            self._home.note_recent(rest.head)
            return Outcome(rest.version, rest.head, rest.accepted, rest.repeated and not self._forwarded)
        if isinstance(rest, Failed):
            raise self._refusal(rest.error)
        return await self._after(rest)

    async def _after(self, rest: Again) -> Outcome | None:
        if rest.reason is Reason.COMPLETED:
            return None
        if rest.reason is Reason.STALE:
            await self._home.newer_map(self._place, rest.source)
        if rest.reason is Reason.CONTENDED:
            self._short = 0
            return await self._contended()
        await self._count_short()
        return None

    async def _count_short(self) -> None:
        self._short += 1
        if self._short >= SHORT_TRIES_MAX:
            error = self._proposal.overload() or Unavailable(
                "too few homes of the key answered", evidence=self._evidence()
            )
            raise self._give_up(error)
        await self._home.pause(SHORT_JITTER_S)

    async def _contended(self) -> Outcome | None:
        """R10: after its first refusal a commit goes to the steward; on its silence, jitter and another
        try."""
        steward = self._home.steward_of(self._place) if self._may_forward else None
        self._may_forward = False
        if steward is not None and (outcome := await self._forward(steward)) is not None:
            return outcome
        await self._home.pause(CONTENDED_JITTER_S)
        return None

    async def _forward(self, steward: StoreId) -> Outcome | None:
        before = self._forwarded
        self._forwarded = before or self._operation.kind in _NAMING
        try:
            outcome = await self._home.ask_steward(steward, self._place, self._operation)
        except _SETTLED:
            raise
        except _FINAL as error:
            self._forwarded = before
            raise self._give_up(error) from error
        except HoldfastError as error:
            if _certainly_idle(error):
                self._forwarded = before
            return None
        self._home.note_recent(outcome.head)
        return outcome

    def _refusal(self, error: HoldfastError) -> HoldfastError:
        """What the machine says, unless a steward that did not answer may still carry the operation out: it may not
        even have begun, so that no decided head tells what will become of it."""
        if not self._forwarded or isinstance(error, OutcomeUnknown):
            return error
        return self._give_up(error)

    def _give_up(self, error: HoldfastError) -> HoldfastError:
        self._proposal.accept_sent |= self._forwarded
        return self._proposal.give_up(error)

    def _evidence(self) -> tuple[Evidence, ...]:
        return self._proposal.evidence(self._home.name)


def _certainly_idle(error: HoldfastError) -> bool:
    """Whether a steward that answered so has sent no accept: a refusal of its own, not trouble on the way."""
    return isinstance(
        error, (Unavailable, Overloaded, NotInitialised, NotVoting, StaleGeneration, Unimplemented)
    )
