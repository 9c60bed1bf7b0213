"""What a store writes down: the types of log records and their bodies. Rows of the index are derived from these.

A record is `(type, key, body, payload)`. The body is the protobuf form of the class here (`records.proto`), the key is
the bytes that identify what the record is about, and of two records with the same type and key the one with the
higher sequence wins, in whatever order they are found.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import BlobId, BootId, BucketId, ClusterId, Digest, StoreId
from holdfast_node.core.messages import ShardHeader


class RecordType(IntEnum):
    """Numbers are disk format: never renumber."""

    REGISTER = 1
    CELL = 2
    STAGE = 3
    SEAL = 4
    LINK = 5
    DROP = 6
    MAP = 7
    MAP_VOTE = 8
    PARTITION = 9
    BUCKET = 10
    PEER = 11
    STORE_TIME = 12
    KILL = 13
    MANIFEST = 14
    SCRUB = 15
    FOLLOWED = 16


@dataclass(frozen=True, slots=True)
class Age:
    """A version was first accepted here at this store time."""

    version: int
    since_s: int


@dataclass(frozen=True, slots=True)
class RegisterRecord:
    """A key's whole register at one home. Key: bucket id + key. `head` is empty when nothing was accepted.

    `ages` say since when this home has the head's versions; empty where nobody asks: of a blob that keeps no older one.
    A register without promise and head is *blank*: the key is forgotten, and the record keeps older ones from coming
    back. They have lower sequences than `before`; 0: than its own. A copy made when the log is compacted says so.
    """

    bucket: BucketId
    key: bytes
    pool: int
    partition: int
    promised: Ballot | None
    accepted: Ballot | None
    head: bytes
    ages: tuple[Age, ...] = ()
    before: int = 0

    @property
    def is_blank(self) -> bool:
        return self.promised is None and self.accepted is None


@dataclass(frozen=True, slots=True)
class ManifestRecord:
    """The manifest of a retained version, learned from another home. Key: bucket id + blob id + key."""

    bucket: BucketId
    key: bytes
    manifest: bytes


@dataclass(frozen=True, slots=True)
class CellRecord:
    """One cell; its bytes are the record's payload. Key: seed id, part, index, stripe."""

    seed_id: BlobId
    part: int
    index: int
    stripe: int
    checksum: Digest


@dataclass(frozen=True, slots=True)
class StageRecord:
    """A shard of several cells has begun to arrive. Key: seed id, part, index."""

    bucket: BucketId
    key: bytes
    seed_id: BlobId
    part: int
    index: int
    base: Ballot
    since_s: int
    """Store time."""


@dataclass(frozen=True, slots=True)
class SealRecord:
    """The shard is complete. Key: seed id, part, index."""

    header: ShardHeader
    since_s: int


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """`blob_id` refers to the shards of `seed_id` here. Key: seed id + blob id."""

    seed_id: BlobId
    blob_id: BlobId


@dataclass(frozen=True, slots=True)
class DropRecord:
    """The shard is not wanted any more. Shares the key of the shard's seal: seed id, part, index.

    What it is about has a lower sequence than `before`; 0: than its own. A copy made when the log is compacted says
    what the original was about.
    """

    seed_id: BlobId
    part: int
    index: int
    before: int = 0


@dataclass(frozen=True, slots=True)
class MapRecord:
    """A map this store adopted. Key: empty (the newest wins). Votes up to its `epoch` are over, and forgotten: nobody
    can be asked for them again. 0: not said."""

    map: bytes
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class MapVoteRecord:
    """This store's acceptor state in the instance of one epoch. Key: epoch."""

    epoch: int
    promised: Ballot
    accepted: Ballot | None
    map: bytes


@dataclass(frozen=True, slots=True)
class PartitionRecord:
    """What a home knows about a partition as a whole. Key: pool, partition.

    `learned_generation`: the generation in which this store finished catching up as a learner (0: never had to).
    `not_voting`: why it cannot vouch for the partition, empty if it can. `healed_epoch`: as steward, the epoch up to
    which every shard of every key was found at its home. `entered_generation`: the generation of the open move in which
    this store began here, blank: what it held from an earlier time as a home is forgotten. The floors are what is left
    of forgotten keys: none begins at `version_floor` or below, and nothing at or under `ballot_floor` is promised or
    accepted where nothing is.
    """

    pool: int
    partition: int
    version_floor: int
    ballot_floor: Ballot | None
    learned_generation: int
    not_voting: str
    healed_epoch: int
    entered_generation: int = 0


@dataclass(frozen=True, slots=True)
class BucketRecord:
    """Whether accepts in this bucket are refused. Key: bucket id."""

    bucket: BucketId
    closing: bool


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """The highest mark seen of another store. Key: store id."""

    store: StoreId
    boot: int
    boot_id: BootId
    sequence: int


@dataclass(frozen=True, slots=True)
class StoreTimeRecord:
    """Monotonic seconds this store has been running in all its boots. Key: empty."""

    seconds: int


@dataclass(frozen=True, slots=True)
class KillRecord:
    """A record in another volume's life is dead although nothing newer replaced it. Key: volume life + sequence."""

    volume_life: int
    sequence: int


@dataclass(frozen=True, slots=True)
class ScrubRecord:
    """How far this store has read itself back. Key: empty (the newest wins).

    `cycle` counts the cycles begun, `completed` is the last that ended; one is under way if they differ. `cursor` is
    the position in the log from which it goes on (empty: the beginning). `began_s` is when the cycle began, `proven_s`
    when the last one that ended had begun, in store time: all that was there then has been read since.
    """

    cycle: int
    completed: int
    cursor: bytes
    began_s: int
    proven_s: int


@dataclass(frozen=True, slots=True)
class FeedCursor:
    """Of everything that another store had accepted in a partition up to this sequence of its log, this store has the
    same or something newer. Means nothing once this store has begun there anew: `tenure` is the generation in which it
    learned the partition."""

    pool: int
    partition: int
    tenure: int
    sequence: int


@dataclass(frozen=True, slots=True)
class FollowedRecord:
    """How far this store has followed the feed of another one. Key: store id."""

    store: StoreId
    cursors: tuple[FeedCursor, ...]


@dataclass(frozen=True, slots=True)
class Hole:
    """Neighbouring volumes that were compacted and removed, and how the log goes on behind them.

    From `first_volume` up to, without, `next_volume`; the same for sequences. The batch behind the hole has the number
    `next_batch` and names the checksum `previous`.
    """

    first_volume: int
    first_sequence: int
    next_volume: int
    next_sequence: int
    next_batch: int
    previous: int


@dataclass(frozen=True, slots=True)
class Superblock:
    """First bytes of a data directory, outside the log: whose it is, how often it was started, what is gone from its
    log on purpose."""

    cluster_id: ClusterId
    node: str
    store: StoreId
    boot: int
    boot_id: BootId
    holes: tuple[Hole, ...] = ()
