"""What identifies a record in the log, and a row in the index: the keys, and which letter begins which rows.

Pure. Knows nothing of what rows hold. Row keys sort the way they are scanned, and none is a prefix of another by
accident: parts of fixed length come first, or their length does.
"""

from __future__ import annotations

import struct
from typing import Final

from holdfast_node.core.ids import ID_BYTES, BlobId, BucketId
from holdfast_node.core.messages import ShardName
from holdfast_node.core.records import (
    BucketRecord,
    CellRecord,
    DropRecord,
    FollowedRecord,
    KillRecord,
    LinkRecord,
    ManifestRecord,
    MapRecord,
    MapVoteRecord,
    PartitionRecord,
    PeerRecord,
    RecordType,
    RegisterRecord,
    ScrubRecord,
    SealRecord,
    StageRecord,
    StoreTimeRecord,
)

SmallBody = (
    MapRecord
    | MapVoteRecord
    | PartitionRecord
    | BucketRecord
    | PeerRecord
    | StoreTimeRecord
    | KillRecord
    | ScrubRecord
    | FollowedRecord
)
"""Bodies that are kept in memory; their rows hold the body itself."""
RecordBody = (
    RegisterRecord
    | ManifestRecord
    | CellRecord
    | StageRecord
    | SealRecord
    | LinkRecord
    | DropRecord
    | MapRecord
    | MapVoteRecord
    | PartitionRecord
    | BucketRecord
    | PeerRecord
    | StoreTimeRecord
    | KillRecord
    | ScrubRecord
    | FollowedRecord
)

TYPE_OF: Final[dict[type[RecordBody], RecordType]] = {
    RegisterRecord: RecordType.REGISTER,
    CellRecord: RecordType.CELL,
    StageRecord: RecordType.STAGE,
    SealRecord: RecordType.SEAL,
    LinkRecord: RecordType.LINK,
    DropRecord: RecordType.DROP,
    MapRecord: RecordType.MAP,
    MapVoteRecord: RecordType.MAP_VOTE,
    PartitionRecord: RecordType.PARTITION,
    BucketRecord: RecordType.BUCKET,
    PeerRecord: RecordType.PEER,
    StoreTimeRecord: RecordType.STORE_TIME,
    KillRecord: RecordType.KILL,
    ManifestRecord: RecordType.MANIFEST,
    ScrubRecord: RecordType.SCRUB,
    FollowedRecord: RecordType.FOLLOWED,
}
CLASS_OF: Final[dict[int, type[RecordBody]]] = {int(kind): cls for cls, kind in TYPE_OF.items()}

INDEX_FORMAT: Final = b"8"
"""Raise it when a row changes: an index of another format is rebuilt from the log."""
FORMAT_ROW: Final = b"!format"
STORE_ROW: Final = b"!store"
POSITION_ROW: Final = b"!position"

REGISTER_ROWS: Final = b"k"
BLANK_ROWS: Final = b"q"
"""Registers that are blank: apart, for nobody who goes through the others is to pass them over."""
MANIFEST_ROWS: Final = b"m"
SHARD_ROWS: Final = b"s"
CELL_ROWS: Final = b"c"
LINK_ROWS: Final = b"l"
ROTTEN_ROWS: Final = b"r"
FEED_ROWS: Final = b"f"
"""Pool, partition and sequence -> bucket id and key: the accepted registers of a partition, as they changed last."""
COUNT_ROWS: Final = b"n"
"""Pool, partition and bucket id (none: of all buckets) -> how many blobs are current there and their bytes; not of the
reserved bucket."""
ALL_BUCKETS: Final = BucketId(b"")
SMALL_ROWS: Final[dict[RecordType, bytes]] = {
    RecordType.MAP: b"g",
    RecordType.MAP_VOTE: b"w",
    RecordType.PARTITION: b"p",
    RecordType.BUCKET: b"b",
    RecordType.PEER: b"e",
    RecordType.STORE_TIME: b"t",
    RecordType.KILL: b"x",
    RecordType.SCRUB: b"u",
    RecordType.FOLLOWED: b"o",
}

_SMALL_CLASSES: Final = {SMALL_ROWS[kind]: cls for cls, kind in TYPE_OF.items() if issubclass(cls, SmallBody)}

_SHARD: Final = struct.Struct(">16sII")
SHARD_KEY_BYTES: Final = _SHARD.size
_CELL: Final = struct.Struct(">16sIII")
_PARTITION: Final = struct.Struct(">II")
_FEED: Final = struct.Struct(">IIQ")
_EPOCH: Final = struct.Struct(">Q")
_KILL: Final = struct.Struct(">QQ")
_KEY_LENGTH: Final = struct.Struct(">H")


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all keys that start with `prefix`, which is not all 0xFF."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,))


