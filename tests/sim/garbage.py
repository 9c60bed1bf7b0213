"""Whether the collectors get everything: what stores hold in the end is compared with what heads name."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from holdfast_node.core.errors import HoldfastError, IntegrityError
from holdfast_node.core.head import Head, seeds_of
from holdfast_node.core.ids import BucketId
from holdfast_node.services.node import Node
from tests.sim.client import ConnectionLost
from tests.sim.cluster import Cluster, Machine

PATIENCE_S: Final = 120.0
POLL_S: Final = 3.0
ALL: Final = 1 << 30
POOL: Final = 0
"""There is one pool."""


async def garbage_left(cluster: Cluster) -> list[str]:
    """What no head names and is still there after a while, on the stores that run."""
    deadline = cluster.loop.time() + PATIENCE_S
    while True:
        left = [what for machine in cluster.running() for what in await _unnamed(cluster, machine)]
        if not left or cluster.loop.time() >= deadline:
            return left
        await asyncio.sleep(POLL_S)


async def _unnamed(cluster: Cluster, machine: Machine) -> list[str]:
    node, life = machine.node, machine.life
    if node is None or life is None:
        return []
    try:
        return await cluster.run_in(life, partial(_unnamed_at, node), timeout_s=60.0)
    except (HoldfastError, ConnectionLost) as error:
        return [f"{machine.name} could not tell: {error!r}"]


async def _unnamed_at(node: Node) -> list[str]:
    heads: dict[tuple[BucketId, bytes], Head] = {}
    name, store, left = node.store.superblock.node, node.store, list[str]()
    for held in store.inventory.seeds(b"", ALL)[0]:
        try:
            origin = await store.origin(held.shards[0])
        except IntegrityError:  # rotted: whose it was, and under which base, nobody knows
            continue
        if origin is None:
            continue
        at = (origin.bucket, origin.key)
        if at not in heads:
            heads[at] = await node.registers.head(POOL, *at)
        if held.seed_id not in seeds_of(heads[at]):
            left.append(f"{name} has {len(held.shards)} shards of {held.seed_id.hex()} for {origin.key!r}")
    for manifests in store.inventory.manifests(b"", ALL)[0]:
        at = (manifests.bucket, manifests.key)
        head = heads.get(at) or await node.registers.head(POOL, *at)
        named = {each.blob_id for each in head.retained}
        named |= {head.manifest.blob_id} if head.manifest is not None else set()
        unnamed = {blob_id for blob_id in manifests.blob_ids if not store.shards_of(blob_id)} - named
        left += [f"{name} has a manifest for {at[1]!r}" for _ in unnamed]
    return left
