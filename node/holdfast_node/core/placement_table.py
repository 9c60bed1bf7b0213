"""A placement under construction: which nodes keep which partitions, and moves that even out their loads.

Partitions and nodes are numbers, and sets of partitions are bit masks, so that "where could u hand a shard to
v?" is a few machine words. Refuses to know shard indexes, names and tags.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

from holdfast_node.core.placement_search import Search


class Table:
    """Invariant: no row breaks a domain's cap."""

    def __init__(self, search: Search, nodes: int, partitions: int) -> None:
        self._search = search
        self._of = [search.of(node) for node in range(nodes)]
        self.rows = [0] * partitions
        """Partition -> mask of nodes."""
        self.has = [0] * nodes
        """Node -> mask of partitions."""
        self._counts = [[0] * len(search.domains) for _ in range(partitions)]
        self._tight = [_all(partitions) if domain.cap == 0 else 0 for domain in search.domains]

    def load(self, node: int) -> int:
        return self.has[node].bit_count()

    def put(self, partition: int, node: int) -> None:
        assert not self.rows[partition] >> node & 1, "a node keeps a partition once"
        self.rows[partition] |= 1 << node
        self.has[node] |= 1 << partition
        self._count(partition, node, 1)

    def take(self, partition: int, node: int) -> None:
        assert self.rows[partition] >> node & 1, "only what is there is taken"
        self.rows[partition] &= ~(1 << node)
        self.has[node] &= ~(1 << partition)
        self._count(partition, node, -1)

    def move(self, partition: int, giver: int, taker: int) -> None:
        self.take(partition, giver)
        self.put(partition, taker)

    def _count(self, partition: int, node: int, change: int) -> None:
        counts = self._counts[partition]
        for d in self._of[node]:
            counts[d] += change
            assert counts[d] <= self._search.domains[d].cap, "a cap is never broken"
            if counts[d] == self._search.domains[d].cap:
                self._tight[d] |= 1 << partition
            else:
                self._tight[d] &= ~(1 << partition)

    def movable(self, giver: int, taker: int) -> int:
        """The partitions in which `taker` may take `giver`'s place."""
        possible = self.has[giver] & ~self.has[taker]
        giving = self._of[giver]
        for d in self._of[taker]:
            if d not in giving:
                possible &= ~self._tight[d]
        return possible


class Balance:
    """Moves shards until loads are near their targets; prefers moves that cost nothing against `previous`."""

    def __init__(
        self, table: Table, targets: Sequence[float], previous: Sequence[int], tolerance: float
    ) -> None:
        self._table = table
        self._targets = targets
        self._previous = previous
        """Node -> mask of the partitions it kept before."""
        self._slack = [max(1 - 1e-9, tolerance * target) for target in targets]

    def _off(self, node: int) -> float:
        return self._table.load(node) - self._targets[node]

    def run(self) -> None:
        """Each round brings one node beyond its tolerance nearer, and the sum of squares down: it ends."""
        while self._improve():
            pass

    def _improve(self) -> bool:
        nodes = range(len(self._targets))
        givers = sorted(nodes, key=lambda node: (-self._off(node), node))
        under = [node for node in nodes if self._off(node) < -self._slack[node]]
        for giver in givers:
            off = self._off(giver)
            over = off > self._slack[giver]
            takers = [t for t in (nodes if over else under) if off - self._off(t) > 1 + 1e-9]
            if not takers:
                continue
            for path in self._paths(giver, sorted(takers, key=lambda node: (self._off(node), node))):
                if self._apply(path):
                    return True
        return False

    def _paths(self, giver: int, takers: Sequence[int]) -> list[list[int]]:
        """Direct moves first, then one shortest chain through other nodes."""
        direct = [[giver, taker] for taker in takers if self._table.movable(giver, taker)]
        return direct[:1] or self._chains(giver, frozenset(takers))

    def _chains(self, giver: int, takers: frozenset[int]) -> list[list[int]]:
        came: dict[int, int] = {giver: giver}
        queue = deque([giver])
        while queue:
            node = queue.popleft()
            for other in range(len(self._targets)):
                if other in came or not self._table.movable(node, other):
                    continue
                came[other] = node
                if other in takers:
                    return [_trace(came, other)]
                queue.append(other)
        return []

    def _apply(self, path: Sequence[int]) -> bool:
        done: list[tuple[int, int, int]] = []
        for giver, taker in pairwise(path):
            possible = self._table.movable(giver, taker)
            if not possible:
                for partition, back_from, back_to in reversed(done):
                    self._table.move(partition, back_to, back_from)
                return False
            partition = self._cheapest(possible, giver, taker)
            self._table.move(partition, giver, taker)
            done.append((partition, giver, taker))
        return True

    def _cheapest(self, possible: int, giver: int, taker: int) -> int:
        """A partition that comes home, else one whose shard moves anyway, else any."""
        was_taker, was_giver = self._previous[taker], self._previous[giver]
        back = possible & was_taker
        for choice in (back & ~was_giver, back, possible & ~was_giver, possible):
            if choice:
                return (choice & -choice).bit_length() - 1
        raise AssertionError("called with at least one partition possible")

    def undo(self) -> None:
        """Take back moves that turned out not to be needed: both nodes stay within their tolerance."""
        for node, was in enumerate(self._previous):
            homesick = was & ~self._table.has[node]
            while homesick:
                partition = (homesick & -homesick).bit_length() - 1
                homesick &= homesick - 1
                self._take_back(partition, node)

    def _take_back(self, partition: int, node: int) -> None:
        if self._off(node) + 1 > self._slack[node]:
            return
        for other in range(len(self._targets)):
            if not self._table.has[other] >> partition & 1 or self._previous[other] >> partition & 1:
                continue
            allowed = self._table.movable(other, node) >> partition & 1
            if allowed and self._off(other) - 1 >= -self._slack[other]:
                self._table.move(partition, other, node)
                return


def _trace(came: dict[int, int], end: int) -> list[int]:
    path = [end]
    while came[path[-1]] != path[-1]:
        path.append(came[path[-1]])
    return path[::-1]


def _all(partitions: int) -> int:
    return (1 << partitions) - 1
