"""The asynchronous client and its buckets. Decisions are in `holdfast.core`; this shell does the waiting."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Literal, Self, overload

from holdfast.aio.batches import outcomes
from holdfast.aio.downloads import Blob
from holdfast.aio.sources import BytesSource, Data, source_of
from holdfast.aio.transport import Peer, Transport
from holdfast.aio.uploads import Progress, Upload
from holdfast.core import requests, wire
from holdfast.core.endpoints import parse_endpoints
from holdfast.core.transfer import checksum_of_caller
from holdfast.errors import InvalidArgument
from holdfast.values import (
    BlobInfo,
    BucketInfo,
    Fetched,
    Key,
    Limits,
    Outcome,
    Outcomes,
    Page,
    Prefix,
    Receipt,
    Retries,
    Timeout,
    VersionInfo,
    endpoints_from_environment,
)
from holdfastpb.v1 import blob_pb2


class Client:
    """Speaks to a cluster through any of its nodes; stays with one until it fails. Made by `connect`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def transport(self) -> Transport:
        return self._transport

    def bucket(self, name: str) -> Bucket:
        """A bucket by name, without asking whether it exists."""
        return Bucket(self._transport, requests.bucket_name(name))

    async def create_bucket(
        self, name: str, *, exist_ok: bool = False, pool: str = "", undo: float | None = None
    ) -> Bucket:
        """`pool` empty: the cluster's first. `undo`: for how many seconds what is overwritten or deleted can be
        brought back; None: 24 hours. Raises AlreadyExists unless `exist_ok`."""
        undo_s = requests.DEFAULT_UNDO if undo is None else requests.undo_seconds(undo)
        bucket, pool = requests.bucket_name(name), requests.utf8(pool, "pool")

        async def attempt(peer: Peer, timeout_s: float, call: blob_pb2.Call) -> blob_pb2.Bucket:
            request = blob_pb2.CreateBucketRequest(
                name=bucket, pool=pool, undo_seconds=undo_s, exist_ok=exist_ok, call=call
            )
            return await peer.blobs.CreateBucket(request, timeout=timeout_s)

        await self._transport.write(attempt)
        return Bucket(self._transport, bucket)

    async def buckets(self) -> AsyncIterator[BucketInfo]:
        """All buckets, in the order of their names."""
        token = b""
        while True:
            request = blob_pb2.ListBucketsRequest(page_token=token)

            async def attempt(
                peer: Peer, timeout_s: float, request: blob_pb2.ListBucketsRequest = request
            ) -> blob_pb2.ListBucketsReply:
                return await peer.blobs.ListBuckets(request, timeout=timeout_s)

            reply = await self._transport.read(attempt)
            for message in reply.buckets:
                yield wire.bucket_info(message)
            token = reply.next_page_token
            if not token:
                return

    async def delete_bucket(self, name: str) -> None:
        """Raises BucketNotEmpty while a blob is in it."""
        bucket = requests.bucket_name(name)

        async def attempt(peer: Peer, timeout_s: float, call: blob_pb2.Call) -> None:
            await peer.blobs.DeleteBucket(
                blob_pb2.DeleteBucketRequest(name=bucket, call=call), timeout=timeout_s
            )

        await self._transport.write(attempt)

    async def close(self) -> None:
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Bucket:
    """A namespace of blobs. Cheap: it holds a name and the client's connections."""

    def __init__(self, transport: Transport, name: str) -> None:
        self._transport = transport
        self.name = name

    def __repr__(self) -> str:
        return f"<Bucket {self.name}>"

    async def info(self) -> BucketInfo:
        async def attempt(peer: Peer, timeout_s: float) -> blob_pb2.Bucket:
            return await peer.blobs.GetBucket(blob_pb2.GetBucketRequest(name=self.name), timeout=timeout_s)

        return wire.bucket_info(await self._transport.read(attempt))

    async def set(self, *, undo: float | None = None, quota: int | None = None) -> BucketInfo:
        """What is not given is left as it is; all nodes go by it some ten seconds later. `undo`: for how many seconds
        what is overwritten or deleted can be brought back, from now on and of what is kept already; 0: not at all.
        `quota`: how many bytes the current blobs may have together, beyond which a put raises QuotaExceeded; 0: no
        limit. Raises BucketNotFound."""
        undo_s = None if undo is None else requests.undo_seconds(undo)
        quota_bytes = None if quota is None else requests.quota_bytes(quota)

        async def attempt(peer: Peer, timeout_s: float, call: blob_pb2.Call) -> blob_pb2.Bucket:
            request = blob_pb2.SetBucketRequest(
                name=self.name, undo_seconds=undo_s, quota_bytes=quota_bytes, call=call
            )
            return await peer.blobs.SetBucket(request, timeout=timeout_s)

        return wire.bucket_info(await self._transport.write(attempt))

    async def put(
        self,
        key: Key,
        data: Data,
        *,
        if_absent: bool = False,
        if_version: int | None = None,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "",
        checksum: str = "",
        progress: Progress | None = None,
    ) -> Receipt:
        """Stores a new version; returns when it is durable at the margin the receipt states.

        `checksum`: `xxh3:` and 32 hex digits that the bytes must have. Raises PreconditionFailed (nothing written),
        UploadInterrupted (nothing written), OutcomeUnknown (may have been written), and Unavailable.
        """
        source = await source_of(data)
        at_hand = source.data if isinstance(source, BytesSource) else None
        wanted = requests.PutWanted(
            bucket=self.name,
            key=requests.key_bytes(key),
            size=source.size,
            hash=checksum_of_caller(checksum, at_hand),
            content_type=requests.utf8(content_type, "content type"),
            metadata=requests.check_metadata(metadata or {}),
            condition=requests.condition(if_absent=if_absent, if_version=if_version),
        )
        return await Upload(self._transport, wanted, source, progress).run()

    async def get(
        self,
        key: Key,
        *,
        version: int | None = None,
        range: tuple[int, int | None] | None = None,  # noqa: A002
    ) -> Blob:
        """The blob, its bytes not read yet. `range`: (start, end), end excluded, None: to the end. Raises
        BlobNotFound, VersionNotFound."""
        blob = Blob(
            self._transport,
            self.name,
            requests.key_bytes(key),
            version=requests.version_number(version),
            span=requests.byte_range(range),
        )
        return await blob.open()

    async def head(self, key: Key, *, version: int | None = None) -> BlobInfo:
        request = blob_pb2.HeadRequest(
            bucket=self.name, key=requests.key_bytes(key), version=requests.version_number(version)
        )

        async def attempt(peer: Peer, timeout_s: float) -> blob_pb2.HeadReply:
            return await peer.blobs.Head(request, timeout=timeout_s)

        reply = await self._transport.read(attempt)
        self._transport.saw_era(reply.era)
        return wire.blob_info(reply.info)

    async def delete(self, key: Key, *, if_version: int | None = None) -> int:
        """Hides the blob; returns the version of the deletion. `undelete` brings it back within the bucket's undo
        window. Raises BlobNotFound, PreconditionFailed."""
        raw = requests.key_bytes(key)
        condition = requests.condition(if_version=if_version)

        async def attempt(peer: Peer, timeout_s: float, call: blob_pb2.Call) -> blob_pb2.DeleteReply:
            request = blob_pb2.DeleteRequest(bucket=self.name, key=raw, call=call, condition=condition)
            return await peer.blobs.Delete(request, timeout=timeout_s)

        reply = await self._transport.write(attempt)
        self._transport.saw_era(reply.era)
        return reply.version

    async def undelete(self, key: Key, *, version: int | None = None) -> Receipt:
        """Makes a retained version current again, as a new version. None: the newest that holds a blob."""
        raw = requests.key_bytes(key)
        number = requests.version_number(version)

        async def attempt(peer: Peer, timeout_s: float, call: blob_pb2.Call) -> blob_pb2.PutReply:
            request = blob_pb2.UndeleteRequest(bucket=self.name, key=raw, version=number, call=call)
            return await peer.blobs.Undelete(request, timeout=timeout_s)

        reply = await self._transport.write(attempt)
        self._transport.saw_era(reply.era)
        return wire.receipt(reply)

    async def versions(self, key: Key) -> tuple[VersionInfo, ...]:
        """What of the key is kept, newest first; deletions are versions, too."""
        request = blob_pb2.VersionsRequest(bucket=self.name, key=requests.key_bytes(key))

        async def attempt(peer: Peer, timeout_s: float) -> blob_pb2.VersionsReply:
            return await peer.blobs.Versions(request, timeout=timeout_s)

        reply = await self._transport.read(attempt)
        return tuple(wire.version_info(message) for message in reply.versions)

    async def copy(
        self,
        key: Key,
        to: Key,
        *,
        bucket: str | None = None,
        version: int | None = None,
        if_absent: bool = False,
        if_version: int | None = None,
    ) -> Receipt:
        """Copies a blob, its metadata included, to another key (and bucket). The bytes pass through this client."""
        blob = await self.get(key, version=version)
        info = blob.info
        target = self if bucket is None else Bucket(self._transport, requests.bucket_name(bucket))
        wanted = requests.PutWanted(
            bucket=target.name,
            key=requests.key_bytes(to),
            size=info.size,
            hash=requests.parse_hash(info.hash),
            content_type=info.content_type,
            metadata=info.metadata,
            condition=requests.condition(if_absent=if_absent, if_version=if_version),
        )
        async with blob:
            return await Upload(self._transport, wanted, _BlobSource(blob)).run()

    @overload
    def list(self, *, prefix: Key = ..., delimiter: Literal["", b""] = ...) -> AsyncIterator[BlobInfo]: ...

    @overload
    def list(self, *, prefix: Key = ..., delimiter: Key) -> AsyncIterator[BlobInfo | Prefix]: ...

    async def list(self, *, prefix: Key = "", delimiter: Key = "") -> AsyncIterator[BlobInfo | Prefix]:
        """Blobs in the order of their keys, page after page as they are asked for. With a delimiter, keys that go on
        after it are given once, as a `Prefix`."""
        wanted = requests.ListWanted(
            self.name, requests.prefix_bytes(prefix), requests.prefix_bytes(delimiter, "delimiter")
        )
        token = b""
        while True:
            entries, token = await self.page(wanted, token)
            for entry in entries:
                yield entry
            if not token:
                return

    async def page(self, wanted: requests.ListWanted, token: bytes) -> tuple[Page, bytes]:
        """One page of a listing and the token of the next, empty after the last."""

        async def attempt(peer: Peer, timeout_s: float) -> blob_pb2.ListReply:
            return await peer.blobs.List(wanted.page(token), timeout=timeout_s)

        reply = await self._transport.read(attempt)
        self._transport.saw_era(reply.era)
        return wire.page(reply), reply.next_page_token

    async def put_many(
        self,
        items: Iterable[tuple[Key, Data]] | AsyncIterable[tuple[Key, Data]],
        *,
        concurrency: int | None = None,
    ) -> Outcomes[Receipt]:
        """Puts all, a bounded number at once; one outcome each, in order. Errors are in the outcomes."""
        found = outcomes(
            items,
            lambda item: requests.key_bytes(item[0]),
            lambda item: self.put(item[0], item[1]),
            concurrency=concurrency or self._transport.limits.concurrency,
        )
        return [outcome async for outcome in found]

    async def delete_many(
        self, keys: Iterable[Key] | AsyncIterable[Key], *, concurrency: int | None = None
    ) -> Outcomes[int]:
        """Deletes all, a bounded number at once; one outcome each, in order."""
        found = outcomes(
            keys,
            requests.key_bytes,
            self.delete,
            concurrency=concurrency or self._transport.limits.concurrency,
        )
        return [outcome async for outcome in found]

    def get_many(
        self, keys: Iterable[Key] | AsyncIterable[Key], *, concurrency: int | None = None
    ) -> AsyncIterator[Outcome[Fetched]]:
        """Reads blobs whole, in order, at most `concurrency` ahead of what was taken."""
        return outcomes(
            keys,
            requests.key_bytes,
            self.fetch,
            concurrency=concurrency or self._transport.limits.concurrency,
        )

    async def fetch(self, key: Key) -> Fetched:
        """A blob and its bytes at once."""
        blob = await self.get(key)
        return Fetched(blob.info, await blob.read())


