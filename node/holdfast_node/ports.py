"""The few doors through which core and services meet the world. Adapters implement them for real, the simulator
with faults; one conformance suite per port holds both to the words written here.

The event loop is the monotonic clock (`loop.time()`, `asyncio.timeout`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.head import Manifest
from holdfast_node.core.ids import StoreId
from holdfast_node.core.messages import Introduce, IntroduceReply, Reply, Request

Buffer = bytes | bytearray | memoryview
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Answered:
    """A reply from the store that was asked (never from another life at its address)."""

    store: StoreId
    reply: Reply


@dataclass(frozen=True, slots=True)
class Failed:
    """A typed refusal by the peer, or what went wrong on the way (`PeerUnreachable`, `DeadlineExceeded`)."""

    store: StoreId
    error: HoldfastError


Answer = Answered | Failed


class Links(Protocol):
    """Requests to peer stores. Requests to the node's own store are served too, without a wire."""

    def send(
        self, to: StoreId, request: Request, *, timeout_s: float, done: Callable[[Answer], None]
    ) -> None:
        """Send and return at once. `done` is called exactly once, on the loop, never before `send` returns. The far
        end runs the request at most once (ADR 0074)."""
        ...

    async def introduce(self, address: str, me: Introduce, *, timeout_s: float) -> IntroduceReply:
        """Ask who lives at `address`, whether the map knows it or not. Raises `PeerUnreachable`."""
        ...

    def learn(self, addresses: Mapping[StoreId, str]) -> None:
        """Replace what is known of where each store lives. Links to stores no longer named are closed."""
        ...

    def is_up(self, store: StoreId) -> bool:
        """A local opinion: frames came within 2 s, or nothing is known yet."""
        ...

    def patience_s(self, store: StoreId) -> float:
        """How long this store's bulk answers take at p95 of the recent ones; a floor before any are known."""
        ...


class Disk(Protocol):
    """Preallocated files in one directory. Knows written from durable. After `StoreFailed` nothing works again."""

    async def create(self, name: str, size_bytes: int) -> None:
        """Preallocate a file; it and its directory entry are durable on return. `StoreFull` if there is no room."""
        ...

    async def commit(self, name: str, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers end to end at `offset` and make them durable. `offset` and the total are multiples of 4096.

        Raises `StoreFailed` on any error, and for ever after. A crash in between may leave any subset of the sectors.
        """
        ...

    async def read(self, name: str, offset: int, length: int, *, fresh: bool = False) -> bytes:
        """Read `length` bytes (short only at the end of the file). `fresh` goes past the page cache.

        Raises `IntegrityError` if the bytes are gone, `Unavailable` if they cannot be read now: that is no damage."""
        ...

    async def replace(self, name: str, content: bytes) -> None:
        """Atomically and durably replace a small file: the old content or the new one survives a crash."""
        ...

    async def remove(self, name: str) -> None:
        """Take the file and its room away for good. It must exist; nobody may be reading it."""
        ...

    def names(self) -> list[str]:
        """All file names, sorted."""
        ...

    def free_bytes(self) -> int: ...


class Index(Protocol):
    """Ordered rows that can be rebuilt from the log at any time. Synchronous; raises `IndexBroken` on any trouble but
    one: without room to write it raises `IndexFull`, can be read all the while, and goes on once there is room.

    Not durable by itself: after a crash it may be any earlier state, but always one that was a state between batches.
    """

    def get(self, key: bytes) -> bytes | None: ...

    def write(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes] = ()) -> None:
        """Apply one atomic batch. Raises `IndexFull`: nothing of it was applied."""
        ...

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < end in order, of the state when the scan began."""
        ...

    async def flush(self) -> None:
        """Make what was written so far survive a crash."""
        ...

    def clear(self) -> None:
        """Forget everything (a rebuild follows)."""
        ...

    def close(self) -> None: ...


NO_ROOM_FOR_INDEX: Final = "the disk has no room for this store's index"
"""What callers and operators are told of `IndexFull`."""


class IndexFull(Exception):
    """The disk has no room for more of the index. What it has is whole (ADR 0094)."""


class IndexBroken(Exception):
    """The index failed or contradicts itself; the answer is always to rebuild it from the log."""


class Codec(Protocol):
    """Erasure code over equal cells of one stripe; `code` is one of `core.codes`. Raw cells, no headers."""

    def encode(self, code: str, data: Sequence[Buffer]) -> list[bytes]:
        """Parity cells for k data cells of equal length, in index order."""
        ...

    def decode(self, code: str, cells: Mapping[int, Buffer], wanted: Sequence[int]) -> list[bytes]:
        """Rebuild the cells at `wanted` (data or parity) from cells that give them, each verified by the caller."""
        ...


class Clock(Protocol):
    """Wall time, for display only. Nothing is ever decided by it."""

    def now_ms(self) -> int: ...


class Entropy(Protocol):
    def token(self, count: int) -> bytes:
        """`count` random bytes."""
        ...

    def jitter(self, low: float, high: float) -> float:
        """Uniform in [low, high]."""
        ...


class Bodies(Protocol):
    """Values to bytes and back: protobuf, checked against the dataclass on decoding.

    Works for every dataclass of `core.head`, `core.cluster_map`, `core.messages`, `core.records`, `core.operation`.
    Encoding is deterministic: equal values give equal bytes (a head's hash depends on it).
    """

    def encode(self, value: object) -> bytes: ...

    def decode(self, cls: type[R], data: bytes) -> R:
        """Raises `IntegrityError` on bytes that are not a `cls`."""
        ...

    def manifest_of(self, head: bytes) -> Manifest | None:
        """As `decode(Head, head).manifest`, without making what else is in the head."""
        ...
