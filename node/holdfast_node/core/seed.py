"""What a cluster is born from: the nodes and pools an operator asked for, checked, and the first map made of
them.

Refuses to know how the founding stores agree on that map. Afterwards the seed means nothing: the map is the
truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from holdfast_node.core.cluster_map import ClusterMap, NodeEntry, PartitionEntry, Pool
from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import CallerError, Evidence, InvalidArgument
from holdfast_node.core.holders import ACK_FLOORS, ANY_NODE
from holdfast_node.core.ids import ClusterId, Epoch, Era, Generation, NodeName, StoreId
from holdfast_node.core.placement import choose_voters, place
from holdfast_node.core.topology import NODE_TAG, default_protected_tags

CLUSTER_LEVEL: Final = 1
"""The newest wire and disk format this code writes; a cluster is born at it."""

HOST_TAG: Final = "host"
"""Protected by default as soon as one node has it: nodes without it then count as one host."""

PARTITIONS_MAX: Final = 4096
SLOTS_PER_NODE: Final = 16
"""At least so many shard slots per node, or their loads cannot be within 5 % of their shares."""


@dataclass(frozen=True, slots=True)
class SeedNode:
    name: str
    address: str
    tags: tuple[tuple[str, str], ...] = ()
    weight: int = 1


@dataclass(frozen=True, slots=True)
class SeedPool:
    """`partitions` 0: as many as the nodes ask for. No `protected_tags`: those set on every node."""

    name: str
    code: str
    partitions: int = 0
    protected_tags: tuple[str, ...] = ()
    ack_floor: str = ANY_NODE


@dataclass(frozen=True, slots=True)
class Seed:
    nodes: tuple[SeedNode, ...]
    pools: tuple[SeedPool, ...]
    simulated_domains: bool = False


@dataclass(frozen=True, slots=True)
class Birth:
    map: ClusterMap
    warnings: tuple[str, ...]


def default_partitions(code: str, nodes: int) -> int:
    """The smallest power of two, 16 or more, that gives every node its slots."""
    slots = SLOTS_PER_NODE * nodes
    count = 16
    while count * parse_code(code).n < slots and count < PARTITIONS_MAX:
        count *= 2
    return count


def born(seed: Seed, stores: Mapping[str, StoreId], cluster_id: ClusterId) -> Birth:
    """The map of epoch 1. `stores` are the empty stores found at the nodes, by node name.

    Raises `InvalidArgument` with all mistakes of the seed, or `Refused` if its domains cannot hold its codes.
    """
    check(seed)
    nodes = tuple(
        NodeEntry(NodeName(node.name), node.address, stores[node.name], tuple(sorted(node.tags)), node.weight)
        for node in seed.nodes
    )
    warnings = _tag_warnings(nodes, seed.pools)
    pools: list[Pool] = []
    for pool in seed.pools:
        new, said = made(pool, nodes)
        pools.append(new)
        warnings += said
    chosen = choose_voters(
        nodes,
        {tag for pool in pools for tag in pool.protected_tags},
        simulated_domains=seed.simulated_domains,
    )
    first = ClusterMap(
        cluster_id=cluster_id,
        epoch=Epoch(1),
        era=Era(1),
        cluster_level=CLUSTER_LEVEL,
        simulated_domains=seed.simulated_domains,
        nodes=nodes,
        pools=tuple(pools),
        voters=chosen.voters,
    )
    return Birth(first, (*warnings, *chosen.warnings))


def same_founding(seed: Seed, found: ClusterMap) -> str:
    """Empty if the map was born from this seed (whatever happened to it since), else the first difference."""
    ours = {(node.name, node.address) for node in seed.nodes}
    theirs = {(str(node.name), node.address) for node in found.nodes}
    if ours != theirs:
        names = ", ".join(sorted(name for name, _ in ours ^ theirs))
        return f"the nodes differ: {names}"
    if [(pool.name, pool.code) for pool in seed.pools] != [(pool.name, pool.code) for pool in found.pools]:
        return "the pools differ: " + ", ".join(f"{pool.name} {pool.code}" for pool in found.pools)
    return ""


def check(seed: Seed) -> None:
    """Raises `InvalidArgument` with every mistake in the seed."""
    wrong = [*_nodes_wrong(seed.nodes), *_pools_wrong(seed.pools, len(seed.nodes))]
    if wrong:
        count = f"{len(wrong)} mistakes" if len(wrong) > 1 else "a mistake"
        raise InvalidArgument(f"the seed has {count}", evidence=wrong)


def check_pool(pool: SeedPool, nodes: int) -> None:
    """Raises `InvalidArgument` with every mistake in the description of one pool on so many nodes."""
    if wrong := _pools_wrong((pool,), nodes):
        raise InvalidArgument("the pool is not described rightly", evidence=wrong)


def made(pool: SeedPool, nodes: tuple[NodeEntry, ...]) -> tuple[Pool, tuple[str, ...]]:
    """A pool with nothing in it on these nodes, and warnings. Raises `Refused` if their domains cannot hold its
    code."""
    protected = pool.protected_tags or _default_tags(nodes)
    code = parse_code(pool.code)
    count = pool.partitions or default_partitions(pool.code, len(nodes))
    table = place(code, nodes, protected_tags=protected, partitions=count)
    entries = tuple(PartitionEntry(Generation(1), homes) for homes in table.homes)
    return Pool(pool.name, pool.code, protected, pool.ack_floor, entries), table.warnings


def check_node(node: SeedNode) -> None:
    """Raises `InvalidArgument` with every mistake in the description of one node."""
    if wrong := _nodes_wrong((node,)):
        raise InvalidArgument("the node is not described rightly", evidence=wrong)


def _nodes_wrong(nodes: tuple[SeedNode, ...]) -> list[Evidence]:
    wrong = [] if nodes else [Evidence("seed", "no nodes")]
    for what, values in (("name", [n.name for n in nodes]), ("address", [n.address for n in nodes])):
        wrong += [
            Evidence(value, f"{what} used twice") for value in sorted(set(values)) if values.count(value) > 1
        ]
    for node in nodes:
        if not node.name or "=" in node.name:
            wrong.append(Evidence(repr(node.name), "a node's name is not empty and has no '='"))
        if not node.address:
            wrong.append(Evidence(node.name, "no address"))
        if node.weight < 1:
            wrong.append(Evidence(node.name, f"weight {node.weight}: at least 1"))
        keys = [key for key, _ in node.tags]
        if NODE_TAG in keys or "" in keys or len(set(keys)) != len(keys):
            wrong.append(Evidence(node.name, f"tags have one value each, and {NODE_TAG!r} is its name"))
    return wrong


def _pools_wrong(pools: tuple[SeedPool, ...], nodes: int) -> list[Evidence]:
    wrong = [] if pools else [Evidence("seed", "no pools")]
    names = [pool.name for pool in pools]
    wrong += [Evidence(name, "pool name used twice") for name in sorted(set(names)) if names.count(name) > 1]
    for pool in pools:
        who = f"pool {pool.name}"
        try:
            code = parse_code(pool.code)
            if code.n > nodes:
                wrong.append(Evidence(who, f"{pool.code} needs {code.n} nodes, the seed has {nodes}"))
        except CallerError as error:
            wrong.append(Evidence(who, str(error)))
        count = pool.partitions
        if count < 0 or count > PARTITIONS_MAX or count & (count - 1):
            wrong.append(Evidence(who, f"{count} partitions: a power of two up to {PARTITIONS_MAX}, or 0"))
        if pool.ack_floor not in ACK_FLOORS:
            wrong.append(Evidence(who, f"ack_floor {pool.ack_floor!r}: {' or '.join(ACK_FLOORS)}"))
    return wrong


def _default_tags(nodes: tuple[NodeEntry, ...]) -> tuple[str, ...]:
    everywhere = default_protected_tags(nodes)
    if HOST_TAG not in everywhere and any(key == HOST_TAG for node in nodes for key, _ in node.tags):
        return tuple(sorted((*everywhere, HOST_TAG)))
    return everywhere


def _tag_warnings(nodes: tuple[NodeEntry, ...], pools: tuple[SeedPool, ...]) -> tuple[str, ...]:
    """Tags on some nodes only are not protected unless asked for: the operator should know."""
    if all(pool.protected_tags for pool in pools):
        return ()
    protected = set(_default_tags(nodes))
    some = sorted({key for node in nodes for key, value in node.tags if value} - protected)
    warnings = [f"tag {tag!r} is not set on every node and is not protected" for tag in some]
    if HOST_TAG not in protected:
        warnings.append(f"no node has a {HOST_TAG!r} tag: each node counts as a host of its own")
    return tuple(warnings)
