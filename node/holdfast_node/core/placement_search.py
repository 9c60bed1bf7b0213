"""Exact search for a set of nodes in which no domain holds too many. Nodes are bits; it refuses to know their
names.

Depth first in the caller's order of preference, so that the first set found is a greedy one wherever greed
succeeds. "No such set exists" is a proof; "gave up" means that the budget of steps ran out, and says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

STEPS_MAX: Final = 50_000
"""A step tries one node. Ordinary clusters need one per shard; the rest is for tags that cross (0.5 s at
worst)."""


class Verdict(Enum):
    FOUND = "found"
    IMPOSSIBLE = "impossible"
    GAVE_UP = "gave up"


@dataclass(frozen=True, slots=True)
class Domain:
    """`members` is a bit mask of nodes, of which a set may have at most `cap`."""

    tag: str
    value: str
    members: int
    cap: int

    def binds(self) -> bool:
        return self.members.bit_count() > self.cap


def binding(domains: Sequence[Domain]) -> tuple[Domain, ...]:
    """Those that can matter: not the ones too small to break their cap or inside another with no larger a
    cap."""
    kept: list[Domain] = []
    for domain in sorted(domains, key=lambda d: (-d.members.bit_count(), d.tag, d.value)):
        inside = any(domain.members & ~other.members == 0 and other.cap <= domain.cap for other in kept)
        if domain.binds() and not inside:
            kept.append(domain)
    return tuple(sorted(kept, key=lambda d: (d.tag, d.value)))


class Search:
    """Completes sets of nodes under fixed domains."""

    def __init__(self, domains: Sequence[Domain], steps_max: int = STEPS_MAX) -> None:
        self.domains: Final = tuple(domains)
        self._steps_max = steps_max
        tags = sorted({domain.tag for domain in domains})
        self._by_tag = [[d for d, domain in enumerate(domains) if domain.tag == tag] for tag in tags]
        self._in_tag = [_union(self.domains[d].members for d in group) for group in self._by_tag]

    def of(self, node: int) -> tuple[int, ...]:
        """The domains this node is in: also its class, since nodes in the same domains are
        interchangeable."""
        return tuple(d for d, domain in enumerate(self.domains) if domain.members >> node & 1)

    def counts(self, members: int) -> list[int]:
        return [(domain.members & members).bit_count() for domain in self.domains]

    def allows(self, members: int) -> bool:
        return all(n <= d.cap for n, d in zip(self.counts(members), self.domains, strict=True))

    def complete(self, kept: int, wanted: int, order: Sequence[int]) -> tuple[Verdict, int]:
        """Add nodes from `order` to `kept` until it has `wanted`; returns the whole set."""
        if not self.allows(kept):
            return Verdict.IMPOSSIBLE, 0
        candidates = [node for node in order if not kept >> node & 1]
        descent = _Descent(self, candidates, self._steps_max)
        found = descent.run(wanted - kept.bit_count(), self.counts(kept))
        if found is not None:
            return Verdict.FOUND, kept | found
        return (Verdict.GAVE_UP if descent.exhausted else Verdict.IMPOSSIBLE), 0

    def hopeless(self, rest: int, needed: int, counts: Sequence[int]) -> bool:
        """Whether some tag alone shows that `rest` cannot give `needed` more."""
        for group, members in zip(self._by_tag, self._in_tag, strict=True):
            room = (rest & ~members).bit_count()
            for d in group:
                domain = self.domains[d]
                room += min((rest & domain.members).bit_count(), domain.cap - counts[d])
            if room < needed:
                return True
        return False


class _Descent:
    def __init__(self, search: Search, candidates: list[int], steps_max: int) -> None:
        self._search = search
        self._candidates = candidates
        self._of = [search.of(node) for node in candidates]
        self._caps = [domain.cap for domain in search.domains]
        self._rest = [0] * (len(candidates) + 1)
        for at in range(len(candidates) - 1, -1, -1):
            self._rest[at] = self._rest[at + 1] | 1 << candidates[at]
        self._steps_left = steps_max
        self._dead: set[tuple[int, int, tuple[int, ...]]] = set()
        self.exhausted = False

    def run(self, needed: int, counts: list[int], start: int = 0) -> int | None:
        if needed <= 0:
            return 0
        state = (start, needed, tuple(counts))
        if state in self._dead or self._search.hopeless(self._rest[start], needed, counts):
            return None
        failed: set[tuple[int, ...]] = set()
        for at in range(start, len(self._candidates) - needed + 1):
            domains = self._of[at]
            if domains in failed or any(counts[d] >= self._caps[d] for d in domains):
                continue
            self._steps_left -= 1
            if self._steps_left < 0:
                self.exhausted = True
                return None
            for d in domains:
                counts[d] += 1
            found = self.run(needed - 1, counts, at + 1)
            for d in domains:
                counts[d] -= 1
            if found is not None:
                return found | 1 << self._candidates[at]
            if self.exhausted:
                return None
            failed.add(domains)
        self._dead.add(state)
        return None


def _union(masks: Iterable[int]) -> int:
    union = 0
    for mask in masks:
        union |= mask
    return union
