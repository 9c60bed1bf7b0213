"""A server that fails on demand, for the SDK's retry paths: real messages over a real socket, blobs in a dict.

It is no store: one process, no durability, no versions kept. What it does faithfully is what a client must survive:
errors with details, streams that break in the middle, answers that never come after the write was applied.
"""

# ruff: noqa: N802  # the methods are named by the services

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, NoReturn, TypeAlias

import grpc
import xxhash
from grpc import aio

from holdfastpb.v1 import admin_pb2, admin_pb2_grpc, blob_pb2, blob_pb2_grpc, types_pb2

Context: TypeAlias = "aio.ServicerContext[object, object]"
When = Literal["before", "after"]


@dataclass(frozen=True)
class Fault:
    """`code` 0: the connection's own failure, without a description. `when`: before or after the call took effect.
    `at_bytes`: for Get, how many bytes are sent first; for Put, how many are taken first."""

    code: int = 0
    when: When = "before"
    at_bytes: int = 0
    hang: bool = False
    retry_after_ms: int = 0


@dataclass
class State:
    """Shared by the servers of one test: they are one cluster."""

    blobs: dict[tuple[str, bytes], tuple[blob_pb2.BlobInfo, bytes]] = field(
        default_factory=dict[tuple[str, bytes], tuple[blob_pb2.BlobInfo, bytes]]
    )
    buckets: dict[str, blob_pb2.Bucket] = field(default_factory=dict[str, blob_pb2.Bucket])
    applied: dict[bytes, int] = field(default_factory=dict[bytes, int])
    applications: int = 0
    era: int = 7
    flip: bool = False
    short: bool = False
    changes: int = 0
    proof: list[admin_pb2.ProveReply] = field(default_factory=list[admin_pb2.ProveReply])


