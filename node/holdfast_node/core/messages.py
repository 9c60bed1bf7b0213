"""What nodes say to each other. Each request class has exactly one reply class (`REPLY_TO`).

Field for field the same as the messages in `peer.proto`; `payload` travels raw behind the message, never inside it.
Refusals are errors (`core.errors`), not replies, except `Rejected`, which is Paxos' ordinary "no".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from holdfast_node.core.head import Ballot, Manifest
from holdfast_node.core.ids import BlobId, BootId, BucketId, ClusterId, Digest, NodeName, StoreId


@dataclass(frozen=True, slots=True)
class Scope:
    """Which partition a register message is about, and the generation its sender knows."""

    pool: int
    partition: int
    generation: int


# --- registers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadRegister:
    scope: Scope
    bucket: BucketId
    key: bytes
    want_head: bool
    """False: answer ballot and head hash only, which is enough to agree."""
    inline_bytes_max: int
    """Add the holder's own shard of a one-stripe blob to the answer if its cell is no larger; 0: never."""


@dataclass(frozen=True, slots=True)
class RegisterView:
    """`ballot` is None when nothing was accepted; then `head` and `head_hash` are empty."""

    ballot: Ballot | None
    head_hash: Digest
    head: bytes
    """The encoded head, empty unless asked for. `head_hash` is its xxh3-128."""
    version_floor: int
    era: int
    shard_index: int = -1
    """Which shard `payload` is the only cell of; -1: none inlined."""
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Prepare:
    scope: Scope
    bucket: BucketId
    key: bytes
    ballot: Ballot
    stamp: int


@dataclass(frozen=True, slots=True)
class PrepareReply:
    """`promised` True: `accepted` and floors are what this home knew. False: `higher` is the ballot in the way."""

    promised: bool
    higher: Ballot | None
    accepted: Ballot | None
    head_hash: Digest
    head: bytes
    version_floor: int
    ballot_floor: Ballot | None
    era: int


@dataclass(frozen=True, slots=True)
class Accept:
    scope: Scope
    bucket: BucketId
    key: bytes
    ballot: Ballot
    stamp: int
    head: bytes
    head_hash: Digest


@dataclass(frozen=True, slots=True)
class AcceptReply:
    accepted: bool
    higher: Ballot | None


@dataclass(frozen=True, slots=True)
class ReadManifest:
    scope: Scope
    bucket: BucketId
    key: bytes
    blob_id: BlobId


@dataclass(frozen=True, slots=True)
class ManifestReply:
    manifest: Manifest | None


@dataclass(frozen=True, slots=True)
class Commit:
    """Sent to the partition's steward after a first refusal: run this operation there, in its queue."""

    scope: Scope
    bucket: BucketId
    key: bytes
    operation: bytes
    """An encoded `register.Operation`."""


@dataclass(frozen=True, slots=True)
class CommitReply:
    version: int
    head: bytes


# --- listing and catching up ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListRegisters:
    """Registers of `scopes` in `bucket` whose key has `prefix` and is >= `start`, in key order."""

    scopes: tuple[Scope, ...]
    bucket: BucketId
    prefix: bytes
    start: bytes
    limit: int


@dataclass(frozen=True, slots=True)
class RegisterRow:
    """A summary that comes from the index alone."""

    key: bytes
    pool: int
    partition: int
    ballot: Ballot
    head_hash: Digest
    version: int
    kind: int
    size: int
    hash: Digest
    created_ms: int
    content_type: str


