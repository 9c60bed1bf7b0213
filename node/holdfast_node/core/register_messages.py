"""What nodes say to each other about registers: reading, deciding, listing, catching up. See `core.messages`."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast_node.core.head import Ballot, Manifest
from holdfast_node.core.ids import BlobId, BucketId, Digest


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
    floor: Ballot | None = None
    """Where nothing was accepted: at or under it nothing will be."""


@dataclass(frozen=True, slots=True)
class Prepare:
    scope: Scope
    bucket: BucketId
    key: bytes
    ballot: Ballot
    stamp: int
    background: bool = False
    """No caller waits for it."""


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
class WindowedKey:
    """A key and how long its bucket keeps what was superseded."""

    bucket: BucketId
    key: bytes
    window_s: int


@dataclass(frozen=True, slots=True)
class ReadSuperseded:
    """Which versions of these keys of one partition have been superseded for the whole of their windows?"""

    scope: Scope
    keys: tuple[WindowedKey, ...]


@dataclass(frozen=True, slots=True)
class SupersededReply:
    """For each key asked about: every version below this one has been, as far as this home knows; 0: none."""

    below: tuple[int, ...]


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


# --- forgetting -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A key that was deleted, as the asking home holds it."""

    bucket: BucketId
    key: bytes
    accepted: Ballot
    version: int


@dataclass(frozen=True, slots=True)
class ForgetRegisters:
    """May these keys of one partition be forgotten? `sure`: all homes said so, forget them."""

    scope: Scope
    keys: tuple[HeldKey, ...]
    sure: bool


@dataclass(frozen=True, slots=True)
class ForgetReply:
    """For each key a `core.forgetting.Word`."""

    words: tuple[int, ...]


# --- how much there is ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadUsage:
    """Of these buckets, in the partitions the asked store is steward of."""

    buckets: tuple[BucketId, ...]


@dataclass(frozen=True, slots=True)
class PartitionUsage:
    """Current blobs of each bucket, in the order in which they were asked about, and their bytes."""

    pool: int
    partition: int
    blobs: tuple[int, ...]
    bytes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    partitions: tuple[PartitionUsage, ...]


# --- following another home's feed ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FollowedScope:
    """A partition of which everything up to the sequence `after` of the answering store's log is known."""

    scope: Scope
    after: int


@dataclass(frozen=True, slots=True)
class ReadChanges:
    """What was accepted since? `limit` keys in all. Served only in the generation adopted."""

    followed: tuple[FollowedScope, ...]
    limit: int


@dataclass(frozen=True, slots=True)
class ChangedKey:
    """The register was last written with this sequence; `accepted` may be older."""

    bucket: BucketId
    key: bytes
    accepted: Ballot
    sequence: int


@dataclass(frozen=True, slots=True)
class PartitionChanges:
    """All changes up to the sequence `through`; `complete`: that is all there is."""

    pool: int
    partition: int
    keys: tuple[ChangedKey, ...]
    through: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """As many of the partitions asked about as the limit allowed, in the order asked; at least one."""

    partitions: tuple[PartitionChanges, ...]


@dataclass(frozen=True, slots=True)
class KeyName:
    bucket: BucketId
    key: bytes


@dataclass(frozen=True, slots=True)
class CopyKeys:
    """The whole registers of these keys of one partition, or as many as an answer may hold."""

    scope: Scope
    keys: tuple[KeyName, ...]
