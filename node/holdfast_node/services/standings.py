"""What this store is worth to a partition when it answers for it: its generation and era, its floors, whether it votes.

Decides nothing about keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from holdfast_node.core.acceptance import Standing, check_generation, check_voting
from holdfast_node.core.errors import InvalidArgument, NotInitialised, NotVoting, StaleGeneration
from holdfast_node.core.ids import RESERVED_BUCKET, BucketId, StoreId
from holdfast_node.core.messages import Accept, Prepare, ReadRegister, Scope
from holdfast_node.core.records import PartitionRecord
from holdfast_node.core.topology import Topology


class PartitionStore(Protocol):
    """What of the store is needed; `services.store.Store` has it."""

    def partition(self, pool: int, partition: int) -> PartitionRecord: ...

    def bucket_closing(self, bucket: BucketId) -> bool: ...


class MapSource(Protocol):
    """The map adopted here; `services.cartographer.Cartographer` has it."""

    @property
    def topology(self) -> Topology | None: ...


class Standings:
    """Of `me`. `may_vote` says why this store may not, empty if it may; `closing` what is about to be written down."""

    def __init__(
        self,
        me: StoreId,
        *,
        maps: MapSource,
        store: PartitionStore,
        may_vote: Callable[[], str],
        closing: Callable[[BucketId], bool],
    ) -> None:
        self._me: Final = me
        self._maps: Final = maps
        self._store: Final = store
        self._may_vote: Final = may_vote
        self._closing: Final = closing

    def is_moving(self, pool: int, partition: int) -> bool:
        """Whether a move is open there: then promises of this generation bind whoever learns as well."""
        return bool(self.topology().entry(pool, partition).moving)

    def is_newcomer(self, pool: int, partition: int) -> bool:
        """Whether a move brings this store here, and has not ended."""
        return self._me not in self.topology().entry(pool, partition).homes

    def stays_from(self, pool: int, partition: int) -> int:
        """The generation in which an open move began, if this store was a home before; else 0."""
        entry = self.topology().entry(pool, partition)
        return entry.generation if entry.moving and self._me in entry.homes else 0

    def topology(self) -> Topology:
        topology = self._maps.topology
        if topology is None:
            raise NotInitialised("this node has no map yet", hint="clusterctl init")
        return topology

    def of_key(self, request: Prepare | Accept | ReadRegister) -> Standing:
        standing = self.of(request.scope, request.bucket)
        scope = request.scope
        if self.topology().key_partition(scope.pool, request.bucket, request.key) != scope.partition:
            raise InvalidArgument(f"the key is not in partition {scope.partition} of pool {scope.pool}")
        return standing

    def of(self, scope: Scope, bucket: BucketId) -> Standing:
        topology = self.topology()
        pools = topology.map.pools
        if scope.pool >= len(pools) or scope.partition >= len(pools[scope.pool].partitions):
            raise StaleGeneration(f"there is no partition {scope.partition} in pool {scope.pool} here")
        record = self._store.partition(scope.pool, scope.partition)
        return Standing(
            generation=topology.entry(scope.pool, scope.partition).generation,
            era=topology.map.era,
            not_voting=self._voting_refusal(topology, scope, record),
            closing=self._closing(bucket) or self._store.bucket_closing(bucket),
            version_floor=record.version_floor,
            ballot_floor=record.ballot_floor,
            moving=bool(topology.entry(scope.pool, scope.partition).moving),
        )

    def _voting_refusal(self, topology: Topology, scope: Scope, record: PartitionRecord) -> str:
        if reason := self._may_vote():
            return reason
        entry = topology.entry(scope.pool, scope.partition)
        if self._me not in (*entry.homes, *entry.moving):
            return "this store is not a home of the partition"
        if self._me in entry.homes and self._me in entry.learners and not entry.moving:
            return "this store is still learning the partition"
        if self._me not in entry.homes and record.entered_generation != scope.generation:
            return "this store is about to become a home of the partition"
        return record.not_voting

    def recheck(self, scope: Scope) -> None:
        """Answers leave only in the generation adopted and from a voter: what a newer generation must show
        was durable before it."""
        standing = self.of(scope, RESERVED_BUCKET)
        check_generation(standing, scope)
        check_voting(standing)

    def vouched(self, scopes: Sequence[Scope]) -> frozenset[tuple[int, int]]:
        """The partitions asked for, if this store votes in every one of them at its generation. Not as a newcomer:
        it does not know all that was decided there."""
        for scope in scopes:
            standing = self.of(scope, RESERVED_BUCKET)
            check_generation(standing, scope)
            check_voting(standing)
            if self.is_newcomer(scope.pool, scope.partition):
                raise NotVoting("this store is not yet a home of the partition")
        return frozenset((scope.pool, scope.partition) for scope in scopes)
