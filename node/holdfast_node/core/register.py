"""One write to one key, as a pure function of the decided head: what it becomes, or why it stays as it is.

Knows nothing of ballots in flight, quorums or homes; `proposal` brings it the decided head and the facts its
promises showed. Rules R3, R5, R7 and R9 of docs/protocol.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

from xxhash import xxh3_128_digest

from holdfast_node.core.errors import (
    AlreadyExists,
    BlobNotFound,
    Evidence,
    HoldfastError,
    Overloaded,
    PreconditionFailed,
    TooLarge,
    UploadExpired,
    VersionNotFound,
)
from holdfast_node.core.head import Applied, Ballot, Head, HeadKind, Retained, seeds_of
from holdfast_node.core.ids import HEAD_BYTES_MAX, ID_BYTES, RETAINED_MAX, BlobId, Digest, Version
from holdfast_node.core.operation import NO_VERSION, Operation, OperationKind

RECENT_SOFT: Final = 64
"""More remembered writes than this and the era should be raised, so that old ones can be forgotten: each costs
some 15 us whenever a head is taken apart and put together."""
RECENT_MAX: Final = 1024
"""28 bytes each in the head: 28 KiB of its 64."""

_NO_BLOB: Final = BlobId(bytes(ID_BYTES))
R = TypeVar("R")


class HeadCodec(Protocol):
    """Values to bytes and back; equal values give equal bytes."""

    def encode(self, value: object) -> bytes: ...

    def decode(self, cls: type[R], data: bytes) -> R: ...


@dataclass(frozen=True, slots=True)
class Sealed:
    """A head as it travels and is stored."""

    head: Head
    data: bytes
    hash: Digest


def head_hash(data: bytes) -> Digest:
    return Digest(xxh3_128_digest(data))


def seal(head: Head, codec: HeadCodec) -> Sealed:
    data = codec.encode(head)
    return Sealed(head, data, head_hash(data))


@dataclass(frozen=True, slots=True)
class Facts:
    """What a quorum of promises showed besides the head. `era` is the newest that a majority of homes
    adopted."""

    version_floor: int
    ballot_floor: Ballot | None
    era: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Nothing is written: `version` is the answer. `repeated`: this very request was applied before."""

    version: Version
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    head: Head


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nothing is written. `settled`: follows from the decided head alone, so it also tells that no earlier
    try of this request was applied or ever will be."""

    error: HoldfastError
    settled: bool


Verdict = Keep | Change | Refuse


def decide(current: Head, operation: Operation, facts: Facts) -> Verdict:
    """`f(current)`. Only meaningful once `current` is decided, or is about to be written back first."""
    if operation.kind is OperationKind.SETTLE:
        return Keep(current.version)
    if operation.kind is OperationKind.FENCE:
        return _fence(current, operation)
    if operation.kind is OperationKind.EXPIRE:
        return _expire(current, operation)
    if operation.kind is OperationKind.REWRITE:
        return Change(current)
    if operation.kind is OperationKind.RECODE:
        return _recode(current, operation, facts)
    for applied in current.recent:
        if applied.request_id == operation.request_id:
            return Keep(applied.version, repeated=True)
    error = _condition(current, operation)
    if error is not None:
        return Refuse(error, settled=True)
    if operation.kind is OperationKind.PUT and (late := _expired(current, operation, facts)) is not None:
        return late
    return _apply(current, operation, facts)


def _fence(current: Head, operation: Operation) -> Verdict:
    assert operation.base is not None, "a fence needs the base it is raised to"
    if current.fence is not None and current.fence >= operation.base:
        return Keep(current.version)
    return Change(replace(current, fence=operation.base))


def _expire(current: Head, operation: Operation) -> Verdict:
    kept = tuple(each for each in current.retained if each.version >= operation.below)
    if len(kept) == len(current.retained):
        return Keep(current.version)
    return Change(replace(current, retained=kept))


def _recode(current: Head, operation: Operation, facts: Facts) -> Verdict:
    """Nobody's write: no request is remembered, and the version stays. ADR 0092."""
    assert operation.manifest is not None, "a change of code carries the new manifest"
    blob_id = current.manifest.blob_id if current.manifest is not None else _NO_BLOB
    if blob_id == operation.manifest.blob_id:
        return Keep(current.version)
    if blob_id != operation.replaces:
        seen = (Evidence("current version", str(current.version)),)
        return Refuse(PreconditionFailed("another version has taken its place", evidence=seen), settled=False)
    late = _expired(current, operation, facts)
    return late if late is not None else Change(replace(current, manifest=operation.manifest))


