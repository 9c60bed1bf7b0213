"""Changes of homes as operators ask for them: looked at, planned, and applied in one change of the map.

What a change means is `core.map_moves`'; how shards and registers follow is heal's and the learners'. Nothing here has
to go on running for a change to come to its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from holdfast_node.core.api import Margin
from holdfast_node.core.cluster_map import ChangeKind, ClusterMap, NodeEntry
from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import Evidence, HoldfastError, MapConflict, Refused
from holdfast_node.core.ids import NodeName
from holdfast_node.core.map_changes import Change
from holdfast_node.core.map_moves import (
    Cost,
    add_node,
    cancel,
    costs,
    create_pool,
    drain,
    in_one_code,
    recode,
    remove,
)
from holdfast_node.core.margin import least, partition_margin
from holdfast_node.core.node_changes import (
    AddNode,
    CancelChange,
    CreatePool,
    DrainNodes,
    NodeChange,
    RecodePool,
)
from holdfast_node.core.picture import Picture
from holdfast_node.core.report import PlanReply, PoolMoves
from holdfast_node.core.seed import SeedNode, check_node, check_pool
from holdfast_node.core.topology import Topology
from holdfast_node.services.cartographer import Cartographer
from holdfast_node.services.status import StatusService

REMOVED: Final = "remove"
CREATED: Final = "create"


class Rehoming:
    """Adds, drains and removes nodes, and undoes that."""

    def __init__(self, *, cartographer: Cartographer, status: StatusService) -> None:
        self._cartographer = cartographer
        self._status = status

    async def plan(self) -> PlanReply:
        """How far the last change is."""
        picture = await self._status.picture()
        return _told(picture, picture.topology.map)

    async def change(self, asked: NodeChange, *, apply: bool) -> PlanReply:
        """What a change would do, or, with `apply`, has begun to do. Raises `Refused` with the reasons; then nothing
        has changed."""
        picture = await self._status.picture()
        before = picture.topology.map
        kind, names, change = await self._meant(asked, picture)
        after = change(before)
        if after is None:
            return _told(picture, before)
        warnings: tuple[str, ...] = ()
        if apply:
            after = await self._cartographer.change(change)
            warnings = await self._cartographer.confirm()
        return PlanReply(
            kind=kind,
            nodes=names,
            epoch=after.epoch,
            applied=apply,
            partitions=sum(len(cost.partitions) for cost in costs(before, after)),
            open=Topology(after).moves_open(),
            settled=kind in (REMOVED, CREATED),
            pools=tuple(_moves(picture, at, cost, after) for at, cost in enumerate(costs(before, after))),
            margin=_margin_meanwhile(after),
            eta_s=-1.0,
            warnings=warnings,
            pool=after.plan.pool if after.plan is not None and kind not in (REMOVED, CREATED) else "",
        )

    async def _meant(self, asked: NodeChange, picture: Picture) -> tuple[str, tuple[str, ...], Change]:
        if isinstance(asked, CancelChange):
            plan = picture.topology.map.plan
            return _word(ChangeKind.CANCEL), tuple(plan.nodes) if plan is not None else (), cancel
        settled = picture.settled_pools()
        if isinstance(asked, RecodePool):
            parse_code(asked.code)
            return (
                _word(ChangeKind.RECODE),
                (),
                lambda current: recode(in_one_code(current, settled), asked.pool, asked.code),
            )
        if isinstance(asked, CreatePool):
            pool = asked.pool
            check_pool(pool, len(picture.topology.placeable))
            return CREATED, (), lambda current: create_pool(current, pool)
        if isinstance(asked, AddNode):
            entry = await self._newcomer(picture.topology, asked.node)
            return (
                _word(ChangeKind.ADD),
                (entry.name,),
                lambda current: add_node(in_one_code(current, settled), entry),
            )
        names = tuple(node.name for node in picture.topology.select(asked.selector))
        if isinstance(asked, DrainNodes):
            return (
                _word(ChangeKind.DRAIN),
                names,
                lambda current: drain(in_one_code(current, settled), names),
            )
        _refuse_needed(picture, names)
        seen = picture.topology.map

        def taken_out(current: ClusterMap) -> ClusterMap | None:
            after = remove(in_one_code(current, settled), names)
            if after is not None and current.unsettled_epoch != seen.unsettled_epoch:
                raise MapConflict("homes have changed since this was looked at", hint="run it again")
            return after

        return REMOVED, names, taken_out

    async def _newcomer(self, topology: Topology, node: SeedNode) -> NodeEntry:
        """The member of that name, or the new, empty store that answers at the address."""
        known = topology.by_name(node.name)
        if known is not None and node.address in ("", known.address):
            return known
        check_node(node)
        met = (await self._cartographer.ports.meet({node.name: node.address}))[node.name]
        said = ""
        if isinstance(met, HoldfastError):
            said = f"no store answers there: {met.message}"
        elif met.node != node.name:
            said = f"the node there calls itself {met.node}"
        elif met.cluster_id and met.cluster_id != topology.map.cluster_id:
            said = f"the store there belongs to cluster {met.cluster_id.hex()}"
        elif met.epoch and met.store not in topology.stores:
            said = f"the store there has been in this cluster before, at epoch {met.epoch}: empty it"
        if said or isinstance(met, HoldfastError):
            raise Refused(
                f"{node.name} at {node.address} cannot be added",
                hint="start it with `holdfast-node --config cluster.toml --node NAME` and an empty data directory",
                evidence=[Evidence(node.address, said)],
            )
        tags = tuple(sorted(node.tags))
        return NodeEntry(NodeName(node.name), node.address, met.store, tags, node.weight)


def _word(kind: ChangeKind) -> str:
    return kind.name.lower()


def _refuse_needed(picture: Picture, names: Iterable[NodeName]) -> None:
    """What is at a node may be the only copy until heal has passed."""
    needed = {node.name: picture.needed_because(node) for node in picture.topology.map.nodes}
    wrong = [Evidence(name, needed[name]) for name in names if needed[name]]
    if wrong:
        raise Refused(
            "only drained nodes can be removed: others may hold what nobody else does",
            hint=f"`clusterctl node drain {wrong[0].who}`, and `clusterctl plan` until it is done",
            evidence=wrong,
        )


def _told(picture: Picture, current: ClusterMap) -> PlanReply:
    plan = current.plan
    concerned = [
        entry
        for pool in current.pools
        for entry in pool.partitions
        if entry.moving or entry.shards or entry.former
    ]
    return PlanReply(
        kind=_word(plan.kind) if plan is not None else "",
        nodes=tuple(plan.nodes) if plan is not None else (),
        epoch=plan.epoch if plan is not None else 0,
        applied=False,
        partitions=len(concerned),
        open=picture.topology.moves_open(),
        settled=not picture.topology.moves_open() and not picture.unsettled(),
        pools=(),
        margin=_margin_meanwhile(current),
        eta_s=picture.heal_eta_s(),
        warnings=(),
        pool=plan.pool if plan is not None else "",
        left=picture.unsettled(),
    )


def _moves(picture: Picture, pool: int, cost: Cost, after: ClusterMap) -> PoolMoves:
    size = picture.shard_bytes(pool, cost.partitions, after.pools[pool].code)
    return PoolMoves(cost.pool, cost.shard_slots, cost.least_slots, cost.all_slots, size)


def _margin_meanwhile(current: ClusterMap) -> Margin:
    """What blobs survive while the moves are open, with everybody up: where they are and where they go."""
    topology = Topology(current)

    def everybody(_: object) -> bool:
        return True

    found: list[Margin] = []
    for at, pool in enumerate(current.pools):
        for number, entry in enumerate(pool.partitions):
            found.append(partition_margin(topology, at, number, everybody))
            if entry.moving or entry.shards or pool.former_code:
                before = topology.former_homes(at, number)
                former = topology.former_code(at)
                found.append(partition_margin(topology, at, number, everybody, homes=before, code=former))
    return least(found)
