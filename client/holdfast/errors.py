"""What can go wrong, as one tree. It knows the codes of the wire and nothing of how an error arrived.

```text
Error                          .code  .message  .hint  .evidence  .retry_after_s
├── CallerError                the request can never succeed as it stands
│   ├── InvalidArgument        ├── PreconditionFailed     ├── ChecksumMismatch
│   ├── BucketNotFound         │   └── AlreadyExists      ├── Refused
│   ├── BlobNotFound           ├── BucketNotEmpty         ├── Unauthorized
│   ├── VersionNotFound        ├── BucketClosing          ├── Unimplemented
│   └── TooLarge               └── QuotaExceeded
├── ClusterError               the request is fine; the cluster could not serve it now
│   ├── Unavailable            ├── OutcomeUnknown         ├── NotInitialised
│   │   └── Unreachable        ├── UploadExpired          ├── StaleEra, StaleGeneration, NotVoting
│   ├── Overloaded             ├── UploadInterrupted      ├── PeerUnreachable, MapConflict, ShardMissing
│   ├── StoreFull              └── DeadlineExceeded       └── StoreFailed
└── IntegrityError             bytes did not match their checksum; nothing wrong was returned
    ├── Corrupt
    └── InternalError
```

Two of them speak about a write whose fate matters: `UploadInterrupted` means that nothing was stored, `OutcomeUnknown`
that the write may or may not have taken effect (and never takes effect twice).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final


@dataclass(frozen=True, slots=True)
class Evidence:
    """One participant and what it said, for example `n3: no answer within 200 ms`."""

    who: str
    said: str

    def __str__(self) -> str:
        return f"{self.who}: {self.said}"


class Error(Exception):
    """Base of everything this package raises on purpose.

    `message` says what happened and why, `hint` the next step, `evidence` who answered what. `code` is the number of
    the kind on the wire (`holdfastpb.v1.ErrorCode`).
    """

    code: ClassVar[int] = 0

    def __init__(
        self, message: str, *, hint: str = "", evidence: Iterable[Evidence] = (), retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.evidence = tuple(evidence)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        said = "; ".join(str(evidence) for evidence in self.evidence)
        return self.message + (f" [{said}]" if said else "") + (f" ({self.hint})" if self.hint else "")

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint, self.evidence, self.retry_after_s))


def _rebuild(
    cls: type[Error], message: str, hint: str, evidence: tuple[Evidence, ...], retry_after_s: float
) -> Error:
    """Errors cross process boundaries (multiprocessing), so they pickle."""
    return cls(message, hint=hint, evidence=evidence, retry_after_s=retry_after_s)


class CallerError(Error):
    """The request can never succeed as it stands."""


class ClusterError(Error):
    """The request is fine; the cluster could not serve it now."""


class IntegrityError(Error):
    """Bytes did not match their checksum; nothing wrong was returned."""


class InvalidArgument(CallerError, ValueError):
    code = 1


class BucketNotFound(CallerError, LookupError):
    code = 2


class BlobNotFound(CallerError, LookupError):
    code = 3


class VersionNotFound(CallerError, LookupError):
    code = 4


class PreconditionFailed(CallerError):
    """The condition of a conditional write did not hold; nothing was written."""

    code = 6


class AlreadyExists(PreconditionFailed):
    """What was to be made only if absent is there."""

    code = 5


class BucketNotEmpty(CallerError):
    code = 7


class TooLarge(CallerError):
    code = 8


class QuotaExceeded(CallerError):
    """The bucket has as much as it may have; nothing was written."""

    code = 14


class ChecksumMismatch(CallerError):
    """The bytes that arrived do not hash to what was declared; nothing was written."""

    code = 9


class Refused(CallerError):
    """A command that would do harm, refused with its evidence."""

    code = 10


class Unauthorized(CallerError):
    code = 11


class Unimplemented(CallerError):
    code = 12


class BucketClosing(CallerError):
    code = 13


class Unavailable(ClusterError):
    code = 32


class Unreachable(Unavailable):
    """No node answered at all."""


class Overloaded(ClusterError):
    code = 33


class OutcomeUnknown(ClusterError):
    """The write may or may not have taken effect. It never takes effect twice. Read the key to know."""

    code = 34


class UploadExpired(ClusterError):
    """The upload took so long that what it had staged may be gone; nothing was stored."""

    code = 35


class UploadInterrupted(ClusterError):
    """The upload broke and its source cannot be read again from the start. Nothing was stored."""

    code = 36


class StoreFull(ClusterError):
    code = 37


class NotInitialised(ClusterError):
    code = 38


class StaleEra(ClusterError):
    code = 39


class StaleGeneration(ClusterError):
    code = 40


class NotVoting(ClusterError):
    code = 41


class StoreFailed(ClusterError):
    code = 42


class DeadlineExceeded(ClusterError, TimeoutError):
    code = 43


class PeerUnreachable(ClusterError):
    code = 44


class MapConflict(ClusterError):
    code = 45


class ShardMissing(ClusterError):
    code = 46


class Corrupt(IntegrityError):
    code = 64


class InternalError(IntegrityError):
    """A node broke one of its own rules, or said something this client does not understand."""

    code = 65


def _leaves(root: type[Error]) -> dict[int, type[Error]]:
    found: dict[int, type[Error]] = {}
    for child in root.__subclasses__():
        if "code" in vars(child):
            found[child.code] = child
        found.update(_leaves(child))
    return found


CLASS_BY_CODE: Final = _leaves(Error)


def error_from_code(
    code: int, message: str, *, hint: str = "", evidence: Iterable[Evidence] = (), retry_after_s: float = 0.0
) -> Error:
    """The error of a code. One this client does not know yet falls to the branch its range belongs to."""
    cls = CLASS_BY_CODE.get(code)
    if cls is None:
        message = f"error code {code}: {message}"
        cls = CallerError if 0 < code < 32 else ClusterError if 32 <= code < 64 else InternalError
    return cls(message, hint=hint, evidence=evidence, retry_after_s=retry_after_s)
