"""What the gRPC services need of the node behind them. Values of `core.api` and `core.report` only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

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
    PutOptions,
    PutResult,
    Range,
    VersionEntry,
)
from holdfast_node.core.node_changes import NodeChange
from holdfast_node.core.report import (
    ExplainReply,
    GetMapReply,
    IdentifyReply,
    InitReply,
    PlanReply,
    ProveReply,
    QuarantineListReply,
    RebuildIndexReply,
    ReplaceLostReply,
    RiskReply,
    ScrubReply,
    StatusReply,
)
from holdfast_node.core.seed import Seed


class BlobDoor(Protocol):
    """The coordinator. Buckets go by their names here; every method raises typed errors only."""

    async def put(
        self, bucket: str, key: bytes, options: PutOptions, chunks: AsyncIterator[bytes]
    ) -> PutResult: ...

    async def get(self, bucket: str, key: bytes, *, version: int, range: Range) -> GetResult: ...  # noqa: A002

    async def head(self, bucket: str, key: bytes, *, version: int) -> tuple[BlobInfo, int]: ...

    async def delete(self, bucket: str, key: bytes, condition: Condition, call: Call) -> tuple[int, int]:
        """The tombstone's version and the era."""
        ...

    async def undelete(self, bucket: str, key: bytes, version: int, call: Call) -> PutResult: ...

    async def list(self, bucket: str, options: ListOptions) -> ListResult: ...

    async def versions(self, bucket: str, key: bytes) -> tuple[VersionEntry, ...]: ...

    async def usage(self, buckets: Sequence[Bucket]) -> tuple[BucketUsage, ...]: ...


class BucketDoor(Protocol):
    async def create(
        self, name: str, *, pool: str, undo_seconds: int, exist_ok: bool, call: Call
    ) -> Bucket: ...

    async def get(self, name: str) -> Bucket: ...

    async def list(self, page_token: bytes) -> tuple[tuple[Bucket, ...], bytes]:
        """A page and the token of the next one, empty at the end."""
        ...

    async def change(self, name: str, settings: BucketSettings, call: Call) -> Bucket: ...

    async def delete(self, name: str, call: Call) -> None: ...


class AdminDoor(Protocol):
    async def identify(self) -> IdentifyReply: ...

    async def init(self, seed: Seed) -> InitReply: ...

    async def status(self) -> StatusReply: ...

    async def get_map(self) -> GetMapReply: ...

    async def replace_lost(self, selector: str) -> ReplaceLostReply: ...

    async def plan(self) -> PlanReply: ...

    async def change(self, asked: NodeChange, *, apply: bool) -> PlanReply: ...

    async def quarantine(self, *, retry: bool) -> QuarantineListReply: ...

    async def scrub(self, *, now: bool) -> ScrubReply: ...

    async def rebuild_index(self, node: str) -> RebuildIndexReply: ...

    async def explain(self, bucket: str, key: bytes) -> ExplainReply: ...

    def prove(self, lose: Sequence[str]) -> AsyncIterator[ProveReply]: ...

    def risks(self, margin: int, pool: str) -> AsyncIterator[RiskReply]: ...
