"""Whether and how to try again. Pure: it is told the time and what happened, and answers what to do.

A write is identified by its request id and its stamp (the era its client knew at the first attempt). Both stay the
same on every attempt and at every endpoint, so that the cluster applies the write at most once. Three outcomes need
care:

- an attempt that broke after everything was sent *may* have been applied: it is tried again under the same identity;
- a refusal after such an attempt says what was so at that moment, but the earlier attempt may still be on its way to
  being applied: the honest answer is `OutcomeUnknown`, unless the request was never acceptable;
- `StaleEra` gets a new stamp only if no attempt can have been applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from holdfast.errors import (
    ChecksumMismatch,
    Corrupt,
    DeadlineExceeded,
    Error,
    Evidence,
    InternalError,
    InvalidArgument,
    MapConflict,
    NotInitialised,
    NotVoting,
    OutcomeUnknown,
    Overloaded,
    PeerUnreachable,
    ShardMissing,
    StaleEra,
    StaleGeneration,
    StoreFailed,
    StoreFull,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unimplemented,
    Unreachable,
    UploadExpired,
    UploadInterrupted,
)
from holdfast.values import Retries, Timeout

ELSEWHERE: Final = (
    PeerUnreachable,
    DeadlineExceeded,
    NotInitialised,
    NotVoting,
    StoreFailed,
    StoreFull,
    Unavailable,
)
"""What another node may well answer better."""
SAME: Final = (
    Overloaded,
    StaleGeneration,
    MapConflict,
    ShardMissing,
    OutcomeUnknown,
    UploadExpired,
    UploadInterrupted,
)
"""What passes with time; the same node will do."""
BROKEN: Final = (Corrupt, InternalError)
"""Worth another node's opinion, but not many."""
BROKEN_ATTEMPTS: Final = 3
FULL_ATTEMPTS: Final = 3
NEVER_VALID: Final = (InvalidArgument, TooLarge, ChecksumMismatch, Unauthorized, Unimplemented)
"""Refusals that hold for every attempt of the call, whatever the state of the cluster."""
_INTERNAL_KINDS: Final = (
    PeerUnreachable,
    NotVoting,
    StoreFailed,
    StaleGeneration,
    ShardMissing,
    MapConflict,
    StaleEra,
)
"""What nodes say to each other; a caller hears that the cluster was not available."""
EVIDENCE_MAX: Final = 12


class Next(Enum):
    RETRY = "retry"
    RESTAMP = "restamp"
    """Try again with a new stamp: nothing was applied under the old one."""


@dataclass(frozen=True, slots=True)
class Again:
    """Try again after `pause_s`; leave the endpoint first if it is to blame."""

    how: Next
    pause_s: float
    leave: bool


