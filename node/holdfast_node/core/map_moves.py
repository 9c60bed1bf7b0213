"""Homes that change while everybody works: nodes come and go, and each partition concerned moves with overlap.

Pure functions from one map to the next. One change opens all its moves at once; the newcomers close them one by one
(`map_changes.finish_learning`). While one is open no other change of homes begins, but it can be cancelled, back to the
homes before. Refuses to know how shards follow (heal brings them where they belong) and who is reachable.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from holdfast_node.core.cluster_map import (
    LEAVING,
    ChangeKind,
    ClusterMap,
    NodeEntry,
    PartitionEntry,
    Plan,
    Pool,
    StoreState,
)
from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import Evidence, InvalidArgument, Refused
from holdfast_node.core.ids import Generation, NodeName, StoreId
from holdfast_node.core.map_changes import EVIDENCE_MAX, homes_of, next_epoch, not_waiting_for, toward
from holdfast_node.core.placement import choose_voters, domains_of, homes_per_domain, place, water_fill
from holdfast_node.core.seed import SeedPool, made

CANCEL_HINT: Final = "wait until `clusterctl plan` says that it is done, or `clusterctl plan --cancel`"


def add_node(current: ClusterMap, node: NodeEntry) -> ClusterMap | None:
    """A node joins, or one that was draining stays, and takes its share. None if it is a member already.

    Raises `Refused` while other moves are open, or when the name, address or store is somebody else's.
    """
    known = next((each for each in current.nodes if each.name == node.name), None)
    if known is not None and (known.store, known.address) == (node.store, node.address):
        if known.state is StoreState.ACTIVE:
            return None
        _refuse_while_open(current)
        return _rehomed(
            current, _with_state(current, (node.name,), StoreState.ACTIVE), ChangeKind.ADD, (node.name,)
        )
    taken = [
        Evidence(each.name, f"store {each.store.hex()[:8]} at {each.address}")
        for each in current.nodes
        if each.name == node.name or each.address == node.address or each.store == node.store
    ]
    if taken:
        raise Refused(
            f"{node.name} at {node.address} with store {node.store.hex()[:8]} is not new to this cluster",
            hint=f"a lost node comes back by `clusterctl node replace --lost {taken[0].who}`",
            evidence=taken,
        )
    _refuse_while_open(current)
    joined = replace(node, joined_epoch=next_epoch(current))
    return _rehomed(current, (*current.nodes, joined), ChangeKind.ADD, (node.name,))


def drain(current: ClusterMap, names: Collection[NodeName]) -> ClusterMap | None:
    """Nodes are to leave: everything of theirs moves to the others. None if nothing of theirs is left to move.

    Raises `Refused` with the conflict when the others cannot hold the pools' codes.
    """
    leaving = tuple(node.name for node in current.nodes if node.name in names)
    stores = {node.store for node in current.nodes if node.name in names}
    marked = all(node.state is StoreState.DRAINING for node in current.nodes if node.name in names)
    if marked and stores.isdisjoint({*homes_of(current), *current.voters}):
        return None
    if marked and plan_open(current):
        return None
    _refuse_while_open(current)
    nodes = _with_state(current, leaving, StoreState.DRAINING)
    return _rehomed(current, nodes, ChangeKind.DRAIN, leaving)


def give_up(current: ClusterMap, names: Collection[NodeName]) -> ClusterMap | None:
    """Nodes were silent for too long: everything of theirs moves to the others, and they are lost until they are back.
    None if nothing is left to move of those that are neither draining nor suspect. Raises `Refused` like `drain`."""
    given_up = [
        node
        for node in current.nodes
        if node.name in names and node.state in (StoreState.ACTIVE, StoreState.LOST)
    ]
    marked = all(node.state is StoreState.LOST for node in given_up)
    if marked and {node.store for node in given_up}.isdisjoint({*homes_of(current), *current.voters}):
        return None
    lost = tuple(node.name for node in given_up)
    _refuse_while_open(current)
    return _rehomed(current, _with_state(current, lost, StoreState.LOST), ChangeKind.LOSS, lost)


def end_moves(current: ClusterMap, names: Collection[NodeName]) -> ClusterMap | None:
    """Nodes were silent for too long before they had learned what they are to be homes of: the moves that wait for them
    are over, as when a store is replaced, and nobody is a newcomer there. None if no move waits for them."""
    stores = {node.store for node in current.nodes if node.name in names}
    pools = not_waiting_for(current, stores)
    return replace(current, epoch=next_epoch(current), pools=pools) if pools != current.pools else None


def keep_no_longer(current: ClusterMap, name: NodeName) -> ClusterMap | None:
    """The node whose leaving was cancelled has been back: it is like any other. None if it is already."""
    if not any(node.name == name and node.kept for node in current.nodes):
        return None
    nodes = tuple(replace(node, kept=False) if node.name == name else node for node in current.nodes)
    return replace(current, epoch=next_epoch(current), nodes=nodes)


def remove(current: ClusterMap, names: Collection[NodeName]) -> ClusterMap | None:
    """Drained nodes leave the map for good. None if they have. Raises `Refused` while anything is theirs.

    Heal looks through everything once more: what was sealed there for uploads that were under way is gone.
    """
    going = [node for node in current.nodes if node.name in names]
    if not going:
        return None
    homes = homes_of(current)
    wrong = [Evidence(node.name, said) for node in going if (said := _bound(current, node, homes))]
    if wrong:
        raise Refused(
            f"{len(wrong)} of {len(going)} nodes cannot be removed yet",
            hint=f"`clusterctl node drain {wrong[0].who}` moves everything away first; `clusterctl plan` shows how far",
            evidence=wrong,
        )
    stores = {node.store for node in going}

    epoch = next_epoch(current)

    def without(entry: PartitionEntry) -> PartitionEntry:
        return entry if stores.isdisjoint(entry.former) else replace(entry, former=())

    def looked_through_again(pool: Pool) -> Pool:
        return replace(pool, partitions=tuple(map(without, pool.partitions)), moved_epoch=epoch)

    pools = tuple(map(looked_through_again, current.pools))
    plan = current.plan if current.plan is None or not set(current.plan.nodes) & set(names) else None
    nodes = tuple(node for node in current.nodes if node not in going)
    return replace(current, epoch=epoch, nodes=nodes, pools=pools, plan=plan)


def create_pool(current: ClusterMap, pool: SeedPool) -> ClusterMap | None:
    """One more pool, with nothing in it, on the nodes that stay. None if there is one of that name and code.

    Raises `Refused` when there is one of that name with another code, or the domains cannot hold the code.
    """
    known = next((each for each in current.pools if each.name == pool.name), None)
    if known is not None:
        if known.code == pool.code:
            return None
        raise Refused(
            f"there is a pool {pool.name} already", evidence=[Evidence(pool.name, f"is {known.code}")]
        )
    staying = tuple(node for node in current.nodes if node.state is StoreState.ACTIVE)
    new, _ = made(pool, staying)
    return replace(current, epoch=next_epoch(current), pools=(*current.pools, new))


def recode(current: ClusterMap, name: str, code: str) -> ClusterMap | None:
    """Everything in the pool is to be in another code, on the nodes that stay: new blobs are from now on, and heal
    brings over those that are there. None if the pool has that code.

    Raises `InvalidArgument` for an unknown pool or code, `Refused` while anything else moves, or if the domains cannot
    hold the code.
    """
    pool = next((each for each in current.pools if each.name == name), None)
    if pool is None:
        names = ", ".join(each.name for each in current.pools)
        raise InvalidArgument(f"there is no pool {name!r}", hint=f"pools: {names}")
    if pool.code == code:
        return None
    if "copy" in (parse_code(code).kind, parse_code(pool.code).kind):
        raise InvalidArgument(
            f"pool {name} cannot go from {pool.code} to {code}: copies are told apart from tiny blobs by their code",
            hint="make a pool in the other code, and copy",
        )
    _refuse_while_open(current)
    staying = [node for node in current.nodes if node.state is StoreState.ACTIVE]
    table = place(
        parse_code(code), staying, protected_tags=pool.protected_tags, partitions=len(pool.partitions)
    )
    entries = tuple(_toward(entry, row) for entry, row in zip(pool.partitions, table.homes, strict=True))
    return _recoded(current, pool, code, entries, ChangeKind.RECODE)


def _toward(entry: PartitionEntry, row: tuple[StoreId, ...]) -> PartitionEntry:
    return replace(entry, former=()) if row == entry.homes else toward(entry, row)


def _recoded(
    current: ClusterMap, pool: Pool, code: str, entries: tuple[PartitionEntry, ...], kind: ChangeKind
) -> ClusterMap:
    epoch = next_epoch(current)
    changed = replace(pool, code=code, former_code=pool.code, partitions=entries, moved_epoch=epoch)
    pools = tuple(changed if each is pool else each for each in current.pools)
    return replace(current, epoch=epoch, pools=pools, plan=Plan(kind, (), epoch, pool.name))


def in_one_code(current: ClusterMap, settled: Mapping[str, int]) -> ClusterMap:
    """The map without the codes before the last changes, of pools (name -> epoch that moved it) that heal has passed
    since: no blob is in them any more. Not a change by itself: the next one begins with it."""
    pools = tuple(
        _in_one_code(pool) if settled.get(pool.name) == pool.moved_epoch else pool for pool in current.pools
    )
    return replace(current, pools=pools)


def _in_one_code(pool: Pool) -> Pool:
    if not pool.former_code or any(entry.shards or entry.moving for entry in pool.partitions):
        return pool
    return replace(
        pool, former_code="", partitions=tuple(replace(entry, former=()) for entry in pool.partitions)
    )


def cancel(current: ClusterMap) -> ClusterMap | None:
    """Undo the last change of homes: open moves end where they began, closed ones go back. None if it is undone.

    Raises `Refused` when there is nothing to undo, or when somebody who was a home before has left since.
    """
    plan = current.plan
    if plan is None:
        raise Refused("no change of homes is under way or could be undone")
    if plan.kind is ChangeKind.CANCEL:
        return None
    learning = [
        Evidence(f"pool {pool.name} partition {number}", "has a home that is catching up")
        for pool in current.pools
        for number, entry in enumerate(pool.partitions)
        if entry.learners and not entry.moving
    ]
    if learning:  # a move would let it vote among the old homes, which know what it has not learned yet
        raise Refused(
            f"in {len(learning)} partitions a home that took a lost one's place has not learned yet",
            hint="cancel when `clusterctl status` says that nobody is catching up",
            evidence=learning[:EVIDENCE_MAX],
        )
    stores = {node.store for node in current.nodes}
    gone = [
        Evidence(f"pool {pool.name} partition {number}", "a home before has left the map")
        for pool in current.pools
        for number, entry in enumerate(pool.partitions)
        if not entry.moving and not stores.issuperset(entry.former)
    ]
    if gone:
        raise Refused(
            "the homes before are not all there any more",
            evidence=gone[:EVIDENCE_MAX],
            hint="add or drain nodes instead",
        )
    if plan.kind is ChangeKind.RECODE:
        pool = next(each for each in current.pools if each.name == plan.pool)
        if not pool.former_code:
            raise Refused(f"pool {pool.name} has been in {pool.code} for long: change its code instead")
        entries = tuple(map(_back_to_former_code, pool.partitions))
        return _recoded(current, pool, pool.former_code, entries, ChangeKind.CANCEL)
    state = StoreState.DRAINING if plan.kind is ChangeKind.ADD else StoreState.ACTIVE
    epoch = next_epoch(current)
    pools = tuple(
        replace(pool, partitions=tuple(map(_back, pool.partitions)), moved_epoch=epoch)
        for pool in current.pools
    )
    nodes = _with_state(current, plan.nodes, state, kept=state is StoreState.ACTIVE)
    undo = Plan(ChangeKind.CANCEL, plan.nodes, epoch)
    return replace(current, epoch=epoch, nodes=nodes, pools=pools, voters=_voters(current, nodes), plan=undo)


def plan_open(current: ClusterMap) -> bool:
    """Whether a move is open."""
    return any(entry.moving or entry.shards for pool in current.pools for entry in pool.partitions)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a change moves in one pool: `shard_slots` change their home of `all_slots`, at least `least_slots` must.
    `partitions[i]` slots move in partition i."""

    pool: str
    shard_slots: int
    least_slots: int
    all_slots: int
    partitions: Mapping[int, int]


