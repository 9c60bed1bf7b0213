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
    """`homes` are all that keep a copy, in shard order, learners and newcomers included; `voters` are those of them
    whose answers count, in the same order: the old homes come before the newcomers of an open move."""

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
    roster = topology.roster(pool, scope.partition)
    homes = topology.register_homes(pool, scope.partition)
    voters = tuple(store for store in homes if store in roster.everyone)
    if not roster.decides(voters):
        who = tuple(Evidence(topology.name(store), "is a voting home") for store in voters)
        raise Unavailable(
            f"partition {scope.partition} has {len(voters)} voting homes and needs {roster.quorum}",
            evidence=who,
        )
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
