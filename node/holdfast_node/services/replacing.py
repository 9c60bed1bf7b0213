"""`node replace --lost`: who lives at the addresses of the lost nodes now, and are they fit to take their
place?

Only looks and refuses; what the map becomes is `core.map_changes.replace_lost`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast_node.core.cluster_map import ClusterMap, NodeEntry
from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import Evidence, HoldfastError, Refused
from holdfast_node.core.ids import StoreId
from holdfast_node.core.topology import Topology
from holdfast_node.services.map_ports import MapPorts, Met


async def find_newcomers(
    ports: MapPorts, topology: Topology, nodes: Sequence[NodeEntry]
) -> dict[StoreId, StoreId]:
    """Old store -> the new, empty store at the same address. Raises `Refused`, naming each node that is not
    ready."""
    met = await ports.meet({node.name: node.address for node in nodes})
    wrong: list[Evidence] = []
    swaps: dict[StoreId, StoreId] = {}
    for node in nodes:
        reply = met[node.name]
        said = _unfit(topology, node, reply)
        if said:
            wrong.append(Evidence(node.name, said))
        elif not isinstance(reply, HoldfastError):
            swaps[node.store] = reply.store
    if wrong:
        raise Refused(
            f"{len(wrong)} of {len(nodes)} nodes cannot be replaced",
            hint="a lost node is replaced by a new, empty store under the same name and address: "
            "start it with `holdfast-node --config cluster.toml --node NAME --format-if-empty` and an empty data "
            "directory (a local one with `clusterctl local start NAME`)",
            evidence=wrong,
        )
    return swaps


def _unfit(topology: Topology, node: NodeEntry, reply: Met) -> str:
    if isinstance(reply, HoldfastError):
        return f"no store answers at {node.address}: {reply.message}"
    if reply.node != node.name:
        return f"the node at {node.address} calls itself {reply.node}"
    if reply.store == node.store:
        return f"its store {node.store.hex()[:8]} answers at {node.address}: it is not lost"
    if topology.node(reply.store) is not None:
        return f"store {reply.store.hex()[:8]} at {node.address} is another node's already"
    if reply.cluster_id and reply.cluster_id != topology.map.cluster_id:
        return f"the store at {node.address} belongs to cluster {reply.cluster_id.hex()}"
    return ""


def shard_warnings(before: ClusterMap, swaps: Mapping[StoreId, StoreId]) -> tuple[str, ...]:
    """Where fewer than k of a partition's homes keep what they had, blobs may be beyond repair: say so."""
    warnings: list[str] = []
    for pool in before.pools:
        k = parse_code(pool.code).k
        rows = [(entry.shards or entry.homes, k) for entry in pool.partitions]
        if pool.former_code:
            k = parse_code(pool.former_code).k
            rows += [(e.homes if e.shards else e.former or e.homes, k) for e in pool.partitions]
        short = sum(sum(home not in swaps for home in row) < needed for row, needed in rows)
        if short:
            warnings.append(
                f"pool {pool.name}: in {short} partitions fewer homes remain than its code needs; "
                "blobs without other copies there are lost"
            )
    return tuple(warnings)
