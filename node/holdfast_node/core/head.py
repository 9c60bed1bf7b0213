"""What a key's register holds: ballots, heads, manifests. Plain values, no rules (those are in `register`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from holdfast_node.core.ids import ID_BYTES, BlobId, Digest, Era, RequestId, StoreId, Version


@dataclass(frozen=True, slots=True, order=True)
class Ballot:
    """One attempt of one proposer, totally ordered by its fields in this order. Used once."""

    generation: int
    counter: int
    store: StoreId
    boot: int
    attempt: int


NO_BALLOT: Final = Ballot(0, 0, StoreId(bytes(ID_BYTES)), 0, 0)
"""Below every other."""


@dataclass(frozen=True, slots=True)
class Part:
    """At most `part_bytes` of payload: the unit of placement. `holders[i]` sealed shard i, and
    `checksums[i]` is the hash of that shard's cell checksums in stripe order."""

    size: int
    holders: tuple[StoreId, ...]
    checksums: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """How to find and prove the bytes of one version.

    `blob_id` belongs to the attempt that wrote this head. `seed_id` names the shards and seeds their checksums:
    equal to `blob_id` except after an undelete, which links existing shards under a new blob id. `code` is the
    pool's, or `copy:N` for a tiny blob whose every shard is the whole payload. All parts but the last hold
    `part_bytes`; all stripes of a part but its last hold `stripe_bytes`.
    """

    blob_id: BlobId
    seed_id: BlobId
    size: int
    code: str
    stripe_bytes: int
    part_bytes: int
    hash: Digest
    parts: tuple[Part, ...]
    content_type: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    created_ms: int = 0
    """Wall clock of the coordinator, for display only."""


class HeadKind(IntEnum):
    ABSENT = 0
    """No version yet; such a head exists only to carry a fence."""
    BLOB = 1
    TOMBSTONE = 2


@dataclass(frozen=True, slots=True)
class Retained:
    """An older version kept for undo. Its manifest is at the homes under (key, blob id); a tombstone has none.

    `seed_id` names its shards where that is not the blob id itself: the version came from an undelete.
    """

    version: Version
    kind: HeadKind
    blob_id: BlobId
    size: int
    created_ms: int
    seed_id: BlobId = BlobId(b"")


@dataclass(frozen=True, slots=True)
class Applied:
    """The result of one applied write, kept so that its retry gets the same answer."""

    request_id: RequestId
    version: Version
    stamp: Era


@dataclass(frozen=True, slots=True)
class Head:
    """A register's value. `manifest` is set exactly when `kind` is BLOB."""

    version: Version
    kind: HeadKind
    manifest: Manifest | None = None
    retained: tuple[Retained, ...] = ()
    recent: tuple[Applied, ...] = ()
    fence: Ballot | None = None
    created_ms: int = 0


def seeds_of(head: Head) -> frozenset[BlobId]:
    """The seeds this head names: shards of any other are nobody's."""
    kept = {each.seed_id or each.blob_id for each in head.retained if each.kind is HeadKind.BLOB}
    return frozenset(kept | ({head.manifest.seed_id} if head.manifest is not None else set()))


ABSENT_HEAD = Head(version=Version(0), kind=HeadKind.ABSENT)
