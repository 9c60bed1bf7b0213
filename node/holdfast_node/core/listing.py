"""What a LIST shows: merging what homes report, paging, common prefixes. Bytes and rows in, decisions out.

Knows nothing of who is asked or how a disagreement is settled; it only says which keys need settling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from xxhash import xxh3_128_digest

from holdfast_node.core.api import BlobInfo
from holdfast_node.core.errors import InvalidArgument, Unavailable
from holdfast_node.core.head import Head, HeadKind
from holdfast_node.core.ids import KEY_BYTES_MAX, BucketId, StoreId
from holdfast_node.core.messages import RegisterPage, RegisterRow, Scope

PAGE_SIZE_MAX: Final = 1000
_TOKEN_FORMAT: Final = b"hl1"
_CHECK_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Query:
    """What is listed; the same on every page of one listing."""

    bucket: BucketId
    prefix: bytes
    delimiter: bytes


def check_query(query: Query, page_size: int) -> None:
    if not 1 <= page_size <= PAGE_SIZE_MAX:
        raise InvalidArgument(f"page_size is {page_size}", hint=f"1 to {PAGE_SIZE_MAX}")
    if len(query.prefix) > KEY_BYTES_MAX or len(query.delimiter) > KEY_BYTES_MAX:
        raise InvalidArgument("prefix or delimiter is longer than any key")


# --- page tokens ------------------------------------------------------------------------------------------------


def _binding(query: Query, start: bytes) -> bytes:
    lengths = b"".join(len(part).to_bytes(4, "big") for part in (query.prefix, query.delimiter, start))
    return xxh3_128_digest(_TOKEN_FORMAT + query.bucket + lengths + query.prefix + query.delimiter + start)


def encode_token(query: Query, start: bytes) -> bytes:
    """Opaque to callers: a format mark, a checksum over the query and the place, the place itself."""
    return _TOKEN_FORMAT + _binding(query, start) + start


def decode_token(query: Query, token: bytes) -> bytes:
    """The first key of the next page. Refuses what this query's pages did not give out."""
    if not token:
        return query.prefix
    head = len(_TOKEN_FORMAT)
    start = token[head + _CHECK_BYTES :]
    if token[:head] != _TOKEN_FORMAT or token[head : head + _CHECK_BYTES] != _binding(query, start):
        raise InvalidArgument("the page token is not one of this listing", hint="start without a token")
    return start


# --- whom to ask ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Electorate:
    """One partition and the voting homes whose reports count, best first. `needed` of them show all that is decided."""

    scope: Scope
    voters: tuple[StoreId, ...]
    needed: int


def plan(electorates: Sequence[Electorate], excluded: frozenset[StoreId]) -> dict[StoreId, tuple[Scope, ...]]:
    """Which scopes to ask of which store, each store once and few of them: the one most useful is taken next.

    Raises `Unavailable` if a partition has too few voting homes left.
    """
    lacking = {e.scope.partition: e.needed for e in electorates}
    keeps: dict[StoreId, list[Electorate]] = {}
    order: dict[StoreId, int] = {}
    for electorate in electorates:
        usable = [store for store in electorate.voters if store not in excluded]
        if len(usable) < electorate.needed:
            raise Unavailable(
                f"partition {electorate.scope.partition} has {len(usable)} voting homes that answer, "
                f"a listing needs {electorate.needed}"
            )
        for at, store in enumerate(usable):
            keeps.setdefault(store, []).append(electorate)
            order[store] = max(order.get(store, 0), at)
    chosen: dict[StoreId, tuple[Scope, ...]] = {}
    while any(lacking.values()):
        store = max(sorted(keeps), key=lambda s: (_use(keeps[s], lacking), -order[s]))
        useful = [e for e in keeps.pop(store) if lacking[e.scope.partition] > 0]
        chosen[store] = tuple(e.scope for e in useful)
        for electorate in useful:
            lacking[electorate.scope.partition] -= 1
    return chosen


def _use(electorates: Sequence[Electorate], lacking: Mapping[int, int]) -> int:
    return sum(1 for e in electorates if lacking[e.scope.partition] > 0)


# --- merging ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sighting:
    """One key. `row` is what all homes asked agree on; None: they do not, and a register read must settle it."""

    key: bytes
    row: RegisterRow | None


