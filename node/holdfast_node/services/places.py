"""Where one key's register is in the map of this moment: its scope, its homes, and whose answers count."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from holdfast_node.core.cluster_map import ClusterMap
from holdfast_node.core.errors import Evidence, NotInitialised, Unavailable
from holdfast_node.core.ids import BucketId, StoreId
from holdfast_node.core.messages import Scope
from holdfast_node.core.quorum import Roster
from holdfast_node.core.topology import Topology


class Maps(Protocol):
    """The map adopted here and the ways to a newer one; `services.cartographer.Cartographer` has it."""

    @property
    def topology(self) -> Topology | None: ...

    @property
    def epoch(self) -> int: ...

    def catch_up(self, epoch: int, source: StoreId) -> Awaitable[None]: ...

    def change(self, change: Callable[[ClusterMap], ClusterMap | None], /) -> Awaitable[ClusterMap]: ...


@dataclass(frozen=True, slots=True)
class Place:
    """`homes` in shard order, learners included; `voters` are those of them that vote, in the same order."""

    bucket: BucketId
    key: bytes
    scope: Scope
    homes: tuple[StoreId, ...]
    voters: tuple[StoreId, ...]
    roster: Roster
    k: int


def current_topology(maps: Maps) -> Topology:
    topology = maps.topology
    if topology is None:
        raise NotInitialised("this node has no map yet", hint="clusterctl init")
    return topology


def place_of(maps: Maps, pool: int, bucket: BucketId, key: bytes) -> Place:
    """Raises `Unavailable` if the partition has fewer voting homes than decide."""
    topology = current_topology(maps)
    scope = topology.scope(pool, topology.key_partition(pool, bucket, key))
    voters = topology.voting_homes(pool, scope.partition)
    roster = Roster(frozenset(voters), topology.quorum(pool))
    if len(voters) < roster.quorum:
        who = tuple(Evidence(topology.name(store), "is a voting home") for store in voters)
        raise Unavailable(
            f"partition {scope.partition} has {len(voters)} voting homes and needs {roster.quorum}",
            evidence=who,
        )
    homes = topology.entry(pool, scope.partition).homes
    return Place(bucket, key, scope, homes, voters, roster, topology.code(pool).k)


async def newer_map(maps: Maps, scope: Scope, source: StoreId | None) -> None:
    """After a refusal for the generation: make sure of a map newer than the one `scope` was taken from."""
    topology = maps.topology
    pools = topology.map.pools if topology is not None else ()
    if (
        scope.pool < len(pools)
        and pools[scope.pool].partitions[scope.partition].generation != scope.generation
    ):
        return
    if source is not None:
        await maps.catch_up(maps.epoch + 1, source)
