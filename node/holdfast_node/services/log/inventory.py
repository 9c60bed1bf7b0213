"""What is in the index, a page at a time and in its order: for whoever goes through all of it now and then.

Knows rows, not what they are worth.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from holdfast_node.core import index_rows
from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import ID_BYTES, BlobId, BucketId
from holdfast_node.core.index_keys import (
    BLANK_ROWS,
    MANIFEST_ROWS,
    REGISTER_ROWS,
    SHARD_ROWS,
    manifest_of,
    manifest_row_key,
    prefix_end,
    register_of,
    shard_name,
)
from holdfast_node.core.messages import ShardName
from holdfast_node.core.records import RegisterRecord
from holdfast_node.ports import Index
from holdfast_node.services.log.reader import LogReader

ROWS_AT_ONCE: Final = 1024
"""Rows looked at for one page of registers: a millisecond or two."""


@dataclass(frozen=True, slots=True)
class HeldRegister:
    """A register, and where it belongs. `promised`: the ballot, if a promise is all that is known of it."""

    pool: int
    partition: int
    bucket: BucketId
    key: bytes
    promised: Ballot | None = None


@dataclass(frozen=True, slots=True)
class HeldSeed:
    """A seed with all its shards here, complete or begun."""

    seed_id: BlobId
    shards: tuple[ShardName, ...]


@dataclass(frozen=True, slots=True)
class HeldManifests:
    """A key with the blobs of which a manifest is here."""

    bucket: BucketId
    key: bytes
    blob_ids: tuple[BlobId, ...]


class Inventory:
    """Pages begin at the row key `start` (empty: the first) and come with the start of the next (empty: it was the
    last). Raises `StoreFailed`."""

    def __init__(self, log: LogReader, index: Index) -> None:
        self._log: Final = log
        self._index: Final = index

    def retaining(
        self, partitions: Collection[tuple[int, int]], start: bytes
    ) -> tuple[tuple[HeldRegister, ...], bytes]:
        """Registers of these partitions that keep older versions."""
        return self._registers(lambda _, value: index_rows.retains(value), partitions, start)

    def spent(
        self, partitions: Collection[tuple[int, int]], closed: Collection[BucketId], start: bytes
    ) -> tuple[tuple[HeldRegister, ...], bytes]:
        """Those in which nothing is left but a tombstone, a fence or a promise; all of `closed` buckets."""

        def wanted(row_key: bytes, value: bytes) -> bool:
            return index_rows.is_spent(value) or register_of(row_key[1:])[0] in closed

        return self._registers(wanted, partitions, start)

    def accepted(
        self, partitions: Collection[tuple[int, int]], start: bytes, end: bytes
    ) -> tuple[tuple[HeldRegister, ...], bytes]:
        """Those that are whole and in which something was accepted, before the row key `end` (empty: all)."""
        return self._registers(lambda _, value: index_rows.is_accepted(value), partitions, start, end)

    def blank(self, bucket: BucketId, key: bytes) -> RegisterRecord | None:
        """The register, if it is one that was made blank."""
        value = self._log.get(BLANK_ROWS + bucket + key)
        if value is None:
            return None
        entry = self._log.checked(index_rows.decode_blank, value)
        return RegisterRecord(
            bucket, key, entry.pool, entry.partition, None, None, head=b"", before=entry.before
        )

    def _registers(
        self,
        wanted: Callable[[bytes, bytes], bool],
        partitions: Collection[tuple[int, int]],
        start: bytes,
        end: bytes = b"",
    ) -> tuple[tuple[HeldRegister, ...], bytes]:
        self._log.check()
        found: list[HeldRegister] = []
        for looked, (row_key, value) in enumerate(self._rows(REGISTER_ROWS, start, end)):
            if looked == ROWS_AT_ONCE:
                return tuple(found), row_key
            if self._log.checked(wanted, row_key, value):
                scope = self._log.checked(index_rows.scope_of, value)
                if scope in partitions and scope is not None:
                    promised = self._log.checked(index_rows.only_promised, value)
                    found.append(HeldRegister(*scope, *register_of(row_key[1:]), promised))
        return tuple(found), b""

    def seeds(self, start: bytes, count: int) -> tuple[tuple[HeldSeed, ...], bytes]:
        """So many seeds are looked at; those of which nothing is left are not in the page."""
        self._log.check()
        found: list[HeldSeed] = []
        rows = self._rows(SHARD_ROWS, start)
        for looked, (prefix, group) in enumerate(groupby(rows, key=lambda row: row[0][: 1 + ID_BYTES])):
            if looked == count:
                return tuple(found), prefix
            shards = tuple(shard_name(row_key) for row_key, value in group if self._is_here(value))
            if shards:
                found.append(HeldSeed(BlobId(prefix[1:]), shards))
        return tuple(found), b""

    def manifests(self, start: bytes, count: int) -> tuple[tuple[HeldManifests, ...], bytes]:
        self._log.check()
        found: list[HeldManifests] = []
        rows = self._rows(MANIFEST_ROWS, start)
        for (bucket, key), group in groupby(rows, key=lambda row: manifest_of(row[0])[:2]):
            blob_ids = tuple(manifest_of(row_key)[2] for row_key, _ in group)
            if len(found) == count:
                return tuple(found), manifest_row_key(bucket, key, b"")
            found.append(HeldManifests(bucket, key, blob_ids))
        return tuple(found), b""

    def has_manifest(self, bucket: BucketId, key: bytes, blob_id: BlobId) -> bool:
        return self._log.get(manifest_row_key(bucket, key, blob_id)) is not None

    def forget_manifests(self, bucket: BucketId, key: bytes, blob_ids: Collection[BlobId]) -> None:
        """Delete the rows only: an index made anew has them again, and they go again."""
        self._log.forget([manifest_row_key(bucket, key, blob_id) for blob_id in blob_ids])

    def _rows(self, letter: bytes, start: bytes, end: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self._log.scan(start or letter, end or prefix_end(letter))

    def _is_here(self, value: bytes) -> bool:
        entry = self._log.checked(index_rows.decode_shard, value)
        return entry.is_sealed or entry.is_staged
