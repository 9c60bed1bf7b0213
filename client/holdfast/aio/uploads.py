"""One put: attempts of a stream until a node has acknowledged it or the cause of failure is the caller's to know."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from grpc import aio

from holdfast.aio.sources import BytesSource, Source
from holdfast.aio.transport import Peer, Transport, errors_of
from holdfast.core.requests import CHUNK_BYTES_MAX, PutWanted
from holdfast.core.retry import Course, Next
from holdfast.core.transfer import LARGE_BYTES, Cutter, Digest, check_receipt
from holdfast.core.wire import receipt
from holdfast.errors import Error, OutcomeUnknown, PeerUnreachable, UploadInterrupted
from holdfast.values import Receipt
from holdfastpb.v1 import blob_pb2

if TYPE_CHECKING:
    PutCall: TypeAlias = aio.StreamUnaryCall[blob_pb2.PutRequest, blob_pb2.PutReply]

Progress: TypeAlias = Callable[[int, int | None], None]
"""Called as `progress(bytes done, bytes in all or None)`, on the client's own thread: keep it short."""

SWALLOWED_BYTES_MAX: Final = 8 * 1024 * 1024
"""Buffers of sockets and of gRPC on both sides take a few messages of up to 1 MiB though nobody reads them."""


class _SourceError(Exception):
    """What a source raised, kept apart from what nodes say: it may look the same."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Upload:
    """`sent_all`: of the attempt under way, everything a node needs to commit it may have reached the node."""

    def __init__(
        self, transport: Transport, wanted: PutWanted, source: Source, progress: Progress | None = None
    ) -> None:
        self._transport = transport
        self._wanted = wanted
        self._source = source
        self._progress = progress
        self._sent_all = False
        self._touched = False
        self._furthest_bytes = 0

    async def run(self) -> Receipt:
        course = self._transport.course(write=True)
        call = await self._transport.identity()
        while True:
            endpoint, self._sent_all = "", False
            try:
                with self._transport.until_shut():
                    peer = await self._transport.peer()
                    endpoint = peer.endpoint
                    return await self._attempt(peer, course, call)
            except _SourceError as failed:
                if course.uncertain:
                    raise course.over(f"the source cannot be read again: {failed.error}") from failed.error
                raise failed.error from failed.error.__cause__
            except Error as error:
                if self._touched and not self._source.rewindable:
                    raise self._interrupted(course, error) from error
                how = await self._transport.after(course, error, sent=self._sent_all, endpoint=endpoint)
                if how is Next.RESTAMP:
                    call = await self._transport.identity(fresh=True)

    async def _attempt(self, peer: Peer, course: Course, identity: blob_pb2.Call) -> Receipt:
        call = peer.blobs.Put()
        sent = Digest()
        try:
            with errors_of(peer.endpoint):
                await self._stream(call, course, sent, identity)
                self._sent_all = True
                async with asyncio.timeout(course.attempt_timeout_s(self._transport.now())):
                    reply = await call
        finally:
            call.cancel()
        self._transport.saw_era(reply.era)
        return check_receipt(sent, receipt(reply), peer.endpoint)

    async def _stream(self, call: PutCall, course: Course, sent: Digest, identity: blob_pb2.Call) -> None:
        self._sent_all = self._wanted.size == 0
        await self._write(call, course, self._wanted.message(identity))
        messages = self._messages()
        while True:
            asked_at = self._transport.now()
            chunk = await _read(messages)
            course.waited(self._transport.now() - asked_at)
            if chunk is None:
                break
            sent.update(chunk)
            # With the last byte that was announced, whatever becomes of the stream then.
            self._sent_all = 0 <= self._wanted.size <= sent.size
            await self._write(call, course, blob_pb2.PutRequest(chunk=chunk))
            self._note_moved(course, sent.size)
            if self._progress is not None:
                self._progress(sent.size, None if self._wanted.size < 0 else self._wanted.size)
        self._sent_all = True
        if self._wanted.size < 0:
            await self._write(call, course, blob_pb2.PutRequest(end=blob_pb2.PutEnd(size=sent.size)))
        await _until_over(call, call.done_writing())

    def _note_moved(self, course: Course, sent_bytes: int) -> None:
        """What is sent once more gets nowhere, unless it is more than a silent peer's connection swallows."""
        if sent_bytes > min(self._furthest_bytes, SWALLOWED_BYTES_MAX):
            course.moved(self._transport.now())
        self._furthest_bytes = max(self._furthest_bytes, sent_bytes)

    async def _messages(self) -> AsyncIterator[bytes]:
        size = self._wanted.size
        limit = CHUNK_BYTES_MAX if size < 0 or size >= LARGE_BYTES else self._transport.limits.chunk
        self._touched = True
        if isinstance(self._source, BytesSource) and 0 < size <= limit:
            yield bytes(self._source.data)
            return
        cutter = Cutter(min(limit, CHUNK_BYTES_MAX))
        async with contextlib.aclosing(self._source.chunks()) as chunks:
            async for buffer in chunks:
                for message in cutter.feed(buffer):
                    yield message
        for message in cutter.rest():
            yield message

    async def _write(self, call: PutCall, course: Course, message: blob_pb2.PutRequest) -> None:
        async with asyncio.timeout(course.attempt_timeout_s(self._transport.now())):
            await _until_over(call, call.write(message))

    def _interrupted(self, course: Course, error: Error) -> Error:
        """What is known of an upload that cannot be tried again."""
        try:
            course.failed(error, sent=self._sent_all, now=self._transport.now(), jitter=0.0)
        except OutcomeUnknown as unknown:
            return unknown
        except Error as final:
            if not isinstance(final, type(error)) or final is error:
                return final
        if course.uncertain:
            return OutcomeUnknown(
                "everything was sent, but no answer came; the write may or may not have been applied",
                hint="read the key to see which; it is never applied twice",
                evidence=error.evidence,
            )
        return UploadInterrupted(
            f"the upload broke and its source cannot be read again; nothing was stored: {error.message}",
            hint="put it again from the start; a path or a seekable file is retried by itself",
            evidence=error.evidence,
        )


async def _read(messages: AsyncIterator[bytes]) -> bytes | None:
    try:
        return await anext(messages, None)
    except Exception as error:
        raise _SourceError(error) from error


async def _until_over(call: PutCall, step: Awaitable[None]) -> None:
    """A step of a stream; if the node has ended the call meanwhile, its reason instead of gRPC's confusion."""
    try:
        await step
    except asyncio.InvalidStateError as error:
        await call
        raise PeerUnreachable("the call was over before everything was sent") from error
