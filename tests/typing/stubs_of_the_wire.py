"""Never run: what the type checkers must accept from users of the generated stubs, in both flavours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import grpc
from grpc import aio

from holdfastpb.v1 import blob_pb2, blob_pb2_grpc


async def head_by_the_async_stub(channel: aio.Channel) -> None:
    stub = blob_pb2_grpc.BlobsStub(channel)
    assert_type(await stub.Head(blob_pb2.HeadRequest(), timeout=1.0), blob_pb2.HeadReply)
    async for reply in stub.Get(blob_pb2.GetRequest()):
        assert_type(reply, blob_pb2.GetReply)


def head_by_the_sync_stub(channel: grpc.Channel) -> None:
    stub = blob_pb2_grpc.BlobsStub(channel)
    assert_type(stub.Head(blob_pb2.HeadRequest(), timeout=1.0), blob_pb2.HeadReply)
    for reply in stub.Get(blob_pb2.GetRequest()):
        assert_type(reply, blob_pb2.GetReply)


def put_by_the_sync_stub(channel: grpc.Channel, requests: Iterator[blob_pb2.PutRequest]) -> blob_pb2.PutReply:
    return blob_pb2_grpc.BlobsStub(channel).Put(requests)


class Handlers(blob_pb2_grpc.BlobsServicer):
    """The shape of a servicer on grpc.aio: narrower than the generated base, and still accepted as one."""

    async def Head(
        self,
        request: blob_pb2.HeadRequest,
        context: aio.ServicerContext[blob_pb2.HeadRequest, blob_pb2.HeadReply],
    ) -> blob_pb2.HeadReply:
        del request, context
        return blob_pb2.HeadReply()

    async def Get(
        self,
        request: blob_pb2.GetRequest,
        context: aio.ServicerContext[blob_pb2.GetRequest, blob_pb2.GetReply],
    ) -> AsyncIterator[blob_pb2.GetReply]:
        del request, context
        yield blob_pb2.GetReply()
