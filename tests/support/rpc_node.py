"""A node's whole front with nothing behind it: blobs in a dict, an admin that answers constants, real links."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import xxhash

from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.adapters.rpc.carrier import grpc_dial
from holdfast_node.adapters.rpc.options import RpcLimits
from holdfast_node.adapters.rpc.server import Doors, RpcPorts, RpcServer
from holdfast_node.core.api import (
    BlobInfo,
    Bucket,
    BucketSettings,
    BucketUsage,
    Call,
    Condition,
    GetResult,
    ListOptions,
    ListResult,
    Margin,
    PutOptions,
    PutResult,
    Range,
    VersionEntry,
)
from holdfast_node.core.cluster_map import ClusterMap
from holdfast_node.core.errors import (
    BlobNotFound,
    BucketNotFound,
    Evidence,
    InvalidArgument,
    PreconditionFailed,
)
from holdfast_node.core.ids import BucketId, ClusterId, Digest, Epoch, Era
from holdfast_node.core.node_changes import NodeChange
from holdfast_node.core.report import (
    AtRisk,
    BlobAtRisk,
    ExplainReply,
    GetMapReply,
    IdentifyReply,
    InitReply,
    NodeReport,
    NodeScrub,
    PlanReply,
    PoolMoves,
    ProveReply,
    QuarantinedBlob,
    QuarantineListReply,
    RebuildIndexReply,
    ReplaceLostReply,
    RiskReply,
    ScrubReply,
    StatusReply,
)
from holdfast_node.core.seed import Seed
from holdfast_node.services.link.carrier import Carrier, Dial
from holdfast_node.services.link.limits import LinkTiming
from holdfast_node.services.link.surroundings import failure_of
from tests.sim.entropy import SimEntropy
from tests.support.carriers import LinkNode, Serve

MARGIN = Margin((("san", 1), ("node", 2)), full=True)
ID = bytes(range(16))


@dataclass
class DictBlobs:
    """Implements the blob door over a dict; `taken` counts payload bytes as they come."""

    blobs: dict[tuple[str, bytes], tuple[BlobInfo, bytes]] = field(
        default_factory=dict[tuple[str, bytes], tuple[BlobInfo, bytes]]
    )
    taken: int = 0
    gate: asyncio.Event | None = None
    open_gets: int = 0
    ended: int = 0
    """Puts whose payload came to an end, good or bad."""
    fail: BaseException | None = None

    async def put(
        self, bucket: str, key: bytes, options: PutOptions, chunks: AsyncIterator[bytes]
    ) -> PutResult:
        data = bytearray()
        try:
            async for chunk in chunks:
                self.taken += len(chunk)
                data += chunk
                if self.gate is not None:
                    await self.gate.wait()
            if 0 <= options.size != len(data):
                raise InvalidArgument(f"the body ended after {len(data)} bytes of {options.size}")
        finally:
            self.ended += 1
        if options.condition.if_absent and (bucket, key) in self.blobs:
            raise PreconditionFailed("it is there", evidence=[Evidence("n1", "version 1")])
        digest = Digest(xxhash.xxh3_128_digest(data))
        info = BlobInfo(key, 7, len(data), digest, options.content_type, options.metadata, 1234, "rs:4+2")
        self.blobs[bucket, key] = (info, bytes(data))
        return PutResult(7, digest, len(data), MARGIN, 3)

    def _find(self, bucket: str, key: bytes) -> tuple[BlobInfo, bytes]:
        if self.fail is not None:
            raise self.fail
        if bucket == "missing":
            raise BucketNotFound(f"there is no bucket {bucket!r}")
        found = self.blobs.get((bucket, key))
        if found is None:
            raise BlobNotFound("there is no such blob", hint="put it", evidence=[Evidence("n2", "none")])
        return found

    async def get(self, bucket: str, key: bytes, *, version: int, range: Range) -> GetResult:  # noqa: A002
        del version
        info, data = self._find(bucket, key)
        last = info.size if range.last < 0 else min(range.last, info.size)
        return GetResult(info, range.first, last, self._give(data[range.first : last]), 3)

    async def _give(self, data: bytes) -> AsyncIterator[bytes]:
        self.open_gets += 1
        try:
            for start in range(0, len(data), 6 << 20):
                yield data[start : start + (6 << 20)]
                if self.gate is not None:
                    await self.gate.wait()
        finally:
            self.open_gets -= 1

    async def head(self, bucket: str, key: bytes, *, version: int) -> tuple[BlobInfo, int]:
        del version
        return self._find(bucket, key)[0], 3

    async def delete(self, bucket: str, key: bytes, condition: Condition, call: Call) -> tuple[int, int]:
        del condition, call
        self._find(bucket, key)
        del self.blobs[bucket, key]
        return 8, 3

    async def undelete(self, bucket: str, key: bytes, version: int, call: Call) -> PutResult:
        del bucket, key, call
        return PutResult(version, Digest(ID), 1, MARGIN, 3)

    async def list(self, bucket: str, options: ListOptions) -> ListResult:
        keys = sorted(key for name, key in self.blobs if name == bucket and key.startswith(options.prefix))
        return ListResult(tuple(self.blobs[bucket, key][0] for key in keys), (b"dir/",), b"next", 3)

    async def versions(self, bucket: str, key: bytes) -> tuple[VersionEntry, ...]:
        info, _ = self._find(bucket, key)
        return (VersionEntry(info.version, False, info.size, info.created_ms, True),)

    async def usage(self, buckets: Sequence[Bucket]) -> tuple[BucketUsage, ...]:
        return tuple(BucketUsage(7, 70, whole=False) for _ in buckets)


class DictBuckets:
    async def create(self, name: str, *, pool: str, undo_seconds: int, exist_ok: bool, call: Call) -> Bucket:
        del exist_ok, call
        return Bucket(name, BucketId(ID), pool or "main", undo_seconds, 1234)

    async def get(self, name: str) -> Bucket:
        raise BucketNotFound(f"there is no bucket {name!r}")

    async def list(self, page_token: bytes) -> tuple[tuple[Bucket, ...], bytes]:
        del page_token
        return (Bucket("photos", BucketId(ID), "main", 5, 1234, closing=True),), b""

    async def change(self, name: str, settings: BucketSettings, call: Call) -> Bucket:
        del call
        undo, quota = settings.undo_seconds, settings.quota_bytes
        return Bucket(name, BucketId(ID), "main", 5 if undo is None else undo, 1234, quota_bytes=quota or 0)

    async def delete(self, name: str, call: Call) -> None:
        del name, call


class ConstantAdmin:
    def __init__(self) -> None:
        self.seed: Seed | None = None
        self.asked: NodeChange | None = None

    async def identify(self) -> IdentifyReply:
        return IdentifyReply("n1", ID, b"", 0, 1, False, "not introduced", "0.1.0")

    async def init(self, seed: Seed) -> InitReply:
        self.seed = seed
        return InitReply(ID, 1, False, ("a warning",))

    async def status(self) -> StatusReply:
        node = NodeReport(
            "n1",
            "127.0.0.1:1",
            (("san", "a"),),
            ID,
            "up",
            True,
            "",
            1,
            1,
            5,
            10,
            1.5,
            "proven",
            0,
            1,
            5.0,
            600.0,
        )
        return StatusReply(ID, 1, 1, True, (node,), (), 1, 2, MARGIN, 16, 16, 0, 0, 0, True, (), ("n1",), ())

    async def get_map(self) -> GetMapReply:
        return GetMapReply(ClusterMap(ClusterId(ID), Epoch(1), Era(1), 1, True, (), (), ()))

    async def replace_lost(self, selector: str) -> ReplaceLostReply:
        return ReplaceLostReply((selector,), 2, ())

    async def plan(self) -> PlanReply:
        return PlanReply("add", ("n7",), 3, False, 4, 2, False, (), MARGIN, -1.0, ())

    async def change(self, asked: NodeChange, *, apply: bool) -> PlanReply:
        self.asked = asked
        moves = (PoolMoves("main", 3, 2, 24, 99),)
        return PlanReply("add", ("n7",), 3, apply, 4, 4, False, moves, MARGIN, -1.0, ())

    async def quarantine(self, *, retry: bool) -> QuarantineListReply:
        blob = QuarantinedBlob("photos", b"k", "n1", 8, -1, "retried" if retry else "shards 1, 2 are nowhere")
        return QuarantineListReply((blob,), 1, ("n2",))

    async def rebuild_index(self, node: str) -> RebuildIndexReply:
        return RebuildIndexReply(len(node))

    async def scrub(self, *, now: bool) -> ScrubReply:
        node = NodeScrub("n1", 2, 1, now, 5, 10, 1.0, 5.0, 3, 2, 1, 60.0, 600.0, ("a cell 00: being healed",))
        return ScrubReply((node,), ("n2",))

    async def explain(self, bucket: str, key: bytes) -> ExplainReply:
        info = BlobInfo(key, 1, 1, Digest(ID), "", (), 1, "rs:4+2")
        return ExplainReply(info, 0, 1, 1, (bucket,), (), (), MARGIN, ())

    async def prove(self, lose: Sequence[str]) -> AsyncIterator[ProveReply]:
        risk = AtRisk("photos", b"k", 1, "san=a", 0, 3, 4, "shards")
        progress = ProveReply(1, 2, 3, (risk,), False, (), (), MARGIN)
        yield progress
        yield replace(progress, finished=True, tested=tuple(lose))

    async def risks(self, margin: int, pool: str) -> AsyncIterator[RiskReply]:
        blob = BlobAtRisk("photos", b"k", 1, 2, "rs:4+2", Margin((("san", margin),), full=False), (pool,))
        progress = RiskReply(1, 2, 3, False, (), 1, ("n2",), Margin((), full=False))
        yield progress
        yield replace(progress, finished=True, at_risk=(blob,), least_margin=blob.margin)


class RpcNode(LinkNode):
    """Listens on a port of its own once started."""

    def __init__(
        self,
        name: str,
        serve: Serve,
        *,
        address: str = "127.0.0.1:0",
        limits: RpcLimits | None = None,
        timing: LinkTiming | None = None,
        window_bytes: int = 8 << 20,
    ) -> None:
        self._grpc_dial: Dial | None = None
        super().__init__(name, serve, self._dial, timing=timing or LinkTiming(), window_bytes=window_bytes)
        self.blobs = DictBlobs()
        self.admin = ConstantAdmin()
        self.rpc = RpcServer(
            Doors(self.blobs, DictBuckets(), self.admin, self.server),
            RpcPorts(ProtobufBodies(), SimEntropy(name), self.events, lambda: failure_of(self.around)),
            address=address,
            limits=limits or RpcLimits(),
        )
        self.address = ""

    async def _dial(self, address: str, bulk: bool) -> Carrier:
        """The tasks it needs are made with the node."""
        if self._grpc_dial is None:
            self._grpc_dial = grpc_dial(self.tasks)
        return await self._grpc_dial(address, bulk)

    async def start(self) -> RpcNode:
        self.address = f"127.0.0.1:{await self.rpc.start()}"
        await self.rpc.set_ready(ready=True)
        return self

    async def stop(self, grace_s: float = 1.0) -> None:
        await self.links.close()
        await self.rpc.stop(grace_s)
        await self.tasks.close()
