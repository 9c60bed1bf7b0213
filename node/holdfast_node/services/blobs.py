"""Every operation on blobs by bucket id: what bucket records themselves are kept with. Knows no bucket names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from holdfast_node.core.api import (
    BlobInfo,
    Call,
    Condition,
    GetResult,
    PutOptions,
    PutResult,
    Range,
    VersionEntry,
)
from holdfast_node.core.errors import BlobNotFound
from holdfast_node.core.ids import ID_BYTES, RESERVED_BUCKET, BucketId, Era, RequestId
from holdfast_node.core.operation import Operation, OperationKind
from holdfast_node.services.datapath import DataPath, KeyPlace
from holdfast_node.services.get import Getter
from holdfast_node.services.put import Putter, check_key
from holdfast_node.services.undelete import Undeleter
from holdfast_node.services.versions import entries_of, info_of, manifest_of


class Blobs:
    """`retain` says whether the version replaced is kept for undo; records of the reserved bucket never are."""

    def __init__(self, path: DataPath) -> None:
        self._path: Final = path
        self._putter: Final = Putter(path)
        self._getter: Final = Getter(path)
        self._undeleter: Final = Undeleter(path)

    async def put_in(
        self,
        pool: int,
        bucket: BucketId,
        key: bytes,
        options: PutOptions,
        chunks: AsyncIterator[bytes],
        *,
        retain: bool = True,
    ) -> PutResult:
        place = KeyPlace(pool, bucket, key)
        return await self._putter.put(place, options, chunks, retain=_retain(bucket, retain))

    async def get_in(
        self,
        pool: int,
        bucket: BucketId,
        key: bytes,
        *,
        version: int = 0,
        range: Range = Range(),  # noqa: A002, B008 - the API's word; a frozen value
    ) -> GetResult:
        return await self._getter.get(KeyPlace(pool, bucket, key), version, range)

    async def head_in(
        self, pool: int, bucket: BucketId, key: bytes, *, version: int = 0
    ) -> tuple[BlobInfo, int]:
        check_key(key)
        reading = await self._path.registers.read(pool, bucket, key)
        manifest = await manifest_of(self._path, KeyPlace(pool, bucket, key), reading.head, version)
        return info_of(key, version or reading.head.version, manifest), self._era

    async def delete_in(
        self,
        pool: int,
        bucket: BucketId,
        key: bytes,
        condition: Condition,
        call: Call,
        *,
        retain: bool = True,
    ) -> tuple[int, int]:
        """The tombstone's version and the era. Raises `BlobNotFound` if there is nothing to delete."""
        check_key(key)
        operation = Operation(
            kind=OperationKind.DELETE,
            request_id=call.request_id or RequestId(self._path.entropy.token(ID_BYTES)),
            stamp=Era(call.stamp or self._era),
            if_absent=condition.if_absent,
            if_version=condition.if_version,
            retain=_retain(bucket, retain),
            created_ms=self._path.clock.now_ms(),
        )
        outcome = await self._path.registers.run(pool, bucket, key, operation)
        return outcome.version, self._era

    async def undelete_in(
        self, pool: int, bucket: BucketId, key: bytes, version: int, call: Call, *, retain: bool = True
    ) -> PutResult:
        place = KeyPlace(pool, bucket, key)
        return await self._undeleter.undelete(place, version, call, retain=_retain(bucket, retain))

    async def versions_in(self, pool: int, bucket: BucketId, key: bytes) -> tuple[VersionEntry, ...]:
        """The current version and those kept, newest first."""
        check_key(key)
        reading = await self._path.registers.read(pool, bucket, key)
        entries = entries_of(reading.head)
        if not entries:
            raise BlobNotFound("there is no such blob")
        return entries

    @property
    def _era(self) -> int:
        return self._path.topology.map.era


def _retain(bucket: BucketId, retain: bool) -> bool:
    return retain and bucket != RESERVED_BUCKET
