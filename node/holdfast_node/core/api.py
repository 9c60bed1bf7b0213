"""What the front door (`adapters.rpc`) asks of the coordinator and what it gets: the public API as plain values."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from holdfast_node.core.ids import BucketId, Digest, RequestId
from holdfast_node.core.operation import NO_VERSION


@dataclass(frozen=True, slots=True)
class Margin:
    """How many more whole domains may go, per protected tag and for `node`, before the version is unreadable."""

    entries: tuple[tuple[str, int], ...]
    full: bool


@dataclass(frozen=True, slots=True)
class Call:
    """`request_id` None: the coordinator mints one. `stamp` 0: the coordinator's era."""

    request_id: RequestId | None = None
    stamp: int = 0


@dataclass(frozen=True, slots=True)
class Condition:
    if_absent: bool = False
    if_version: int = NO_VERSION


@dataclass(frozen=True, slots=True)
class PutOptions:
    """`size` -1: unknown. `hash` empty: not declared."""

    size: int = -1
    hash: bytes = b""
    content_type: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    condition: Condition = Condition()
    call: Call = Call()


@dataclass(frozen=True, slots=True)
class PutResult:
    version: int
    hash: Digest
    size: int
    margin: Margin
    era: int


@dataclass(frozen=True, slots=True)
class BlobInfo:
    key: bytes
    version: int
    size: int
    hash: Digest
    content_type: str
    metadata: tuple[tuple[str, str], ...]
    created_ms: int
    code: str


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes [first, last) of the blob; `last` -1: to the end. Beyond the end is cut, a `first` beyond it refused."""

    first: int = 0
    last: int = -1


@dataclass(frozen=True, slots=True)
class GetResult:
    """`chunks` yields the bytes of [first, last), verified; it raises rather than ending short. Close it when done."""

    info: BlobInfo
    first: int
    last: int
    chunks: AsyncIterator[bytes]
    era: int


@dataclass(frozen=True, slots=True)
class ListOptions:
    prefix: bytes = b""
    delimiter: bytes = b""
    page_size: int = 1000
    page_token: bytes = b""


@dataclass(frozen=True, slots=True)
class ListResult:
    blobs: tuple[BlobInfo, ...]
    prefixes: tuple[bytes, ...]
    next_page_token: bytes
    era: int


@dataclass(frozen=True, slots=True)
class VersionEntry:
    version: int
    deleted: bool
    size: int
    created_ms: int
    current: bool


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket record; stored as a blob under the reserved bucket, key = name. `quota_bytes`: 0 is none."""

    name: str
    id: BucketId
    pool: str
    undo_seconds: int
    created_ms: int
    closing: bool = False
    quota_bytes: int = 0


@dataclass(frozen=True, slots=True)
class BucketSettings:
    """What is to be changed of a bucket; None is left as it is."""

    undo_seconds: int | None = None
    quota_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class BucketUsage:
    """The current blobs of a bucket and their bytes; what is kept for undo is not counted. `whole`: of all partitions;
    else there may be more, in partitions of which nobody told."""

    blobs: int
    bytes: int
    whole: bool
