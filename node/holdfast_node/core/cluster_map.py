"""The cluster document: nodes, stores, tags, pools, homes, voters. A value; how it changes is in `map_changes`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from holdfast_node.core.ids import ClusterId, Epoch, Era, Generation, NodeName, StoreId


class StoreState(IntEnum):
    ACTIVE = 0
    SUSPECT = 1
    """Rolled back or cloned: never votes again; replacing it mends it."""
    DRAINING = 2
    """On its way out: votes and serves while it is a home, and is given nothing new."""
    LOST = 3
    """Silent for so long that others take over: as if it were draining, until it is back for as long (ADR 0095)."""


LEAVING: Final = frozenset({StoreState.DRAINING, StoreState.LOST})
"""What is at such nodes moves to others; nothing new is given to them."""


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """One node: its address, free-form tags, and the one store that is its life now."""

    name: NodeName
    address: str
    store: StoreId
    tags: tuple[tuple[str, str], ...]
    weight: int = 1
    state: StoreState = StoreState.ACTIVE
    joined_epoch: Epoch = Epoch(1)
    """The epoch whose map first named this store: its shards are unproven until heal has passed that epoch."""
    kept: bool = False
    """An operator cancelled that it leaves: nobody gives it up until it has been back (ADR 0095)."""


@dataclass(frozen=True, slots=True)
class PartitionEntry:
    """`homes[i]` keeps shard i and a register copy. Learners are homes that do not vote yet.

    While a move is open, `moving` are the homes to be: shards belong there already, registers need a majority of both
    sets, and `learners` are those of the new homes that have not caught up. `former` are the homes before the last
    move: some shards may still be there, and a cancel goes back to them.

    While the pool's code changes and the registers have not followed, `homes` are the row of the former code and
    `shards` the row in which those of the new code belong: the registers are on their way there, or will be (ADR 0092).
    """

    generation: Generation
    homes: tuple[StoreId, ...]
    learners: tuple[StoreId, ...] = ()
    moving: tuple[StoreId, ...] = ()
    former: tuple[StoreId, ...] = ()
    shards: tuple[StoreId, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Whether all homes vote, and none comes or goes."""
        return not self.moving and not self.learners


@dataclass(frozen=True, slots=True)
class Pool:
    name: str
    code: str
    protected_tags: tuple[str, ...]
    ack_floor: str
    """`any-node` or `any-domain`: what an ack must at least survive."""
    partitions: tuple[PartitionEntry, ...]
    moved_epoch: Epoch = Epoch(0)
    """The epoch that last changed where shards of this pool belong: until heal has passed it, some may be elsewhere."""
    former_code: str = ""
    """The code before the last change of it: until heal has passed `moved_epoch`, some blobs are in that."""


class ChangeKind(IntEnum):
    ADD = 0
    DRAIN = 1
    CANCEL = 2
    RECODE = 3
    LOSS = 4
    """Nodes were given up: a drain that no operator asked for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The last change of homes that was applied: it is under way while a move is open."""

    kind: ChangeKind
    nodes: tuple[NodeName, ...]
    epoch: Epoch
    pool: str = ""
    """Whose code changes."""


@dataclass(frozen=True, slots=True)
class ClusterMap:
    """Immutable; epoch e+1 is decided by a majority of the voters named in epoch e."""

    cluster_id: ClusterId
    epoch: Epoch
    era: Era
    cluster_level: int
    simulated_domains: bool
    nodes: tuple[NodeEntry, ...]
    pools: tuple[Pool, ...]
    voters: tuple[StoreId, ...]
    plan: Plan | None = None

    @property
    def unsettled_epoch(self) -> int:
        """The newest epoch in which a store joined or shards were given other homes: what heal passed before does not
        count."""
        joined = max((node.joined_epoch for node in self.nodes), default=0)
        return max(joined, *(pool.moved_epoch for pool in self.pools))
