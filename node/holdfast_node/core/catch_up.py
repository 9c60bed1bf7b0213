"""What several homes' pages of registers say together: what a learner may take, and what must be settled
first.

Pure arithmetic over pages in (bucket, key) order. Refuses to know who was asked, and whether they were the
right ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from holdfast_node.core.errors import Unavailable
from holdfast_node.core.head import Ballot, Manifest
from holdfast_node.core.ids import BlobId, BucketId, StoreId
from holdfast_node.core.messages import Floors, FloorsReply, RegisterCopies, RegisterCopy
from holdfast_node.core.records import PartitionRecord

KeyId = tuple[BucketId, bytes]


@dataclass(frozen=True, slots=True)
class Window:
    """Everything up to `end` (None: to the end of all pages).

    `known`: one copy per key, the highest accepted pair anybody showed, with the manifests of all.
    `disputed`: those keys whose pages disagree, absence included, and which were not settled before.
    """

    known: tuple[RegisterCopy, ...]
    disputed: tuple[KeyId, ...]
    end: KeyId | None


def merge(pages: Mapping[StoreId, RegisterCopies], settled: Collection[KeyId]) -> Window:
    """Merge one page of each source, as far as every page reaches."""
    ends: list[KeyId] = []
    for page in pages.values():
        if not page.complete:
            if not page.copies:
                raise Unavailable("a page that is neither complete nor has rows leads nowhere")
            ends.append(_key(page.copies[-1]))
    end = min(ends) if ends else None
    rows: dict[KeyId, list[RegisterCopy]] = {}
    for store in sorted(pages):
        for copy in pages[store].copies:
            if end is None or _key(copy) <= end:
                rows.setdefault(_key(copy), []).append(copy)
    known: list[RegisterCopy] = []
    disputed: list[KeyId] = []
    for key in sorted(rows):
        copies = rows[key]
        known.append(_highest(copies))
        pairs = {(copy.accepted, copy.head_hash) for copy in copies}
        if key not in settled and (len(pairs) > 1 or len(copies) < len(pages)):
            disputed.append(key)
    return Window(tuple(known), tuple(disputed), end)


def _key(copy: RegisterCopy) -> KeyId:
    return (copy.bucket, copy.key)


def _highest(copies: Sequence[RegisterCopy]) -> RegisterCopy:
    best = max(copies, key=lambda copy: copy.accepted)
    manifests: dict[BlobId, Manifest] = {}
    for copy in copies:
        for manifest in copy.manifests:
            manifests[manifest.blob_id] = manifest
    return replace(best, manifests=tuple(manifests[blob_id] for blob_id in sorted(manifests)))


@dataclass(frozen=True, slots=True)
class Fences:
    """The highest floors of each partition, the newest era and every closed bucket that any source knows."""

    floors: Mapping[tuple[int, int], Floors]
    era: int
    closed_buckets: tuple[BucketId, ...]


def fences(replies: Iterable[FloorsReply]) -> Fences:
    floors: dict[tuple[int, int], Floors] = {}
    era = 0
    closed: set[BucketId] = set()
    for reply in replies:
        era = max(era, reply.era)
        closed.update(reply.closed_buckets)
        for one in reply.floors:
            at = (one.pool, one.partition)
            floors[at] = higher_floors(floors[at], one) if at in floors else one
    return Fences(floors, era, tuple(sorted(closed)))


def higher_floors(one: Floors, other: Floors) -> Floors:
    return Floors(
        one.pool,
        one.partition,
        max(one.version_floor, other.version_floor),
        higher_ballot(one.ballot_floor, other.ballot_floor),
    )


def with_floors(own: PartitionRecord, floors: Floors) -> PartitionRecord:
    """What a store has written down of a partition, with floors at least so high."""
    return replace(
        own,
        version_floor=max(own.version_floor, floors.version_floor),
        ballot_floor=higher_ballot(own.ballot_floor, floors.ballot_floor),
    )


def higher_ballot(one: Ballot | None, other: Ballot | None) -> Ballot | None:
    if one is None or other is None:
        return one if other is None else other
    return max(one, other)
