"""Which stores are the homes of which partition: pure, deterministic, the same table on every node.

In this order: no domain of a protected tag holds more shards of a partition than the code can lose; loads
follow weights; as little as possible moves away from the previous table. Refuses what cannot be, naming why.
Also picks the voters of a first map. See ADR 0030.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from xxhash import xxh3_64_intdigest

from holdfast_node.core.cluster_map import NodeEntry
from holdfast_node.core.codes import Code
from holdfast_node.core.conflict import in_words, minimal_conflict
from holdfast_node.core.errors import Refused
from holdfast_node.core.ids import StoreId
from holdfast_node.core.placement_search import Domain, Search, Verdict, binding
from holdfast_node.core.placement_table import Balance, Table
from holdfast_node.core.quorum import majority
from holdfast_node.core.topology import NODE_TAG, domain_of

TOLERANCE: Final = 0.04
"""How far a load may be from its target before shards move for it. Each further percent costs moves."""

DROPS_MAX: Final = 3
"""So many kept shards may be given up to make room for the missing ones of their partition."""

Homes = tuple[tuple[StoreId, ...], ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """`homes[p][i]` keeps shard i of partition p. `moved` counts shards whose store differs from
    `previous`."""

    homes: Homes
    moved: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Voters:
    voters: tuple[StoreId, ...]
    warnings: tuple[str, ...]


def place(
    code: Code,
    nodes: Sequence[NodeEntry],
    *,
    protected_tags: Collection[str],
    partitions: int,
    previous: Sequence[Sequence[StoreId]] = (),
) -> Placement:
    """A table of homes. `previous`, if given, has one row of n stores per partition; some may have left.

    Raises `Refused` with a minimal conflict when the domains cannot hold the code.
    """
    ordered = sorted(nodes, key=lambda node: node.name)
    warnings: list[str] = []
    cap = homes_per_domain(code)
    domains = domains_of(ordered, protected_tags, cap) if cap else ()
    if not cap:
        warnings.append(f"{code} survives no loss at all")
    search = Search(domains)
    _refuse_impossible(search, len(ordered), code)
    before = _Before(ordered, previous, partitions)
    table = Table(search, len(ordered), partitions)
    targets = water_fill([node.weight for node in ordered], domains, partitions, code.n)
    _fill(table, search, _Fill(before, targets, code.n, ordered))
    balance = Balance(table, targets, before.has, TOLERANCE if previous else 0.0)
    balance.run()
    if previous:
        balance.undo()
    slots = _assign_slots(table, before, code.n)
    homes = tuple(tuple(ordered[node].store for node in row) for row in slots)
    moved = sum(
        store != old
        for row, was in zip(homes, previous, strict=False)
        for store, old in zip(row, was, strict=True)
    )
    warnings += _usable(ordered, targets)
    return Placement(homes, moved, tuple(warnings))


def homes_per_domain(code: Code) -> int:
    """So many homes may go with one domain, whichever they are: the shards left must decode, and there must be a
    majority that decides registers. The second binds for codes with no more data than parity."""
    return min(code.losses_survived, code.n - majority(code.n))


def domains_of(nodes: Sequence[NodeEntry], tags: Collection[str], cap: int) -> tuple[Domain, ...]:
    """The domains of these tags that can bind, over nodes numbered by their place."""
    found: list[Domain] = []
    for tag in sorted(set(tags) - {NODE_TAG}):
        members: dict[str, int] = {}
        for at, node in enumerate(nodes):
            value = domain_of(node, tag)
            members[value] = members.get(value, 0) | 1 << at
        found += [Domain(tag, value, mask, cap) for value, mask in sorted(members.items())]
    return binding(found)


def water_fill(weights: Sequence[int], domains: Sequence[Domain], partitions: int, n: int) -> list[float]:
    """Target loads: proportional to weight, until a node (at most one shard of each partition) or a domain is
    full; the others then rise on. The sum falls short of all shards only where tags cross; the search places
    those."""
    count = len(weights)
    limits = [(1 << at, float(partitions)) for at in range(count)]
    limits += [(domain.members, float(domain.cap * partitions)) for domain in domains]
    targets = [0.0] * count
    rising = (1 << count) - 1
    left = float(n * partitions)
    while rising and left > 1e-6:
        speed = float(sum(weights[at] for at in range(count) if rising >> at & 1))
        rise = left / speed
        for mask, limit in limits:
            moving = sum(weights[at] for at in range(count) if mask & rising & 1 << at)
            if moving:
                filled = sum(targets[at] for at in range(count) if mask >> at & 1)
                rise = min(rise, max(0.0, limit - filled) / moving)
        for at in range(count):
            if rising >> at & 1:
                targets[at] += weights[at] * rise
        left -= speed * rise
        for mask, limit in limits:
            if sum(targets[at] for at in range(count) if mask >> at & 1) >= limit - 1e-6:
                rising &= ~mask
    return targets


def choose_voters(
    nodes: Sequence[NodeEntry], protected_tags: Collection[str], *, simulated_domains: bool
) -> Voters:
    """Five voters if they can be so spread that no protected domain holds half of them, else three.

    Where no spread does it, the tags in conflict are given up and named. Raises `Refused` for fewer than
    three nodes, unless the domains are simulated: then one node votes alone.
    """
    ordered = sorted(nodes, key=lambda node: node.name)
    if len(ordered) < 3:
        if not simulated_domains:
            raise Refused(
                f"the map needs three voters, there are {len(ordered)} nodes", hint="add nodes to the seed"
            )
        return Voters((ordered[0].store,), ())
    tags = set(protected_tags) - {NODE_TAG}
    given_up: list[str] = []
    sizes = (5, 3) if len(ordered) >= 5 else (3,)
    while True:
        for size in sizes:
            chosen = _spread(ordered, tags, size)
            if chosen is not None:
                lost = tuple(f"the loss of one {tag} may take the map's majority" for tag in given_up)
                return Voters(tuple(node.store for node in chosen), lost)
        conflict = minimal_conflict(domains_of(ordered, tags, 1), len(ordered), 3)
        tag = conflict[0].tag if conflict else min(tags)
        tags.discard(tag)
        given_up.append(tag)


def _spread(nodes: Sequence[NodeEntry], tags: Collection[str], size: int) -> list[NodeEntry] | None:
    """The most even choice: the smallest cap per domain below half for which there is one."""
    for cap in range(1, (size - 1) // 2 + 1):
        verdict, mask = Search(domains_of(nodes, tags, cap)).complete(0, size, range(len(nodes)))
        if verdict is Verdict.FOUND:
            return [node for at, node in enumerate(nodes) if mask >> at & 1]
    return None


def _refuse_impossible(search: Search, nodes: int, code: Code) -> None:
    verdict, _ = search.complete(0, code.n, range(nodes))
    if verdict is Verdict.IMPOSSIBLE:
        conflict = minimal_conflict(search.domains, nodes, code.n)
        raise Refused(
            f"impossible placement: {in_words(conflict, nodes, code.n, str(code))}",
            hint="add nodes to other domains, choose a code with fewer data or more parity shards, "
            "or protect fewer tags",
        )
    if verdict is Verdict.GAVE_UP:
        raise Refused(
            f"no placement of {code} was found within the search's budget; that does not prove that there is none",
            hint="protect fewer tags, or make the domains less crossed",
        )


class _Before:
    """The previous table in numbers: what each node kept, and at which shard index."""

    def __init__(
        self, nodes: Sequence[NodeEntry], previous: Sequence[Sequence[StoreId]], partitions: int
    ) -> None:
        assert len(previous) in (0, partitions), "one previous row per partition, or none at all"
        number = {node.store: at for at, node in enumerate(nodes)}
        self.slots: list[dict[int, int]] = [{} for _ in range(partitions)]
        """Partition -> node -> shard index."""
        self.has = [0] * len(nodes)
        for partition, row in enumerate(previous):
            for index, store in enumerate(row):
                at = number.get(store)
                if at is not None:
                    self.slots[partition][at] = index
                    self.has[at] |= 1 << partition


@dataclass(frozen=True, slots=True)
class _Fill:
    before: _Before
    targets: Sequence[float]
    n: int
    nodes: Sequence[NodeEntry]

    def order(self, table: Table, partition: int) -> list[int]:
        """Emptiest first in relation to the target; equals in an order of the partition's own."""
        salt = b"%d." % partition

        def key(at: int) -> tuple[float, int]:
            short = self.targets[at] - table.load(at)
            return (-round(short, 6), xxh3_64_intdigest(salt + self.nodes[at].name.encode()))

        return sorted(range(len(self.targets)), key=key)


