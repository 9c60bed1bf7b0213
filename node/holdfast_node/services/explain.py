"""Where one blob's shards and register copies are, as their stores say now. Changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from holdfast_node.core.api import BlobInfo, Bucket
from holdfast_node.core.errors import BlobNotFound, NotInitialised
from holdfast_node.core.geometry import parse_code
from holdfast_node.core.head import Head, HeadKind, Manifest
from holdfast_node.core.ids import BucketId, Digest, StoreId
from holdfast_node.core.margin import margin_of
from holdfast_node.core.messages import ReadRegister, RegisterView
from holdfast_node.core.report import ExplainReply, ExplainShard
from holdfast_node.core.topology import Topology
from holdfast_node.ports import Links
from holdfast_node.services.cartographer import Cartographer
from holdfast_node.services.fanout import gather, replies
from holdfast_node.services.prove import find_shards, parts_of

READ_TIMEOUT_S: Final = 2.0

Resolve = Callable[[str], Awaitable[tuple[Bucket, int]]]
ReadHead = Callable[[int, BucketId, bytes], Awaitable[Head]]


class Explainer:
    """Answers for one key at a time; see `explain`."""

    def __init__(
        self, *, links: Links, cartographer: Cartographer, resolve: Resolve, read_head: ReadHead
    ) -> None:
        self._links = links
        self._cartographer = cartographer
        self._resolve = resolve
        self._read_head = read_head

    async def explain(self, bucket_name: str, key: bytes) -> ExplainReply:
        """Raises `BlobNotFound` for an absent or deleted key."""
        bucket, pool = await self._resolve(bucket_name)
        head = await self._read_head(pool, bucket.id, key)
        topology = self._cartographer.topology
        if topology is None:
            raise NotInitialised("there is no map yet", hint="clusterctl init")
        manifest = head.manifest
        if head.kind is not HeadKind.BLOB or manifest is None:
            raise BlobNotFound("there is no such blob", hint="`holdfast ls` lists what is there")
        partition = topology.key_partition(pool, bucket.id, key)
        copies, deaf = await self._register_copies(topology, pool, bucket.id, key, head)
        found, silent = await find_shards(self._links, topology.stores, [manifest.seed_id])
        holders = found[manifest.seed_id]
        partitions = [
            topology.part_partition(pool, bucket.id, key, manifest.seed_id, part)
            for part in range(max(1, len(manifest.parts)))
        ]
        alive = frozenset(topology.stores) - silent
        return ExplainReply(
            info=_info(key, head, manifest),
            pool=pool,
            partition=partition,
            generation=topology.entry(pool, partition).generation,
            homes=tuple(topology.name(store) for store in topology.entry(pool, partition).homes),
            register_copies=tuple(topology.name(store) for store in copies),
            shards=_shards(topology, pool, partitions, manifest, holders),
            margin=margin_of(
                topology,
                pool,
                partitions,
                parts_of(manifest, holders),
                alive.__contains__,
                k=parse_code(manifest.code).k,
            ),
            unreachable=tuple(sorted({topology.name(store) for store in silent | deaf})),
        )

    async def _register_copies(
        self, topology: Topology, pool: int, bucket: BucketId, key: bytes, head: Head
    ) -> tuple[list[StoreId], frozenset[StoreId]]:
        """Homes whose register shows this head's version, in home order, and homes that did not say."""
        partition = topology.key_partition(pool, bucket, key)
        request = ReadRegister(
            topology.scope(pool, partition), bucket, key, want_head=False, inline_bytes_max=0
        )
        homes = topology.entry(pool, partition).homes
        answers = await gather(
            self._links, dict.fromkeys(homes, request), timeout_s=READ_TIMEOUT_S, enough=lambda _: False
        )
        views = replies(answers, RegisterView)
        hashes: dict[Digest, list[StoreId]] = {}
        for home in homes:
            if home in views and views[home].ballot is not None:
                hashes.setdefault(views[home].head_hash, []).append(home)
        agreed = max(hashes.values(), key=len, default=[])
        return agreed, frozenset(homes) - frozenset(views)


def _info(key: bytes, head: Head, manifest: Manifest) -> BlobInfo:
    return BlobInfo(
        key=key,
        version=head.version,
        size=manifest.size,
        hash=manifest.hash,
        content_type=manifest.content_type,
        metadata=manifest.metadata,
        created_ms=manifest.created_ms,
        code=manifest.code,
    )


def _shards(
    topology: Topology,
    pool: int,
    partitions: list[int],
    manifest: Manifest,
    holders: Mapping[tuple[int, int], Sequence[StoreId]],
) -> tuple[ExplainShard, ...]:
    rows: list[ExplainShard] = []
    for part, wanted in enumerate(manifest.parts):
        homes = topology.entry(pool, partitions[part]).homes
        for index, named in enumerate(wanted.holders):
            rows.append(
                ExplainShard(
                    part=part,
                    index=index,
                    home=topology.name(homes[index]),
                    named=topology.name(named) if topology.node(named) is not None else "",
                    found_at=tuple(topology.name(store) for store in holders.get((part, index), [])),
                )
            )
    return tuple(rows)
