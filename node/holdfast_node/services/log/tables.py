"""The small facts of a store, all in memory: partitions, buckets, peers, the map, votes, store time.

Each is the newest record of its key. Knows neither where they come from nor how they are made durable.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

from holdfast_node.core.errors import NotVoting
from holdfast_node.core.ids import BucketId, StoreId
from holdfast_node.core.index_keys import SmallBody
from holdfast_node.core.log_format import FLAG_ROT
from holdfast_node.core.records import (
    BucketRecord,
    FollowedRecord,
    KillRecord,
    MapRecord,
    MapVoteRecord,
    PartitionRecord,
    PeerRecord,
    ScrubRecord,
    StoreTimeRecord,
)

T = TypeVar("T")

ROT_REASON = "part of this store's log is unreadable"


class _Row(NamedTuple):
    sequence: int
    flags: int
    body: SmallBody


class Tables:
    """Facts by type and key; `put` keeps the newest."""

    def __init__(self) -> None:
        self._rows: dict[type[SmallBody], dict[bytes, _Row]] = {
            cls: {}
            for cls in (
                MapRecord,
                MapVoteRecord,
                PartitionRecord,
                BucketRecord,
                PeerRecord,
                StoreTimeRecord,
                KillRecord,
                ScrubRecord,
                FollowedRecord,
            )
        }

    def put(self, key: bytes, body: SmallBody, *, sequence: int, flags: int) -> None:
        rows = self._rows[type(body)]
        known = rows.get(key)
        if known is None or known.sequence <= sequence:
            rows[key] = _Row(sequence, flags, body)

    def sequence_of(self, cls: type[SmallBody], key: bytes) -> int:
        """Of the newest record of this key; 0 if there is none."""
        row = self._rows[cls].get(key)
        return row.sequence if row else 0

    def partition(self, pool: int, partition: int) -> PartitionRecord:
        found = self._find(PartitionRecord, pool.to_bytes(4, "big") + partition.to_bytes(4, "big"))
        if found is not None:
            return found
        return PartitionRecord(
            pool=pool,
            partition=partition,
            version_floor=0,
            ballot_floor=None,
            learned_generation=0,
            not_voting=ROT_REASON if self.lost_sequences() else "",
            healed_epoch=0,
        )

    def partitions(self) -> list[PartitionRecord]:
        return self._all(PartitionRecord)

    def bucket_closing(self, bucket: BucketId) -> bool:
        found = self._find(BucketRecord, bucket)
        return found is not None and found.closing

    def closed_buckets(self) -> tuple[BucketId, ...]:
        return tuple(sorted(record.bucket for record in self._all(BucketRecord) if record.closing))

    def peer(self, store: StoreId) -> PeerRecord | None:
        return self._find(PeerRecord, store)

    def followed(self, store: StoreId) -> FollowedRecord:
        """How far that store's feed has been followed; nowhere, if nothing is written down."""
        return self._find(FollowedRecord, store) or FollowedRecord(store, ())

    def map(self) -> bytes:
        found = self._find(MapRecord, b"")
        return found.map if found is not None else b""

    def map_vote(self, epoch: int) -> MapVoteRecord | None:
        """Raises `NotVoting` if a vote may have been lost."""
        if self.lost_sequences():
            raise NotVoting(
                f"{ROT_REASON}: it cannot vouch for its votes on maps",
                hint="run `clusterctl node replace --lost` for this node",
            )
        return self._find(MapVoteRecord, epoch.to_bytes(8, "big"))

    def forget_votes(self, epoch: int) -> list[bytes]:
        """Those up to this epoch, in which a map was adopted. Returns their keys."""
        votes = self._rows[MapVoteRecord]
        over = [key for key in votes if int.from_bytes(key, "big") <= epoch]
        for key in over:
            del votes[key]
        return over

    def store_time_s(self) -> int:
        found = self._find(StoreTimeRecord, b"")
        return found.seconds if found is not None else 0

    def scrub(self) -> ScrubRecord:
        """How far the store has read itself back; never, if nothing is written down."""
        return self._find(ScrubRecord, b"") or ScrubRecord(0, 0, b"", 0, 0)

    def row(self, cls: type[SmallBody], key: bytes) -> tuple[SmallBody, int] | None:
        """The newest record of this key as it is, with its flags."""
        row = self._rows[cls].get(key)
        return (row.body, row.flags) if row is not None else None

    def lost_sequences(self) -> frozenset[int]:
        """Where unreadable stretches of the log begin, as far as their consequences are written down."""
        rows = self._rows[KillRecord].values()
        return frozenset(
            row.body.sequence for row in rows if row.flags & FLAG_ROT and isinstance(row.body, KillRecord)
        )

    def killed(self) -> frozenset[tuple[int, int]]:
        """Records that are broken and that nothing rests on any more: the life of each one's volume, and its
        sequence."""
        rows = self._rows[KillRecord].values()
        return frozenset(
            (row.body.volume_life, row.body.sequence)
            for row in rows
            if not row.flags & FLAG_ROT and isinstance(row.body, KillRecord)
        )

    def _find(self, cls: type[T], key: bytes) -> T | None:
        for known, rows in self._rows.items():
            if known is cls:
                row = rows.get(key)
                return row.body if row is not None and isinstance(row.body, cls) else None
        return None

    def _all(self, cls: type[T]) -> list[T]:
        bodies: Iterable[SmallBody] = (row.body for rows in self._rows.values() for row in rows.values())
        return [body for body in bodies if isinstance(body, cls)]
