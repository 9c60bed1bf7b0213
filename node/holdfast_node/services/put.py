"""A put: bytes in, shards sealed, one register write, an honest margin out.

Small blobs take one message per holder; larger ones stream part by part in bounded memory. Shards of an attempt that
sent no accept are dropped; after an accept nothing is ever dropped from here. Knows no wire and no disk.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from holdfast_node.core.api import PutOptions, PutResult
from holdfast_node.core.checksums import shard_checksum
from holdfast_node.core.codes import Code
from holdfast_node.core.errors import HoldfastError, InvalidArgument, TooLarge, UploadExpired
from holdfast_node.core.geometry import (
    BLOB_BYTES_MAX,
    MIB,
    cell_bytes,
    code_for,
    part_bytes_for,
    parts_max,
    stripe_bytes_for,
)
from holdfast_node.core.head import Ballot, Manifest, Part
from holdfast_node.core.ids import (
    ID_BYTES,
    KEY_BYTES_MAX,
    METADATA_BYTES_MAX,
    BlobId,
    Digest,
    Era,
    RequestId,
    StoreId,
    Version,
)
from holdfast_node.core.operation import Operation, OperationKind
from holdfast_node.services.budget import Grant
from holdfast_node.services.committing import NOBODY, check_ack, commit_known, within_reach
from holdfast_node.services.datapath import DataPath, KeyPlace, PartTarget
from holdfast_node.services.intake import Intake
from holdfast_node.services.margins import manifest_margin
from holdfast_node.services.registers import Attempt
from holdfast_node.services.staging import WholeStaging
from holdfast_node.services.streaming import PartWriter
from holdfast_node.services.striping import encode_stripe
from holdfast_node.services.trail import Trail
from holdfast_node.services.versions import applied_manifest

STRIPES_AHEAD_MAX: Final = 8
"""Stripes of one put on their way at once; the coordinate budget bounds all puts together."""
PARTS_FINISHING_MAX: Final = 2
CHUNKS_IN_FLIGHT: Final = 3
"""Chunks of an upload in memory beside its stripes: one being cut, one being received, and its bytes on the wire."""
UPLOAD_BYTES: Final = CHUNKS_IN_FLIGHT * 4 * MIB
"""A place for an upload, until the size of its chunks is seen."""
"""In a manifest, the holder of a shard that nobody sealed."""


@dataclass(frozen=True, slots=True)
class Recoding:
    """The current version `old` is written again in the pool's code. `proven` raises unless the new manifest's shards
    are good enough to be pointed at; they were staged under the ballot."""

    old: Manifest
    proven: Callable[[Manifest, Ballot], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Write:
    """One logical put, with everything decided before the first byte."""

    place: KeyPlace
    options: PutOptions
    request_id: RequestId
    stamp: Era
    retain: bool
    code: Code
    stripe_bytes: int
    part_bytes: int
    recoding: Recoding | None = None


@dataclass(slots=True)
class Staged:
    """What one attempt has put where: enough for a manifest and a margin."""

    attempt: Attempt
    seed_id: BlobId
    code: Code
    trail: Trail
    parts: dict[int, Part] = field(default_factory=dict[int, Part])
    shunned: set[StoreId] = field(default_factory=set[StoreId])


def check_key(key: bytes) -> None:
    if not 1 <= len(key) <= KEY_BYTES_MAX:
        raise InvalidArgument(f"a key has 1 to {KEY_BYTES_MAX} bytes, not {len(key)}")


def check_options(options: PutOptions) -> None:
    if options.size < -1:
        raise InvalidArgument(f"a blob cannot have {options.size} bytes")
    if options.size > BLOB_BYTES_MAX:
        raise TooLarge(f"a blob has {BLOB_BYTES_MAX} bytes at most, not {options.size}")
    if len(options.hash) not in (0, ID_BYTES):
        raise InvalidArgument(f"an xxh3-128 hash has {ID_BYTES} bytes, not {len(options.hash)}")
    metadata = sum(len(name.encode()) + len(value.encode()) for name, value in options.metadata)
    metadata += len(options.content_type.encode())
    if metadata > METADATA_BYTES_MAX:
        raise TooLarge(f"metadata and content type take {metadata} bytes, {METADATA_BYTES_MAX} at most")


def stripe_charge(code: Code, stripe_size: int) -> int:
    """Memory for one stripe on its way: the payload and its n cells."""
    return stripe_size + code.n * cell_bytes(code, stripe_size)


class Putter:
    """Runs puts; one instance per node."""

    def __init__(self, path: DataPath) -> None:
        self._path: Final = path

    async def put(
        self, place: KeyPlace, options: PutOptions, chunks: AsyncIterator[bytes], *, retain: bool
    ) -> PutResult:
        check_key(place.key)
        check_options(options)
        return await self._run(self._write(place, options, retain=retain), chunks)

    async def recode(self, place: KeyPlace, recoding: Recoding, chunks: AsyncIterator[bytes]) -> PutResult:
        """Write the bytes of the current version once more, in the pool's code. Raises what a put raises, and
        `PreconditionFailed` if it is not the current one any more."""
        old = recoding.old
        options = PutOptions(
            size=old.size, hash=old.hash, content_type=old.content_type, metadata=old.metadata
        )
        write = replace(self._write(place, options, retain=False), recoding=recoding)
        return await self._run(write, chunks)

    async def _run(self, write: Write, chunks: AsyncIterator[bytes]) -> PutResult:
        options = write.options
        limit = parts_max(write.code) * write.part_bytes
        intake = Intake(chunks, declared_size=options.size, declared_hash=options.hash, limit=limit)
        if 0 <= options.size <= write.stripe_bytes:
            return await self._put_first(write, intake, options.size)
        place_taken = await self._path.coordinate.uploads.take(UPLOAD_BYTES)
        try:
            return await self._put_first(write, intake, write.stripe_bytes, place_taken)
        finally:
            place_taken.release()

    async def _put_first(
        self, write: Write, intake: Intake, first: int, place_taken: Grant | None = None
    ) -> PutResult:
        """Read one stripe, of `first` bytes at most, and see whether it is all. Only who has a place may go on."""
        grant = await self._path.coordinate.stripes.take(stripe_charge(write.code, first))
        try:
            payload = await intake.read(write.stripe_bytes)
            if await intake.at_end():
                return await self._put_small(write, intake.finish(), payload)
            assert place_taken is not None, "a body longer than announced was refused on the way in"
            place_taken.shrink(CHUNKS_IN_FLIGHT * intake.largest_chunk)
            return await _Upload(self._path, self, write, intake).run(payload, grant)
        finally:
            grant.release()

    def _write(self, place: KeyPlace, options: PutOptions, *, retain: bool) -> Write:
        topology = self._path.topology
        code = topology.code(place.pool)
        call = options.call
        return Write(
            place=place,
            options=options,
            request_id=call.request_id or RequestId(self._path.entropy.token(ID_BYTES)),
            stamp=Era(call.stamp or topology.map.era),
            retain=retain,
            code=code,
            stripe_bytes=stripe_bytes_for(code, options.size),
            part_bytes=part_bytes_for(code, options.size),
        )

    # --- one stripe -----------------------------------------------------------------------------------------

    async def _put_small(self, write: Write, digest: Digest, payload: bytes) -> PutResult:
        place = write.place
        try:
            return await self._try_small(write, digest, payload)
        except UploadExpired:
            await self._path.registers.read(place.pool, place.bucket, place.key)
            return await self._try_small(write, digest, payload)

    async def _try_small(self, write: Write, digest: Digest, payload: bytes) -> PutResult:
        staged = self.begin(write, code_for(write.code, len(payload)))
        try:
            if payload:
                target = self.target(write, staged, 0, len(payload))
                encoded = encode_stripe(
                    self._path.codec, staged.code, payload, seed_id=staged.seed_id, part=0, stripe=0
                )
                staging = WholeStaging(
                    self._path, target, encoded, attempt=staged.attempt, trail=staged.trail
                )
                await staging.run()
                staging.placing.check_ack()
                digests = tuple(shard_checksum((each,)) for each in encoded.checksums)
                staged.parts[0] = part_of(len(payload), staging.placing.sealed, digests)
            return await self.commit(write, staged, digest, len(payload))
        except BaseException:
            drop_unless_accepted(staged)
            raise

    # --- shared with uploads --------------------------------------------------------------------------------

    def begin(self, write: Write, code: Code) -> Staged:
        place = write.place
        attempt = self._path.registers.attempt(
            place.pool, place.bucket, place.key, write.stamp, background=write.recoding is not None
        )
        return Staged(attempt, self._path.new_blob_id(), code, Trail(self._path.links))

    def target(self, write: Write, staged: Staged, part: int, part_size: int) -> PartTarget:
        return PartTarget(
            place=write.place,
            seed_id=staged.seed_id,
            part=part,
            part_size=part_size,
            code=staged.code,
            stripe_bytes=write.stripe_bytes,
            base=staged.attempt.base,
        )

    async def commit(self, write: Write, staged: Staged, digest: Digest, size: int) -> PutResult:
        manifest = Manifest(
            blob_id=staged.seed_id,
            seed_id=staged.seed_id,
            size=size,
            code=str(staged.code),
            stripe_bytes=write.stripe_bytes,
            part_bytes=write.part_bytes,
            hash=digest,
            parts=tuple(staged.parts[part] for part in sorted(staged.parts)),
            content_type=write.options.content_type,
            metadata=write.options.metadata,
            created_ms=write.recoding.old.created_ms if write.recoding else self._path.clock.now_ms(),
        )
        if write.recoding is not None:
            await write.recoding.proven(manifest, staged.attempt.base)
        elif len(manifest.parts) > 1:  # the first of them were sealed long ago
            check_ack(self._path, write.place, within_reach(self._path, manifest))
        operation = operation_of(write, manifest, staged.attempt.base)
        outcome = await commit_known(self._path, write.place, manifest, staged.attempt, operation)
        if outcome.repeated:
            drop_unless_accepted(staged)
            manifest = await applied_manifest(self._path, write.place, outcome.version) or manifest
        return result_of(self._path, write.place, manifest, outcome.version)


class _Upload:
    """A blob of more than one stripe. Reads the register first, so that its base is above any fence."""

    def __init__(self, path: DataPath, putter: Putter, write: Write, intake: Intake) -> None:
        self._path: Final = path
        self._putter: Final = putter
        self._write: Final = write
        self._intake: Final = intake
        self._window: Final = asyncio.Semaphore(STRIPES_AHEAD_MAX)
        self._finishing: Final = asyncio.Semaphore(PARTS_FINISHING_MAX)
        self._grant: Grant | None = None
        """Of the stripe in hand; once it is sent, its last holder's answer releases it."""

    async def run(self, payload: bytes, grant: Grant) -> PutResult:
        self._grant = grant
        place = self._write.place
        try:
            await self._path.registers.read(place.pool, place.bucket, place.key)
            staged = self._putter.begin(self._write, self._write.code)
            try:
                await self._stage(staged, payload)
                digest = self._intake.finish()
                return await self._putter.commit(self._write, staged, digest, self._intake.size)
            except BaseException:
                drop_unless_accepted(staged)
                raise
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._grant is not None:
            self._grant.release()

    async def _stage(self, staged: Staged, payload: bytes) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                await self._stream(group, staged, payload)
        except BaseExceptionGroup as several:
            raise _first(several) from None

    async def _stream(self, group: asyncio.TaskGroup, staged: Staged, payload: bytes) -> None:
        for part in itertools.count():
            target = self._putter.target(self._write, staged, part, 0)
            writer = PartWriter(self._path, target, trail=staged.trail, shunned=frozenset(staged.shunned))
            size = await self._fill(staged, writer, part, payload)
            await self._finishing.acquire()
            group.create_task(self._finish(staged, writer, part, size))
            if await self._intake.at_end():
                return
            payload = await self._next(staged)

    async def _fill(self, staged: Staged, writer: PartWriter, part: int, payload: bytes) -> int:
        """Send the part's stripes, the first of which is in hand. Returns the part's size."""
        size = 0
        while True:
            await self._send(staged, writer, part, payload)
            size += len(payload)
            if size == self._write.part_bytes or await self._intake.at_end():
                return size
            payload = await self._next(staged)

    async def _next(self, staged: Staged) -> bytes:
        self._grant = await self._path.coordinate.stripes.take(
            stripe_charge(staged.code, self._write.stripe_bytes)
        )
        return await self._intake.read(self._write.stripe_bytes)

    async def _send(self, staged: Staged, writer: PartWriter, part: int, payload: bytes) -> None:
        await self._window.acquire()
        stripe = writer.stripe_count
        encoded = encode_stripe(
            self._path.codec, staged.code, payload, seed_id=staged.seed_id, part=part, stripe=stripe
        )
        grant = self._grant
        assert grant is not None

        def release() -> None:
            grant.release()
            self._window.release()

        self._grant = None
        writer.send(stripe, encoded, release)

    async def _finish(self, staged: Staged, writer: PartWriter, part: int, size: int) -> None:
        try:
            digests = await writer.finish(size)
            staged.parts[part] = part_of(size, writer.placing.sealed, digests)
            staged.shunned |= writer.placing.faulty
        finally:
            self._finishing.release()


