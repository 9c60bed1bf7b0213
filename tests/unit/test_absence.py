"""Whom others replace: what a majority of the voters saw for long enough, and nobody whom an operator keeps."""

from __future__ import annotations

from dataclasses import replace

from holdfast_node.core.absence import NO_LIMIT, Patience, agreed_s, overdue, returned
from holdfast_node.core.cluster_map import ClusterMap, StoreState
from holdfast_node.core.ids import StoreId
from holdfast_node.core.map_changes import replace_lost
from holdfast_node.core.map_moves import add_node, cancel, give_up, remove
from holdfast_node.core.messages import Sighting
from holdfast_node.core.topology import Topology
from tests.support.maps import cluster, nodes, store_id
from tests.unit.test_map_moves import entries, learn_all, must, names

PATIENCE = Patience(node_s=600.0, several_s=3600.0)
N1, N2, N3 = (store_id(number) for number in (1, 2, 3))
HOUR = 3601.0


def seven() -> ClusterMap:
    return cluster(nodes(7), partitions=8)


def silent_for(*pairs: tuple[StoreId, float]) -> dict[StoreId, float]:
    return dict(pairs)


def test_as_long_as_a_majority_of_the_voters_saw_it() -> None:
    voters = [store_id(number) for number in range(1, 6)]
    gone = store_id(5)
    seen = {
        voter: (Sighting(gone, up=False, for_s=for_s),)
        for voter, for_s in zip(voters, (900.0, 700.0, 500.0, 10.0), strict=False)
    }
    assert agreed_s(voters, seen, up=False) == {gone: 500.0}
    assert agreed_s(voters, seen, up=True) == {}
    del seen[voters[0]], seen[voters[1]]
    assert agreed_s(voters, seen, up=False) == {}, "two of five are no majority"
    outsiders = {store_id(number): (Sighting(gone, up=False, for_s=900.0),) for number in (6, 7, 8)}
    assert agreed_s(voters, outsiders, up=False) == {}, "only voters count"


def test_one_node_is_given_up_after_its_time_and_not_before() -> None:
    topology = Topology(seven())
    found = overdue(topology, silent_for((N1, 599.0)), PATIENCE)
    assert not found.nodes
    assert (found.left_s, found.why) == (1.0, "n1: others take over unless back in")
    assert overdue(topology, silent_for((N1, 600.0)), PATIENCE).nodes == ("n1",)
    assert overdue(topology, {}, PATIENCE).why == ""


def test_several_are_waited_for_longer_and_until_the_last_of_them_is_overdue() -> None:
    topology = Topology(cluster(nodes(10), partitions=8))
    assert not overdue(topology, silent_for((N1, 700.0), (N2, 700.0)), PATIENCE).nodes
    assert not overdue(topology, silent_for((N1, HOUR), (N2, 5.0)), PATIENCE).nodes
    assert overdue(topology, silent_for((N1, HOUR), (N2, HOUR)), PATIENCE).nodes == ("n1", "n2")


def test_nobody_is_given_up_where_that_is_not_wanted() -> None:
    topology = Topology(seven())
    assert not overdue(topology, silent_for((N1, 10 * HOUR)), NO_LIMIT).nodes
    assert not overdue(topology, silent_for((N1, 10 * HOUR)), Patience(0.0, 3600.0)).nodes
    assert not overdue(topology, silent_for((N1, 10 * HOUR), (N2, 10 * HOUR)), Patience(600.0, 0.0)).nodes


def test_nobody_is_given_up_while_too_few_are_left_to_learn_from() -> None:
    topology = Topology(seven())
    found = overdue(topology, silent_for((N1, HOUR), (N2, HOUR), (N3, HOUR)), PATIENCE)
    assert not found.nodes
    assert "no majority" in found.why


def test_what_is_lost_moves_to_the_others_and_may_be_taken_out() -> None:
    before = seven()
    lost = must(give_up(before, names(1)))
    assert lost.nodes[0].state is StoreState.LOST
    assert N1 not in lost.voters
    assert all(N1 not in (entry.moving or entry.homes) for entry in entries(lost))
    assert not overdue(Topology(lost), silent_for((N1, HOUR)), PATIENCE).nodes, "it is under way"
    moved = learn_all(lost)
    assert give_up(moved, names(1)) is None
    assert not overdue(Topology(moved), silent_for((N1, HOUR)), PATIENCE).nodes
    assert overdue(Topology(moved), silent_for((N1, HOUR), (N2, 600.0)), PATIENCE).nodes == ("n2",)
    assert must(remove(moved, names(1))).nodes[0].name == "n2"


def test_what_a_lost_store_has_interrupted_is_begun_again() -> None:
    lost = must(give_up(seven(), names(1)))
    interrupted = replace(
        lost,
        pools=tuple(
            replace(pool, partitions=tuple(replace(e, moving=(), learners=()) for e in pool.partitions))
            for pool in lost.pools
        ),
    )
    assert overdue(Topology(interrupted), silent_for((N1, HOUR)), PATIENCE).nodes == ("n1",)
    again = must(give_up(interrupted, names(1)))
    assert all(N1 not in (entry.moving or entry.homes) for entry in entries(again))


def test_whom_an_operator_has_kept_is_waited_for() -> None:
    kept = must(cancel(must(give_up(seven(), names(1)))))
    assert kept.nodes[0].state is StoreState.ACTIVE
    found = overdue(Topology(kept), silent_for((N1, 10 * HOUR)), PATIENCE)
    assert not found.nodes
    assert "operator" in found.why


def test_a_lost_node_is_given_a_share_when_it_has_been_back_for_long() -> None:
    moving = must(give_up(seven(), names(1)))
    assert returned(Topology(moving), {N1: 600.0}, PATIENCE) is None, "one change at a time"
    topology = Topology(learn_all(moving))
    assert returned(topology, {N1: 599.0}, PATIENCE) is None
    back = returned(topology, {N1: 600.0, N2: 600.0}, PATIENCE)
    assert back is not None
    assert back.name == "n1"
    assert returned(topology, {N1: 9999.0}, NO_LIMIT) is None


def test_an_empty_store_in_a_lost_ones_place_is_lost_until_it_has_been_back_for_as_long() -> None:
    lost = learn_all(must(give_up(seven(), names(1))))
    fresh = store_id(99)
    replaced = must(replace_lost(lost, {N1: fresh}))
    assert (replaced.nodes[0].store, replaced.nodes[0].state) == (fresh, StoreState.LOST)
    back = returned(Topology(replaced), {fresh: 600.0}, PATIENCE)
    assert back is not None
    shared = must(add_node(replaced, back))
    assert any(fresh in entry.moving for entry in entries(shared))
