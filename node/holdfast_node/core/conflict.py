"""Why a set of shards fits nowhere, in words: the fewest domains that rule it out together.

Refuses to suggest what to give up: an operator decides that.
"""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_node.core.placement_search import Domain, Search, Verdict


def minimal_conflict(domains: Sequence[Domain], nodes: int, wanted: int) -> tuple[Domain, ...]:
    """A subset of the domains that alone makes `wanted` of the nodes impossible; without any one of it, it is
    not (proved to be). Empty if the whole is not proved impossible."""
    everyone = range(nodes)

    def impossible(subset: Sequence[Domain]) -> bool:
        verdict, _ = Search(subset).complete(0, wanted, everyone)
        return verdict is Verdict.IMPOSSIBLE

    rest = sorted(domains, key=lambda d: (d.members.bit_count(), d.tag, d.value))
    if not impossible(rest):
        return ()
    for domain in tuple(rest):
        without = [other for other in rest if other is not domain]
        if impossible(without):
            rest = without
    return tuple(sorted(rest, key=lambda d: (d.tag, d.value)))


def most_that_fit(domains: Sequence[Domain], nodes: int, wanted: int) -> int:
    """The largest set of nodes, up to `wanted`, that these domains leave room for."""
    search = Search(domains)
    for count in range(wanted, 0, -1):
        if search.complete(0, count, range(nodes))[0] is Verdict.FOUND:
            return count
    return 0


def in_words(conflict: Sequence[Domain], nodes: int, wanted: int, code: str) -> str:
    """For example "san=a has 4 of 6 nodes; rs:4+2 tolerates 2 shards per san: at most 4 of 6 shards fit"."""
    if not conflict:
        return f"{code} needs {wanted} nodes, there are {nodes}"
    has = ", ".join(f"{d.tag}={d.value} has {d.members.bit_count()}" for d in conflict)
    caps = {d.tag: d.cap for d in conflict}
    per = " and ".join(f"{cap} shards per {tag}" for tag, cap in sorted(caps.items()))
    fit = most_that_fit(conflict, nodes, wanted)
    return f"{has} of {nodes} nodes; {code} tolerates {per}: at most {fit} of {wanted} shards fit"