class Server(blob_pb2_grpc.BlobsServicer, admin_pb2_grpc.AdminServicer):
    """Faults are taken one per call of their method, in order."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.calls: list[tuple[str, bytes, int]] = []
        self.requests: list[blob_pb2.GetRequest] = []
        self.address = ""

    async def _fault(self, fault: Fault, context: Context) -> None:
        if fault.hang:
            await asyncio.Event().wait()
        if not fault.code:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")
        detail = types_pb2.ErrorDetail(
            code=types_pb2.ErrorCode.ValueType(fault.code),
            message="as planned",
            hint="none",
            evidence=[types_pb2.Evidence(who="n1", said="no")],
            retry_after_ms=fault.retry_after_ms,
        )
        context.set_trailing_metadata((("holdfast-error-bin", detail.SerializeToString()),))
        await context.abort(grpc.StatusCode.UNKNOWN, "as planned")

    def _next(self, method: str) -> Fault | None:
        return self.faults[method].popleft() if self.faults[method] else None

    async def _refuse(self, code: int, context: Context) -> None:
        await self._fault(Fault(code=code), context)

    async def Put(
        self, request_iterator: AsyncIterator[blob_pb2.PutRequest], context: Context
    ) -> blob_pb2.PutReply:
        header = (await anext(request_iterator)).header
        self.calls.append(("Put", header.call.request_id, header.call.stamp))
        fault = self._next("Put")
        body, whole = bytearray(), header.size >= 0
        async for message in request_iterator:
            whole = whole or message.HasField("end")
            assert len(message.chunk) <= 4 * 1024 * 1024
            body += message.chunk
            if fault is not None and fault.at_bytes and len(body) >= fault.at_bytes:
                await self._fault(fault, context)
        if context.cancelled() or not whole:
            raise asyncio.CancelledError
        if fault is not None and fault.when == "before":
            await self._fault(fault, context)
        reply = await self._apply(header, bytes(body), context)
        if fault is not None:
            await self._fault(fault, context)
        return reply

    async def _apply(self, header: blob_pb2.PutHeader, body: bytes, context: Context) -> blob_pb2.PutReply:
        if header.bucket not in self.state.buckets:
            await self._refuse(types_pb2.ERROR_CODE_BUCKET_NOT_FOUND, context)
        place = (header.bucket, header.key)
        digest = xxhash.xxh3_128_digest(body)
        request_id = header.call.request_id
        if request_id not in self.state.applied:
            if header.size not in (-1, len(body)):
                await self._refuse(types_pb2.ERROR_CODE_INVALID_ARGUMENT, context)
            if header.hash and header.hash != digest:
                await self._refuse(types_pb2.ERROR_CODE_CHECKSUM_MISMATCH, context)
            current = self.state.blobs[place][0].version if place in self.state.blobs else 0
            wanted = header.condition
            if (wanted.if_absent and current) or (wanted.if_version and wanted.if_version != current):
                await self._refuse(types_pb2.ERROR_CODE_PRECONDITION_FAILED, context)
            info = blob_pb2.BlobInfo(
                key=header.key,
                version=current + 1,
                size=len(body),
                hash=digest,
                content_type=header.content_type,
                metadata=header.metadata,
            )
            self.state.blobs[place] = (info, body)
            self.state.applied[request_id] = info.version
            self.state.applications += 1
        return blob_pb2.PutReply(
            version=self.state.applied[request_id],
            hash=digest,
            size=len(body),
            margin=blob_pb2.Margin(entries=[blob_pb2.Margin.Entry(tag="san", survives=1)], full=True),
            era=self.state.era,
        )

    async def Get(self, request: blob_pb2.GetRequest, context: Context) -> AsyncIterator[blob_pb2.GetReply]:
        self.requests.append(request)
        fault = self._next("Get")
        if fault is not None and not fault.at_bytes:
            await self._fault(fault, context)
        info, body = await self._found(request.bucket, request.key, context)
        last = info.size if request.last < 0 else min(request.last, info.size)
        header = blob_pb2.GetHeader(info=info, first=request.first, last=last)
        yield blob_pb2.GetReply(header=header, era=self.state.era)
        sent = 0
        for start in range(request.first, last, 1000):
            chunk = body[start : min(start + 1000, last)]
            if self.state.flip:
                self.state.flip = False
                chunk = bytes([chunk[0] ^ 1]) + chunk[1:]
            yield blob_pb2.GetReply(chunk=chunk)
            sent += len(chunk)
            if fault is not None and sent >= fault.at_bytes:
                if self.state.short:
                    return
                await self._fault(fault, context)

    async def _found(self, bucket: str, key: bytes, context: Context) -> tuple[blob_pb2.BlobInfo, bytes]:
        if (bucket, key) not in self.state.blobs:
            await self._refuse(types_pb2.ERROR_CODE_BLOB_NOT_FOUND, context)
        return self.state.blobs[bucket, key]

    async def Head(self, request: blob_pb2.HeadRequest, context: Context) -> blob_pb2.HeadReply:
        fault = self._next("Head")
        if fault is not None:
            await self._fault(fault, context)
        info, _ = await self._found(request.bucket, request.key, context)
        return blob_pb2.HeadReply(info=info, era=self.state.era)

    async def Delete(self, request: blob_pb2.DeleteRequest, context: Context) -> blob_pb2.DeleteReply:
        self.calls.append(("Delete", request.call.request_id, request.call.stamp))
        fault = self._next("Delete")
        if fault is not None and fault.when == "before":
            await self._fault(fault, context)
        if request.call.request_id not in self.state.applied:
            info, _ = await self._found(request.bucket, request.key, context)
            del self.state.blobs[request.bucket, request.key]
            self.state.applied[request.call.request_id] = info.version + 1
            self.state.applications += 1
        if fault is not None:
            await self._fault(fault, context)
        return blob_pb2.DeleteReply(version=self.state.applied[request.call.request_id], era=self.state.era)

    async def Undelete(self, request: blob_pb2.UndeleteRequest, context: Context) -> blob_pb2.PutReply:
        await self._refuse(types_pb2.ERROR_CODE_VERSION_NOT_FOUND, context)
        raise AssertionError

    async def List(self, request: blob_pb2.ListRequest, context: Context) -> blob_pb2.ListReply:
        keys = sorted(key for bucket, key in self.state.blobs if bucket == request.bucket)
        keys = [key for key in keys if key.startswith(request.prefix) and key > request.page_token]
        page = keys[:3]
        return blob_pb2.ListReply(
            blobs=[self.state.blobs[request.bucket, key][0] for key in page],
            next_page_token=page[-1] if len(keys) > len(page) else b"",
            era=self.state.era,
        )

    async def Versions(self, request: blob_pb2.VersionsRequest, context: Context) -> blob_pb2.VersionsReply:
        info, _ = await self._found(request.bucket, request.key, context)
        return blob_pb2.VersionsReply(versions=[blob_pb2.VersionEntry(version=info.version, current=True)])

    async def CreateBucket(self, request: blob_pb2.CreateBucketRequest, context: Context) -> blob_pb2.Bucket:
        if request.name in self.state.buckets and not request.exist_ok:
            await self._refuse(types_pb2.ERROR_CODE_ALREADY_EXISTS, context)
        return self.state.buckets.setdefault(request.name, blob_pb2.Bucket(name=request.name, pool="main"))

    async def GetBucket(self, request: blob_pb2.GetBucketRequest, context: Context) -> blob_pb2.Bucket:
        if request.name not in self.state.buckets:
            await self._refuse(types_pb2.ERROR_CODE_BUCKET_NOT_FOUND, context)
        return self.state.buckets[request.name]

    async def ListBuckets(
        self, request: blob_pb2.ListBucketsRequest, context: Context
    ) -> blob_pb2.ListBucketsReply:
        return blob_pb2.ListBucketsReply(buckets=self.state.buckets.values())

    async def SetBucket(self, request: blob_pb2.SetBucketRequest, context: Context) -> blob_pb2.Bucket:
        bucket = await self.GetBucket(blob_pb2.GetBucketRequest(name=request.name), context)
        bucket.undo_seconds = request.undo_seconds
        return bucket

    async def DeleteBucket(
        self, request: blob_pb2.DeleteBucketRequest, context: Context
    ) -> blob_pb2.DeleteBucketReply:
        self.state.buckets.pop(request.name)
        return blob_pb2.DeleteBucketReply()

    async def GetMap(self, request: admin_pb2.GetMapRequest, context: Context) -> admin_pb2.GetMapReply:
        return admin_pb2.GetMapReply(map=types_pb2.ClusterMap(era=self.state.era))

    async def Identify(self, request: admin_pb2.IdentifyRequest, context: Context) -> admin_pb2.IdentifyReply:
        fault = self._next("Identify")
        if fault is not None:
            await self._fault(fault, context)
        return admin_pb2.IdentifyReply(node="n1", version="test")

    async def Status(self, request: admin_pb2.StatusRequest, context: Context) -> admin_pb2.StatusReply:
        fault = self._next("Status")
        if fault is not None:
            await self._fault(fault, context)
        return admin_pb2.StatusReply(epoch=1)

    async def Change(self, request: admin_pb2.ChangeRequest, context: Context) -> admin_pb2.PlanReply:
        fault = self._next("Change")
        if fault is not None and fault.when == "before":
            await self._fault(fault, context)
        self.state.changes += request.apply
        if fault is not None:
            await self._fault(fault, context)
        return admin_pb2.PlanReply(epoch=1, applied=request.apply)

    async def Prove(
        self, request: admin_pb2.ProveRequest, context: Context
    ) -> AsyncIterator[admin_pb2.ProveReply]:
        fault = self._next("Prove")
        for part in self.state.proof:
            yield part
        if fault is not None:
            await self._fault(fault, context)

    async def _unasked(self, _: object, context: Context) -> NoReturn:
        """Admin methods no test asks for."""
        await self._refuse(types_pb2.ERROR_CODE_UNIMPLEMENTED, context)
        raise AssertionError

    Init = ReplaceLost = GetPlan = Quarantine = _unasked  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    Scrub = RebuildIndex = Explain = Risk = _unasked  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class Running:
    """One or more servers on a loop thread of their own."""

    def __init__(self, count: int) -> None:
        self.state = State()
        self.servers = [Server(self.state) for _ in range(count)]
        self._grpc: dict[str, aio.Server] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faulty", daemon=True)
        self._thread.start()
        for server in self.servers:
            self._run(self._serve(server))

    @property
    def endpoints(self) -> str:
        return ",".join(server.address for server in self.servers)

    def kill(self, index: int) -> None:
        """Breaks connections and frees the port."""
        self._run(self._grpc.pop(self.servers[index].address).stop(0))

    def stop(self) -> None:
        for server in list(self._grpc.values()):
            self._run(server.stop(0))
        self._grpc.clear()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self, servicer: Server) -> None:
        server = aio.server(options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 8 << 20)])
        blob_pb2_grpc.add_BlobsServicer_to_server(servicer, server)
        admin_pb2_grpc.add_AdminServicer_to_server(servicer, server)
        servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        self._grpc[servicer.address] = server

    def _run(self, work: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


@contextmanager
def running(count: int = 1) -> Generator[Running, None, None]:
    servers = Running(count)
    try:
        yield servers
    finally:
        servers.stop()