class _BlobSource:
    """A blob as the source of a put: pinned to its version, it can be read again."""

    rewindable = True

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self.size = blob.length

    def chunks(self) -> AsyncGenerator[bytes, None]:
        return self._blob.iter()


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What `connect` was told, checked; each client opens connections of its own from it."""

    endpoints: tuple[str, ...]
    timeout: Timeout
    limits: Limits
    retries: Retries

    def transport(self) -> Transport:
        return Transport(self.endpoints, timeout=self.timeout, limits=self.limits, retries=self.retries)


def settings_of(
    endpoints: str | Iterable[str] | None,
    *,
    timeout: Timeout | float | None = None,
    limits: Limits | None = None,
    retries: Retries | None = None,
) -> Settings:
    given = endpoints if endpoints is not None else endpoints_from_environment()
    chosen = timeout if isinstance(timeout, Timeout) else Timeout() if timeout is None else _total(timeout)
    return Settings(parse_endpoints(given), chosen, limits or Limits(), retries or Retries())


def connect(
    endpoints: str | Iterable[str] | None = None,
    *,
    timeout: Timeout | float | None = None,
    limits: Limits | None = None,
    retries: Retries | None = None,
) -> Client:
    """A client of the cluster behind `"host:port,host:port"` (None: HOLDFAST_ENDPOINTS). Connects on first use.

    `timeout` as a number is `Timeout(total=number)`.
    """
    return Client(settings_of(endpoints, timeout=timeout, limits=limits, retries=retries).transport())


def _total(seconds: float) -> Timeout:
    if not seconds > 0:  # nor for what is no number
        raise InvalidArgument(f"a timeout of {seconds} s leaves no time")
    default = Timeout()
    return dataclasses.replace(
        default, total=seconds, idle=min(default.idle, seconds), connect=min(default.connect, seconds)
    )
