"""Small cluster maps for tests: nodes by letter or number, homes in rotation unless placed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast_node.core.cluster_map import ClusterMap, NodeEntry, PartitionEntry, Pool
from holdfast_node.core.codes import parse_code
from holdfast_node.core.ids import ClusterId, Epoch, Era, Generation, NodeName, StoreId
from holdfast_node.core.seed import Seed, SeedNode, SeedPool

CLUSTER = ClusterId(b"cluster-of-tests")


def store_id(number: int) -> StoreId:
    return StoreId(number.to_bytes(16, "big"))


def node(number: int, tags: Mapping[str, str] | None = None, weight: int = 1) -> NodeEntry:
    return NodeEntry(
        NodeName(f"n{number}"),
        f"127.0.0.1:{7100 + number}",
        store_id(number),
        tuple(sorted((tags or {}).items())),
        weight,
    )


def nodes(count: int, sans: int = 0) -> list[NodeEntry]:
    """Each on its own host; with `sans`, neighbours share one."""
    return [
        node(number, {"host": f"h{number}"} | ({"san": f"s{(number - 1) * sans // count}"} if sans else {}))
        for number in range(1, count + 1)
    ]


def cluster(
    entries: Sequence[NodeEntry],
    *,
    code: str = "rs:4+2",
    partitions: int = 4,
    protected: Sequence[str] = (),
    ack_floor: str = "any-node",
) -> ClusterMap:
    """Homes are the first n nodes, rotated by the partition's number; voters the first five nodes."""
    n = parse_code(code).n
    stores = [entry.store for entry in entries]
    rows = [tuple(stores[(at + index) % len(stores)] for index in range(n)) for at in range(partitions)]
    pool = Pool(
        "default",
        code,
        tuple(protected),
        ack_floor,
        tuple(PartitionEntry(Generation(1), row) for row in rows),
    )
    return ClusterMap(CLUSTER, Epoch(1), Era(1), 1, True, tuple(entries), (pool,), tuple(stores[:5]))


def seed(count: int = 6, sans: int = 3, *, code: str = "rs:4+2", partitions: int = 4) -> Seed:
    return Seed(
        tuple(SeedNode(entry.name, entry.address, entry.tags) for entry in nodes(count, sans)),
        (SeedPool("default", code, partitions),),
        simulated_domains=True,
    )
