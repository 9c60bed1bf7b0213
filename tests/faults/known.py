"""A fixed set of blobs that is known byte by byte, and everything that can be asked about it through one endpoint.

An answer is right, wrong, or an error of the cluster; which of them may be is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import holdfast
from tests.faults.workload import KIB, MIB, Content, content_blocks

SIZES: Final = (7, 60, 900, 5 * KIB, 60_000, 200_000, 700_000, MIB + 1, 5 * MIB, 17 * MIB)
SEVERAL_VERSIONS: Final = 300_000
"""Blobs up to this have three versions."""
DELETED_EVERY: Final = 3

Stored = tuple[str, int]
"""A content's name and size."""


class Wrong(Exception):
    """An answer that nothing justifies."""


@dataclass(frozen=True, slots=True)
class Question:
    """`ask` raises Wrong, or what the SDK raises, or the answer was right."""

    about: str
    ask: Callable[[holdfast.Bucket], None]


@dataclass
class Known:
    """Per key and version: what was stored, or None for a deletion. The latest is current."""

    seed: int
    versions: dict[str, dict[int, Stored | None]] = field(default_factory=dict[str, dict[int, Stored | None]])

    def store(self, bucket: holdfast.Bucket) -> None:
        """Plain and conditional writes of every size, and some deletions."""
        for number, size in enumerate(SIZES):
            kept = f"kept/{number}"
            self.put(bucket, kept, size, if_absent=number % 2 == 0)
            if size <= SEVERAL_VERSIONS:
                self.put(bucket, kept, size + 1)
                self.put(bucket, kept, size + 2, if_version=max(self.versions[kept]))
            if number % DELETED_EVERY == 0:
                gone = f"gone/{number}"
                self.put(bucket, gone, size)
                self.versions[gone][bucket.delete(gone)] = None

    def put(
        self,
        bucket: holdfast.Bucket,
        key: str,
        size: int,
        *,
        if_absent: bool = False,
        if_version: int | None = None,
    ) -> None:
        of_key = self.versions.setdefault(key, {})
        content = f"{self.seed} {key} {len(of_key)}"
        receipt = bucket.put(key, Content(content, size), if_absent=if_absent, if_version=if_version)
        of_key[receipt.version] = (content, size)

    def questions(self) -> Iterator[Question]:
        for key in sorted(self.versions):
            yield Question(f"get {key}", partial(self._current, key))
            yield Question(f"versions {key}", partial(self._all_versions, key))
            yield Question(f"put {key} on condition", partial(self._refused, key))
            for version, stored in self.versions[key].items():
                if stored is not None:
                    yield Question(f"get {key} version {version}", _one_version(key, version, stored))
        yield Question("list", self._listed)

    def _current(self, key: str, bucket: holdfast.Bucket) -> None:
        version = max(self.versions[key])
        stored = self.versions[key][version]
        try:
            blob = bucket.get(key)
        except holdfast.BlobNotFound:
            if stored is not None:
                raise Wrong(f"absent, though version {version} was acked") from None
            return
        if stored is None:
            raise Wrong(f"version {blob.info.version}, though it was deleted at {version}")
        _compare(blob, version, stored)

    def _all_versions(self, key: str, bucket: holdfast.Bucket) -> None:
        of_key = self.versions[key]
        right = {version: (stored is None, version == max(of_key)) for version, stored in of_key.items()}
        found = {info.version: (info.deleted, info.current) for info in bucket.versions(key)}
        if found != right:
            raise Wrong(f"versions {found}, right is {right}")

    def _refused(self, key: str, bucket: holdfast.Bucket) -> None:
        """A condition that cannot hold: that there is none, or that a version long replaced is current."""
        version = max(self.versions[key])
        try:
            if self.versions[key][version] is None:
                receipt = bucket.put(key, b"never", if_version=version + 1000)
            else:
                receipt = bucket.put(key, b"never", if_absent=True)
        except holdfast.PreconditionFailed:
            return
        raise Wrong(f"stored as version {receipt.version} against its condition, {version} is current")

    def _listed(self, bucket: holdfast.Bucket) -> None:
        right: list[tuple[str, int, int]] = []
        for key, of_key in sorted(self.versions.items()):
            if (stored := of_key[max(of_key)]) is not None:
                right.append((key, max(of_key), stored[1]))
        found = [(info.name, info.version, info.size) for info in bucket.list()]
        if found != right:
            raise Wrong(f"list says {found}, right is {right}")


def _one_version(key: str, version: int, stored: Stored) -> Callable[[holdfast.Bucket], None]:
    return lambda bucket: _compare(bucket.get(key, version=version), version, stored)


def _compare(blob: holdfast.Blob, version: int, stored: Stored) -> None:
    if blob.info.version != version:
        raise Wrong(f"version {blob.info.version}, right is {version}")
    if blob.read() != b"".join(content_blocks(*stored)):
        raise Wrong(f"version {version} has bytes that nobody wrote")