@dataclass(frozen=True, slots=True)
class RegisterPage:
    """`complete`: there is nothing after the last row; otherwise the page ends at its last key."""

    rows: tuple[RegisterRow, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class CopyRegisters:
    """Whole registers of `scopes` after (bucket, key), for a learner. Served only in the generation adopted."""

    scopes: tuple[Scope, ...]
    after_bucket: BucketId
    after_key: bytes
    limit: int


@dataclass(frozen=True, slots=True)
class RegisterCopy:
    bucket: BucketId
    key: bytes
    pool: int
    partition: int
    accepted: Ballot
    head: bytes
    head_hash: Digest
    manifests: tuple[Manifest, ...]
    """Those of the retained versions this home has."""


@dataclass(frozen=True, slots=True)
class RegisterCopies:
    copies: tuple[RegisterCopy, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class ReadFloors:
    """Asked after the last page of `CopyRegisters`."""

    scopes: tuple[Scope, ...]


@dataclass(frozen=True, slots=True)
class Floors:
    pool: int
    partition: int
    version_floor: int
    ballot_floor: Ballot | None


@dataclass(frozen=True, slots=True)
class FloorsReply:
    floors: tuple[Floors, ...]
    era: int
    closed_buckets: tuple[BucketId, ...]


# --- shards -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShardHeader:
    """Everything needed to know a shard without any register: written with its seal."""

    cluster_id: ClusterId
    bucket: BucketId
    key: bytes
    seed_id: BlobId
    part: int
    index: int
    code: str
    part_size: int
    stripe_bytes: int
    cell_checksums: tuple[Digest, ...]
    base: Ballot
    """The attempt's base ballot: a collector fences the key above it before it may drop the shard."""


@dataclass(frozen=True, slots=True)
class StageWhole:
    """A one-stripe shard with its seal, and for a home also the prepare: one message, one fsync."""

    header: ShardHeader
    prepare: Prepare | None
    payload: bytes


@dataclass(frozen=True, slots=True)
class StageWholeReply:
    """Sealed if this arrived at all. `promise` is None when no prepare rode along or this home may not vote."""

    promise: PrepareReply | None
    not_voting: str = ""


@dataclass(frozen=True, slots=True)
class StageCell:
    """One cell of a shard that will be sealed later. Answered when it is in the log's queue or on disk."""

    bucket: BucketId
    key: bytes
    seed_id: BlobId
    part: int
    index: int
    stripe: int
    checksum: Digest
    base: Ballot
    payload: bytes


@dataclass(frozen=True, slots=True)
class StageCellReply:
    pass


@dataclass(frozen=True, slots=True)
class Seal:
    """Answered when every cell named by the header and the header itself are fsynced."""

    header: ShardHeader


@dataclass(frozen=True, slots=True)
class SealReply:
    pass


@dataclass(frozen=True, slots=True)
class ReadCells:
    """`count` cells from stripe `first` on (0: only the checksums). `fresh` reads past the page cache."""

    seed_id: BlobId
    part: int
    index: int
    first: int
    count: int
    fresh: bool = False
    want_checksums: bool = False


@dataclass(frozen=True, slots=True)
class ReadCellsReply:
    """`payload` is the cells end to end; each was checked by the holder and must be checked by the reader.

    `checksums`, if asked for, are those of all cells of the shard: the manifest names the digest over them.
    """

    lengths: tuple[int, ...]
    payload: bytes
    checksums: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class ShardName:
    seed_id: BlobId
    part: int
    index: int


@dataclass(frozen=True, slots=True)
class DropShards:
    """Only for an attempt's own shards that no accept can name, or a copy that is proven elsewhere."""

    shards: tuple[ShardName, ...]


@dataclass(frozen=True, slots=True)
class DropShardsReply:
    dropped: int


@dataclass(frozen=True, slots=True)
class LinkShards:
    """Undelete's stage step: durably note that `blob_id` too refers to the shards of `seed_id` held here."""

    seed_id: BlobId
    blob_id: BlobId


@dataclass(frozen=True, slots=True)
class FindShards:
    """Which sealed shards of these seeds are here?"""

    seed_ids: tuple[BlobId, ...]


@dataclass(frozen=True, slots=True)
class Holdings:
    """The answer to FindShards and LinkShards."""

    shards: tuple[ShardName, ...]


# --- map and membership -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadMap:
    pass


@dataclass(frozen=True, slots=True)
class MapReply:
    """The encoded map this node adopted; empty if none."""

    map: bytes


@dataclass(frozen=True, slots=True)
class MapPrepare:
    cluster_id: ClusterId
    epoch: int
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class MapPrepareReply:
    promised: bool
    higher: Ballot | None
    accepted: Ballot | None
    map: bytes


@dataclass(frozen=True, slots=True)
class MapAccept:
    cluster_id: ClusterId
    epoch: int
    ballot: Ballot
    map: bytes


@dataclass(frozen=True, slots=True)
class MapAcceptReply:
    accepted: bool
    higher: Ballot | None


@dataclass(frozen=True, slots=True)
class MapDecided:
    """Tells a node of a decided map; answered once it is adopted durably."""

    map: bytes


@dataclass(frozen=True, slots=True)
class MapDecidedReply:
    epoch: int


@dataclass(frozen=True, slots=True)
class Introduce:
    """First words of every connection, and the check for rollbacks and clones."""

    node: NodeName
    store: StoreId
    cluster_id: ClusterId
    boot: int
    boot_id: BootId
    durable_sequence: int


@dataclass(frozen=True, slots=True)
class IntroduceReply:
    """Who answered, and the highest marks it durably keeps of the asker (0 if it never met it)."""

    node: NodeName
    store: StoreId
    cluster_id: ClusterId
    boot: int
    boot_id: BootId
    epoch: int
    seen_boot: int
    seen_boot_id: BootId
    seen_sequence: int


@dataclass(frozen=True, slots=True)
class CloseBucket:
    """closing=True: refuse accepts in this bucket from now on, durably. False: take that back."""

    bucket: BucketId
    closing: bool


@dataclass(frozen=True, slots=True)
class CloseBucketReply:
    pass


@dataclass(frozen=True, slots=True)
class PartitionHealth:
    """A steward's report of one partition. Claimed by counting; see `NodeStatus`."""

    pool: int
    partition: int
    blobs: int
    bytes: int
    healed_epoch: int
    exceptions: int
    least_margin: int
    """Of its exception rows, in nodes; -1 when a blob cannot be decoded now; a large number when there are none."""


@dataclass(frozen=True, slots=True)
class ReadStatus:
    pass


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    name: str
    state: str
    detail: str
    done: int
    total: int
    bytes_done: int
    rate_bytes_s: float


@dataclass(frozen=True, slots=True)
class NodeStatus:
    node: NodeName
    store: StoreId
    epoch: int
    boot: int
    voting: bool
    not_voting_reason: str
    used_bytes: int
    capacity_bytes: int
    uptime_s: float
    stewarded: tuple[PartitionHealth, ...]
    workers: tuple[WorkerStatus, ...]
    warnings: tuple[str, ...]


Request = (
    ReadRegister
    | Prepare
    | Accept
    | ReadManifest
    | Commit
    | ListRegisters
    | CopyRegisters
    | ReadFloors
    | StageWhole
    | StageCell
    | Seal
    | ReadCells
    | DropShards
    | LinkShards
    | FindShards
    | ReadMap
    | MapPrepare
    | MapAccept
    | MapDecided
    | Introduce
    | CloseBucket
    | ReadStatus
)
Reply = (
    RegisterView
    | PrepareReply
    | AcceptReply
    | ManifestReply
    | CommitReply
    | RegisterPage
    | RegisterCopies
    | FloorsReply
    | StageWholeReply
    | StageCellReply
    | SealReply
    | ReadCellsReply
    | DropShardsReply
    | Holdings
    | MapReply
    | MapPrepareReply
    | MapAcceptReply
    | MapDecidedReply
    | IntroduceReply
    | CloseBucketReply
    | NodeStatus
)

REPLY_TO: Final[dict[type[Request], type[Reply]]] = {
    ReadRegister: RegisterView,
    Prepare: PrepareReply,
    Accept: AcceptReply,
    ReadManifest: ManifestReply,
    Commit: CommitReply,
    ListRegisters: RegisterPage,
    CopyRegisters: RegisterCopies,
    ReadFloors: FloorsReply,
    StageWhole: StageWholeReply,
    StageCell: StageCellReply,
    Seal: SealReply,
    ReadCells: ReadCellsReply,
    DropShards: DropShardsReply,
    LinkShards: Holdings,
    FindShards: Holdings,
    ReadMap: MapReply,
    MapPrepare: MapPrepareReply,
    MapAccept: MapAcceptReply,
    MapDecided: MapDecidedReply,
    Introduce: IntroduceReply,
    CloseBucket: CloseBucketReply,
    ReadStatus: NodeStatus,
}

BULK: Final[frozenset[type[Request]]] = frozenset({StageWhole, StageCell, Seal, ReadCells})
"""Requests that ride the bulk stream when their payload, or the one they ask for, passes the control frame limit."""
