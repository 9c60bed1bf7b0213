"""A client of one node that knows nothing but the .proto files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from grpc import aio

from holdfast_node.adapters.rpc.options import RpcLimits
from holdfast_node.core.errors import (
    ErrorCode,
    Overloaded,
)
from holdfast_node.core.messages import Reply, Request
from holdfast_node.services.dispatcher import Caller
from holdfastpb.v1 import admin_pb2_grpc, blob_pb2, blob_pb2_grpc, types_pb2
from tests.support.rpc_node import RpcNode

MIB = 1 << 20
OPTIONS = [("grpc.max_receive_message_length", 8 * MIB), ("grpc.max_send_message_length", 8 * MIB)]


async def nobody(_: Caller, request: Request) -> Reply:
    raise Overloaded(type(request).__name__)


def put_header(**fields: Any) -> blob_pb2.PutHeader:
    """A header that is fine but for what is given."""
    whole: dict[str, Any] = {"bucket": "b", "key": b"k", "size": -1, **fields}
    return blob_pb2.PutHeader(**whole)


class Guest:
    """A node and a client's channel to it."""

    def __init__(self, node: RpcNode, channel: aio.Channel) -> None:
        self.node = node
        self.channel = channel
        self.blobs: blob_pb2_grpc.BlobsAsyncStub = blob_pb2_grpc.BlobsStub(channel)
        self.admin: admin_pb2_grpc.AdminAsyncStub = admin_pb2_grpc.AdminStub(channel)

    async def put(
        self, data: bytes, *, size: int | None = None, key: bytes = b"k", **header: object
    ) -> blob_pb2.PutReply:
        declared = len(data) if size is None else size
        first = put_header(key=key, size=declared, **header)

        def messages() -> Iterator[blob_pb2.PutRequest]:
            yield blob_pb2.PutRequest(header=first)
            for start in range(0, len(data), 4 * MIB):
                yield blob_pb2.PutRequest(chunk=data[start : start + 4 * MIB])

        return await self.blobs.Put(messages())

    async def get(self, first: int = 0, last: int = -1) -> bytes:
        data = bytearray()
        async for reply in self.blobs.Get(blob_pb2.GetRequest(bucket="b", key=b"k", first=first, last=last)):
            assert len(reply.chunk) <= 4 * MIB
            data += reply.chunk
        return bytes(data)


def run(
    scenario: Callable[[Guest], Coroutine[object, object, None]], limits: RpcLimits | None = None
) -> None:
    async def main() -> None:
        node = await RpcNode("n1", nobody, limits=limits).start()
        try:
            async with asyncio.timeout(30), aio.insecure_channel(node.address, options=OPTIONS) as channel:
                await scenario(Guest(node, channel))
        finally:
            await node.stop(0.0)

    asyncio.run(main())


@dataclass(frozen=True)
class Failure:
    """How a call failed. `code` is UNSPECIFIED if no detail came with the status."""

    status: grpc.StatusCode
    code: ErrorCode
    message: str
    hint: str
    evidence: tuple[tuple[str, str], ...]


async def failure(call: AsyncIterable[object] | Awaitable[object]) -> Failure:
    """Waits for a call that fails."""
    try:
        if isinstance(call, AsyncIterable):
            async for _ in call:
                pass
        else:
            await call
    except aio.AioRpcError as error:
        details = [value for name, value in error.trailing_metadata() if name == "holdfast-error-bin"]
        detail = types_pb2.ErrorDetail.FromString(
            b"".join(each for each in details if isinstance(each, bytes))
        )
        evidence = tuple((each.who, each.said) for each in detail.evidence)
        return Failure(error.code(), ErrorCode(int(detail.code)), detail.message, detail.hint, evidence)
    raise AssertionError("the call succeeded")


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until the condition holds."""
    async with asyncio.timeout(10):
        while True:
            if condition():
                return
            await asyncio.sleep(0)


def unary(channel: aio.Channel, method: str) -> aio.UnaryUnaryMultiCallable[bytes, bytes]:
    """A method by name alone, as bytes."""
    call: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    return call


def stream(channel: aio.Channel, method: str) -> aio.StreamStreamMultiCallable[bytes, bytes]:
    call: aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
    return call
