"""What one home answers for one key: promise, accept, show. Pure functions from a record to a record and a
reply.

Rules R1, R2, R8 and R9 of docs/protocol.md. Knows nothing of files or of what is durable: whoever calls this
writes the record down before the reply leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from holdfast_node.core.errors import (
    BucketClosing,
    ChecksumMismatch,
    InternalError,
    InvalidArgument,
    NotVoting,
    StaleEra,
    StaleGeneration,
)
from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import Digest
from holdfast_node.core.messages import (
    Accept,
    AcceptReply,
    Prepare,
    PrepareReply,
    ReadRegister,
    RegisterView,
    Scope,
)
from holdfast_node.core.records import RegisterRecord
from holdfast_node.core.register import head_hash, refused

NO_HASH: Final = Digest(b"")


@dataclass(frozen=True, slots=True)
class Standing:
    """What a home knows besides the key's own record.

    `generation` and `era` are what it adopted durably. `not_voting` says why its answers for this partition
    do not count, empty if they do. The floors are what is left of keys it has forgotten. `moving`: a move of the
    partition is open.
    """

    generation: int
    era: int
    not_voting: str = ""
    closing: bool = False
    version_floor: int = 0
    ballot_floor: Ballot | None = None
    moving: bool = False


@dataclass(frozen=True, slots=True)
class Promise:
    """`record` None: nothing to write down."""

    record: RegisterRecord | None
    reply: PrepareReply


@dataclass(frozen=True, slots=True)
class Acceptance:
    """`record` None: nothing to write down (refused, or accepted before)."""

    record: RegisterRecord | None
    reply: AcceptReply


@dataclass(frozen=True, slots=True)
class Late:
    """`record` None: nothing to write down. `again_above`: the ballot above which the pair has to be decided once
    more. `closed`: the bucket is being deleted, so that this has to wait until it is gone, or open again."""

    record: RegisterRecord | None
    again_above: Ballot | None = None
    closed: bool = False


def check_generation(standing: Standing, scope: Scope) -> None:
    """Every register message is refused outside the generation this home adopted, reads and lists
    included."""
    if scope.generation != standing.generation:
        raise StaleGeneration(
            f"partition {scope.partition} of pool {scope.pool} is in generation {standing.generation} here, "
            f"asked in {scope.generation}"
        )


def check_voting(standing: Standing) -> None:
    if standing.not_voting:
        raise NotVoting(standing.not_voting)


def _check_write(standing: Standing, request: Prepare | Accept) -> None:
    check_generation(standing, request.scope)
    if request.ballot.generation != request.scope.generation:
        raise InvalidArgument("the ballot is of another generation than its message")
    if standing.closing:
        raise BucketClosing("the bucket is being deleted")
    if refused(request.stamp, standing.era):
        raise StaleEra(f"the request is of era {request.stamp}, this home is in era {standing.era}")


def _bar(record: RegisterRecord | None, standing: Standing) -> Ballot | None:
    """The highest ballot that stands in the way of a new one."""
    promised = record.promised if record is not None else None
    if record is not None and record.accepted is not None:
        return promised
    return max((b for b in (promised, standing.ballot_floor) if b is not None), default=None)


def prepare(record: RegisterRecord | None, standing: Standing, request: Prepare) -> Promise:
    """Promise only what is strictly above everything promised before, and show what was accepted."""
    _check_write(standing, request)
    check_voting(standing)
    bar = _bar(record, standing)
    if bar is not None and request.ballot <= bar:
        return Promise(None, _promise_reply(None, standing, higher=bar))
    after = _with_promise(record, request)
    return Promise(after, _promise_reply(after, standing, higher=None))


def _with_promise(record: RegisterRecord | None, request: Prepare) -> RegisterRecord:
    if record is not None:
        return replace(record, promised=request.ballot)
    scope = request.scope
    return RegisterRecord(request.bucket, request.key, scope.pool, scope.partition, request.ballot, None, b"")


def _promise_reply(
    record: RegisterRecord | None, standing: Standing, *, higher: Ballot | None
) -> PrepareReply:
    accepted = record.accepted if record is not None else None
    head = record.head if record is not None and accepted is not None else b""
    return PrepareReply(
        promised=higher is None,
        higher=higher,
        accepted=accepted,
        head_hash=head_hash(head) if accepted is not None else NO_HASH,
        head=head,
        version_floor=standing.version_floor,
        ballot_floor=standing.ballot_floor,
        era=standing.era,
    )


def accept(record: RegisterRecord | None, standing: Standing, request: Accept) -> Acceptance:
    """Accept what is not under a promise. A home that may not vote keeps it too; its caller must not count
    it."""
    _check_write(standing, request)
    if head_hash(request.head) != request.head_hash:
        raise ChecksumMismatch("the head does not hash to what the message says")
    promised = record.promised if record is not None else None
    if promised is not None and request.ballot < promised:
        return Acceptance(None, AcceptReply(False, promised))
    floor = standing.ballot_floor
    if (record is None or record.accepted is None) and floor is not None and request.ballot <= floor:
        return Acceptance(None, AcceptReply(False, floor))
    if record is not None and record.accepted == request.ballot:
        if record.head != request.head:
            raise InternalError("two heads under one ballot")
        return Acceptance(None, AcceptReply(True, None))
    scope, ballot = request.scope, request.ballot
    after = RegisterRecord(
        request.bucket, request.key, scope.pool, scope.partition, ballot, ballot, request.head
    )
    return Acceptance(after, AcceptReply(True, None))


def view(record: RegisterRecord | None, standing: Standing, request: ReadRegister) -> RegisterView:
    """What is accepted here. Shown only by a home that can vouch for it."""
    check_generation(standing, request.scope)
    check_voting(standing)
    accepted = record.accepted if record is not None else None
    head = record.head if record is not None and accepted is not None else b""
    return RegisterView(
        ballot=accepted,
        head_hash=head_hash(head) if accepted is not None else NO_HASH,
        head=head if request.want_head else b"",
        version_floor=standing.version_floor,
        era=standing.era,
        floor=standing.ballot_floor if accepted is None else None,
    )


def blank(record: RegisterRecord) -> RegisterRecord:
    """The register as if nothing had ever been promised or accepted in it here."""
    return RegisterRecord(
        record.bucket, record.key, record.pool, record.partition, promised=None, accepted=None, head=b""
    )


def under_promise(record: RegisterRecord | None, copy: RegisterRecord) -> bool:
    """Whether a promise given here says that this pair would not be accepted any more."""
    assert copy.accepted is not None, "only accepted pairs are copied"
    if record is None or record.promised is None or record.promised <= copy.accepted:
        return False
    return record.accepted is None or record.accepted < copy.accepted


def missed(record: RegisterRecord | None, copy: RegisterRecord, *, before: int) -> bool:
    """Whether this pair of a generation `before` that one is newer than what is held here."""
    assert copy.accepted is not None, "only accepted pairs are copied"
    newer = record is None or record.accepted is None or record.accepted < copy.accepted
    return newer and copy.accepted.generation < before


def late(record: RegisterRecord | None, standing: Standing, copy: RegisterRecord) -> Late:
    """What a home that votes makes of a pair that another one accepted and it missed: what it would have made of the
    accept, had that come late. Nothing, if it has as new a pair. Under a floor nobody can tell whether it was forgotten
    here or never came: it is decided once more.

    What is under a promise given here is not taken, and during a move nothing of an earlier generation: old homes agree
    on such a pair without the newcomers, who may have copied before it spread (ADR 0089)."""
    assert copy.accepted is not None, "only accepted pairs are copied"
    check_voting(standing)
    if standing.closing:
        return Late(None, closed=True)
    if under_promise(record, copy):
        return Late(None, again_above=record.promised if record is not None else None)
    if standing.moving and copy.accepted.generation < standing.generation:
        held = record.accepted if record is not None else None
        return Late(None, again_above=copy.accepted if held is None or held < copy.accepted else None)
    floor = standing.ballot_floor
    if (record is None or record.accepted is None) and floor is not None and copy.accepted <= floor:
        return Late(None, again_above=floor)
    return Late(learn(record, copy))


def learn(record: RegisterRecord | None, copy: RegisterRecord) -> RegisterRecord | None:
    """Take another home's accepted pair if it is newer than what is held here; None if it is not.

    A promise made here meanwhile stays: only the accepted pair is learned.
    """
    assert copy.accepted is not None, "only accepted pairs are copied"
    if record is None:
        return replace(copy, promised=copy.accepted)
    if record.accepted is not None and record.accepted >= copy.accepted:
        return None
    promised = copy.accepted if record.promised is None else max(record.promised, copy.accepted)
    return replace(copy, promised=promised)
