"""Who has been silent for so long that others take over what was theirs, and who has come back.

Pure: what a majority of the map's voters says they saw, each by its own count of running seconds. One voter that is cut
off from the rest sees everybody silent, and convinces nobody. Refuses to know how the accounts were gathered, and what
a change of homes costs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from holdfast_node.core.cluster_map import NodeEntry, StoreState
from holdfast_node.core.ids import NodeName, StoreId
from holdfast_node.core.messages import Sighting
from holdfast_node.core.quorum import majority
from holdfast_node.core.topology import Topology


@dataclass(frozen=True, slots=True)
class Patience:
    """How long nodes may be silent before others take over. What takes several at once (power, a switch) mostly gives
    them back, and making them anew is much work: they are waited for longer. 0: for ever."""

    node_s: float
    several_s: float

    @property
    def endless(self) -> bool:
        return not self.node_s and not self.several_s

    @property
    def back_s(self) -> float:
        """How long who was given up must be back: where single nodes never are, as long as several are waited for."""
        return self.node_s or self.several_s

    def limit_s(self, silent: int) -> float:
        """How long so many at once may be silent: several never for less long than one."""
        if silent == 1:
            return self.node_s
        return max(self.node_s, self.several_s) if self.several_s else 0.0


NO_LIMIT = Patience(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Overdue:
    """The nodes that are to be given up now; if there are none, why those that are silent are not. `left_s`: until then
    only time has to pass; 0: something stands in the way, or nobody is waited for."""

    nodes: tuple[NodeName, ...] = ()
    why: str = ""
    left_s: float = 0.0


def agreed_s(
    voters: Collection[StoreId], seen: Mapping[StoreId, Sequence[Sighting]], *, up: bool
) -> dict[StoreId, float]:
    """How long, at least, each store has been up, or silent, as a majority of the voters saw it."""
    told: dict[StoreId, list[float]] = {}
    for voter in voters:
        for sighting in seen.get(voter, ()):
            if sighting.up is up:
                told.setdefault(sighting.store, []).append(sighting.for_s)
    needed = majority(len(voters))
    return {
        store: sorted(times, reverse=True)[needed - 1]
        for store, times in told.items()
        if len(times) >= needed
    }


def overdue(topology: Topology, silent_s: Mapping[StoreId, float], patience: Patience) -> Overdue:
    """Whom to give up, of those that have been silent for so long."""
    silent = [node for node in topology.map.nodes if node.store in silent_s and _is_missed(topology, node)]
    interrupted = not topology.moves_open()  # what began when a node was given up is over, and did not end
    waited_for = [
        node
        for node in silent
        if node.state is StoreState.ACTIVE or (interrupted and node.state is StoreState.LOST)
    ]
    names = ", ".join(node.name for node in silent)
    limit_s = patience.limit_s(len(silent))
    if not waited_for or not limit_s:
        return Overdue()
    if kept := ", ".join(node.name for node in silent if node.kept):
        said = f"an operator cancelled that {kept} leaves: `clusterctl node drain` has others take over"
        return Overdue(why=f"{names}: waited for, since {said}")
    left_s = limit_s - min(silent_s[node.store] for node in silent)
    if left_s > 0:
        return Overdue(why=f"{names}: others take over unless back in", left_s=left_s)
    if short := _without_majority(topology, {node.store for node in silent}):
        return Overdue(why=f"{names}: {short} partitions have no majority of homes to learn from without")
    return Overdue(tuple(node.name for node in waited_for))


def returned(topology: Topology, up_s: Mapping[StoreId, float], patience: Patience) -> NodeEntry | None:
    """A node that was given up, or that an operator kept from that, and has been back for as long as that takes, once
    nothing moves."""
    for node in topology.map.nodes if not topology.moves_open() else ():
        if is_awaited(node) and 0 < patience.back_s <= up_s.get(node.store, 0.0):
            return node
    return None


def is_awaited(node: NodeEntry) -> bool:
    """Whether the map is to change when it is back."""
    return node.state is StoreState.LOST or node.kept


def leader(topology: Topology, is_up: Callable[[StoreId], bool]) -> StoreId | None:
    """Who looks after nodes that stay away, as one node sees it: the first voter that is up. A suspect store decides
    nothing, though it may be up for ever."""
    voters = (voter for voter in topology.map.voters if voter in topology.active)
    return next((voter for voter in voters if is_up(voter)), None)


def _is_missed(topology: Topology, node: NodeEntry) -> bool:
    """Whether it matters that it is silent: others have what was at a node that was drained, or given up."""
    return (
        node.state is StoreState.ACTIVE
        or bool(topology.kept_by(node.store))
        or node.store in topology.map.voters
    )


def _without_majority(topology: Topology, silent: Collection[StoreId]) -> int:
    """In how many partitions too few homes are left to decide anything."""
    short = 0
    for pool, meant in enumerate(topology.map.pools):
        for number, entry in enumerate(meant.partitions):
            left = [home for home in topology.voting_homes(pool, number) if home not in silent]
            short += len(left) < majority(len(entry.homes))
    return short