def costs(before: ClusterMap, after: ClusterMap) -> tuple[Cost, ...]:
    """What `after` opens, per pool, beside what no change to these nodes could do without."""
    found: list[Cost] = []
    for pool, was in zip(after.pools, before.pools, strict=False):
        moved = {
            number: count
            for number, entry in enumerate(pool.partitions)
            if (count := sum(a != b for a, b in zip(entry.moving, entry.homes, strict=False)))
        }
        slots = sum(len(entry.homes) for entry in pool.partitions)
        if pool.code != was.code:  # every shard is made anew
            n = parse_code(pool.code).n
            moved = dict.fromkeys(range(len(pool.partitions)), n)
            slots = n * len(moved)
            found.append(Cost(pool.name, slots, slots, slots, moved))
            continue
        moves = sum(moved.values())
        # An even load may take more moves than a placement makes, which may leave it somewhat uneven.
        least = min(moves, _least_moves(after.nodes, was, slots))
        found.append(Cost(pool.name, moves, least, slots, moved))
    return tuple(found)


def _least_moves(nodes: Sequence[NodeEntry], pool: Pool, slots: int) -> int:
    """What is at stores that are given nothing any more, and what others have too little of for an even load."""
    held: dict[StoreId, int] = {}
    for entry in pool.partitions:
        for home in entry.homes:
            held[home] = held.get(home, 0) + 1
    staying = sorted((node for node in nodes if node.state is StoreState.ACTIVE), key=lambda node: node.name)
    leaving = slots - sum(held.get(node.store, 0) for node in staying)
    code = parse_code(pool.code)
    domains = domains_of(staying, pool.protected_tags, homes_per_domain(code))
    shares = water_fill([node.weight for node in staying], domains, len(pool.partitions), code.n)
    short = sum(
        max(0.0, share - held.get(node.store, 0)) for node, share in zip(staying, shares, strict=True)
    )
    return max(leaving, int(short))


