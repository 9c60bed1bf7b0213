"""The digests of cells, shards and blobs: xxh3-128, each bound to what it is the digest of.

They find rot, misdirected writes and bugs, not attackers. Buffers are hashed here and never kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

import xxhash

from holdfast_node.core.ids import BlobId, Digest

DIGEST_BYTES: Final = 16
_BINDING: Final = struct.Struct(">16sIIIQ")
"""Seed id, part, shard index, stripe, length: a right cell at the wrong place has the wrong checksum."""


def cell_checksum(
    seed_id: BlobId, part: int, index: int, stripe: int, cell: bytes | bytearray | memoryview
) -> Digest:
    digest = xxhash.xxh3_128(_BINDING.pack(seed_id, part, index, stripe, len(cell)))
    digest.update(cell)
    return Digest(digest.digest())


def shard_checksum(cell_checksums: Iterable[Digest]) -> Digest:
    """The digest of one shard of one part: over its cells' checksums in stripe order."""
    return Digest(xxhash.xxh3_128_digest(b"".join(cell_checksums)))


def blob_digest(payload: bytes | bytearray | memoryview) -> Digest:
    return Digest(xxhash.xxh3_128_digest(payload))


class BlobHasher:
    """The digest of a blob whose bytes pass by in order."""

    __slots__ = ("_digest",)

    def __init__(self) -> None:
        self._digest = xxhash.xxh3_128()

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        self._digest.update(chunk)

    def digest(self) -> Digest:
        return Digest(self._digest.digest())
