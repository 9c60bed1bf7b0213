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


@dataclass(frozen=True, slots=True)
class Roster:
    """The stores whose answers count in one generation of one partition, and how many of them decide.

    `quorum` is a majority of all homes; learners are homes but not voters, so there may be fewer voters
    than homes.
    """

    voters: frozenset[StoreId]
    quorum: int

    def reachable(self, yes: int, outstanding: int) -> bool:
        """Whether a quorum is still possible."""
        return yes + outstanding >= self.quorum


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
    for sight in dict.fromkeys(sights[store] for store in sorted(sights)):
        stores = frozenset(
            store for store, seen in sights.items() if seen == sight and store in roster.voters
        )
        if len(stores) >= roster.quorum:
            return Agreement(sight[0], sight[1], stores)
    return None


def agreement_possible(
    sights: Mapping[StoreId, Sight], outstanding: Collection[StoreId], roster: Roster
) -> bool:
    """Whether the voters yet to answer could still make an agreement."""
    counted = [seen for store, seen in sights.items() if store in roster.voters]
    most = max((counted.count(sight) for sight in set(counted)), default=0)
    return roster.reachable(most, sum(1 for store in outstanding if store in roster.voters))