def _refuse_while_open(current: ClusterMap) -> None:
    busy: list[Evidence] = []
    for pool in current.pools:
        for number, entry in enumerate(pool.partitions):
            if entry.moving or entry.shards or entry.learners:
                said = "is moving" if entry.moving else "has a home that is catching up"
                busy.append(Evidence(f"pool {pool.name} partition {number}", said))
            elif pool.former_code:
                said = f"may have blobs in {pool.former_code}, which are to be in {pool.code}"
                busy.append(Evidence(f"pool {pool.name} partition {number}", said))
    if not busy:
        return
    plan = current.plan
    named = f" ({plan.pool or ', '.join(plan.nodes)})" if plan_open(current) and plan is not None else ""
    raise Refused(
        f"{len(busy)} partitions are not settled{named}: one change of homes at a time",
        hint=CANCEL_HINT,
        evidence=busy[:EVIDENCE_MAX],
    )


def _rehomed(
    current: ClusterMap, nodes: tuple[NodeEntry, ...], kind: ChangeKind, names: tuple[NodeName, ...]
) -> ClusterMap:
    """The map in which every partition is on its way to where it belongs among the nodes that stay."""
    epoch = next_epoch(current)
    staying = [node for node in nodes if node.state is StoreState.ACTIVE]
    pools: list[Pool] = []
    for pool in current.pools:
        table = place(
            parse_code(pool.code),
            staying,
            protected_tags=pool.protected_tags,
            partitions=len(pool.partitions),
            previous=[entry.homes for entry in pool.partitions],
        )
        entries = tuple(_open(entry, row) for entry, row in zip(pool.partitions, table.homes, strict=True))
        moved = any(entry.moving for entry in entries)
        pools.append(replace(pool, partitions=entries, moved_epoch=epoch if moved else pool.moved_epoch))
    return replace(
        current,
        epoch=epoch,
        nodes=nodes,
        pools=tuple(pools),
        voters=_voters(current, nodes),
        plan=Plan(kind, names, epoch),
    )