# --- keys of records --------------------------------------------------------------------------------------


def record_key(body: RecordBody, *, blob_id: bytes = b"") -> bytes:
    """The bytes that identify what a record is about, within its type.

    A `ManifestRecord` is about the blob its manifest names, which the caller has to say.
    """
    match body:
        case CellRecord():
            return _CELL.pack(body.seed_id, body.part, body.index, body.stripe)
        case RegisterRecord():
            return body.bucket + body.key
        case SealRecord():
            return _SHARD.pack(body.header.seed_id, body.header.part, body.header.index)
        case StageRecord() | DropRecord():
            return _SHARD.pack(body.seed_id, body.part, body.index)
        case LinkRecord():
            return body.seed_id + body.blob_id
        case ManifestRecord():
            assert len(blob_id) == ID_BYTES, "a manifest is filed under its blob"
            return body.bucket + blob_id + body.key
        case _:
            return _small_record_key(body)


def _small_record_key(body: SmallBody) -> bytes:
    match body:
        case PartitionRecord():
            return _PARTITION.pack(body.pool, body.partition)
        case PeerRecord() | FollowedRecord():
            return body.store
        case BucketRecord():
            return body.bucket
        case MapVoteRecord():
            return _EPOCH.pack(body.epoch)
        case KillRecord():
            return _KILL.pack(body.volume_life, body.sequence)
        case MapRecord() | StoreTimeRecord() | ScrubRecord():
            return b""


def register_of(key: bytes) -> tuple[BucketId, bytes]:
    """The bucket and key that a REGISTER record's key names."""
    return BucketId(key[:ID_BYTES]), key[ID_BYTES:]


def partition_of(key: bytes) -> tuple[int, int]:
    """The pool and partition that a PARTITION record's key names."""
    pool, partition = _PARTITION.unpack(key)
    return pool, partition


# --- keys of rows -----------------------------------------------------------------------------------------


def register_row_key(bucket: bytes, key: bytes) -> bytes:
    return REGISTER_ROWS + bucket + key


def count_row_key(pool: int, partition: int, bucket: bytes) -> bytes:
    return COUNT_ROWS + _PARTITION.pack(pool, partition) + bucket


def feed_row_key(pool: int, partition: int, sequence: int) -> bytes:
    return FEED_ROWS + _FEED.pack(pool, partition, sequence)


def feed_sequence(row_key: bytes) -> int:
    """That a row of the feed names."""
    *_, sequence = _FEED.unpack(row_key[1:])
    return int(sequence)


def manifest_row_key(bucket: bytes, key: bytes, blob_id: bytes) -> bytes:
    return MANIFEST_ROWS + bucket + _KEY_LENGTH.pack(len(key)) + key + blob_id


def stripe_of(row_key: bytes) -> int:
    """That a cell's row key names."""
    *_, stripe = _CELL.unpack(row_key[1:])
    return int(stripe)


def manifest_of(row_key: bytes) -> tuple[BucketId, bytes, BlobId]:
    """The bucket, the key and the blob that a manifest's row key names."""
    bucket, rest = row_key[1 : 1 + ID_BYTES], row_key[1 + ID_BYTES :]
    (length,) = _KEY_LENGTH.unpack_from(rest)
    key_end = _KEY_LENGTH.size + length
    return BucketId(bucket), rest[_KEY_LENGTH.size : key_end], BlobId(rest[key_end:])


def link_of(row_key: bytes) -> tuple[BlobId, BlobId]:
    """The seed and the blob that a link's row key names."""
    return BlobId(row_key[1 : 1 + ID_BYTES]), BlobId(row_key[1 + ID_BYTES :])


def shard_row_key(name: ShardName) -> bytes:
    return SHARD_ROWS + _SHARD.pack(name.seed_id, name.part, name.index)


def shard_name(row_key: bytes) -> ShardName:
    """That a shard's row key names, or a cell's."""
    seed_id, part, index = _SHARD.unpack_from(row_key, 1)
    return ShardName(BlobId(seed_id), part, index)


def small_row_key(body: RecordBody, key: bytes) -> bytes:
    """Of a fact that is kept in memory; empty for any other record."""
    letter = SMALL_ROWS.get(TYPE_OF[type(body)])
    return letter + key if letter is not None else b""


def small_of(row_key: bytes) -> tuple[type[SmallBody], bytes]:
    """What kind of fact a small row holds, and its record's key."""
    return _SMALL_CLASSES[row_key[:1]], row_key[1:]


def cell_row_key(name: ShardName, stripe: int) -> bytes:
    return CELL_ROWS + _CELL.pack(name.seed_id, name.part, name.index, stripe)
