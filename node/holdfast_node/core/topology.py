"""One cluster map, turned into constant-time answers: who lives where, which partition, which homes, which
domain.

Built once per adopted map and never changed. Refuses to know which stores are reachable: whoever asks brings
that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from xxhash import xxh3_64_intdigest

from holdfast_node.core.cluster_map import ClusterMap, NodeEntry, PartitionEntry, Pool, StoreState
from holdfast_node.core.codes import Code, parse_code, tiny_code
from holdfast_node.core.errors import InvalidArgument
from holdfast_node.core.ids import BlobId, BucketId, NodeName, StoreId
from holdfast_node.core.messages import Scope
from holdfast_node.core.quorum import Roster, majority, overlap

NODE_TAG: Final = "node"
"""The tag every node has without being given one: its own name. Always protected."""

UNKNOWN_DOMAIN: Final = "unknown"
"""The one domain of all nodes without a value of a tag: what is not known to be apart is taken to be
together."""


NOWHERE: Final = StoreId(b"")
"""No store: the home of a shard in a code that its pool does not have any more."""


def domain_of(node: NodeEntry, tag: str) -> str:
    """The node's domain under `tag`."""
    if tag == NODE_TAG:
        return node.name
    for key, value in node.tags:
        if key == tag:
            return value or UNKNOWN_DOMAIN
    return UNKNOWN_DOMAIN


def default_protected_tags(nodes: Iterable[NodeEntry]) -> tuple[str, ...]:
    """The tags that every node has a value of, sorted."""
    common: set[str] | None = None
    for node in nodes:
        own = {key for key, value in node.tags if value}
        common = own if common is None else common & own
    return tuple(sorted(common or ()))


