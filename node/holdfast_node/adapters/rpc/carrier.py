"""gRPC streams as carriers of frames. A message on the stream is a protobuf `Frames`, written and read by hand:
one tag, one length, then the frames, so that a payload is copied once and never parsed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from grpc import aio

from holdfast_node.adapters.rpc.options import channel_options
from holdfast_node.adapters.rpc.rows import CONNECT, is_loopback
from holdfast_node.services.link.carrier import Carrier, CarrierLost
from holdfast_node.services.link.frames import FrameError
from holdfast_node.services.tasks import Tasks

_TAG: Final = 0x0A
"""Field 1, length-delimited."""


def wrap(buffers: Sequence[bytes]) -> bytes:
    """The encoded `Frames` with these bytes in it."""
    length = sum(map(len, buffers))
    head = bytearray((_TAG,))
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return b"".join((head, *buffers))


def unwrap(message: bytes) -> memoryview:
    """The frames in an encoded `Frames`. Raises `FrameError` for any other encoding of it."""
    at, length, shift = 1, 0, 0
    if not message or message[0] != _TAG:
        raise FrameError("no frames in the message")
    while True:
        if at >= len(message) or shift > 28:
            raise FrameError("a broken length in front of the frames")
        byte = message[at]
        at += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    if at + length != len(message):
        raise FrameError(f"{length} bytes of frames announced, {len(message) - at} came")
    return memoryview(message)[at:]


class Stream(Protocol):
    """What is used of a gRPC call or a servicer's context: bytes both ways."""

    async def read(self) -> object: ...

    async def write(self, message: bytes, /) -> None: ...


class ServerContext(Stream, Protocol):
    def peer(self) -> str: ...


class _GrpcCarrier:
    """Everything that can end a stream becomes `CarrierLost`, its own closing included."""

    def __init__(self, peer: str, stream: Stream, *, loopback: bool) -> None:
        self.peer = peer
        self.loopback = loopback
        self._stream = stream
        self._closed = False

    async def write(self, buffers: Sequence[bytes]) -> None:
        await self._guarded(self._stream.write(wrap(buffers)))

    async def read(self) -> bytes | memoryview:
        message = await self._guarded(self._stream.read())
        if message is aio.EOF:
            return b""
        assert isinstance(message, bytes)
        return unwrap(message)

    async def _guarded(self, work: Awaitable[object]) -> object:
        if self._closed:
            if asyncio.iscoroutine(work):
                work.close()
            raise CarrierLost("closed here")
        try:
            return await work
        except aio.AioRpcError as error:
            raise CarrierLost(f"{error.code().name}: {error.details()}") from error
        except (aio.BaseError, asyncio.InvalidStateError) as error:
            raise CarrierLost(repr(error)) from error
        except asyncio.CancelledError:
            if not self._was_our_closing():
                raise
            raise CarrierLost("closed here") from None

    def _was_our_closing(self) -> bool:
        """Ending a gRPC call cancels whoever reads from it; that is not the reader's own cancellation."""
        task = asyncio.current_task()
        return self._closed and (task is None or task.cancelling() == 0)


class ClientCarrier(_GrpcCarrier):
    """One call on a channel of its own, so that bulk never queues before control in one connection."""

    def __init__(self, address: str, tasks: Tasks) -> None:
        self._tasks = tasks
        self._channel = aio.insecure_channel(address, options=channel_options())
        connect: aio.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(CONNECT)
        self._call = connect()
        super().__init__(address, self._call, loopback=True)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._call.cancel()
        with suppress(RuntimeError):  # shutting down: the channel goes with the process
            _ = self._tasks.spawn(self._channel.close(), "close channel")


class ServerCarrier(_GrpcCarrier):
    """The far end of a call, in the task that serves it. Ending the call means returning from that task."""

    def __init__(self, context: ServerContext) -> None:
        super().__init__(context.peer(), context, loopback=is_loopback(context.peer()))
        self._served_by = asyncio.current_task()
        self._reading = False
        self._interrupted = False

    async def read(self) -> bytes | memoryview:
        self._reading = True
        try:
            return await super().read()
        finally:
            self._reading = False

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._reading and self._served_by is not None:
            self._interrupted = True
            self._served_by.cancel()

    def _was_our_closing(self) -> bool:
        if not self._interrupted or asyncio.current_task() is not self._served_by:
            return False
        self._interrupted = False
        assert self._served_by is not None
        return self._served_by.uncancel() == 0


def grpc_dial(tasks: Tasks) -> Callable[[str, bool], Awaitable[Carrier]]:
    """Opens streams to other nodes. gRPC connects with the first write, which then says what went wrong."""

    async def dial(address: str, bulk: bool) -> Carrier:
        del bulk  # both kinds of stream are alike to gRPC
        return ClientCarrier(address, tasks)

    return dial
