"""Buckets: records kept as blobs in the reserved bucket, created by put-if-absent, deleted behind a closed door.

A bucket's id is random and never reused; keys live under the id, so a new bucket of an old name is empty. Knows
nothing of registers; it stores through the same put and get as everybody.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from holdfast_node.core.api import (
    BlobInfo,
    Bucket,
    BucketSettings,
    Call,
    Condition,
    GetResult,
    ListOptions,
    PutOptions,
    PutResult,
)
from holdfast_node.core.checksums import blob_digest
from holdfast_node.core.errors import (
    AlreadyExists,
    BlobNotFound,
    BucketClosing,
    BucketNotEmpty,
    BucketNotFound,
    Evidence,
    HoldfastError,
    IntegrityError,
    InvalidArgument,
    PreconditionFailed,
    Unavailable,
)
from holdfast_node.core.ids import ID_BYTES, RESERVED_BUCKET, RESERVED_POOL, BucketId, StoreId
from holdfast_node.core.messages import CloseBucket, CloseBucketReply
from holdfast_node.ports import Failed
from holdfast_node.services.datapath import DataPath
from holdfast_node.services.fanout import gather, replies
from holdfast_node.services.listing import Listing
from holdfast_node.services.places import current_topology

UNDO_SECONDS_DEFAULT: Final = 24 * 3600
UNDO_SECONDS_MAX: Final = 10 * 366 * 24 * 3600
QUOTA_BYTES_MAX: Final = 2**63 - 1
CACHE_MAX: Final = 10_000
LIST_PAGE: Final = 100
CLOSE_TIMEOUT_S: Final = 5.0
WRITE_TRIES: Final = 3
"""Of a change of a record that somebody else keeps changing."""
SETTINGS_AGE_S: Final = 10.0
"""How long a node goes by what it has read of a bucket's settings."""
REFRESH_WAIT_S: Final = 1.0
"""And how long a caller waits for them to be read anew, before what was known holds on."""
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_FORMAT: Final = 1


class BlobIo(Protocol):
    """What of the coordinator bucket records need."""

    async def put_in(
        self, pool: int, bucket: BucketId, key: bytes, options: PutOptions, chunks: AsyncIterator[bytes]
    ) -> PutResult: ...

    async def get_in(self, pool: int, bucket: BucketId, key: bytes) -> GetResult: ...

    async def delete_in(
        self, pool: int, bucket: BucketId, key: bytes, condition: Condition, call: Call
    ) -> tuple[int, int]: ...


@dataclass(frozen=True, slots=True)
class _Known:
    """`since_s`: when the reading of it began."""

    bucket: Bucket
    since_s: float


@dataclass(frozen=True, slots=True)
class _Stored:
    bucket: Bucket
    version: int


def check_name(name: str) -> None:
    """The rules of S3 as far as they keep names usable as host labels and paths."""
    good = 3 <= len(name) <= 63 and _NAME.fullmatch(name) is not None and ".." not in name
    if not good or ".-" in name or "-." in name or re.fullmatch(r"\d+(\.\d+){3}", name):
        raise InvalidArgument(
            f"{name!r} cannot be a bucket name",
            hint="3 to 63 of a-z, 0-9, '-' and '.', beginning and ending with a letter or digit; not an IP address",
        )


def encode_record(bucket: Bucket) -> bytes:
    record = {
        "format": _FORMAT,
        "name": bucket.name,
        "id": bucket.id.hex(),
        "pool": bucket.pool,
        "undo_seconds": bucket.undo_seconds,
        "created_ms": bucket.created_ms,
        "closing": bucket.closing,
    }
    if bucket.quota_bytes:  # a record without one reads as it did before there were any
        record["quota_bytes"] = bucket.quota_bytes
    return json.dumps(record, sort_keys=True).encode()