class Topology:
    """Lookups over one map. All collections it returns are read-only and in a fixed order."""

    def __init__(self, cluster_map: ClusterMap) -> None:
        self.map: Final = cluster_map
        nodes = cluster_map.nodes
        self._by_store: Final[dict[StoreId, NodeEntry]] = {node.store: node for node in nodes}
        self._by_name: Final[dict[NodeName, NodeEntry]] = {node.name: node for node in nodes}
        self._codes: Final[tuple[Code, ...]] = tuple(parse_code(pool.code) for pool in cluster_map.pools)
        self._former_codes: Final = tuple(
            parse_code(pool.former_code) if pool.former_code else None for pool in cluster_map.pools
        )
        self._current: Final = tuple(frozenset({str(c), str(tiny_code(c))}) for c in self._codes)
        self._pools: Final[dict[str, int]] = {
            pool.name: index for index, pool in enumerate(cluster_map.pools)
        }
        self._protected: Final = tuple(_with_node(pool.protected_tags) for pool in cluster_map.pools)
        self._domains: Final = _domains(nodes, {tag for tags in self._protected for tag in tags} | {NODE_TAG})
        active = frozenset(node.store for node in nodes if node.state is not StoreState.SUSPECT)
        self.stores: Final[tuple[StoreId, ...]] = tuple(node.store for node in nodes)
        self.active: Final[frozenset[StoreId]] = active
        """The stores that may vote."""
        self.placeable: Final = frozenset(node.store for node in nodes if node.state is StoreState.ACTIVE)
        """The stores that may be given what they do not have: neither suspect nor draining."""
        self._scopes: Final = tuple(
            tuple(Scope(at, number, entry.generation) for number, entry in enumerate(pool.partitions))
            for at, pool in enumerate(cluster_map.pools)
        )
        self._voting: Final = tuple(
            tuple(_voting(entry, active) for entry in pool.partitions) for pool in cluster_map.pools
        )
        self._kept: Final = _kept(cluster_map)
        self._rosters: Final[dict[tuple[int, int], Roster]] = {}

    def node(self, store: StoreId) -> NodeEntry | None:
        return self._by_store.get(store)

    def name(self, store: StoreId) -> str:
        """The node's name, or a short form of the store's id if the map does not name it. For people."""
        node = self._by_store.get(store)
        return node.name if node is not None else f"store {store.hex()[:8]}"

    def by_name(self, name: str) -> NodeEntry | None:
        return self._by_name.get(NodeName(name))

    def select(self, selector: str) -> tuple[NodeEntry, ...]:
        """The nodes meant by a node's name or by `tag=value`. Raises `InvalidArgument` if there is none."""
        named = self.by_name(selector)
        if named is not None:
            return (named,)
        tag, equals, value = selector.partition("=")
        found = tuple(node for node in self.map.nodes if equals and value and domain_of(node, tag) == value)
        if not found:
            names = ", ".join(node.name for node in self.map.nodes)
            raise InvalidArgument(
                f"nothing matches {selector!r}", hint=f"name a node ({names}) or a tag=value one has"
            )
        return found

    def addresses(self) -> dict[StoreId, str]:
        return {node.store: node.address for node in self.map.nodes}

    def pool(self, pool: int) -> Pool:
        return self.map.pools[pool]

    def pool_index(self, name: str) -> int:
        """Raises `InvalidArgument` for a pool that does not exist."""
        index = self._pools.get(name)
        if index is None:
            raise InvalidArgument(f"there is no pool {name!r}", hint=f"pools: {', '.join(self._pools)}")
        return index

    def code(self, pool: int) -> Code:
        return self._codes[pool]

    def former_code(self, pool: int) -> Code | None:
        """The code in which some blobs may still be; None if the pool has always had the one it has."""
        return self._former_codes[pool]

    def is_current(self, pool: int, code: str) -> bool:
        """Whether new blobs of the pool are in this code. Those in another are to be made anew: heal does."""
        return code in self._current[pool]

    def key_partition(self, pool: int, bucket: BucketId, key: bytes) -> int:
        """The partition of a key's register and of the first part of its blobs."""
        return xxh3_64_intdigest(bucket + key) % len(self.map.pools[pool].partitions)

    def part_partition(self, pool: int, bucket: BucketId, key: bytes, seed_id: BlobId, part: int) -> int:
        """The partition of one part of a blob; later parts are spread by the seed their shards are named
        with."""
        if part == 0:
            return self.key_partition(pool, bucket, key)
        return xxh3_64_intdigest(seed_id + part.to_bytes(4, "big")) % len(self.map.pools[pool].partitions)

    def entry(self, pool: int, partition: int) -> PartitionEntry:
        return self.map.pools[pool].partitions[partition]

    def scope(self, pool: int, partition: int) -> Scope:
        return self._scopes[pool][partition]

    def scopes(self, pool: int) -> tuple[Scope, ...]:
        """Every partition of the pool, in order."""
        return self._scopes[pool]

    def shard_homes(self, pool: int, partition: int) -> tuple[StoreId, ...]:
        """Where the shards of the partition belong, by index: while a move is open, at the homes to be. Shards of the
        pool's code, that is: those of another belong elsewhere (`homes_for`)."""
        entry = self.entry(pool, partition)
        return entry.shards or entry.moving or entry.homes

    def homes_for(self, pool: int, partition: int, code: Code) -> tuple[StoreId, ...]:
        """Where the shards of a blob in `code` belong, by index: in the former code, where they were before the change;
        `NOWHERE` each in one that the pool has no more."""
        if self.is_current(pool, str(code)):
            return self.shard_homes(pool, partition)
        former = self._former_codes[pool]
        if former is not None and code in (former, tiny_code(former)):
            return self.former_homes(pool, partition)
        return (NOWHERE,) * code.n

    def former_homes(self, pool: int, partition: int) -> tuple[StoreId, ...]:
        """Where the shards of the partition were before the last change, if heal has not passed: in the former code,
        if that was a change of code."""
        entry = self.entry(pool, partition)
        return entry.homes if entry.moving or entry.shards else entry.former or entry.homes

    def register_homes(self, pool: int, partition: int) -> tuple[StoreId, ...]:
        """Every store that keeps register copies: the homes in shard order, then the newcomers of an open move."""
        return _register_homes(self.entry(pool, partition))

    def roster(self, pool: int, partition: int) -> Roster:
        """Whose answers count for a register of the partition, and how many decide."""
        known = self._rosters.get((pool, partition))
        if known is None:
            entry = self.entry(pool, partition)
            moving = self.active.intersection(entry.moving) if entry.moving else None
            voting = frozenset(self.voting_homes(pool, partition))
            generation, new_quorum = (
                (entry.generation, majority(len(entry.moving))) if entry.moving else (0, 0)
            )
            known = Roster(voting, majority(len(entry.homes)), moving, generation, new_quorum)
            self._rosters[pool, partition] = known
        return known

    def moves_open(self) -> int:
        """How many partitions are on their way to other homes."""
        return sum(bool(entry.moving or entry.shards) for pool in self.map.pools for entry in pool.partitions)

    def enough_to_see(self, pool: int, partition: int) -> int:
        """So many homes share one with every majority, hence hold every decided head between them."""
        return overlap(len(self.entry(pool, partition).homes))

    def voting_homes(self, pool: int, partition: int) -> tuple[StoreId, ...]:
        """The homes whose answers count: neither learners nor suspect. In home order. While a move is open these are
        the old ones, which alone know everything that was decided; one that stays a home goes on voting among them
        while it learns what the others have decided without it."""
        return self._voting[pool][partition]

    def kept_by(self, store: StoreId) -> tuple[Scope, ...]:
        """The partitions this store is a home of, or is to be, in order."""
        return self._kept.get(store, ())

    def learned_by(self, store: StoreId) -> tuple[Scope, ...]:
        """The partitions in which this store is a learner, in order."""
        return tuple(
            scope
            for scope in self.kept_by(store)
            if store in self.entry(scope.pool, scope.partition).learners
        )

    def domains(self, tag: str) -> Mapping[str, frozenset[StoreId]]:
        """Value -> stores, over all nodes; stores without a value are together in `UNKNOWN_DOMAIN`."""
        inverse: dict[str, set[StoreId]] = {}
        for store, value in sorted(self.domain_by_store(tag).items(), key=lambda item: (item[1], item[0])):
            inverse.setdefault(value, set()).add(store)
        return {value: frozenset(stores) for value, stores in inverse.items()}

    def domain_by_store(self, tag: str) -> Mapping[StoreId, str]:
        """Store -> value of `tag`, for every store of the map."""
        known = self._domains.get(tag)
        return known if known is not None else _domains(self.map.nodes, {tag})[tag]

    def protected_tags(self, pool: int) -> tuple[str, ...]:
        """The pool's protected tags and, first, `NODE_TAG`."""
        return self._protected[pool]


def _with_node(tags: tuple[str, ...]) -> tuple[str, ...]:
    return (NODE_TAG, *sorted(tag for tag in tags if tag != NODE_TAG))


def _domains(nodes: tuple[NodeEntry, ...], tags: set[str]) -> dict[str, Mapping[StoreId, str]]:
    return {
        tag: MappingProxyType({node.store: domain_of(node, tag) for node in nodes}) for tag in sorted(tags)
    }


def _voting(entry: PartitionEntry, active: frozenset[StoreId]) -> tuple[StoreId, ...]:
    learners = () if entry.moving else entry.learners
    return tuple(store for store in entry.homes if store in active and store not in learners)


def _register_homes(entry: PartitionEntry) -> tuple[StoreId, ...]:
    return (*entry.homes, *(store for store in entry.moving if store not in entry.homes))


def _kept(cluster_map: ClusterMap) -> dict[StoreId, tuple[Scope, ...]]:
    kept: dict[StoreId, list[Scope]] = {}
    for at, pool in enumerate(cluster_map.pools):
        for number, entry in enumerate(pool.partitions):
            for store in _register_homes(entry):
                kept.setdefault(store, []).append(Scope(at, number, entry.generation))
    return {store: tuple(scopes) for store, scopes in kept.items()}