def _fill(table: Table, search: Search, fill: _Fill) -> None:
    """Keep what may be kept, then complete every row."""
    for partition, slots in enumerate(fill.before.slots):
        for node in _keepable(search, slots, table):
            table.put(partition, node)
    for partition in range(len(table.rows)):
        _complete(table, search, fill, partition)


def _keepable(search: Search, slots: dict[int, int], table: Table) -> list[int]:
    """The nodes of a previous row, without those that would break a cap: of these the most loaded go."""
    kept: list[int] = []
    counts = [0] * len(search.domains)
    for node in sorted(slots, key=lambda at: (table.load(at), slots[at])):
        domains = search.of(node)
        if all(counts[d] < search.domains[d].cap for d in domains):
            kept.append(node)
            for d in domains:
                counts[d] += 1
    return kept


def _complete(table: Table, search: Search, fill: _Fill, partition: int) -> None:
    row = table.rows[partition]
    order = fill.order(table, partition)
    for drops in range(min(DROPS_MAX, row.bit_count()) + 1):
        for dropped in combinations([at for at in reversed(order) if row >> at & 1], drops):
            kept = row & ~_mask(dropped)
            verdict, whole = search.complete(kept, fill.n, order)
            if verdict is Verdict.FOUND:
                _become(table, partition, whole)
                return
    verdict, whole = search.complete(0, fill.n, order)
    if verdict is not Verdict.FOUND:
        raise Refused(
            f"no placement of partition {partition} was found within the search's budget",
            hint="protect fewer tags, or make the domains less crossed",
        )
    _become(table, partition, whole)


