"""From the shards that are really there: what would be undecodable if a selection of stores went.

Asks every live store what it holds for every current blob; believes neither manifests nor the map. Changes nothing,
and keeps one page of keys in memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from holdfast_node.core.api import Bucket, Margin
from holdfast_node.core.errors import NotInitialised
from holdfast_node.core.geometry import parse_code
from holdfast_node.core.head import Head, HeadKind, Manifest
from holdfast_node.core.ids import BlobId, BucketId, StoreId
from holdfast_node.core.margin import NODE_TAG, least, margin_of
from holdfast_node.core.messages import FindShards, Holdings
from holdfast_node.core.report import AtRisk, ProveReply
from holdfast_node.core.topology import Topology
from holdfast_node.ports import Links
from holdfast_node.services.cartographer import Cartographer
from holdfast_node.services.fanout import gather, replies

BATCH_KEYS: Final = 256
"""Keys whose shards are asked for in one round."""
FIND_TIMEOUT_S: Final = 10.0

Found = Mapping[BlobId, Mapping[tuple[int, int], Sequence[StoreId]]]
"""Seed -> (part, index) -> the stores that hold that shard sealed."""


class Heads(Protocol):
    """Settled current heads of one bucket in key order, tombstones left out."""

    def scan(self, pool: int, bucket: BucketId) -> AsyncIterator[tuple[bytes, Head]]: ...


class BucketSource(Protocol):
    def all_buckets(self) -> AsyncIterator[tuple[int, Bucket]]: ...


@dataclass(frozen=True, slots=True)
class Loss:
    """Stores imagined gone, and what to call them."""

    label: str
    stores: frozenset[StoreId]


@dataclass(slots=True)
class _Tally:
    blobs: int = 0
    bytes: int = 0
    shards: int = 0
    least: Margin | None = None
    unreachable: set[str] = field(default_factory=set)
    risks: list[AtRisk] = field(default_factory=list)


async def find_shards(
    links: Links, stores: Sequence[StoreId], seeds: Sequence[BlobId]
) -> tuple[Found, frozenset[StoreId]]:
    """Which stores hold which shards of these seeds, and which stores did not say."""
    request = FindShards(tuple(seeds))
    answers = await gather(
        links, dict.fromkeys(stores, request), timeout_s=FIND_TIMEOUT_S, enough=lambda _: False
    )
    heard = replies(answers, Holdings)
    found: dict[BlobId, dict[tuple[int, int], list[StoreId]]] = {seed: {} for seed in seeds}
    for store in sorted(heard):
        for shard in heard[store].shards:
            found[shard.seed_id].setdefault((shard.part, shard.index), []).append(store)
    return found, frozenset(stores) - frozenset(heard)


def losses(topology: Topology, selectors: Sequence[str]) -> list[Loss]:
    """One combined loss of what is named, or by default each protected domain and each node in turn."""
    if selectors:
        stores = frozenset(node.store for selector in selectors for node in topology.select(selector))
        return [Loss(" + ".join(selectors), stores)]
    tags = sorted({tag for pool in topology.map.pools for tag in pool.protected_tags} - {NODE_TAG})
    by_tag = [
        Loss(f"{tag}={value}", stores)
        for tag in tags
        for value, stores in sorted(topology.domains(tag).items())
    ]
    return by_tag + [Loss(node.name, frozenset({node.store})) for node in topology.map.nodes]


class Prover:
    """Recounts the cluster on demand; see `prove`."""

    def __init__(
        self, *, links: Links, cartographer: Cartographer, heads: Heads, buckets: BucketSource
    ) -> None:
        self._links = links
        self._cartographer = cartographer
        self._heads = heads
        self._buckets = buckets

    async def prove(self, selectors: Sequence[str]) -> AsyncIterator[ProveReply]:
        """Yields progress with the findings so far, at last one reply with `finished`."""
        topology = self._cartographer.topology
        if topology is None:
            raise NotInitialised("there is no map yet", hint="clusterctl init")
        tests = losses(topology, selectors)
        tally = _Tally()
        batch: list[tuple[int, str, BucketId, bytes, Head]] = []
        async for pool, bucket in self._buckets.all_buckets():
            async for key, head in self._heads.scan(pool, bucket.id):
                batch.append((pool, bucket.name, bucket.id, key, head))
                if len(batch) == BATCH_KEYS:
                    await self._examine(topology, tests, batch, tally)
                    batch.clear()
                    yield self._report(tally)
        await self._examine(topology, tests, batch, tally)
        yield self._report(tally, finished=tests)

    async def _examine(
        self,
        topology: Topology,
        tests: Sequence[Loss],
        batch: Sequence[tuple[int, str, BucketId, bytes, Head]],
        tally: _Tally,
    ) -> None:
        stores = [node.store for node in topology.map.nodes]
        seeds = [h.manifest.seed_id for *_, h in batch if h.manifest is not None and h.manifest.parts]
        found, silent = await find_shards(self._links, stores, seeds) if seeds else ({}, frozenset())
        tally.unreachable.update(node.name for store in silent if (node := topology.node(store)))
        alive = frozenset(stores) - silent
        for pool, name, bucket, key, head in batch:
            manifest = head.manifest
            if head.kind is not HeadKind.BLOB or manifest is None:
                continue
            holders = found.get(manifest.seed_id, {})
            tally.blobs += 1
            tally.bytes += manifest.size
            tally.shards += sum(len(at) for at in holders.values())
            partition = topology.key_partition(pool, bucket, key)
            voting = frozenset(topology.voting_homes(pool, partition)) & alive
            for loss in tests:
                for part, left, needed, what in _shortfalls(manifest, holders, loss):
                    tally.risks.append(AtRisk(name, key, head.version, loss.label, part, left, needed, what))
                left, needed = len(voting - loss.stores), topology.quorum(pool)
                if left < needed:
                    tally.risks.append(
                        AtRisk(name, key, head.version, loss.label, 0, left, needed, "register")
                    )
            partitions = [partition] + [
                topology.part_partition(pool, bucket, key, manifest.seed_id, part)
                for part in range(1, len(manifest.parts))
            ]
            k = parse_code(manifest.code).k
            margin = margin_of(
                topology, pool, partitions, parts_of(manifest, holders), alive.__contains__, k=k
            )
            tally.least = margin if tally.least is None else least([tally.least, margin])

    @staticmethod
    def _report(tally: _Tally, finished: Sequence[Loss] = ()) -> ProveReply:
        risks, tally.risks = tuple(tally.risks), []
        return ProveReply(
            blobs=tally.blobs,
            bytes=tally.bytes,
            shards=tally.shards,
            at_risk=risks,
            finished=bool(finished),
            tested=tuple(loss.label for loss in finished),
            unreachable=tuple(sorted(tally.unreachable)),
            least_margin=tally.least if finished and tally.least is not None else Margin((), full=False),
        )


def parts_of(
    manifest: Manifest, holders: Mapping[tuple[int, int], Sequence[StoreId]]
) -> list[dict[int, Sequence[StoreId]]]:
    """Per part: shard index -> who holds it."""
    n = parse_code(manifest.code).n
    return [
        {index: holders.get((part, index), ()) for index in range(n)} for part in range(len(manifest.parts))
    ]


def _shortfalls(
    manifest: Manifest, holders: Mapping[tuple[int, int], Sequence[StoreId]], loss: Loss
) -> list[tuple[int, int, int, str]]:
    """(part, shards left, shards needed, "shards") of each part that would not decode."""
    k = parse_code(manifest.code).k
    short: list[tuple[int, int, int, str]] = []
    for part, shards in enumerate(parts_of(manifest, holders)):
        left = sum(any(store not in loss.stores for store in at) for at in shards.values())
        if left < k:
            short.append((part, left, k, "shards"))
    return short
