"""What operators are told: green only where somebody vouched for it, and each trouble with its next command."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from holdfast_node.core.cluster_map import ClusterMap, PartitionEntry, StoreState
from holdfast_node.core.errors import Refused
from holdfast_node.core.heal_order import NO_MARGIN_KNOWN
from holdfast_node.core.ids import Epoch, Generation, NodeName, StoreId
from holdfast_node.core.map_changes import replace_lost
from holdfast_node.core.map_moves import drain, give_up, recode
from holdfast_node.core.messages import NodeStatus, PartitionHealth
from holdfast_node.core.picture import Picture
from holdfast_node.core.report import StatusReply
from holdfast_node.core.topology import Topology
from tests.support.maps import cluster, nodes


def six() -> ClusterMap:
    """Six nodes on three SANs."""
    return cluster(nodes(6, 3), protected=("host", "san"))


def accounts_of(current: ClusterMap, *, healed: int = 1) -> dict[StoreId, NodeStatus]:
    """Everybody answers and votes; the first home of each partition reports it in order."""
    rows: dict[StoreId, list[PartitionHealth]] = {node.store: [] for node in current.nodes}
    for number, entry in enumerate(current.pools[0].partitions):
        rows[entry.homes[0]].append(PartitionHealth(0, number, 2, 100, healed, 0, NO_MARGIN_KNOWN, healed))
    return {
        node.store: NodeStatus(
            NodeName(node.name),
            node.store,
            current.epoch,
            1,
            True,
            "",
            10,
            100,
            1.0,
            tuple(rows[node.store]),
            (),
            (),
            30.0,
            600.0,
        )
        for node in current.nodes
    }


def draw(current: ClusterMap, accounts: Mapping[StoreId, NodeStatus]) -> StatusReply:
    return Picture(Topology(current), accounts).draw()


def survives(status: StatusReply) -> dict[str, int]:
    return dict(status.least_margin.entries)


def test_all_in_order_is_healthy() -> None:
    current = six()
    status = draw(current, accounts_of(current))
    assert status.healthy
    assert not status.problems
    assert status.partitions_full == status.partitions == len(current.pools[0].partitions)
    assert status.blobs == 2 * status.partitions
    assert survives(status) == {"node": 2, "host": 2, "san": 1}


def test_a_node_that_does_not_answer_is_down_and_costs_margin() -> None:
    current = six()
    gone = current.nodes[2]
    accounts = {store: account for store, account in accounts_of(current).items() if store != gone.store}
    status = draw(current, accounts)
    assert not status.healthy
    assert [node.state for node in status.nodes if node.name == gone.name] == ["down"]
    assert survives(status)["node"] == 1
    assert any(f"replace --lost {gone.name}" in line for line in status.problems)


def test_how_old_the_oldest_unproven_byte_is_is_not_known_of_a_node_that_does_not_answer() -> None:
    current = six()
    gone = current.nodes[2].store
    accounts = {store: account for store, account in accounts_of(current).items() if store != gone}
    told = {node.store: (node.unproven_s, node.promised_s) for node in draw(current, accounts).nodes}
    assert told.pop(gone) == (0.0, 0.0)
    assert set(told.values()) == {(30.0, 600.0)}


def test_a_partition_nobody_reports_is_not_green() -> None:
    current = six()
    accounts = accounts_of(current)
    first = current.pools[0].partitions[0].homes[0]
    accounts[first] = replace(accounts[first], stewarded=())
    status = draw(current, accounts)
    assert not status.healthy
    assert status.partitions_unreported > 0
    assert any("no live steward" in line for line in status.problems)


def test_a_new_store_is_unproven_until_heal_has_passed_it_everywhere() -> None:
    before = six()
    old = before.nodes[0].store
    after = replace_lost(before, {old: StoreId(b"N" * 16)})
    assert after is not None
    learned = replace(
        after,
        pools=tuple(
            replace(pool, partitions=tuple(replace(entry, learners=()) for entry in pool.partitions))
            for pool in after.pools
        ),
    )
    early = draw(learned, accounts_of(learned, healed=1))
    assert not early.healthy
    assert survives(early)["node"] == 1, "its shards are not counted yet"
    assert [node.shards for node in early.nodes if node.name == before.nodes[0].name] == ["unproven"]
    late = draw(learned, accounts_of(learned, healed=Epoch(after.epoch)))
    assert late.healthy
    assert {node.shards for node in late.nodes} == {"proven"}


def test_a_blob_away_from_home_lowers_the_margin_to_its_own() -> None:
    current = six()
    accounts = accounts_of(current)
    steward = current.pools[0].partitions[0].homes[0]
    first, *rest = accounts[steward].stewarded
    accounts[steward] = replace(
        accounts[steward],
        stewarded=(replace(first, exceptions=3, survives=(("node", 1), ("san", 0))), *rest),
    )
    status = draw(current, accounts)
    assert not status.healthy
    assert status.exceptions == 3
    assert survives(status) == {"node": 1, "host": 2, "san": 0}


def test_a_store_that_does_not_vote_says_why() -> None:
    current = six()
    accounts = accounts_of(current)
    store = current.nodes[1].store
    accounts[store] = replace(accounts[store], voting=False, not_voting_reason="suspect: seen elsewhere")
    status = draw(current, accounts)
    assert not status.healthy
    assert any("seen elsewhere" in line for line in status.problems)


def moved() -> tuple[ClusterMap, ClusterMap]:
    """Seven nodes on seven SANs of which one drains: with the moves open, and closed."""
    before = cluster(nodes(7, 7), protected=("host", "san"))
    opened = drain(before, {NodeName("n1")})
    assert opened is not None
    entries = tuple(
        PartitionEntry(Generation(entry.generation + 1), entry.moving, former=entry.homes)
        if entry.moving
        else entry
        for entry in opened.pools[0].partitions
    )
    closed = replace(opened, epoch=Epoch(3), pools=(replace(opened.pools[0], partitions=entries),))
    return opened, closed


def why_needed(current: ClusterMap, accounts: dict[StoreId, NodeStatus]) -> str:
    return Picture(Topology(current), accounts).needed_because(current.nodes[0])


def test_while_partitions_move_status_says_so_and_nobody_is_unproven_for_it() -> None:
    opened, _ = moved()
    status = draw(opened, accounts_of(opened))
    assert not status.healthy
    assert any("moving to other homes" in line for line in status.problems)
    assert survives(status) == {"node": 2, "host": 2, "san": 2}
    assert not status.least_margin.full
    assert [node.state for node in status.nodes if node.name == "n1"] == ["draining"]


def test_a_node_is_drained_when_heal_has_passed_and_no_sooner() -> None:
    _, closed = moved()
    early = draw(closed, accounts_of(closed, healed=1))
    assert "at epoch 1, not yet at 2" in why_needed(closed, accounts_of(closed, healed=1))
    assert [node.state for node in early.nodes if node.name == "n1"] == ["draining"]
    assert not early.healthy
    late = draw(closed, accounts_of(closed, healed=2))
    assert not why_needed(closed, accounts_of(closed, healed=2))
    assert [node.state for node in late.nodes if node.name == "n1"] == ["drained"]
    assert late.healthy


def test_a_drained_node_stays_until_a_replaced_one_has_its_shards() -> None:
    """After the removal the one that was replaced would count as having been given what had moved to the lost one."""
    _, closed = moved()
    late = replace(closed.nodes[2], joined_epoch=Epoch(3))
    closed = replace(closed, nodes=(*closed.nodes[:2], late, *closed.nodes[3:]))
    assert "at epoch 2, not yet at 3" in why_needed(closed, accounts_of(closed, healed=2))
    passed = accounts_of(closed, healed=3)
    assert not why_needed(closed, passed)
    stewards = [store for store in passed if passed[store].stewarded]
    for store in stewards:  # somebody came back: they look once more, and claim nothing meanwhile
        rows = tuple(replace(row, healed_epoch=0) for row in passed[store].stewarded)
        passed[store] = replace(passed[store], stewarded=rows)
    assert not why_needed(closed, passed)
    [row, *rest] = passed[stewards[0]].stewarded
    rows = (replace(row, passed_epoch=2), *rest)
    passed[stewards[0]] = replace(passed[stewards[0]], stewarded=rows)
    assert f"partition {row.partition} at epoch 2, not yet at 3" in why_needed(closed, passed)


def test_of_two_stewards_the_worse_is_believed_in_everything() -> None:
    current = six()
    accounts = accounts_of(current, healed=2)
    first, second = (accounts[current.pools[0].partitions[0].homes[at]] for at in (0, 1))
    [row, *_] = first.stewarded

    def reported(mine: PartitionHealth, other: PartitionHealth) -> PartitionHealth:
        told = {
            **accounts,
            first.store: replace(first, stewarded=(mine,)),
            second.store: replace(second, stewarded=(other,)),
        }
        return Picture(Topology(current), told)._health[(0, row.partition)]

    more = replace(row, exceptions=1, former=2, least_margin=-1, survives=(("node", -1),), quarantined=1)
    new = replace(row, passed_epoch=1, healed_epoch=0)  # it has just taken over, and knows of nothing
    for mine, other in ((more, new), (new, more)):
        assert reported(mine, other) == replace(more, passed_epoch=1, healed_epoch=0)
    less = replace(row, exceptions=3, least_margin=0, survives=(("node", 0), ("san", 0)))
    both = replace(more, exceptions=3, survives=(("node", -1), ("san", 0)))
    assert reported(more, less) == both
    assert reported(more, replace(row, former=-1)) == replace(more, former=-1)
    assert reported(replace(more, former=0), replace(row, former=5)).former == 5


def test_a_node_that_cannot_be_removed_is_told_why() -> None:
    opened, closed = moved()
    homes = sum(1 for entry in opened.pools[0].partitions if opened.nodes[0].store in entry.homes)
    assert why_needed(opened, accounts_of(opened)) == f"is a home of {homes} partitions"
    assert "no steward of pool default partition 0 answers" in why_needed(closed, {})
    assert "heal has passed pool default partition 0 at" in why_needed(closed, accounts_of(closed, healed=1))
    hopeless = {
        store: replace(each, stewarded=tuple(replace(row, quarantined=2) for row in each.stewarded))
        for store, each in accounts_of(closed, healed=1).items()
    }
    assert "cannot mend 2 keys of pool default partition 0: `clusterctl quar" in why_needed(closed, hopeless)
    staying = replace(closed, nodes=(replace(closed.nodes[0], state=StoreState.ACTIVE), *closed.nodes[1:]))
    assert why_needed(staying, accounts_of(staying, healed=2)) == "is up, not drained"


def test_what_is_still_where_it_was_is_lost_with_those_who_are_down_there() -> None:
    """Shards may be at the node that leaves until heal has passed: if it is down, they are not counted."""
    _, closed = moved()
    gone = next(node.store for node in closed.nodes if node.name == "n1")
    accounts = {store: account for store, account in accounts_of(closed, healed=1).items() if store != gone}
    assert survives(draw(closed, accounts))["node"] == 1
    accounts = {store: account for store, account in accounts_of(closed, healed=2).items() if store != gone}
    assert survives(draw(closed, accounts))["node"] == 2


def test_what_has_moved_to_a_store_is_not_at_the_one_that_took_its_place() -> None:
    """Once a move has closed, blobs are where they were or where they belong. A newcomer was lost and replaced before
    heal had passed: its successor was taken for one that has been given its shards, and status claimed a loss too
    many."""
    current = cluster(nodes(7, 7), partitions=1)
    entry = current.pools[0].partitions[0]
    newcomer = current.nodes[6].store
    moved = replace(entry, generation=Generation(3), homes=(*entry.homes[:5], newcomer), former=entry.homes)
    pool = replace(current.pools[0], partitions=(moved,), moved_epoch=Epoch(2))
    current = replace(current, epoch=Epoch(4), pools=(pool,))
    assert survives(draw(current, accounts_of(current)))["node"] == 2
    replaced = replace_lost(current, {newcomer: StoreId(b"N" * 16)})
    assert replaced is not None
    [entry] = replaced.pools[0].partitions
    learned = replace(
        replaced, pools=(replace(replaced.pools[0], partitions=(replace(entry, learners=()),)),)
    )
    assert survives(draw(learned, accounts_of(learned)))["node"] == 1


def test_versions_kept_in_the_former_code_count_with_that() -> None:
    """rs:4+2 to rs:6+3: new blobs survive three nodes, what is kept for undo two, until it has expired."""
    current = cluster(nodes(12, 12), code="rs:4+2", partitions=1)
    changed = recode(current, "default", "rs:6+3")
    assert changed is not None
    [entry] = changed.pools[0].partitions
    closed = replace(entry, homes=entry.shards, moving=(), shards=(), learners=(), former=entry.homes)
    changed = replace(
        changed,
        voters=tuple(node.store for node in current.nodes[:9]),
        pools=(replace(changed.pools[0], partitions=(closed,)),),
    )
    for former, node_margin, full in ((2, 2, True), (0, 3, True), (-1, 2, True)):
        accounts = {
            store: replace(account, stewarded=tuple(replace(row, former=former) for row in account.stewarded))
            for store, account in accounts_of(changed, healed=changed.epoch).items()
        }
        picture = Picture(Topology(changed), accounts)
        status = picture.draw()
        assert survives(status)["node"] == node_margin
        assert (status.partitions_full == 1) is full
        assert ("default" in picture.settled_pools()) is (former == 0)
        assert ("rs:4+2" in picture.unsettled()) is (former != 0)


def test_no_single_node_is_filled_by_what_it_takes_over() -> None:
    """On the whole there is room: one of those that are given shards has next to none."""
    current = cluster(nodes(8, 4), protected=("san",), partitions=4)
    after = give_up(current, (current.nodes[0].name,))
    assert after is not None
    picture = Picture(Topology(current), accounts_of(current))
    picture.refuse_without_room(after, 0.9)
    given = {store for entry in after.pools[0].partitions for store in entry.learners}
    for store in given:
        accounts = accounts_of(current)
        accounts[store] = replace(accounts[store], used_bytes=85, capacity_bytes=100)
        with pytest.raises(Refused, match=Topology(current).name(store)):
            Picture(Topology(current), accounts).refuse_without_room(after, 0.9)
    untouched = accounts_of(current)
    for store in {node.store for node in current.nodes} - given:
        untouched[store] = replace(untouched[store], used_bytes=99)
    Picture(Topology(current), untouched).refuse_without_room(after, 0.9)


def test_nobody_takes_over_what_nobody_knows_the_size_of() -> None:
    current = cluster(nodes(8, 4), protected=("san",), partitions=4)
    after = give_up(current, (current.nodes[0].name,))
    assert after is not None
    given = next(entry.learners[0] for entry in after.pools[0].partitions if entry.learners)
    silent = {store: account for store, account in accounts_of(current).items() if store != given}
    with pytest.raises(Refused, match=Topology(current).name(given)):
        Picture(Topology(current), silent).refuse_without_room(after, 0.9)
    untold = {store: replace(account, stewarded=()) for store, account in accounts_of(current).items()}
    with pytest.raises(Refused, match="known"):
        Picture(Topology(current), untold).refuse_without_room(after, 0.9)


def test_each_pool_counts_in_its_own_code() -> None:
    one = cluster(nodes(8, 4), protected=("san",), partitions=4)
    other = replace(cluster(nodes(8), code="rs:2+2", partitions=4).pools[0], name="other")
    current = replace(one, pools=(*one.pools, other))
    after = give_up(current, (current.nodes[0].name,))
    assert after is not None
    accounts = accounts_of(current)
    first = current.nodes[1].store
    rows = tuple(
        PartitionHealth(1, number, 2, 100, 1, 0, NO_MARGIN_KNOWN, 1)
        for number in range(len(other.partitions))
    )
    accounts[first] = replace(accounts[first], stewarded=(*accounts[first].stewarded, *rows))
    gained = Picture(Topology(current), accounts)._gained(after)
    slots = {
        pool.code: sum(
            a != b for entry in pool.partitions for a, b in zip(entry.moving, entry.homes, strict=False)
        )
        for pool in after.pools
    }
    assert sum(gained.values()) == 25 * slots["rs:4+2"] + 50 * slots["rs:2+2"]


def test_a_lost_node_that_is_back_and_does_not_vote_says_why() -> None:
    current = seven_without_the_first()
    accounts = accounts_of(current)
    gone = current.nodes[0].store
    problems = draw(current, accounts).problems
    assert any("n1 is back" in line and "node add n1" in line for line in problems)
    accounts[gone] = replace(accounts[gone], voting=False, not_voting_reason="the store failed: EIO")
    problems = draw(current, accounts).problems
    assert any("n1 is back" in line and "EIO" in line and "node add" not in line for line in problems)


def seven_without_the_first() -> ClusterMap:
    lost = give_up(cluster(nodes(7)), (NodeName("n1"),))
    assert lost is not None
    return lost