def part_of(size: int, sealed: Mapping[int, StoreId], digests: Sequence[Digest]) -> Part:
    return Part(size, tuple(sealed.get(index, NOBODY) for index in range(len(digests))), tuple(digests))


def operation_of(write: Write, manifest: Manifest, base: Ballot) -> Operation:
    condition = write.options.condition
    recoding = write.recoding
    return Operation(
        kind=OperationKind.PUT if recoding is None else OperationKind.RECODE,
        replaces=recoding.old.blob_id if recoding is not None else BlobId(b""),
        request_id=write.request_id,
        stamp=write.stamp,
        manifest=manifest,
        base=base,
        if_absent=condition.if_absent,
        if_version=condition.if_version,
        retain=write.retain,
        created_ms=manifest.created_ms,
    )


def result_of(path: DataPath, place: KeyPlace, manifest: Manifest, version: Version) -> PutResult:
    return PutResult(
        version=version,
        hash=manifest.hash,
        size=manifest.size,
        margin=manifest_margin(path, place, manifest),
        era=path.topology.map.era,
    )


def drop_unless_accepted(staged: Staged) -> None:
    """An attempt that sent no accept is named by nothing and never will be."""
    if not staged.attempt.accept_sent:
        staged.trail.drop()


def _first(several: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to tell: one of ours before anything unexpected. Tasks here start no groups of their own."""
    errors = several.exceptions
    return next((error for error in errors if isinstance(error, HoldfastError)), errors[0])
