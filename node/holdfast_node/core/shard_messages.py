"""What nodes say to each other about shards: staging, sealing, reading, finding, dropping. See `core.messages`."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import BlobId, BucketId, ClusterId, Digest, StoreId
from holdfast_node.core.register_messages import Prepare, PrepareReply


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
    """A one-stripe shard with its seal, and for a home also the prepare: one message, one fsync. `mending`: it is made
    anew for a blob that was written before, and may take room from the reserve."""

    header: ShardHeader
    prepare: Prepare | None
    payload: bytes
    mending: bool = False


@dataclass(frozen=True, slots=True)
class StageWholeReply:
    """Sealed if this arrived at all. `promise` is None when no prepare rode along or this home may not vote."""

    promise: PrepareReply | None
    not_voting: str = ""


@dataclass(frozen=True, slots=True)
class StageCell:
    """One cell of a shard that will be sealed later. Answered when it is in the log's queue or on disk. `mending` as
    in `StageWhole`."""

    bucket: BucketId
    key: bytes
    seed_id: BlobId
    part: int
    index: int
    stripe: int
    checksum: Digest
    base: Ballot
    payload: bytes
    mending: bool = False


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
    """Only for an attempt's own shards that no accept can name, or a copy that is proven at home by the map of this
    `epoch`. A store with a newer map refuses that: it may be the home now."""

    shards: tuple[ShardName, ...]
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class DropShardsReply:
    dropped: int


@dataclass(frozen=True, slots=True)
class DegradedKey:
    """`survives` per protected tag, and `margin` the least of them, as the writer of its head sees it; `lacking` are
    the homes without their shard."""

    bucket: BucketId
    key: bytes
    margin: int
    lacking: tuple[StoreId, ...]
    survives: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class NoteDegraded:
    """To the steward of a partition: heads of these keys name shards that are not at their homes. `more`: than are
    named here, so that the whole partition is to be looked through."""

    pool: int
    partition: int
    keys: tuple[DegradedKey, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class NoteDegradedReply:
    """The steward has taken note. Whoever is not the steward answers `NotVoting`."""


@dataclass(frozen=True, slots=True)
class LinkShards:
    """Undelete's stage step: durably note that `blob_id` too refers to the shards of `seed_id` held here."""

    seed_id: BlobId
    blob_id: BlobId


@dataclass(frozen=True, slots=True)
class FindShards:
    """Which sealed shards of these seeds are here? Not answered by a store whose map is older than `epoch`: once it has
    answered, it does nothing any more of what was decided under an older map."""

    seed_ids: tuple[BlobId, ...]
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class NameSeeds:
    """Whose shards are they? Asked by a store that holds some and cannot read what they say of themselves."""

    seed_ids: tuple[BlobId, ...]


@dataclass(frozen=True, slots=True)
class SeedName:
    """The key for whose write the seed was made."""

    seed_id: BlobId
    bucket: BucketId
    key: bytes


@dataclass(frozen=True, slots=True)
class SeedNames:
    """Of the seeds of which a readable shard is here."""

    names: tuple[SeedName, ...]


@dataclass(frozen=True, slots=True)
class Holdings:
    """The answer to FindShards and LinkShards."""

    shards: tuple[ShardName, ...]
