"""Whether homes know what was decided: at any time, so few of those that vote lack it that every majority meets it, and
every listing; in the end, all that vote in a partition have accepted the same in every register of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Final

from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.head import ABSENT_HEAD, Ballot, Head, HeadKind
from holdfast_node.core.ids import BucketId, StoreId
from holdfast_node.core.messages import Scope
from holdfast_node.core.quorum import majority
from holdfast_node.core.topology import Topology
from holdfast_node.services.node import Node
from tests.sim.client import ConnectionLost
from tests.sim.cluster import Cluster, Machine

PATIENCE_S: Final = 60.0
POLL_S: Final = 2.0
PAGE_ROWS: Final = 256
NOWHERE: Final = BucketId(b"")

Held = dict[tuple[BucketId, bytes], Ballot]


async def registers_apart(cluster: Cluster) -> list[str]:
    """Registers that homes still differ in after a while, on the stores that run."""
    deadline = cluster.loop.time() + PATIENCE_S
    while True:
        apart = await _apart(cluster)
        if not apart or cluster.loop.time() >= deadline:
            return apart
        await asyncio.sleep(POLL_S)


async def _apart(cluster: Cluster) -> list[str]:
    homes = {m.node.store.superblock.store: m for m in cluster.running() if m.node is not None}
    topology = _newest_map(homes)
    apart: list[str] = []
    for number in range(len(topology.map.pools)):
        for scope in topology.scopes(number):
            apart += await _apart_in(cluster, homes, topology, scope)
    return apart


async def unknown_to_many(
    cluster: Cluster, pool: int, bucket: BucketId, decided: Mapping[bytes, int]
) -> list[str]:
    """Keys whose version was `decided` a moment ago and is not known to all voting homes but a minority. Whoever is
    down may know it. Nothing is said of homes that change meanwhile."""
    homes = {m.node.store.superblock.store: m for m in cluster.running() if m.node is not None}
    topology = _newest_map(homes)
    unknown: list[str] = []
    for key, version in decided.items():
        partition = topology.key_partition(pool, bucket, key)
        voting = [homes[store] for store in topology.voting_homes(pool, partition) if store in homes]
        at = (pool, partition)
        known = {machine.name: await _version_at(cluster, machine, bucket, key, at) for machine in voting}
        count = len(topology.entry(pool, partition).homes)
        if sum(each < version for each in known.values()) > count - majority(count):
            unknown.append(f"{key!r} version {version} in partition {partition} of {count} homes: {known}")
    return unknown if _newest_map(homes).map.epoch == topology.map.epoch else []


async def _version_at(
    cluster: Cluster, machine: Machine, bucket: BucketId, key: bytes, at: tuple[int, int]
) -> int:
    """Of a key that is not there it knows all that may have been forgotten."""
    if machine.node is None or machine.life is None:
        raise ConnectionLost
    read = partial(machine.node.store.register, bucket, key)
    record = await cluster.run_in(machine.life, read, timeout_s=5.0)
    head = cluster.bodies.decode(Head, record.head) if record is not None and record.accepted else ABSENT_HEAD
    if head.kind is HeadKind.ABSENT:
        return machine.node.store.partition(*at).version_floor
    return head.version


def _newest_map(homes: dict[StoreId, Machine]) -> Topology:
    maps = [m.node.cartographer.require() for m in homes.values() if m.node is not None]
    return max(maps, key=lambda topology: topology.map.epoch)


async def _apart_in(
    cluster: Cluster, homes: dict[StoreId, Machine], topology: Topology, scope: Scope
) -> list[str]:
    voting = [homes[store] for store in topology.voting_homes(scope.pool, scope.partition) if store in homes]
    try:
        held = {machine.name: await _held(cluster, machine, scope) for machine in voting}
    except (HoldfastError, ConnectionLost) as error:
        return [f"partition {scope.partition}: {error!r}"]
    apart: list[str] = []
    for bucket, key in sorted({at for rows in held.values() for at in rows}):
        if any(machine.node and machine.node.store.bucket_closing(bucket) for machine in voting):
            continue  # nothing is accepted behind a closed door
        ballots = {name: rows.get((bucket, key)) for name, rows in held.items()}
        if len(set(ballots.values())) > 1:
            apart.append(f"{key!r} in partition {scope.partition}: {ballots}")
    return apart


async def _held(cluster: Cluster, machine: Machine, scope: Scope) -> Held:
    if machine.node is None or machine.life is None:
        raise ConnectionLost
    return await cluster.run_in(machine.life, partial(_held_at, machine.node, scope), timeout_s=60.0)


async def _held_at(node: Node, scope: Scope) -> Held:
    held: Held = {}
    bucket, key = NOWHERE, b""
    while True:
        page = await node.store.register_copies(
            frozenset({(scope.pool, scope.partition)}), bucket, key, PAGE_ROWS
        )
        held.update({(copy.bucket, copy.key): copy.accepted for copy in page.copies})
        if page.complete or not page.copies:
            return held
        bucket, key = page.copies[-1].bucket, page.copies[-1].key
