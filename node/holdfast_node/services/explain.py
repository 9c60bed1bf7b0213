"""Where one blob's shards and register copies are, as their stores say now. Changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from holdfast_node.core.api import BlobInfo, Bucket
from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import BlobNotFound
from holdfast_node.core.head import Ballot, Head, HeadKind, Manifest
from holdfast_node.core.ids import Digest, StoreId
from holdfast_node.core.messages import ReadRegister, RegisterView
from holdfast_node.core.report import ExplainReply, ExplainShard
from holdfast_node.core.topology import NOWHERE, Topology
from holdfast_node.services.datapath import DataPath, KeyPlace
from holdfast_node.services.fanout import gather, replies
from holdfast_node.services.mending import take_census
from holdfast_node.services.prove import observed_margin

READ_TIMEOUT_S: Final = 2.0

Resolve = Callable[[str], Awaitable[tuple[Bucket, int]]]


class Explainer:
    """Answers for one key at a time; see `explain`."""

    def __init__(self, *, path: DataPath, resolve: Resolve) -> None:
        self._path = path
        self._resolve = resolve

    async def explain(self, bucket_name: str, key: bytes) -> ExplainReply:
        """Raises `BlobNotFound` for an absent or deleted key."""
        bucket, pool = await self._resolve(bucket_name)
        place = KeyPlace(pool, bucket.id, key)
        head = await self._path.registers.head(pool, bucket.id, key)
        manifest = head.manifest
        if head.kind is not HeadKind.BLOB or manifest is None:
            raise BlobNotFound("there is no such blob", hint="`holdfast ls` lists what is there")
        topology = self._path.topology
        partition = topology.key_partition(pool, bucket.id, key)
        copies, deaf = await self._register_copies(topology, place)
        census = await take_census(self._path, [manifest.seed_id])
        return ExplainReply(
            info=_info(key, head, manifest),
            pool=pool,
            partition=partition,
            generation=topology.entry(pool, partition).generation,
            homes=tuple(topology.name(store) for store in topology.shard_homes(pool, partition)),
            register_copies=tuple(topology.name(store) for store in copies),
            shards=_shards(topology, place, manifest, census.found.get(manifest.seed_id, {})),
            margin=observed_margin(topology, place, manifest, census),
            unreachable=tuple(sorted({topology.name(store) for store in census.silent | deaf})),
        )

    async def _register_copies(
        self, topology: Topology, place: KeyPlace
    ) -> tuple[list[StoreId], frozenset[StoreId]]:
        """The homes whose registers agree on the newest head, in home order, and those that did not say."""
        partition = topology.key_partition(place.pool, place.bucket, place.key)
        scope = topology.scope(place.pool, partition)
        request = ReadRegister(scope, place.bucket, place.key, want_head=False, inline_bytes_max=0)
        homes = topology.register_homes(place.pool, partition)
        answers = await gather(
            self._path.links, dict.fromkeys(homes, request), timeout_s=READ_TIMEOUT_S, enough=lambda _: False
        )
        views = replies(answers, RegisterView)
        newest: tuple[Ballot, Digest] | None = None
        at: list[StoreId] = []
        for home in homes:
            view = views.get(home)
            if view is None or view.ballot is None:
                continue
            shown = (view.ballot, view.head_hash)
            if newest is None or shown > newest:
                newest, at = shown, []
            if shown == newest:
                at.append(home)
        return at, frozenset(homes) - frozenset(views)


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
    place: KeyPlace,
    manifest: Manifest,
    found: Mapping[tuple[int, int], Sequence[StoreId]],
) -> tuple[ExplainShard, ...]:
    rows: list[ExplainShard] = []
    for part, written in enumerate(manifest.parts):
        partition = topology.part_partition(place.pool, place.bucket, place.key, manifest.seed_id, part)
        homes = topology.homes_for(place.pool, partition, parse_code(manifest.code))
        for index, named in enumerate(written.holders):
            rows.append(
                ExplainShard(
                    part=part,
                    index=index,
                    home=topology.name(homes[index]) if homes[index] != NOWHERE else "",
                    named=topology.name(named) if topology.node(named) is not None else "",
                    found_at=tuple(topology.name(store) for store in found.get((part, index), ())),
                )
            )
    return tuple(rows)
