"""One get: a stream that is resumed where it broke, on the same version, and verified as it goes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

from grpc import aio

from holdfast.aio.files import Writer
from holdfast.aio.transport import Peer, Transport, errors_of
from holdfast.aio.uploads import Progress
from holdfast.core.transfer import Download
from holdfast.errors import Corrupt, Error, PeerUnreachable
from holdfast.values import BlobInfo
from holdfastpb.v1 import blob_pb2

if TYPE_CHECKING:
    GetCall: TypeAlias = aio.UnaryStreamCall[blob_pb2.GetRequest, blob_pb2.GetReply]


class Stream:
    """The running read behind a Blob: opens, resumes, verifies; at most one gRPC call at a time."""

    def __init__(self, transport: Transport, download: Download) -> None:
        self._transport = transport
        self._download = download
        self._course = transport.course(write=False)
        self._call: GetCall | None = None
        self._endpoint = ""
        self._given_at = transport.now()

    async def open(self) -> BlobInfo:
        """The header of the stream; tried until it comes."""
        while True:
            try:
                with self._transport.until_shut():
                    peer = await self._transport.peer()
                    self._endpoint = peer.endpoint
                    info = await self._open(peer)
                self._given_at = self._transport.now()
                return info
            except Error as error:
                await self._failed(error)

    async def next(self) -> bytes:
        """The next bytes, b"" after the last. A range is as right as its cells, a whole blob also as its hash. However
        long the caller took since the last ones: a stream that the node has ended meanwhile goes on where it was."""
        self._course.waited(self._transport.now() - self._given_at)
        try:
            return await self._given()
        finally:
            self._given_at = self._transport.now()

    async def _given(self) -> bytes:
        while not self._download.done:
            try:
                if self._call is None:
                    await self.open()
                with self._transport.until_shut():
                    chunk = await self._next()
            except Error as error:
                await self._failed(error)
                continue
            except BaseException:
                self.cancel()
                raise
            if chunk:
                return chunk
        self.cancel()
        self._download.verify(self._endpoint)
        return b""

    async def _open(self, peer: Peer) -> BlobInfo:
        call = peer.blobs.Get(self._download.request())
        try:
            with errors_of(peer.endpoint):
                reply = await self._read(call)
            if reply is None or not reply.HasField("header"):
                raise PeerUnreachable("the stream did not begin with a header")
            info = self._download.opened(reply.header, peer.endpoint)
        except BaseException:
            call.cancel()
            raise
        self._transport.saw_era(reply.era)
        self._call = call
        return info

    async def _next(self) -> bytes:
        assert self._call is not None
        with errors_of(self._endpoint):
            reply = await self._read(self._call)
        if reply is None:
            raise self._download.ended_short(self._endpoint)
        self._download.received(reply.chunk, self._endpoint)
        self._course.progressed(self._transport.now())
        return reply.chunk

    async def _read(self, call: GetCall) -> blob_pb2.GetReply | None:
        async with asyncio.timeout(self._course.attempt_timeout_s(self._transport.now())):
            reply = await call.read()
        return reply if isinstance(reply, blob_pb2.GetReply) else None

    async def _failed(self, error: Error) -> None:
        self.cancel()
        await self._transport.after(self._course, error, sent=True, endpoint=self._endpoint)

    def adopt(self, transport: Transport) -> None:
        """Goes on over other connections, from where it stands: the old ones are gone, with their loop."""
        if transport is not self._transport:
            self._transport = transport
            self._call = None

    def cancel(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()


class Blob:
    """A version of a blob, or a range of it, whose bytes are read when asked for: `read`, `iter` or `save`.

    It stays on the version it was opened on: reading twice gives the same bytes. Use it as a context manager, or
    read it to its end, to give the connection's stream back early.
    """

    def __init__(
        self, transport: Transport, bucket: str, key: bytes, *, version: int, span: tuple[int, int]
    ) -> None:
        self._transport = transport
        self._bucket = bucket
        self._key = key
        self._span = span
        self._version = version
        self._stream: Stream | None = None
        self._info: BlobInfo | None = None
        self._length = 0

    @property
    def info(self) -> BlobInfo:
        """Version, size, hash, metadata of the whole blob, also when only a range is read."""
        assert self._info is not None
        return self._info

    @property
    def length(self) -> int:
        """How many bytes reading gives: the size, or what of the range lies in the blob."""
        return self._length

    async def open(self) -> Self:
        """Called by `get`."""
        download = self._download()
        self._stream = Stream(self._transport, download)
        self._info = await self._stream.open()
        self._version = self._info.version
        self._span = (download.offset, download.last)
        self._length = download.last - download.offset
        return self

    async def iter(self, *, progress: Progress | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes in chunks of the stream's size. The hash of a whole blob is checked after the last one: an error
        there means that what was yielded before must not be used."""
        stream = self.stream()
        done = 0
        try:
            while chunk := await stream.next():
                yield chunk
                done += len(chunk)
                if progress is not None:
                    progress(done, self._length)
        finally:
            stream.cancel()

    def stream(self) -> Stream:
        """The stream `get` opened, else a new one."""
        stream, self._stream = self._stream, None
        return stream or Stream(self._transport, self._download())

    async def read(self, *, progress: Progress | None = None) -> bytes:
        """All bytes, verified."""
        for last_try in (False, True):
            try:
                return b"".join([chunk async for chunk in self.iter(progress=progress)])
            except Corrupt:
                if last_try:
                    raise
        raise AssertionError

    async def save(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> Path:
        """Writes the bytes to a file: whole and verified, or not at all. An existing file is replaced."""
        with Writer(Path(path)) as writer:
            await asyncio.to_thread(writer.open)
            async for chunk in self.iter(progress=progress):
                await asyncio.to_thread(writer.write, chunk)
            return await asyncio.to_thread(writer.publish)

    def close(self) -> None:
        """Ends the stream if it is open. The blob can still be read again."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Blob {self._bucket}/{self.info.name} version {self.info.version}, {self._length} bytes>"

    def _download(self) -> Download:
        first, last = self._span
        return Download(self._bucket, self._key, version=self._version, first=first, last=last)
