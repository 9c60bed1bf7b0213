"""Which stores hold the shards of a part that is being written, and whether what was sealed may be acked.

Homes first, then handoffs under the same domain rules, then doubled up as evenly as possible. Refuses to know
what a shard contains and how it travels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from xxhash import xxh3_64_intdigest

from holdfast_node.core.codes import Code
from holdfast_node.core.errors import Evidence, Unavailable
from holdfast_node.core.ids import StoreId
from holdfast_node.core.topology import Topology

ANY_NODE: Final = "any-node"
ANY_DOMAIN: Final = "any-domain"
ACK_FLOORS: Final = (ANY_NODE, ANY_DOMAIN)

SEARCH_STEPS_MAX: Final = 2000
"""Steps of the search for handoffs. A step looks at one store for one shard: some 5 ms in all before doubling
up."""

Up = Callable[[StoreId], bool]
_NO_STORES: Final[frozenset[StoreId]] = frozenset()


def choose(
    topology: Topology,
    pool: int,
    partition: int,
    up: Up,
    exclude: Collection[StoreId] = _NO_STORES,
    *,
    code: Code | None = None,
) -> tuple[StoreId, ...]:
    """A store for every shard index of one part.

    A home that is up keeps its own shard. The others' shards go to stores that hold none, as long as no domain of a
    protected tag gets more shards than the code can lose whichever they are; where no such stores are left, to the
    ones that then hold least. Raises `Unavailable` only if no store is up at all: whether the outcome may be acked is
    `ack_allowed`'s question. `code` is the pool's unless given; a part begun in one that the pool has no more is all
    handoffs.
    """
    code = code or topology.code(pool)
    homes = topology.homes_for(pool, partition, code)
    usable = [
        store
        for store in topology.stores
        if (store in topology.placeable or store in homes)
        and store in topology.active
        and store not in exclude
        and up(store)
    ]
    if not usable:
        said = (Evidence(node.name, "down or excluded") for node in topology.map.nodes)
        raise Unavailable("no store is up to hold a shard", evidence=said)
    plan = _Plan(topology, pool, partition, code)
    missing: list[int] = []
    for index, home in enumerate(homes):
        if home in usable:
            plan.put(index, home)
        else:
            missing.append(index)
    _fill(plan, missing, usable)
    return tuple(plan.holders[index] for index in range(len(homes)))


def replacement(
    topology: Topology,
    pool: int,
    partition: int,
    *,
    index: int,
    holders: Mapping[int, StoreId],
    usable: Up,
    code: Code | None = None,
) -> StoreId | None:
    """A store for one shard whose holder failed, given who holds the others (`holders`, `index` itself
    ignored).

    `usable` is asked about every store: whoever is down or has failed this part already is not. None if
    nobody is.
    """
    code = code or topology.code(pool)
    candidates = [store for store in topology.stores if store in topology.placeable and usable(store)]
    plan = _Plan(topology, pool, partition, code)
    for other, store in sorted(holders.items()):
        if other != index:
            plan.put(other, store)
    home = topology.homes_for(pool, partition, code)[index]
    if home in candidates and plan.fits(home):
        return home
    if not candidates:
        return None
    _fill(plan, [index], candidates)
    return plan.holders[index]


def ack_allowed(
    topology: Topology, pool: int, holders: Mapping[int, StoreId], code: Code | None = None
) -> bool:
    """Whether a part with these sealed shards (index -> store; absent ones are missing) may be acked.

    The pool's floor: the loss of any one node, or of any one domain of a protected tag, leaves shards that decode.
    `code` is the pool's unless given.
    """
    code = code or topology.code(pool)
    tags = topology.protected_tags(pool)
    if topology.pool(pool).ack_floor != ANY_DOMAIN:
        tags = tags[:1]
    for tag in tags:
        domains = topology.domain_by_store(tag)
        at = {index: domains[store] for index, store in holders.items() if store in domains}
        for lost in set(at.values()) or {""}:
            if not code.decodes([index for index, value in at.items() if value != lost]):
                return False
    return True


class _Plan:
    """Shards placed so far, with their count per domain of every protected tag."""

    def __init__(self, topology: Topology, pool: int, partition: int, code: Code) -> None:
        self.holders: dict[int, StoreId] = {}
        current = topology.is_current(pool, str(code))
        self._limit = (topology.code(pool) if current else code).losses_survived
        self._domains = [topology.domain_by_store(tag) for tag in topology.protected_tags(pool)]
        self._counts: list[Counter[str]] = [Counter() for _ in self._domains]
        self._salt = b"%d.%d." % (pool, partition)

    def put(self, index: int, store: StoreId) -> None:
        assert index not in self.holders, "one store per shard"
        self.holders[index] = store
        for domains, counts in zip(self._domains, self._counts, strict=True):
            counts[domains.get(store, "")] += 1

    def take(self, index: int) -> None:
        store = self.holders.pop(index)
        for domains, counts in zip(self._domains, self._counts, strict=True):
            counts[domains.get(store, "")] -= 1

    def fits(self, store: StoreId) -> bool:
        """Whether the store holds nothing yet and one more shard there keeps every domain within its limit."""
        if store in self.holders.values():
            return False
        return all(
            counts[domains[store]] < self._limit
            for domains, counts in zip(self._domains, self._counts, strict=True)
        )

    def cost(self, index: int, store: StoreId) -> tuple[int, int, int, int]:
        """How bad one more shard there is: shards over a domain's limit, at the node, crowding, and a fixed
        tie."""
        after = [
            counts[domains[store]] + 1 for domains, counts in zip(self._domains, self._counts, strict=True)
        ]
        over = sum(max(0, count - self._limit) for count in after)
        crowd = sum(count * count for count in after[1:])
        return over, after[0], crowd, xxh3_64_intdigest(self._salt + b"%d." % index + store)


def _fill(plan: _Plan, missing: list[int], usable: list[StoreId]) -> None:
    """Place the missing shards: all as handoffs if that can be, else each where it does least harm."""
    if missing and not _hand_off(plan, missing, usable):
        for index in missing:
            plan.put(index, min(usable, key=lambda store: _doubling(plan, index, store)))


def _doubling(plan: _Plan, index: int, store: StoreId) -> tuple[int, int, int, int]:
    """Doubled shards are spread over nodes before all else: the loss of one node is what an ack must
    survive."""
    over, at_node, crowd, tie = plan.cost(index, store)
    return at_node, over, crowd, tie


def _hand_off(plan: _Plan, missing: Iterable[int], usable: list[StoreId]) -> bool:
    """Depth-first: a spare store for each missing shard within the domain rules. Leaves the plan as it was if
    none."""
    rest = list(missing)
    steps = 0

    def descend(depth: int) -> bool:
        nonlocal steps
        if depth == len(rest):
            return True
        index = rest[depth]
        fitting = [store for store in usable if plan.fits(store)]
        if len(fitting) < len(rest) - depth:
            return False
        for store in sorted(fitting, key=lambda candidate: plan.cost(index, candidate)):
            steps += 1
            if steps > SEARCH_STEPS_MAX:
                return False
            plan.put(index, store)
            if descend(depth + 1):
                return True
            plan.take(index)
        return False

    return descend(0)