@dataclass(frozen=True, slots=True)
class Merged:
    """`sightings` in key order, complete up to `last`; `last` None: complete to the end."""

    sightings: tuple[Sighting, ...]
    last: bytes | None


def merge(
    asked: Mapping[StoreId, Iterable[Scope]],
    pages: Mapping[StoreId, RegisterPage],
    moves: Mapping[int, int] = MappingProxyType({}),
) -> Merged:
    """Join the pages of all stores asked. Beyond the smallest last key of an unfinished page nothing is known.

    `moves`: partition -> the generation of its open move. What was accepted in that is decided only with the new homes,
    which are not asked.
    """
    assert asked.keys() == pages.keys(), "merge only when every store asked has answered"
    reporters: dict[int, int] = {}
    for scopes in asked.values():
        for scope in scopes:
            reporters[scope.partition] = reporters.get(scope.partition, 0) + 1
    ends = [page.rows[-1].key for page in pages.values() if not page.complete and page.rows]
    last = min(ends, default=None)
    rows: dict[bytes, list[RegisterRow]] = {}
    for store in sorted(pages):
        for row in pages[store].rows:
            if last is None or row.key <= last:
                rows.setdefault(row.key, []).append(row)
    sightings = [_sighting(key, rows[key], reporters) for key in sorted(rows)]
    for at, sighting in enumerate(sightings):
        agreed = sighting.row
        since = moves.get(agreed.partition) if agreed is not None else None
        if agreed is not None and since is not None and agreed.ballot.generation >= since:
            sightings[at] = Sighting(sighting.key, None)
    return Merged(tuple(sightings), last)


def _sighting(key: bytes, rows: Sequence[RegisterRow], reporters: Mapping[int, int]) -> Sighting:
    first = rows[0]
    alike = all((row.ballot, row.head_hash) == (first.ballot, first.head_hash) for row in rows)
    return Sighting(key, first if alike and len(rows) == reporters.get(first.partition) else None)


# --- pages ------------------------------------------------------------------------------------------------------


def successor(prefix: bytes) -> bytes | None:
    """The first key after all that begin with `prefix`; None if there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None


def after(key: bytes) -> bytes:
    """The first key after `key`."""
    return key + b"\x00"


def info_of_row(row: RegisterRow) -> BlobInfo | None:
    """What a listing shows of a key; None if it is deleted or was never written."""
    if row.kind != HeadKind.BLOB:
        return None
    return BlobInfo(row.key, row.version, row.size, row.hash, row.content_type, (), row.created_ms, "")


def info_of_head(key: bytes, head: Head) -> BlobInfo | None:
    """The same from a head, no more and no less than a row would show."""
    manifest = head.manifest
    if head.kind is not HeadKind.BLOB or manifest is None:
        return None
    size, digest, kind = manifest.size, manifest.hash, manifest.content_type
    return BlobInfo(key, head.version, size, digest, kind, (), head.created_ms, "")


class Page:
    """One page being filled, in key order. `position` is where the next key to look at begins."""

    def __init__(self, query: Query, size: int, start: bytes) -> None:
        self._query: Final = query
        self._size: Final = size
        self.position: bytes | None = start
        self.blobs: list[BlobInfo] = []
        self.prefixes: list[bytes] = []

    @property
    def full(self) -> bool:
        return len(self.blobs) + len(self.prefixes) >= self._size

    def wants(self, key: bytes) -> bool:
        """Whether this key can still add something: not before the position, nor under a prefix already shown."""
        return self.position is not None and key >= self.position and not self.full

    def add(self, key: bytes, info: BlobInfo | None) -> None:
        """Take note of a settled key; None: nothing live there."""
        assert self.wants(key), "keys come in order"
        common = self._common_prefix(key)
        if info is None or common is None:
            self.position = after(key)
        else:
            self.prefixes.append(common)
            self.position = successor(common)
        if info is not None and common is None:
            self.blobs.append(info)

    def reached(self, last: bytes | None) -> None:
        """Everything up to `last` (None: the end) has been added."""
        if last is None:
            self.position = None
        elif self.position is not None:
            self.position = max(self.position, after(last))

    def _common_prefix(self, key: bytes) -> bytes | None:
        delimiter = self._query.delimiter
        if not delimiter:
            return None
        at = key.find(delimiter, len(self._query.prefix))
        return key[: at + len(delimiter)] if at >= 0 else None
