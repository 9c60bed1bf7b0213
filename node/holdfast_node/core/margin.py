"""How many more whole domains may go before a version can no longer be read.

Three things must outlive a loss: shards of every part that decode, a majority of the key's register, a majority of the
map's voters. A margin is the least of the three, per protected tag and per node; -1 means "not readable now".
Pure arithmetic over who is said to be there; refuses to know whether that is true.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Final

from holdfast_node.core.api import Margin
from holdfast_node.core.codes import Code
from holdfast_node.core.ids import StoreId
from holdfast_node.core.quorum import majority
from holdfast_node.core.topology import NODE_TAG, Topology

__all__ = [
    "NODE_TAG",
    "NOT_THERE",
    "Holders",
    "gravity",
    "least",
    "majority_survives",
    "margin_of",
    "nothing_to_spare",
    "partition_margin",
    "register_survives",
    "shard_survives",
    "shards_survive",
    "voters_survive",
    "weakest",
]

NOT_THERE: Final = -1
"""The margin of what has less than it needs already."""
Up = Callable[[StoreId], bool]
Holders = Mapping[int, Collection[StoreId]]
"""Shard index -> the stores that hold it. A store may hold several indexes, an index may be held several
times."""


def shard_survives(holders: Holders, code: Code, domains: Mapping[StoreId, str]) -> int:
    """The largest number of whole domains of which any may go and the shards left decode; -1 if they do not now.

    Stores that `domains` does not name count as gone.
    """
    where = {index: spread for index, stores in holders.items() if (spread := _spread(stores, domains))}
    if not code.groups and all(len(spread) == 1 for spread in where.values()):
        at = Counter(next(iter(spread)) for spread in where.values())
        return _greedy(at, len(where) - code.k) if len(where) >= code.k else NOT_THERE
    spreads = where.values()
    number = {value: at for at, value in enumerate(sorted(frozenset[str]().union(*spreads)))}
    pattern = [(index, sum(1 << number[value] for value in spread)) for index, spread in where.items()]
    return _pattern_survives(code, tuple(sorted(pattern)), len(number))


@lru_cache(maxsize=4096)
def _pattern_survives(code: Code, where: tuple[tuple[int, int], ...], domains: int) -> int:
    """Tries every loss. `where`: index -> in which of so many domains, as bits. The same few patterns come again for
    all partitions and blobs."""
    for gone in range(domains + 1):
        for lost in combinations(range(domains), gone):
            left = ~sum(1 << at for at in lost)
            if not code.decodes([index for index, at in where if at & left]):
                return gone - 1
    raise AssertionError("the loss of every domain leaves nothing, and k is at least 1")


def shards_survive(topology: Topology, pool: int, holders: Holders, code: Code) -> Margin:
    """The shards' part of a margin alone, per protected tag: what heal goes by, which can do nothing about a register
    or about voters. Never full."""
    tags = topology.protected_tags(pool)
    return Margin(
        tuple((tag, shard_survives(holders, code, topology.domain_by_store(tag))) for tag in tags), full=False
    )


def nothing_to_spare(topology: Topology, pool: int) -> Margin:
    """What is assumed of a version of which it is only known that something is wrong."""
    return Margin(tuple((tag, 0) for tag in topology.protected_tags(pool)), full=False)


def gravity(margin: Margin) -> tuple[int, ...]:
    """Orders margins: the one that survives less of any tag is graver; of equal ones, the one that survives less of
    the next. A pool on three SANs whose blob lacks one shard may lose a node, and no SAN; without two, neither."""
    return tuple(sorted(count for _, count in margin.entries))


def is_grave(margin: Margin) -> bool:
    """One more loss of something that the pool protects against would take it."""
    return min(gravity(margin), default=0) <= 0


def majority_survives(members_alive: Iterable[StoreId], n_total: int, domains: Mapping[StoreId, str]) -> int:
    """The largest number of whole domains of which any may go and a majority of `n_total` is left; -1 if it
    is not."""
    at = Counter(domains[store] for store in members_alive if store in domains)
    spare = at.total() - majority(n_total)
    return _greedy(at, spare) if spare >= 0 else NOT_THERE


def _spread(stores: Collection[StoreId], domains: Mapping[StoreId, str]) -> frozenset[str]:
    return frozenset(domains[store] for store in stores if store in domains)


def _greedy(at: Counter[str], spare: int) -> int:
    """How many of the fullest domains fit into `spare` losses: with one place per item the worst case is
    greedy."""
    survived = 0
    for count in sorted(at.values(), reverse=True):
        spare -= count
        if spare < 0:
            return survived
        survived += 1
    return survived


def margin_of(
    topology: Topology,
    pool: int,
    partitions: Sequence[int],
    parts: Sequence[Holders],
    up: Up,
    *,
    code: Code | None = None,
) -> Margin:
    """The margin of one version.

    `partitions[i]` is the partition of part i and `parts[i]` its holders; `partitions[0]`, whose register
    names the version, is there even when there are no parts. `code` is the pool's unless given (`copy:N` for a blob
    whose every shard is the whole payload). `full`: every shard is at its home, and neither a home nor a voter is down,
    learning or suspect.
    """
    assert len(partitions) >= max(1, len(parts)), "each part has a partition, and the key has one"
    code = code or topology.code(pool)
    live = [_live(topology, holders, up) for holders in parts]
    entries: list[tuple[str, int]] = []
    for tag in topology.protected_tags(pool):
        domains = topology.domain_by_store(tag)
        found = [shard_survives(holders, code, domains) for holders in live]
        found.append(register_survives(topology, pool, partitions[0], up, tag))
        found.append(voters_survive(topology, up, tag))
        entries.append((tag, min(found)))
    full = topology.is_current(pool, str(code))
    full = full and all(_at_home(topology, pool, partition, up) for partition in partitions)
    full = full and all(
        home in holders.get(index, ())
        for partition, holders in zip(partitions, live, strict=False)
        for index, home in enumerate(topology.homes_for(pool, partition, code))
    )
    full = full and all(store in topology.active and up(store) for store in topology.map.voters)
    return Margin(tuple(entries), full)


def register_survives(topology: Topology, pool: int, partition: int, up: Up, tag: str) -> int:
    """How many domains of `tag` may go before this partition's registers lose a majority they need: while a move is
    open, that of the new homes too."""
    roster = topology.roster(pool, partition)
    entry, domains = topology.entry(pool, partition), topology.domain_by_store(tag)
    sets = [(roster.voters, len(entry.homes))]
    sets += [(roster.moving, len(entry.moving))] if roster.moving is not None else []
    return min(majority_survives(filter(up, members), n, domains) for members, n in sets)


def voters_survive(topology: Topology, up: Up, tag: str) -> int:
    """How many domains of `tag` may go before the map cannot be changed any more."""
    voters = topology.map.voters
    alive = [store for store in voters if store in topology.active and up(store)]
    return majority_survives(alive, len(voters), topology.domain_by_store(tag))


def weakest(
    topology: Topology, pool: int, partition: int, parts: Sequence[Holders], up: Up, *, code: Code
) -> tuple[str, ...]:
    """Which of the three survives no more than the margin says, in the tag where that is least: "shards", "register",
    "voters", or several. `partition` is the key's; the rest is as `margin_of` takes it."""
    tags = topology.protected_tags(pool)
    survive = {
        "register": min(register_survives(topology, pool, partition, up, tag) for tag in tags),
        "voters": min(voters_survive(topology, up, tag) for tag in tags),
    }
    live = [_live(topology, holders, up) for holders in parts]
    domains = [topology.domain_by_store(tag) for tag in tags]
    shards = [shard_survives(holders, code, each) for holders in live for each in domains]
    low = min(*survive.values(), *shards)
    found = [name for name, count in survive.items() if count == low]
    return tuple(["shards", *found] if low in shards else found)