def _condition(current: Head, operation: Operation) -> HoldfastError | None:
    seen = (Evidence("current version", str(current.version)),)
    if operation.if_absent and current.kind is HeadKind.BLOB:
        return AlreadyExists("the key exists", evidence=seen)
    wanted = operation.if_version
    if wanted != NO_VERSION and (wanted != current.version or wanted == 0):
        return PreconditionFailed(f"the current version is not {wanted}", evidence=seen)
    if operation.kind is OperationKind.DELETE and current.kind is not HeadKind.BLOB:
        return BlobNotFound("there is nothing to delete", evidence=seen)
    return _source_gone(current, operation)


def _source_gone(current: Head, operation: Operation) -> HoldfastError | None:
    """An undelete brings back shards of an older version. Once no head names them they may be gone, and no later head
    may name them again (docs/adr/0088-what-no-head-names.md)."""
    manifest = operation.manifest
    if manifest is None or manifest.seed_id == manifest.blob_id or manifest.seed_id in seeds_of(current):
        return None
    kept = ", ".join(str(each.version) for each in current.retained if each.kind is HeadKind.BLOB)
    return VersionNotFound(
        "the version is not kept any more", evidence=(Evidence("versions kept", kept or "none"),)
    )


def _expired(current: Head, operation: Operation, facts: Facts) -> Refuse | None:
    """A collector may already have dropped what an attempt this old has staged."""
    assert operation.base is not None, "a put carries the base its shards were staged under"
    hint = "stage again"
    if current.fence is not None and operation.base <= current.fence:
        return Refuse(UploadExpired("the upload's base is under the key's fence", hint=hint), settled=True)
    if facts.ballot_floor is not None and operation.base <= facts.ballot_floor:
        return Refuse(
            UploadExpired("the upload's base is under the partition's floor", hint=hint), settled=False
        )
    return None


def _apply(current: Head, operation: Operation, facts: Facts) -> Verdict:
    floor = facts.version_floor if current.kind is HeadKind.ABSENT else 0
    version = Version(max(current.version, floor) + 1)
    kept = tuple(a for a in current.recent if not refused(a.stamp, facts.era))
    recent = (*kept, Applied(operation.request_id, version, operation.stamp))
    if len(recent) > RECENT_MAX:
        return Refuse(_too_many_recent(len(kept)), settled=False)
    put = operation.kind is OperationKind.PUT
    assert not put or operation.manifest is not None, "a put carries its manifest"
    head = Head(
        version=version,
        kind=HeadKind.BLOB if put else HeadKind.TOMBSTONE,
        manifest=operation.manifest if put else None,
        retained=_retained(current, operation),
        recent=recent,
        fence=current.fence,
        created_ms=operation.created_ms,
    )
    return Change(head)


def _retained(current: Head, operation: Operation) -> tuple[Retained, ...]:
    """Newest first; beyond the bound the oldest goes."""
    if current.kind is HeadKind.ABSENT or not operation.retain:
        return current.retained
    manifest = current.manifest
    undeleted = manifest is not None and manifest.seed_id != manifest.blob_id
    entry = Retained(
        version=current.version,
        kind=current.kind,
        blob_id=manifest.blob_id if manifest is not None else _NO_BLOB,
        size=manifest.size if manifest is not None else 0,
        created_ms=current.created_ms,
        seed_id=manifest.seed_id if manifest is not None and undeleted else BlobId(b""),
    )
    return (entry, *current.retained)[:RETAINED_MAX]


def refused(stamp: int, era: int) -> bool:
    """Whether a home that adopted `era` refuses an operation of `stamp`."""
    return stamp < era - 1


def fits(sealed: Sealed, codec: HeadCodec) -> HoldfastError | None:
    """Why a head must not be proposed, if its encoding is too long."""
    if len(sealed.data) <= HEAD_BYTES_MAX:
        return None
    alone = codec.encode(replace(sealed.head, recent=sealed.head.recent[-1:], retained=()))
    if len(alone) > HEAD_BYTES_MAX:
        return TooLarge(f"the manifest takes {len(alone)} bytes of at most {HEAD_BYTES_MAX}")
    return _too_many_recent(len(sealed.head.recent) - 1)


def _too_many_recent(count: int) -> Overloaded:
    return Overloaded(
        f"the key remembers {count} recent writes",
        hint="retry when the era has been raised",
        retry_after_ms=1000,
    )
