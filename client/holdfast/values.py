"""The values that go in and out of the SDK. Plain data: nothing here talks to anyone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Generic, TypeAlias, TypeVar

from holdfast.errors import Error

Key: TypeAlias = str | bytes
"""1 to 1024 bytes. A str is its UTF-8; `BlobInfo.name` gives back any bytes as a str that round-trips."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timeout:
    """How long to wait, in seconds.

    `connect`: for one endpoint to take a connection, before the next is tried. `idle`: for one attempt in which
    nothing moves, before it is given up and retried elsewhere. `total`: for the whole call, retries included, since
    bytes last moved forward; a large upload or download may therefore take as long as it needs. None: no limit.
    """

    connect: float = 2.0
    idle: float = 20.0
    total: float | None = 60.0


@dataclass(frozen=True, slots=True)
class Retries:
    """How often to try again, and the pause between rounds over all endpoints (doubling, with jitter)."""

    attempts: int = 24
    pause: float = 0.05
    pause_max: float = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """`concurrency`: calls in flight in `put_many`, `get_many` and `delete_many`. `chunk`: bytes per stream message
    (at most 4 MiB, what a node accepts)."""

    concurrency: int = 16
    chunk: int = 1024 * 1024


class Margin(Mapping[str, int]):
    """How many more whole domains may be lost, per protected tag and for single nodes, before the version cannot be
    read: `receipt.margin["san"] == 1`. `full`: every shard is at its place."""

    __slots__ = ("_survives", "full")

    def __init__(self, survives: Mapping[str, int], *, full: bool) -> None:
        self._survives = dict(survives)
        self.full = full

    def __getitem__(self, tag: str) -> int:
        return self._survives[tag]

    def __iter__(self) -> Iterator[str]:
        return iter(self._survives)

    def __len__(self) -> int:
        return len(self._survives)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Margin):
            return self._survives == other._survives and self.full == other.full
        return NotImplemented

    def __hash__(self) -> int:
        return hash((frozenset(self._survives.items()), self.full))

    def __repr__(self) -> str:
        inside = ", ".join(f"{tag}: {survives}" for tag, survives in self._survives.items())
        return f"Margin({{{inside}}}, full={self.full})"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an acknowledged write is worth. `hash` is `xxh3:` and 32 hex digits."""

    version: int
    hash: str
    size: int
    margin: Margin


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One version of a blob, without its bytes. `created` is a coordinator's clock, for display only."""

    key: bytes
    version: int
    size: int
    hash: str
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    created_ms: int = 0
    code: str = ""

    @property
    def name(self) -> str:
        """The key as text. Bytes that are not UTF-8 become surrogates, so that the name still finds the blob."""
        return key_text(self.key)

    @property
    def created(self) -> datetime:
        return datetime.fromtimestamp(self.created_ms / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Prefix:
    """What `list(delimiter=)` gives in place of all keys that share it."""

    key: bytes

    @property
    def name(self) -> str:
        return key_text(self.key)


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """A version that can be read or brought back, or the deletion that hides them."""

    version: int
    deleted: bool
    size: int
    created_ms: int
    current: bool


@dataclass(frozen=True, slots=True)
class BucketUsage:
    """The current blobs of a bucket and their bytes; what is kept for undo is not counted. `whole`: of all partitions;
    else there may be more."""

    blobs: int
    bytes: int
    whole: bool


@dataclass(frozen=True, slots=True)
class BucketInfo:
    """A bucket's record. `undo_s`: for how many seconds overwritten and deleted versions can be brought back. `quota`:
    bytes that its blobs may have together; 0: no limit. `usage`: where it was asked for."""

    name: str
    id: bytes
    pool: str
    undo_s: int
    created_ms: int
    closing: bool = False
    quota: int = 0
    usage: BucketUsage | None = None


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What became of one item of a batch: a value or an error, never both."""

    key: bytes
    value: T | None = None
    error: Error | None = None

    @property
    def ok(self) -> bool:
        return self.error is None

    def unwrap(self) -> T:
        """The value; raises the error."""
        if self.error is not None:
            raise self.error
        assert self.value is not None
        return self.value


Outcomes: TypeAlias = list[Outcome[T]]
Page: TypeAlias = list[BlobInfo | Prefix]


@dataclass(frozen=True, slots=True)
class Fetched:
    """One blob of `get_many`: what it is and its bytes."""

    info: BlobInfo
    data: bytes


def key_text(key: bytes) -> str:
    """A key for people and file names; `key_bytes` undoes it."""
    return key.decode("utf-8", "surrogateescape")


def printable(text: str | bytes) -> str:
    """Text from elsewhere, safe on a terminal: control bytes and broken UTF-8 as escapes, the rest as it is."""
    decoded = key_text(text) if isinstance(text, bytes) else text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii")
        for char in decoded
    )


def endpoints_from_environment() -> str:
    return os.environ.get("HOLDFAST_ENDPOINTS", "")
