"""The node's error tree: who is at fault, what happened, what to do next, and who answered what.

Three branches, as in the SDK: the caller's mistake, the cluster's condition, broken bytes. Each error has one
`ErrorCode`; the code, not the class, crosses the wire.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar


class ErrorCode(IntEnum):
    """Numbers are wire format (`types.proto`, enum ErrorCode): never renumber."""

    UNSPECIFIED = 0
    # the caller
    INVALID_ARGUMENT = 1
    BUCKET_NOT_FOUND = 2
    BLOB_NOT_FOUND = 3
    VERSION_NOT_FOUND = 4
    ALREADY_EXISTS = 5
    PRECONDITION_FAILED = 6
    BUCKET_NOT_EMPTY = 7
    TOO_LARGE = 8
    CHECKSUM_MISMATCH = 9
    REFUSED = 10
    UNAUTHORIZED = 11
    UNIMPLEMENTED = 12
    BUCKET_CLOSING = 13
    QUOTA_EXCEEDED = 14
    # the cluster
    UNAVAILABLE = 32
    OVERLOADED = 33
    OUTCOME_UNKNOWN = 34
    UPLOAD_EXPIRED = 35
    UPLOAD_INTERRUPTED = 36
    STORE_FULL = 37
    NOT_INITIALISED = 38
    STALE_ERA = 39
    STALE_GENERATION = 40
    NOT_VOTING = 41
    STORE_FAILED = 42
    DEADLINE_EXCEEDED = 43
    PEER_UNREACHABLE = 44
    MAP_CONFLICT = 45
    SHARD_MISSING = 46
    # broken bytes
    CORRUPT = 64
    INTERNAL = 65


@dataclass(frozen=True, slots=True)
class Evidence:
    """One participant and what it said, for example `("n3", "no answer within 200 ms")`."""

    who: str
    said: str


class HoldfastError(Exception):
    """Base of everything the node raises on purpose.

    `message` says what and why, `hint` the next step, `evidence` who answered what.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL

    def __init__(
        self, message: str, *, hint: str = "", evidence: Iterable[Evidence] = (), retry_after_ms: int = 0
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.evidence = tuple(evidence)
        self.retry_after_ms = retry_after_ms

    def __str__(self) -> str:
        said = "; ".join(f"{e.who}: {e.said}" for e in self.evidence)
        return self.message + (f" [{said}]" if said else "") + (f" ({self.hint})" if self.hint else "")


class CallerError(HoldfastError):
    """The request can never succeed as it stands."""


class ClusterError(HoldfastError):
    """The request is fine; the cluster could not serve it now."""


class IntegrityError(HoldfastError):
    """Bytes did not match their checksum; nothing wrong was returned."""

    code = ErrorCode.CORRUPT


class InvalidArgument(CallerError):
    code = ErrorCode.INVALID_ARGUMENT


class BucketNotFound(CallerError):
    code = ErrorCode.BUCKET_NOT_FOUND


class BlobNotFound(CallerError):
    code = ErrorCode.BLOB_NOT_FOUND


class VersionNotFound(CallerError):
    code = ErrorCode.VERSION_NOT_FOUND


class AlreadyExists(CallerError):
    code = ErrorCode.ALREADY_EXISTS


class PreconditionFailed(CallerError):
    code = ErrorCode.PRECONDITION_FAILED


class BucketNotEmpty(CallerError):
    code = ErrorCode.BUCKET_NOT_EMPTY


class TooLarge(CallerError):
    code = ErrorCode.TOO_LARGE


class ChecksumMismatch(CallerError):
    """The bytes that arrived do not hash to what the caller declared."""

    code = ErrorCode.CHECKSUM_MISMATCH


class Refused(CallerError):
    """A command that would do harm, refused with its evidence."""

    code = ErrorCode.REFUSED


class Unauthorized(CallerError):
    code = ErrorCode.UNAUTHORIZED


class Unimplemented(CallerError):
    code = ErrorCode.UNIMPLEMENTED


class BucketClosing(CallerError):
    code = ErrorCode.BUCKET_CLOSING


class QuotaExceeded(CallerError):
    """The bucket has as much as it may have."""

    code = ErrorCode.QUOTA_EXCEEDED


class Unavailable(ClusterError):
    code = ErrorCode.UNAVAILABLE


class Overloaded(ClusterError):
    code = ErrorCode.OVERLOADED


class OutcomeUnknown(ClusterError):
    """An accept may have been sent: the write may or may not take effect, and is never applied twice."""

    code = ErrorCode.OUTCOME_UNKNOWN


class UploadExpired(ClusterError):
    """The attempt's base ballot is under a fence or floor: its shards may be gone; stage again."""

    code = ErrorCode.UPLOAD_EXPIRED


class UploadInterrupted(ClusterError):
    code = ErrorCode.UPLOAD_INTERRUPTED


class StoreFull(ClusterError):
    code = ErrorCode.STORE_FULL


class NotInitialised(ClusterError):
    code = ErrorCode.NOT_INITIALISED


class StaleEra(ClusterError):
    """The request's stamp is too old; final only for an attempt that can have sent no accept."""

    code = ErrorCode.STALE_ERA


class StaleGeneration(ClusterError):
    """The message carries a generation that is not the one this home adopted."""

    code = ErrorCode.STALE_GENERATION


class NotVoting(ClusterError):
    """This store cannot vouch for the key, the partition or itself. Never to be read as "none"."""

    code = ErrorCode.NOT_VOTING


class StoreFailed(ClusterError):
    """A write or fsync failed: this store is dead until it is replaced or restarted by a person."""

    code = ErrorCode.STORE_FAILED


class DeadlineExceeded(ClusterError):
    code = ErrorCode.DEADLINE_EXCEEDED


class PeerUnreachable(ClusterError):
    code = ErrorCode.PEER_UNREACHABLE


class MapConflict(ClusterError):
    """Another map change was decided first; look at the new map and decide again."""

    code = ErrorCode.MAP_CONFLICT


class ShardMissing(ClusterError):
    """This store does not hold the shard. An erasure for the reader, not an absence of the blob."""

    code = ErrorCode.SHARD_MISSING


class InternalError(IntegrityError):
    code = ErrorCode.INTERNAL


class LocalError(HoldfastError):
    """Something about this machine, for whoever starts the node; never crosses the wire."""


class StoreRefused(LocalError):
    """The data directory is not one this node may serve from: missing, another's, in use, or broken."""


def _leaves(root: type[HoldfastError]) -> dict[ErrorCode, type[HoldfastError]]:
    found: dict[ErrorCode, type[HoldfastError]] = {}
    for child in root.__subclasses__():
        if "code" in vars(child):
            found[child.code] = child
        found.update(_leaves(child))
    return found


def error_from_code(
    code: int, message: str, *, hint: str = "", evidence: Iterable[Evidence] = (), retry_after_ms: int = 0
) -> HoldfastError:
    """Rebuild an error that crossed the wire; an unknown code becomes `InternalError` and keeps its number."""
    classes = _leaves(HoldfastError)
    try:
        cls = classes[ErrorCode(code)]
    except (KeyError, ValueError):
        cls, message = InternalError, f"error code {code}: {message}"
    return cls(message, hint=hint, evidence=evidence, retry_after_ms=retry_after_ms)
