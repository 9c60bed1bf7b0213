"""Who counts and how many are enough. Knows stores and numbers of them, not what they said or how it
travelled."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import Digest, StoreId


def majority(homes: int) -> int:
    """Any two sets of this many homes share one."""
    return homes // 2 + 1


def overlap(homes: int) -> int:
    """The fewest homes that share one with every majority: enough to see everything that was decided."""
    return homes - majority(homes) + 1


def meet(homes: int, others: int) -> bool:
    """Whether a majority of so many homes, and enough of the `others` that some of them are to see everything, always
    share a store that knew what the first had decided: those of the others that were no homes have learned it.
    ADR 0092."""
    return majority(homes) + overlap(others) > homes


@dataclass(frozen=True, slots=True)
class Roster:
    """The stores whose answers count in one generation of one partition, and how many of them decide.

    `quorum` is a majority of all homes; learners are homes but not voters, so there may be fewer voters
    than homes. While a move is open, `moving` are the homes to be that may vote, and whatever is decided in this
    `generation` has a quorum of both sets: then neither set can decide anything that the other has not seen. What was
    accepted in an earlier generation was decided by the old set alone, and the newcomers learn it before the move
    closes. ADR 0080.
    """

    voters: frozenset[StoreId]
    quorum: int
    moving: frozenset[StoreId] | None = None
    generation: int = 0
    moving_quorum: int = 0
    """A majority of all homes to be, where they are more or fewer than the old ones; 0: they are as many."""

    @property
    def new_quorum(self) -> int:
        """Of `moving`."""
        return self.moving_quorum or self.quorum

    @property
    def everyone(self) -> frozenset[StoreId]:
        return self.voters if self.moving is None else self.voters | self.moving

    def decides(self, stores: Collection[StoreId]) -> bool:
        """Whether these are enough to promise or to accept."""
        enough = len(self.voters.intersection(stores)) >= self.quorum
        return enough and (self.moving is None or len(self.moving.intersection(stores)) >= self.new_quorum)

    def decided(self, ballot: Ballot | None, stores: Collection[StoreId]) -> bool:
        """Whether what these stores hold, accepted under `ballot` (None: nothing), is decided."""
        if self.moving is None or (ballot is not None and ballot.generation >= self.generation):
            return self.decides(stores)
        return len(self.voters.intersection(stores)) >= self.quorum


Sight = tuple[Ballot | None, Digest]
"""What one home says its register holds: the ballot accepted (None: nothing) and the digest of its head."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """A decided value: `stores` is a quorum, all of whom reported it. `ballot` None: nothing was ever
    accepted."""

    ballot: Ballot | None
    head_hash: Digest
    stores: frozenset[StoreId]


def agreement(sights: Mapping[StoreId, Sight], roster: Roster) -> Agreement | None:
    """The value that a quorum of voters reports alike, if there is one."""
    counted = roster.everyone
    for sight in dict.fromkeys(sights[store] for store in sorted(sights)):
        stores = frozenset(store for store, seen in sights.items() if seen == sight and store in counted)
        if roster.decided(sight[0], stores):
            return Agreement(sight[0], sight[1], stores)
    return None