def _open(entry: PartitionEntry, row: tuple[StoreId, ...]) -> PartitionEntry:
    newcomers = tuple(store for store in row if store not in entry.homes)
    if not newcomers:
        return replace(entry, former=())
    return PartitionEntry(Generation(entry.generation + 1), entry.homes, newcomers, moving=row)


def _back(entry: PartitionEntry) -> PartitionEntry:
    if entry.moving:
        return PartitionEntry(Generation(entry.generation + 1), entry.homes, former=entry.moving)
    return _open(entry, entry.former) if entry.former else entry


def _back_to_former_code(entry: PartitionEntry) -> PartitionEntry:
    if not entry.shards:
        return _toward(entry, entry.former or entry.homes)
    learners = () if entry.moving else entry.learners
    return PartitionEntry(Generation(entry.generation + 1), entry.homes, learners, former=entry.shards)


def _voters(current: ClusterMap, nodes: tuple[NodeEntry, ...]) -> tuple[StoreId, ...]:
    """The voters stay who they are, unless one of them leaves or there can be more."""
    tags = {tag for pool in current.pools for tag in pool.protected_tags}
    staying = [node for node in nodes if node.state is StoreState.ACTIVE]
    best = choose_voters(staying, tags, simulated_domains=current.simulated_domains).voters
    fit = {node.store for node in staying}.issuperset(current.voters)
    return current.voters if fit and len(current.voters) >= len(best) else best


def _with_state(
    current: ClusterMap, names: Collection[NodeName], state: StoreState, *, kept: bool = False
) -> tuple[NodeEntry, ...]:
    return tuple(
        replace(node, state=state, kept=kept) if node.name in names else node for node in current.nodes
    )


def _bound(current: ClusterMap, node: NodeEntry, homes: frozenset[StoreId]) -> str:
    if node.state not in LEAVING:
        return "is not draining"
    if node.store in homes:
        return "is still a home"
    for pool in current.pools:
        if pool.former_code and any(node.store in entry.former for entry in pool.partitions):
            return f"may hold versions that are kept in {pool.former_code}"
    return "is a voter of the map" if node.store in current.voters else ""