def decode_record(data: bytes) -> Bucket:
    """Raises `IntegrityError` on anything but a record of this format."""
    try:
        record = json.loads(data)
        if record["format"] != _FORMAT:
            raise IntegrityError(f"bucket record of format {record['format']}", hint="upgrade this node")
        bucket_id = bytes.fromhex(record["id"])
        if len(bucket_id) != ID_BYTES:
            raise IntegrityError(f"a bucket id of {len(bucket_id)} bytes")
        return Bucket(
            name=str(record["name"]),
            id=BucketId(bucket_id),
            pool=str(record["pool"]),
            undo_seconds=int(record["undo_seconds"]),
            created_ms=int(record["created_ms"]),
            closing=bool(record["closing"]),
            quota_bytes=int(record.get("quota_bytes", 0)),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise IntegrityError("a bucket record cannot be read") from error


def _check_undo(seconds: int) -> None:
    if not 0 <= seconds <= UNDO_SECONDS_MAX:
        raise InvalidArgument(
            f"undo_seconds is {seconds}",
            hint=f"0 to {UNDO_SECONDS_MAX}; -1 when a bucket is made: the default",
        )


def _check_settings(settings: BucketSettings) -> None:
    if settings.undo_seconds is not None:
        _check_undo(settings.undo_seconds)
    quota = settings.quota_bytes
    if quota is not None and not 0 <= quota <= QUOTA_BYTES_MAX:
        raise InvalidArgument(f"quota_bytes is {quota}", hint=f"1 to {QUOTA_BYTES_MAX}; 0: no quota")


def _changed(bucket: Bucket, settings: BucketSettings) -> Bucket:
    undo, quota = settings.undo_seconds, settings.quota_bytes
    return replace(
        bucket,
        undo_seconds=bucket.undo_seconds if undo is None else undo,
        quota_bytes=bucket.quota_bytes if quota is None else quota,
    )


def _closing(name: str) -> BucketClosing:
    return BucketClosing(f"the bucket {name!r} is being deleted", hint="finish with another delete")


def _keeps_changing(name: str) -> Unavailable:
    return Unavailable(f"the record of {name!r} keeps changing", hint="retry")


class Buckets:
    """Create, find, list, set and delete buckets from any node."""

    def __init__(
        self,
        *,
        blobs: BlobIo,
        listing: Listing,
        path: DataPath,
        undo_seconds_default: int = UNDO_SECONDS_DEFAULT,
    ) -> None:
        self._blobs: Final = blobs
        self._undo_seconds_default: Final = undo_seconds_default
        self._listing: Final = listing
        self._links: Final = path.links
        self._registers: Final = path.registers
        self._maps: Final = path.maps
        self._entropy: Final = path.entropy
        self._clock: Final = path.clock
        self._events: Final = path.events
        self._cache: dict[str, _Known] = {}
        self._forgotten = 0

    # --- finding --------------------------------------------------------------------------------------------

    async def resolve(self, name: str) -> tuple[Bucket, int]:
        """The bucket and the index of its pool. What is cached is dropped when somebody closes the bucket, and read
        anew after a while: its settings may have changed. Raises `BucketNotFound`."""
        known = self._cache.get(name)
        if known is None:
            bucket = await self._read_first(name)
        elif self._now_s() < known.since_s + SETTINGS_AGE_S:
            bucket = known.bucket
        else:
            bucket = await self._read_anew(name, known.bucket)
        if bucket.closing:
            raise _closing(name)
        return bucket, current_topology(self._maps).pool_index(bucket.pool)

    async def _read_first(self, name: str) -> Bucket:
        before, began_s = self._forgotten, self._now_s()
        bucket = (await self._read(name)).bucket
        if before == self._forgotten:
            self._remember(_Known(bucket, began_s))
        return bucket

    async def _read_anew(self, name: str, known: Bucket) -> Bucket:
        """One reads; who comes meanwhile goes by what was known, as does everybody where the record cannot be read."""
        entry = _Known(known, self._now_s())
        self._cache[name] = entry
        try:
            async with asyncio.timeout(REFRESH_WAIT_S):
                found = (await self._read(name)).bucket
        except BucketNotFound:
            self.forget(known.id)
            raise
        except (HoldfastError, TimeoutError):
            return known
        # Else it was forgotten meanwhile, or read by somebody who began later.
        if self._cache.get(name) is entry:
            self._remember(_Known(found, entry.since_s))
        return found

    async def current(self, known: Bucket) -> Bucket:
        """The record of that name as it is now, for work in the background: read whole only if it has changed, since
        homes would take that for a caller. Raises `BucketNotFound`."""
        head = await self._registers.head(RESERVED_POOL, RESERVED_BUCKET, known.name.encode())
        if head.manifest is not None and head.manifest.hash == blob_digest(encode_record(known)):
            return known
        return await self.get(known.name)

    async def get(self, name: str) -> Bucket:
        """The record as it is now, also of a bucket that is being deleted."""
        return (await self._read(name)).bucket

    def forget(self, bucket: BucketId) -> None:
        """Drop what is cached of a bucket: it was closed, opened, or refused."""
        self._forgotten += 1
        for name in [name for name, known in self._cache.items() if known.bucket.id == bucket]:
            del self._cache[name]

    async def refused(self, name: str, bucket: BucketId) -> None:
        """A home refused a write because the bucket is closing. If its record says it is open, tell the homes."""
        self.forget(bucket)
        try:
            stored = await self._read(name)
        except BucketNotFound:
            return
        if stored.bucket.id == bucket and not stored.bucket.closing:
            await self._tell(bucket, closing=False)

    async def is_open(self, bucket: BucketId) -> bool:
        """Whether a record says now that this bucket takes writes. Looks through all records: rarely asked."""
        async for _, found in self.all_buckets():
            if found.id == bucket:
                return not found.closing
        return False

    async def is_gone(self, bucket: BucketId) -> bool:
        """Whether no record names this bucket any more: it was proven empty, and its id is never used again."""
        async for _, found in self.all_buckets():
            if found.id == bucket:
                return False
        return True

    async def reopen(self, bucket: BucketId) -> None:
        """Undo a deletion that nobody goes on with. One that is still under way starts over, or finds it not empty. If
        it has been undone, by somebody who could not tell every home, they are told."""
        async for _, found in self.all_buckets():
            if found.id == bucket and not found.closing:
                await self._tell(bucket, closing=False)
            elif found.id == bucket:
                stored = await self._read(found.name)
                if stored.bucket == found:
                    await self._reopen(found, stored.version)
                    self._events.emit("bucket_reopened", bucket=found.name)

    def _remember(self, known: _Known) -> None:
        name = known.bucket.name
        if known.bucket.closing:
            self._cache.pop(name, None)
            return
        if name not in self._cache and len(self._cache) >= CACHE_MAX:
            del self._cache[next(iter(self._cache))]
        self._cache[name] = known

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def _read(self, name: str) -> _Stored:
        check_name(name)
        try:
            found = await self._blobs.get_in(RESERVED_POOL, RESERVED_BUCKET, name.encode())
        except BlobNotFound as error:
            raise BucketNotFound(f"there is no bucket {name!r}", hint="create it first") from error
        data = b"".join([chunk async for chunk in found.chunks])
        return _Stored(decode_record(data), found.info.version)

    # --- creating -------------------------------------------------------------------------------------------

    async def create(
        self,
        name: str,
        *,
        pool: str = "",
        undo_seconds: int = -1,
        exist_ok: bool = False,
        call: Call = Call(),  # noqa: B008 - a frozen value
    ) -> Bucket:
        """Raises `AlreadyExists` unless `exist_ok`, which returns what is there, whatever its settings."""
        check_name(name)
        topology = current_topology(self._maps)
        undo = self._undo_seconds_default if undo_seconds == -1 else undo_seconds
        _check_undo(undo)
        bucket = Bucket(
            name=name,
            id=BucketId(self._entropy.token(ID_BYTES)),
            pool=topology.pool(topology.pool_index(pool)).name if pool else topology.pool(0).name,
            undo_seconds=undo,
            created_ms=self._clock.now_ms(),
        )
        try:
            await self._write(bucket, Condition(if_absent=True), call)
        except AlreadyExists as error:
            if not exist_ok:
                raise AlreadyExists(f"the bucket {name!r} exists", evidence=error.evidence) from error
        return (await self._read(name)).bucket

    async def _write(self, bucket: Bucket, condition: Condition, call: Call) -> int:
        data = encode_record(bucket)

        async def once() -> AsyncIterator[bytes]:
            yield data

        options = PutOptions(size=len(data), content_type="application/json", condition=condition, call=call)
        return (
            await self._blobs.put_in(RESERVED_POOL, RESERVED_BUCKET, bucket.name.encode(), options, once())
        ).version

    async def change(self, name: str, settings: BucketSettings, call: Call = Call()) -> Bucket:  # noqa: B008 - a frozen value
        """Another undo window, from now on and for what is kept already, unless that has been given up; another quota.
        Every node goes by it within `SETTINGS_AGE_S`. Raises `BucketNotFound`, `BucketClosing`."""
        _check_settings(settings)
        meant: BucketId | None = None
        for _ in range(WRITE_TRIES):
            stored = await self._read(name)
            if meant not in (None, stored.bucket.id):
                raise BucketNotFound(
                    f"the bucket {name!r} was deleted, and made anew", hint="look at it first"
                )
            meant = stored.bucket.id
            if stored.bucket.closing:
                raise _closing(name)
            changed = _changed(stored.bucket, settings)
            if stored.bucket == changed:
                return stored.bucket
            try:
                await self._write(changed, Condition(if_version=stored.version), call)
            except PreconditionFailed:
                continue
            self.forget(changed.id)
            self._events.emit(
                "bucket_set", bucket=name, undo_seconds=changed.undo_seconds, quota_bytes=changed.quota_bytes
            )
            return (await self._read(name)).bucket
        raise _keeps_changing(name)

    # --- listing --------------------------------------------------------------------------------------------

    async def list(self, page_token: bytes = b"") -> tuple[tuple[Bucket, ...], bytes]:
        """Buckets by name, and the token of the next page (empty: the end)."""
        options = ListOptions(page_size=LIST_PAGE, page_token=page_token)
        page = await self._listing.page(RESERVED_POOL, RESERVED_BUCKET, options)
        found = [bucket for info in page.blobs if (bucket := await self._listed(info)) is not None]
        return tuple(found), page.next_page_token

    async def _listed(self, info: BlobInfo) -> Bucket | None:
        try:
            return (await self._read(info.key.decode())).bucket
        except BucketNotFound:  # deleted since the page was made
            return None

    async def all_buckets(self) -> AsyncIterator[tuple[int, Bucket]]:
        """Every bucket with the index of its pool."""
        token = b""
        while True:
            page, token = await self.list(token)
            for bucket in page:
                yield current_topology(self._maps).pool_index(bucket.pool), bucket
            if not token:
                return

    # --- deleting -------------------------------------------------------------------------------------------

    async def delete(self, name: str, call: Call = Call()) -> None:  # noqa: B008 - a frozen value
        """Close the door, prove that nothing is inside, remove the record. Raises `BucketNotEmpty`, having opened
        the door again; `Unavailable` if a node did not confirm the closed door: then a retry goes on from there."""
        if call.request_id is not None and await self._deleted_before(name, call):
            return None
        for _ in range(WRITE_TRIES):
            try:
                return await self._delete_once(name, call)
            except PreconditionFailed:  # somebody else changed the record
                continue
        raise _keeps_changing(name)

    async def _deleted_before(self, name: str, call: Call) -> bool:
        """Version 0 never matches: this succeeds only if this very request was applied already."""
        check_name(name)
        try:
            await self._blobs.delete_in(
                RESERVED_POOL, RESERVED_BUCKET, name.encode(), Condition(if_version=0), call
            )
        except (PreconditionFailed, BlobNotFound):
            return False
        return True

    async def _delete_once(self, name: str, call: Call) -> None:
        stored = await self._read(name)
        bucket, version = stored.bucket, stored.version
        pool = current_topology(self._maps).pool_index(bucket.pool)
        if not bucket.closing:
            await self._require_empty(pool, bucket)
            version = await self._write(replace(bucket, closing=True), Condition(if_version=version), Call())
        await self._close_everywhere(bucket)
        try:
            await self._require_empty(pool, bucket)
        except (BucketNotEmpty, BucketClosing) as error:
            await self._reopen(bucket, version)
            if isinstance(error, BucketClosing):
                raise Unavailable("a write was in flight when the door closed", hint="retry") from error
            raise
        condition = Condition(if_version=version)
        await self._blobs.delete_in(RESERVED_POOL, RESERVED_BUCKET, name.encode(), condition, call)
        self.forget(bucket.id)

    async def _require_empty(self, pool: int, bucket: Bucket) -> None:
        options = ListOptions()  # of large pages: each row of a deleted key takes room in one, too
        while True:
            page = await self._listing.page(pool, bucket.id, options)
            if page.blobs:
                raise BucketNotEmpty(
                    f"the bucket {bucket.name!r} is not empty", hint="delete its blobs first"
                )
            if not page.next_page_token:
                return
            options = replace(options, page_token=page.next_page_token)

    async def _close_everywhere(self, bucket: Bucket) -> None:
        """Every store of the map must have closed the door durably, also those that join meanwhile."""
        closed: set[StoreId] = set()
        while missing := [s for s in current_topology(self._maps).stores if s not in closed]:
            acknowledged, errors = await self._send(bucket.id, missing, closing=True)
            if errors:
                who = tuple(Evidence(name, errors[name].message) for name in sorted(errors))
                raise Unavailable(
                    f"not every node confirmed that {bucket.name!r} is closed",
                    hint="delete it again when they are back",
                    evidence=who,
                )
            closed |= acknowledged

    async def _reopen(self, bucket: Bucket, version: int) -> None:
        """The record first: a home opens only when the record says so."""
        await self._write(replace(bucket, closing=False), Condition(if_version=version), Call())
        await self._tell(bucket.id, closing=False)

    async def _tell(self, bucket: BucketId, *, closing: bool) -> None:
        _, errors = await self._send(bucket, list(current_topology(self._maps).stores), closing=closing)
        for name in sorted(errors):
            self._events.emit("bucket_not_told", node=name, closing=closing, error=errors[name].message)

    async def _send(
        self, bucket: BucketId, stores: Sequence[StoreId], *, closing: bool
    ) -> tuple[set[StoreId], dict[str, HoldfastError]]:
        request = CloseBucket(bucket, closing)
        answers = await gather(
            self._links, dict.fromkeys(stores, request), timeout_s=CLOSE_TIMEOUT_S, enough=lambda _: False
        )
        topology = current_topology(self._maps)
        errors = {topology.name(s): a.error for s, a in answers.items() if isinstance(a, Failed)}
        return set(replies(answers, CloseBucketReply)), errors
