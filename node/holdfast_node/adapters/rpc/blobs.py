"""The public Blobs service: messages in, one call of the node, messages out. Decides nothing about blobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from holdfast_node.adapters.rpc import values
from holdfast_node.adapters.rpc.doors import BlobDoor, BucketDoor
from holdfast_node.core.errors import InvalidArgument, TooLarge, UploadInterrupted
from holdfastpb.v1 import blob_pb2


class BlobsServicer:
    """Typed errors pass through; the guard in front turns them into statuses."""

    def __init__(self, blobs: BlobDoor, buckets: BucketDoor) -> None:
        self._blobs = blobs
        self._buckets = buckets

    async def put(
        self, request_iterator: AsyncIterator[blob_pb2.PutRequest], _context: object
    ) -> blob_pb2.PutReply:
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("kind") != "header":
            raise InvalidArgument("the first message of a put is its header")
        header = first.header
        bucket, key = values.bucket_name(header.bucket), values.key_of(header.key)
        options = values.put_options_of(header)
        async with aclosing(_chunks(request_iterator, declared_size=options.size)) as chunks:
            return values.put_reply(await self._blobs.put(bucket, key, options, chunks))

    async def get(self, request: blob_pb2.GetRequest, _context: object) -> AsyncIterator[blob_pb2.GetReply]:
        bucket, key = values.bucket_name(request.bucket), values.key_of(request.key)
        wanted = values.range_of(request)
        result = await self._blobs.get(bucket, key, version=request.version, range=wanted)
        async with aclosing(_cut(result.chunks)) as chunks:
            header = blob_pb2.GetHeader(
                info=values.info_message(result.info), first=result.first, last=result.last
            )
            yield blob_pb2.GetReply(header=header, era=result.era)
            async for chunk in chunks:
                yield blob_pb2.GetReply(chunk=chunk)

    async def head(self, request: blob_pb2.HeadRequest, _context: object) -> blob_pb2.HeadReply:
        bucket, key = values.bucket_name(request.bucket), values.key_of(request.key)
        info, era = await self._blobs.head(bucket, key, version=request.version)
        return blob_pb2.HeadReply(info=values.info_message(info), era=era)

    async def delete(self, request: blob_pb2.DeleteRequest, _context: object) -> blob_pb2.DeleteReply:
        bucket, key = values.bucket_name(request.bucket), values.key_of(request.key)
        condition, call = values.condition_of(request.condition), values.call_of(request.call)
        version, era = await self._blobs.delete(bucket, key, condition, call)
        return blob_pb2.DeleteReply(version=version, era=era)

    async def undelete(self, request: blob_pb2.UndeleteRequest, _context: object) -> blob_pb2.PutReply:
        bucket, key = values.bucket_name(request.bucket), values.key_of(request.key)
        call = values.call_of(request.call)
        return values.put_reply(await self._blobs.undelete(bucket, key, request.version, call))

    async def list(self, request: blob_pb2.ListRequest, _context: object) -> blob_pb2.ListReply:
        bucket, options = values.bucket_name(request.bucket), values.list_options_of(request)
        return values.list_reply(await self._blobs.list(bucket, options))

    async def versions(self, request: blob_pb2.VersionsRequest, _context: object) -> blob_pb2.VersionsReply:
        bucket, key = values.bucket_name(request.bucket), values.key_of(request.key)
        entries = await self._blobs.versions(bucket, key)
        return blob_pb2.VersionsReply(versions=[values.version_message(entry) for entry in entries])

    async def create_bucket(self, request: blob_pb2.CreateBucketRequest, _context: object) -> blob_pb2.Bucket:
        bucket = await self._buckets.create(
            values.bucket_name(request.name),
            pool=request.pool,
            undo_seconds=request.undo_seconds,
            exist_ok=request.exist_ok,
            call=values.call_of(request.call),
        )
        return values.bucket_message(bucket)

    async def get_bucket(self, request: blob_pb2.GetBucketRequest, _context: object) -> blob_pb2.Bucket:
        bucket = await self._buckets.get(values.bucket_name(request.name))
        (usage,) = await self._blobs.usage([bucket])
        return values.bucket_message(bucket, usage)

    async def list_buckets(
        self, request: blob_pb2.ListBucketsRequest, _context: object
    ) -> blob_pb2.ListBucketsReply:
        buckets, token = await self._buckets.list(values.page_token_of(request.page_token))
        usages = await self._blobs.usage(buckets)
        messages = [values.bucket_message(*each) for each in zip(buckets, usages, strict=True)]
        return blob_pb2.ListBucketsReply(buckets=messages, next_page_token=token)

    async def set_bucket(self, request: blob_pb2.SetBucketRequest, _context: object) -> blob_pb2.Bucket:
        name, call = values.bucket_name(request.name), values.call_of(request.call)
        return values.bucket_message(
            await self._buckets.change(name, values.bucket_settings_of(request), call)
        )

    async def delete_bucket(
        self, request: blob_pb2.DeleteBucketRequest, _context: object
    ) -> blob_pb2.DeleteBucketReply:
        await self._buckets.delete(values.bucket_name(request.name), values.call_of(request.call))
        return blob_pb2.DeleteBucketReply()


async def _chunks(
    messages: AsyncIterator[blob_pb2.PutRequest], *, declared_size: int
) -> AsyncGenerator[bytes, None]:
    """The payload; a message is taken off the wire only when the one before it has been used.

    gRPC shows a broken stream to its reader as a finished one, and cancels the call a moment later. So the end is
    believed only if the bytes are as many as their sender said, before or after them.
    """
    size, expected = 0, declared_size
    async for message in messages:
        kind = message.WhichOneof("kind")
        if kind == "end":
            expected = message.end.size
            break
        if kind != "chunk":
            raise InvalidArgument("only chunks and an end follow the header of a put")
        if len(message.chunk) > values.CHUNK_BYTES_MAX:
            raise TooLarge(f"a chunk has at most {values.CHUNK_BYTES_MAX} bytes, not {len(message.chunk)}")
        size += len(message.chunk)
        if message.chunk:
            yield message.chunk
    if expected != size:
        said = "no end was sent" if expected < 0 else f"{expected} were announced"
        raise UploadInterrupted(
            f"the upload ended after {size} bytes; {said}", hint="nothing was stored: send it again"
        )


async def _cut(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """No chunk larger than a message may carry; what was begun is closed whatever happens to the reader."""
    try:
        async for chunk in chunks:
            for start in range(0, len(chunk), values.CHUNK_BYTES_MAX):
                yield (
                    chunk
                    if len(chunk) <= values.CHUNK_BYTES_MAX
                    else chunk[start : start + values.CHUNK_BYTES_MAX]
                )
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()
