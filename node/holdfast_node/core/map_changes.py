"""How the cluster document changes: pure functions from one map to the next, and the check every adopted map
passes.

A function answers None when there is nothing (any more) to do, so that a change may safely be tried again on
a newer map. Refuses to know how a map is decided and told (that is the cartographer's) and which stores are
reachable.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Final

from holdfast_node.core.cluster_map import (
    LEAVING,
    ClusterMap,
    NodeEntry,
    PartitionEntry,
    Pool,
    StoreState,
)
from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import Evidence, HoldfastError, IntegrityError, MapConflict, Refused
from holdfast_node.core.holders import ACK_FLOORS
from holdfast_node.core.ids import ID_BYTES, Epoch, Era, Generation, StoreId
from holdfast_node.core.quorum import majority, meet

Change = Callable[[ClusterMap], ClusterMap | None]
Scoped = Mapping[tuple[int, int], int]
"""(pool, partition) -> the generation in which something was found. It is acted on only while that still
holds."""

EVIDENCE_MAX: Final = 16
"""A refusal names this many partitions and counts the rest."""


def next_epoch(current: ClusterMap) -> Epoch:
    return Epoch(current.epoch + 1)


def replace_lost(current: ClusterMap, swaps: Mapping[StoreId, StoreId]) -> ClusterMap | None:
    """New stores (old -> new) under the same node names, all in one change.

    Each new store is a learner at the shard indexes of the old one, in a new generation. Raises `Refused`
    when a partition would keep fewer than a majority of voting homes: its registers could not be learned from
    them; `MapConflict` when a third store has taken the place of an old one.
    """
    known = {node.store for node in current.nodes}
    if overtaken := [old for old, new in swaps.items() if old not in known and new not in known]:
        raise MapConflict(
            "a store that was to be replaced is not in the map any more, and neither is the new one",
            hint="run it again: it looks at the new map",
            evidence=[Evidence(store.hex()[:8], "replaced by another") for store in sorted(overtaken)],
        )
    pending = {old: new for old, new in swaps.items() if old in known}
    if not pending:
        return None
    taken = sorted(new for new in pending.values() if new in known)
    if taken or len(set(pending.values())) != len(pending):
        raise Refused(
            "a new store is in the map already", evidence=[Evidence(s.hex()[:8], "taken") for s in taken]
        )
    _refuse_without_majority(current, frozenset(pending))
    epoch, homes = next_epoch(current), homes_of(current)

    def swapped(node: NodeEntry) -> NodeEntry:
        new = pending.get(node.store)
        if new is None:
            return node
        state = node.state if node.state in LEAVING else StoreState.ACTIVE
        if node.state is StoreState.SUSPECT and node.store not in homes:
            state = StoreState.LOST  # others have what was at it: it is given a share again
        return replace(node, store=new, state=state, joined_epoch=epoch, kept=False)

    return replace(
        current,
        epoch=epoch,
        nodes=tuple(swapped(node) for node in current.nodes),
        pools=tuple(_pool(pool, lambda entry: _swap_homes(entry, pending)) for pool in current.pools),
        voters=tuple(pending.get(voter, voter) for voter in current.voters),
    )


def homes_of(current: ClusterMap) -> frozenset[StoreId]:
    """Every store that is a home, or is to be."""
    return frozenset(
        store
        for pool in current.pools
        for entry in pool.partitions
        for store in (*entry.homes, *entry.moving, *entry.shards)
    )


def _pool(pool: Pool, change: Callable[[PartitionEntry], PartitionEntry]) -> Pool:
    return replace(pool, partitions=tuple(change(entry) for entry in pool.partitions))


def _swap_homes(entry: PartitionEntry, swaps: Mapping[StoreId, StoreId]) -> PartitionEntry:
    """An open move that a lost store has part in is over: the others go on, or back, among the old homes. Unless the
    code changes: then it begins anew, once the old homes are all there."""

    def swapped(row: tuple[StoreId, ...]) -> tuple[StoreId, ...]:
        return tuple(swaps.get(home, home) for home in row)

    if not any(home in swaps for home in (*entry.homes, *entry.moving)):
        return replace(entry, shards=swapped(entry.shards), former=swapped(entry.former))
    blank = {swaps[home] for home in entry.homes if home in swaps}
    learning = () if entry.moving else entry.learners
    homes, shards = swapped(entry.homes), swapped(entry.shards)
    learners = tuple(home for home in homes if home in blank or home in learning)
    former = () if shards else swapped(entry.moving or entry.former)
    return _on_its_way(
        PartitionEntry(Generation(entry.generation + 1), homes, learners, former=former, shards=shards)
    )


def toward(entry: PartitionEntry, row: tuple[StoreId, ...]) -> PartitionEntry:
    """The registers on their way to the homes of another code, where its shards belong at once.

    Homes that stay homes have to learn, too, where a majority of the new ones might have missed what the old ones
    decided: of nine homes five decide, and a majority of six of them can miss four of those five.
    """
    pupils = tuple(home for home in row if home not in entry.homes or not meet(len(entry.homes), len(row)))
    generation = Generation(entry.generation + 1)
    if not pupils:
        return PartitionEntry(generation, row, former=entry.homes)
    return PartitionEntry(generation, entry.homes, pupils, moving=row, shards=row)


def _on_its_way(entry: PartitionEntry) -> PartitionEntry:
    """Where the code changes and no home is learning, the registers set out, in the generation that this begins."""
    if not entry.shards or entry.learners:
        return entry
    return replace(toward(entry, entry.shards), generation=entry.generation)


def _refuse_without_majority(current: ClusterMap, lost: frozenset[StoreId]) -> None:
    names = {node.store: node.name for node in current.nodes}
    suspect = frozenset(node.store for node in current.nodes if node.state is StoreState.SUSPECT)
    short: list[Evidence] = []
    for pool in current.pools:
        for number, entry in enumerate(pool.partitions):
            needed = majority(len(entry.homes))
            learning = frozenset[StoreId]() if entry.moving else frozenset(entry.learners)
            left = [home for home in entry.homes if home not in lost | suspect | learning]
            if len(left) < needed and not lost.isdisjoint(entry.homes):
                who = ", ".join(sorted(names.get(home, home.hex()[:8]) for home in left)) or "none"
                said = f"would keep {len(left)} of {len(entry.homes)} voting homes ({who}), needs {needed}"
                short.append(Evidence(f"pool {pool.name} partition {number}", said))
    if not short:
        return
    more = len(short) - EVIDENCE_MAX
    raise Refused(
        f"{len(short)} partitions would be left without a majority that can vote"
        + (f"; the first {EVIDENCE_MAX} are named" if more > 0 else ""),
        hint="bring stores back, or let the learners among them catch up (`clusterctl status`), and try again",
        evidence=short[:EVIDENCE_MAX],
    )


def finish_learning(current: ClusterMap, store: StoreId, learned: Scoped) -> ClusterMap | None:
    """The store has caught up in these partitions: it votes there from the next generation on. An open move closes with
    the last of its newcomers: from then on only the new homes count."""

    def finished(entry: PartitionEntry, generation: int) -> PartitionEntry | None:
        if entry.generation != generation or store not in entry.learners:
            return None
        learners = tuple(learner for learner in entry.learners if learner != store)
        if entry.moving and learners:
            return replace(entry, learners=learners)
        if entry.moving:
            return PartitionEntry(Generation(generation + 1), entry.moving, former=entry.homes)
        return _on_its_way(replace(entry, generation=Generation(generation + 1), learners=learners))

    return _each(current, learned, finished)


def relearn(current: ClusterMap, store: StoreId, partitions: Scoped) -> ClusterMap | None:
    """The same store becomes a learner again: it cannot vouch for what it keeps of these partitions.

    Partitions that would be left without a majority of voting homes are passed over: nobody could teach it
    there. An open move that it has part in is over.
    """
    suspect = {node.store for node in current.nodes if node.state is StoreState.SUSPECT}

    def again(entry: PartitionEntry, generation: int) -> PartitionEntry | None:
        if entry.generation != generation:
            return None
        ended = PartitionEntry(
            Generation(generation + 1),
            entry.homes,
            former=() if entry.shards else entry.moving or entry.former,
            shards=entry.shards,
        )
        if store in entry.moving and store not in entry.homes:
            return _on_its_way(ended)
        learning = () if entry.moving else entry.learners
        if store in learning or store not in entry.homes:
            return None
        learners = tuple(home for home in entry.homes if home in learning or home == store)
        left = [home for home in entry.homes if home not in learners and home not in suspect]
        return replace(ended, learners=learners) if len(left) >= majority(len(entry.homes)) else None

    return _each(current, partitions, again)


def _each(
    current: ClusterMap, scoped: Scoped, change: Callable[[PartitionEntry, int], PartitionEntry | None]
) -> ClusterMap | None:
    """Apply `change` to the partitions named; None if it changed none."""
    changed = False
    pools: list[Pool] = []
    for at, pool in enumerate(current.pools):
        partitions = list(pool.partitions)
        for number, entry in enumerate(partitions):
            generation = scoped.get((at, number))
            after = change(entry, generation) if generation is not None else None
            if after is not None:
                partitions[number] = after
                changed = True
        pools.append(replace(pool, partitions=tuple(partitions)))
    return replace(current, epoch=next_epoch(current), pools=tuple(pools)) if changed else None


def raise_era(current: ClusterMap, seen: Era | None = None) -> ClusterMap | None:
    """The next era; with `seen`, only if nobody has raised it since."""
    if seen is not None and current.era > seen:
        return None
    return replace(current, epoch=next_epoch(current), era=Era(current.era + 1))


def mark_suspect(current: ClusterMap, store: StoreId) -> ClusterMap | None:
    """The store was rolled back or cloned: it never votes again. Nor does it learn: moves that wait for it are over."""
    if not any(node.store == store and node.state is not StoreState.SUSPECT for node in current.nodes):
        return None
    nodes = tuple(
        replace(node, state=StoreState.SUSPECT) if node.store == store else node for node in current.nodes
    )
    pools = not_waiting_for(current, {store})
    return replace(current, epoch=next_epoch(current), nodes=nodes, pools=pools)


def not_waiting_for(current: ClusterMap, stores: Collection[StoreId]) -> tuple[Pool, ...]:
    """The pools when moves that wait for these newcomers have ended, back to the homes before; heal looks for what was
    written meanwhile. A change of code goes nowhere: its shards are on their way to homes that stay the same."""

    def ended(entry: PartitionEntry) -> PartitionEntry:
        if not entry.moving or entry.shards or set(entry.learners).isdisjoint(stores):
            return entry
        return PartitionEntry(Generation(entry.generation + 1), entry.homes, former=entry.moving)

    pools: list[Pool] = []
    for pool in current.pools:
        after = _pool(pool, ended)
        moved = after.partitions != pool.partitions
        pools.append(replace(after, moved_epoch=next_epoch(current)) if moved else pool)
    return tuple(pools)


def validate(old: ClusterMap | None, new: ClusterMap) -> None:
    """Raises `IntegrityError`, naming everything wrong, unless `new` is a sound map that may follow `old`."""
    wrong = [*_nodes_wrong(new), *_pools_wrong(new)]
    if old is not None:
        wrong += _succession_wrong(old, new)
    if wrong:
        said = [Evidence("map", reason) for reason in wrong[:EVIDENCE_MAX]]
        raise IntegrityError(f"map of epoch {new.epoch} is not valid: {len(wrong)} mistakes", evidence=said)


def _nodes_wrong(new: ClusterMap) -> list[str]:
    wrong: list[str] = []
    stores = {node.store for node in new.nodes}
    if len(new.cluster_id) != ID_BYTES or not any(new.cluster_id):
        wrong.append("no cluster id")
    if new.epoch < 1 or new.era < 1:
        wrong.append(f"epoch {new.epoch}, era {new.era}: both begin at 1")
    if not new.nodes:
        wrong.append("no nodes")
    for what, distinct in (
        ("store", stores),
        ("name", {node.name for node in new.nodes}),
        ("address", {node.address for node in new.nodes}),
    ):
        if len(distinct) != len(new.nodes) or not all(distinct):
            wrong.append(f"every node needs its own {what}")
    wrong += [
        f"node {node.name} has a malformed store id" for node in new.nodes if len(node.store) != ID_BYTES
    ]
    wrong += [f"node {node.name} has weight {node.weight}" for node in new.nodes if node.weight < 1]
    if not new.voters or len(set(new.voters)) != len(new.voters) or not stores.issuperset(new.voters):
        wrong.append("voters must be distinct stores of the map, at least one")
    return wrong


def _pools_wrong(new: ClusterMap) -> list[str]:
    wrong: list[str] = []
    stores = frozenset(node.store for node in new.nodes)
    if not new.pools or len({pool.name for pool in new.pools}) != len(new.pools):
        wrong.append("at least one pool, each with its own name")
    for pool in new.pools:
        count = len(pool.partitions)
        if count < 1 or count & (count - 1):
            wrong.append(f"pool {pool.name} has {count} partitions, not a power of two")
        if pool.ack_floor not in ACK_FLOORS:
            wrong.append(f"pool {pool.name} has the unknown ack floor {pool.ack_floor!r}")
        try:
            n = parse_code(pool.code).n
            n_before = parse_code(pool.former_code).n if pool.former_code else n
        except HoldfastError as error:
            wrong.append(f"pool {pool.name}: {error.message}")
            continue
        for number, entry in enumerate(pool.partitions):
            said = _entry_wrong(entry, n, n_before, stores)
            if entry.shards and not pool.former_code:
                said = "shards have homes of their own though the code does not change"
            if said:
                wrong.append(f"pool {pool.name} partition {number}: {said}")
    return wrong


def _entry_wrong(entry: PartitionEntry, n: int, n_before: int, stores: frozenset[StoreId]) -> str:
    wanted = n_before if entry.shards else n
    if len(entry.homes) != wanted or len(set(entry.homes)) != wanted:
        return f"needs {wanted} different homes"
    for row in filter(None, (entry.moving, entry.shards)):
        if len(row) != n or len(set(row)) != n:
            return f"moves to other than {n} different homes"
    if not stores.issuperset((*entry.homes, *entry.moving, *entry.shards)):
        return "a home is not a store of the map"
    if entry.shards and entry.moving not in ((), entry.shards):
        return "the registers move to other homes than the shards"
    may_learn = set(entry.moving or entry.homes)
    if entry.moving and not entry.shards:
        may_learn -= set(entry.homes)
    if not may_learn.issuperset(entry.learners) or len(set(entry.learners)) != len(entry.learners):
        return "a learner is not a home" if not entry.moving else "a learner is not a newcomer of the move"
    if entry.former and len(entry.former) != n_before:
        return f"came from other than {n_before} homes"
    return "" if entry.generation >= 1 else "generations begin at 1"


def _succession_wrong(old: ClusterMap, new: ClusterMap) -> list[str]:
    wrong: list[str] = []
    if new.cluster_id != old.cluster_id:
        return ["it belongs to another cluster"]
    if new.epoch <= old.epoch or new.era < old.era:
        wrong.append(f"epoch {old.epoch} to {new.epoch}, era {old.era} to {new.era}: neither goes back")
    if [pool.name for pool in new.pools[: len(old.pools)]] != [pool.name for pool in old.pools]:
        return [*wrong, "pools are known by their place: they are neither removed nor reordered"]
    for before, after in zip(old.pools, new.pools, strict=False):
        if len(before.partitions) != len(after.partitions):
            wrong.append(f"pool {before.name} changed its partition count")
            continue
        if new.epoch == old.epoch + 1 and before.code not in (after.code, after.former_code):
            wrong.append(f"pool {before.name} changed its code and forgot the one before")
        for number, (was, now) in enumerate(zip(before.partitions, after.partitions, strict=True)):
            reason = _entry_goes_back(was, now)
            if not reason and new.epoch == old.epoch + 1:
                reason = _entry_step_wrong(was, now, frozenset(node.store for node in old.nodes))
            if reason:
                wrong.append(f"pool {before.name} partition {number}: {reason}")
    return wrong


def _entry_goes_back(was: PartitionEntry, now: PartitionEntry) -> str:
    """What holds over any number of changes."""
    votes_change = (was.homes, was.moving) != (now.homes, now.moving)
    if not was.moving or not set(was.learners).issuperset(now.learners):
        votes_change = votes_change or was.learners != now.learners
    if now.generation < was.generation + votes_change:
        return "homes changed without a new generation"
    return ""


def _entry_step_wrong(was: PartitionEntry, now: PartitionEntry, known: frozenset[StoreId]) -> str:
    """What holds from one epoch to the next: who was away sees only what came of many moves."""
    if was.moving and now.moving and was.moving != now.moving and not now.shards:
        return "one move takes the place of another that is open"
    newcomers = set(now.homes) - set(was.homes)
    if now.homes == was.moving and was.learners[1:]:
        return "the move closed before everybody had learned"
    if newcomers & known and now.homes != was.moving:
        return "homes changed without a move in which they learned"
    if not newcomers and not meet(len(was.homes), len(now.homes)) and now.homes != was.moving:
        return "fewer homes that have not learned"
    return ""