class Course:
    """One logical call over its attempts. `write`: it changes something. `endpoints`: how many there are to try.

    `now` is any monotonic clock in seconds.
    """

    def __init__(
        self, *, write: bool, endpoints: int, timeout: Timeout, retries: Retries, now: float
    ) -> None:
        self._write = write
        self._endpoints = endpoints
        self._timeout = timeout
        self._retries = retries
        self._progress_at = now
        self._failures = 0
        self._broken = 0
        self._answered = False
        self._full = 0
        self._stamp_changes = 0
        self._evidence: list[Evidence] = []
        self.uncertain = False
        """An attempt may have been applied, or may still be."""

    def moved(self, now: float) -> None:
        """Bytes moved: the clock starts again. Not the count of failures: they may be bytes sent once more."""
        self._progress_at = now

    def progressed(self, now: float) -> None:
        """Bytes moved that never moved before: the count of failures starts again, too."""
        self._progress_at = now
        self._failures = 0

    def waited(self, seconds: float) -> None:
        """So long the caller, or the source of its bytes, had the next step: it counts for no node."""
        self._progress_at += seconds

    def attempt_timeout_s(self, now: float) -> float:
        """For how long one attempt may see nothing happen."""
        total = self._timeout.total
        if total is None:
            return self._timeout.idle
        return max(0.001, min(self._timeout.idle, self._progress_at + total - now))

    def failed(self, error: Error, *, sent: bool, now: float, jitter: float) -> Again:
        """What to do after a failed attempt; raises the error to give the caller.

        `sent`: everything a node needs to apply the write may have reached one. `jitter` in [0, 1).
        """
        self._remember(error)
        self._answered = self._answered or not isinstance(error, PeerUnreachable)
        if self._write and isinstance(error, StaleEra):
            return self._restamp(error)
        if self._write and _ambiguous(error, sent):
            self.uncertain = True
        if not self._again(error):
            raise self._final(error)
        self._failures += 1
        again = Again(Next.RETRY, self._pause_s(error, jitter), isinstance(error, (*ELSEWHERE, *BROKEN)))
        total = self._timeout.total
        out_of_time = total is not None and now + again.pause_s >= self._progress_at + total
        if out_of_time or self._failures >= self._retries.attempts:
            raise self._gave_up(error, out_of_time=out_of_time)
        return again

    def _again(self, error: Error) -> bool:
        if isinstance(error, BROKEN):
            self._broken += 1
            return not self._write and self._broken < BROKEN_ATTEMPTS
        if isinstance(error, StoreFull):
            self._full += 1
            return self._full < FULL_ATTEMPTS
        return isinstance(error, (*ELSEWHERE, *SAME))

    def _restamp(self, error: Error) -> Again:
        self._stamp_changes += 1
        if self.uncertain or self._stamp_changes > 3:
            raise self._final(error)
        return Again(Next.RESTAMP, 0.0, leave=False)

    def _pause_s(self, error: Error, jitter: float) -> float:
        """None while there are endpoints not asked yet; then doubling, with jitter so that clients spread out."""
        if isinstance(error, ELSEWHERE) and self._failures < self._endpoints:
            return 0.0
        rounds = max(0, self._failures - (self._endpoints if isinstance(error, ELSEWHERE) else 1))
        pause: float = min(self._retries.pause_max, self._retries.pause * 2 ** min(rounds, 16))
        return max(pause * (0.5 + jitter / 2), error.retry_after_s)

    def _remember(self, error: Error) -> None:
        for item in error.evidence or (Evidence("cluster", error.message),):
            if item not in self._evidence and len(self._evidence) < EVIDENCE_MAX:
                self._evidence.append(item)

    def _final(self, error: Error) -> Error:
        if not self.uncertain or isinstance(error, (NEVER_VALID, OutcomeUnknown)):
            return error
        return OutcomeUnknown(
            f"an earlier attempt may have been applied, and the last one was answered: {error.message}",
            hint="read the key to see which; a call is never applied twice",
            evidence=self._evidence,
        )

    def over(self, why: str) -> Error:
        """What to tell the caller when nothing is tried any more, for a reason of this side."""
        if not self.uncertain:
            return Unavailable(why, evidence=self._evidence)
        return OutcomeUnknown(
            f"{why}; the write may or may not have been applied",
            hint="read the key to see which; a call is never applied twice",
            evidence=self._evidence,
        )

    def _gave_up(self, error: Error, *, out_of_time: bool) -> Error:
        why = (
            f"nothing moved for {self._timeout.total:g} s"
            if out_of_time
            else f"{self._failures} attempts failed in a row"
        )
        if self.uncertain:
            return self.over(why)
        kind = type(error)
        if isinstance(error, _INTERNAL_KINDS):
            kind = Unavailable if self._answered else Unreachable
        return kind(f"{error.message}; {why}", hint=error.hint, evidence=self._evidence)


def _ambiguous(error: Error, sent: bool) -> bool:
    """Whether a failed attempt of a write may have been applied."""
    if isinstance(error, OutcomeUnknown):
        return True
    return sent and isinstance(error, (PeerUnreachable, DeadlineExceeded, InternalError))
