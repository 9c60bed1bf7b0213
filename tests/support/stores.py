"""Records and stores for tests: short ways to make both. Asserts nothing."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.core.checksums import blob_digest, cell_checksum
from holdfast_node.core.head import Ballot, Head, HeadKind, Manifest, Part, Retained
from holdfast_node.core.ids import BlobId, BucketId, ClusterId, Digest, NodeName, StoreId, Version
from holdfast_node.core.messages import ShardHeader
from holdfast_node.core.records import CellRecord, PartitionRecord, RegisterRecord, SealRecord
from holdfast_node.ports import Disk, Index
from holdfast_node.services.store import Entry, Store, StoreSettings
from tests.sim.disk import Platter, SimDisk
from tests.sim.entropy import SimEntropy, SimEvents
from tests.sim.index import IndexContent, SimIndex

KIB: Final = 1024
NODE: Final = NodeName("n1")
BODIES: Final = ProtobufBodies()
BUCKET: Final = BucketId(b"B" * 16)
PROPOSER: Final = StoreId(b"P" * 16)
SMALL: Final = StoreSettings(volume_bytes=256 * KIB, batch_bytes_max=64 * KIB, reserve_volumes=1)


def ballot(counter: int, generation: int = 1) -> Ballot:
    return Ballot(generation, counter, PROPOSER, 1, counter)


def blob_id(number: int) -> BlobId:
    return BlobId(number.to_bytes(16, "big"))


def manifest(number: int, payload: bytes = b"payload") -> Manifest:
    return Manifest(
        blob_id=blob_id(number),
        seed_id=blob_id(number),
        size=len(payload),
        code="copy:6",
        stripe_bytes=1024 * KIB,
        part_bytes=64 * 1024 * KIB,
        hash=blob_digest(payload),
        parts=(Part(len(payload), (PROPOSER,) * 6, (Digest(b"c" * 16),) * 6),),
        content_type="text/plain",
    )


def head(version: int, retained: Sequence[int] = ()) -> Head:
    """A head whose blob has the number of its version."""
    return Head(
        version=Version(version),
        kind=HeadKind.BLOB,
        manifest=manifest(version),
        retained=tuple(Retained(Version(old), HeadKind.BLOB, blob_id(old), 7, 0) for old in retained),
    )


def register(
    key: bytes, version: int, *, partition: int = 0, bucket: BucketId = BUCKET, retained: Sequence[int] = ()
) -> RegisterRecord:
    encoded = BODIES.encode(head(version, retained))
    return RegisterRecord(bucket, key, 0, partition, ballot(version), ballot(version), encoded)


def promise(key: bytes, counter: int) -> RegisterRecord:
    return RegisterRecord(BUCKET, key, 0, 0, ballot(counter), None, b"")


def cell(seed: BlobId, stripe: int, payload: bytes, *, index: int = 0) -> Entry:
    digest = cell_checksum(seed, 0, index, stripe, payload)
    return Entry(CellRecord(seed, 0, index, stripe, digest), payload)


def seal(seed: BlobId, cells: Sequence[bytes], *, index: int = 0) -> Entry:
    digests = tuple(cell_checksum(seed, 0, index, stripe, payload) for stripe, payload in enumerate(cells))
    header = ShardHeader(
        ClusterId(b"C" * 16), BUCKET, b"key", seed, 0, index, "rs:4+2", 1, 1024 * KIB, digests, ballot(1)
    )
    return Entry(SealRecord(header, since_s=0))


def partition(number: int, *, version_floor: int = 0, not_voting: str = "") -> PartitionRecord:
    return PartitionRecord(
        pool=0,
        partition=number,
        version_floor=version_floor,
        ballot_floor=None,
        learned_generation=0,
        not_voting=not_voting,
        healed_epoch=0,
    )


async def open_store(
    disk: Disk,
    index: Index,
    *,
    events: SimEvents | None = None,
    settings: StoreSettings = SMALL,
    seed: str = "s",
) -> Store:
    return await Store.open(
        disk=disk,
        index=index,
        bodies=BODIES,
        entropy=SimEntropy(seed),
        events=events or SimEvents(),
        node=NODE,
        settings=settings,
        format_if_empty=True,
    )


class Bench:
    """A simulated disk and index that outlive the stores opened on them."""

    def __init__(self, seed: int = 0, *, capacity_bytes: int = 1 << 30) -> None:
        self.platter = Platter(capacity_bytes=capacity_bytes)
        self.rows = IndexContent()
        self.events = SimEvents()
        self.random = random.Random(seed)
        self._opened = 0

    @asynccontextmanager
    async def store(self, *, settings: StoreSettings = SMALL, clean: bool = True) -> AsyncGenerator[Store]:
        """Open; afterwards close, or, if not `clean`, leave it as a killed process would."""
        self._opened += 1
        index = SimIndex(self.rows)
        disk = SimDisk(self.platter, chooser=self.random)
        store = await open_store(
            disk, index, events=self.events, settings=settings, seed=f"bench {self._opened}"
        )
        try:
            yield store
        finally:
            if clean:
                await store.close()
                index.close()
            else:
                disk.failure = "the process is gone"
                await store.abandon()
                self.platter.process_crash()

    def forget_index(self) -> None:
        self.rows = IndexContent()