def _become(table: Table, partition: int, whole: int) -> None:
    before = table.rows[partition]
    for at in _bits(before & ~whole):
        table.take(partition, at)
    for at in _bits(whole & ~before):
        table.put(partition, at)


def _assign_slots(table: Table, before: _Before, n: int) -> list[list[int]]:
    """Shard indexes: kept ones stay; the others even out how often a node has each index (index 0 also
    stewards)."""
    often = [[0] * n for _ in table.has]
    rows: list[list[int]] = []
    for partition, row in enumerate(table.rows):
        slots = [-1] * n
        fresh: list[int] = []
        for at in _bits(row):
            index = before.slots[partition].get(at)
            if index is None:
                fresh.append(at)
            else:
                slots[index] = at
        for index in range(n):
            if slots[index] < 0:
                _, _, at = min((often[node][index], -sum(often[node]), node) for node in fresh)
                fresh.remove(at)
                slots[index] = at
            often[slots[index]][index] += 1
        rows.append(slots)
    return rows


def _usable(nodes: Sequence[NodeEntry], targets: Sequence[float]) -> list[str]:
    """The fullest node by weight sets how much of the raw capacity can be used."""
    total = sum(targets)
    fullest = max(target / node.weight for node, target in zip(nodes, targets, strict=True))
    share = total / (fullest * sum(node.weight for node in nodes))
    if share > 0.95:
        return []
    return [f"domains limit the use of the capacity to {share:.0%}: not all nodes can be filled alike"]


def _bits(mask: int) -> Iterable[int]:
    while mask:
        yield (mask & -mask).bit_length() - 1
        mask &= mask - 1


def _mask(bits: Iterable[int]) -> int:
    mask = 0
    for bit in bits:
        mask |= 1 << bit
    return mask