def partition_margin(
    topology: Topology,
    pool: int,
    partition: int,
    up: Up,
    *,
    holding: Up | None = None,
    homes: Sequence[StoreId] = (),
    code: Code | None = None,
) -> Margin:
    """The margin of a blob of this partition whose every shard is at its home, or at `homes` if they are given. `code`
    is the pool's unless given.

    `holding` says of which homes that is true (proven, say); without it, of all that are up.
    """
    homes = homes or topology.shard_homes(pool, partition)
    holders = {index: (home,) for index, home in enumerate(homes) if holding is None or holding(home)}
    return margin_of(topology, pool, (partition,), (holders,), up, code=code)


def least(margins: Iterable[Margin]) -> Margin:
    """The smallest of each entry; full only if all are. Of none: no entries, full."""
    entries: dict[str, int] = {}
    full = True
    for margin in margins:
        full = full and margin.full
        for tag, count in margin.entries:
            entries[tag] = min(count, entries.get(tag, count))
    return Margin(tuple(entries.items()), full)


def _live(topology: Topology, holders: Holders, up: Up) -> dict[int, tuple[StoreId, ...]]:
    return {
        index: tuple(store for store in stores if topology.node(store) is not None and up(store))
        for index, stores in holders.items()
    }


def _at_home(topology: Topology, pool: int, partition: int, up: Up) -> bool:
    voting = topology.voting_homes(pool, partition)
    if topology.entry(pool, partition).moving:
        return False
    return len(voting) == len(topology.entry(pool, partition).homes) and all(up(store) for store in voting)
