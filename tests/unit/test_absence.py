"""Whom others replace: what a majority of the voters saw for long enough, and nobody whom an operator keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast_node.core.absence import NO_LIMIT, Patience, agreed_s, leader, overdue, returned
from holdfast_node.core.cluster_map import ClusterMap, StoreState
from holdfast_node.core.errors import Refused
from holdfast_node.core.ids import StoreId
from holdfast_node.core.map_changes import mark_suspect, replace_lost, validate
from holdfast_node.core.map_moves import (
    add_node,
    cancel,
    drain,
    end_moves,
    give_up,
    keep_no_longer,
    recode,
    remove,
)
from holdfast_node.core.messages import Sighting
from holdfast_node.core.topology import Topology
from tests.support.maps import cluster, node, nodes, store_id
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
    both = overdue(Topology(kept), silent_for((N1, 10 * HOUR), (N2, 10 * HOUR)), PATIENCE)
    assert not both.nodes, "n1 might be given what was at n2"
    assert both.why.startswith("n1, n2: waited for")


def test_whom_an_operator_has_kept_is_waited_for_whatever_else_changes_until_it_is_back() -> None:
    kept = must(cancel(must(give_up(seven(), names(1)))))
    grown = learn_all(must(add_node(kept, node(8))))
    assert not overdue(Topology(grown), silent_for((N1, 10 * HOUR)), PATIENCE).nodes
    back = returned(Topology(grown), {N1: 600.0}, PATIENCE)
    assert back is not None
    like_any_other = must(keep_no_longer(grown, back.name))
    validate(grown, like_any_other)
    assert keep_no_longer(like_any_other, back.name) is None
    assert returned(Topology(like_any_other), {N1: 600.0}, PATIENCE) is None
    assert overdue(Topology(like_any_other), silent_for((N1, 600.0)), PATIENCE).nodes == ("n1",)


def test_what_an_operator_says_afterwards_counts() -> None:
    kept = must(cancel(learn_all(must(give_up(seven(), names(1))))))
    settled = learn_all(kept)
    assert not must(drain(settled, names(1))).nodes[0].kept
    assert not must(replace_lost(settled, {N1: store_id(99)})).nodes[0].kept
    added = must(add_node(settled, node(8)))
    assert not any(each.kept for each in must(cancel(added)).nodes if each.name == "n8")


def test_a_move_that_waits_for_a_newcomer_that_is_gone_ends_so_that_others_can_take_over() -> None:
    grown = must(add_node(cluster(nodes(6), partitions=8), node(7)))
    n7 = store_id(7)
    assert overdue(Topology(grown), silent_for((n7, 600.0)), PATIENCE).nodes == ("n7",)
    with pytest.raises(Refused):
        give_up(grown, names(7))
    ended = must(end_moves(grown, names(7)))
    validate(grown, ended)
    assert not Topology(ended).moves_open()
    assert [entry.homes for entry in entries(ended)] == [entry.homes for entry in entries(grown)]
    assert ended.pools[0].moved_epoch == ended.epoch, "heal looks for what was written meanwhile"
    assert end_moves(ended, names(7)) is None
    assert must(give_up(ended, names(7))).nodes[6].state is StoreState.LOST


def test_moves_that_wait_for_others_go_on() -> None:
    lost = must(give_up(cluster(nodes(8), partitions=8), names(1)))
    waiting = [at for at, entry in enumerate(entries(lost)) if entry.learners == (store_id(7),)]
    assert 0 < len(waiting) < Topology(lost).moves_open()
    ended = must(end_moves(lost, names(7)))
    open_still = [at for at, entry in enumerate(entries(ended)) if entry.moving]
    assert all(store_id(7) not in entry.learners for entry in entries(ended))
    assert len(open_still) == Topology(lost).moves_open() - len(waiting)
    moved = learn_all(ended)
    again = overdue(Topology(moved), silent_for((N1, HOUR), (store_id(7), HOUR)), PATIENCE)
    assert again.nodes == ("n1", "n7")
    finished = learn_all(must(give_up(moved, again.nodes)))
    assert {N1, store_id(7)}.isdisjoint(home for entry in entries(finished) for home in entry.homes)


def test_a_move_does_not_wait_for_a_newcomer_that_is_suspect() -> None:
    """It never learns; and while its moves are open nobody can be given up."""
    grown = must(add_node(cluster(nodes(8), partitions=8), node(9)))
    suspect = must(mark_suspect(grown, store_id(9)))
    validate(grown, suspect)
    assert not Topology(suspect).moves_open()
    assert suspect.pools[0].moved_epoch == suspect.epoch
    assert must(give_up(suspect, names(1))).nodes[0].state is StoreState.LOST
    learned = must(mark_suspect(learn_all(grown), store_id(9)))
    assert learned.pools == learn_all(grown).pools, "it is a home, and others hold what it holds"


def test_a_change_of_code_is_not_ended_by_who_is_silent() -> None:
    recoded = must(recode(seven(), "default", "rs:2+2"))
    learner = next(entry.learners[0] for entry in entries(recoded) if entry.learners)
    name = next(each.name for each in recoded.nodes if each.store == learner)
    assert end_moves(recoded, (name,)) is None


def test_a_suspect_voter_looks_after_nobody() -> None:
    current = seven()
    assert leader(Topology(current), lambda _: True) == N1
    assert leader(Topology(mark(current)), lambda _: True) == N2
    assert leader(Topology(current), lambda store: store not in (N1, N2)) == N3
    assert leader(Topology(current), lambda _: False) is None


def mark(current: ClusterMap) -> ClusterMap:
    return must(mark_suspect(current, N1))


def test_several_are_never_waited_for_less_long_than_one() -> None:
    topology = Topology(cluster(nodes(10), partitions=8))
    patient = Patience(node_s=7200.0, several_s=3600.0)
    assert not overdue(topology, silent_for((N1, HOUR), (N2, HOUR)), patient).nodes
    assert overdue(topology, silent_for((N1, 7200.0), (N2, 7200.0)), patient).nodes == ("n1", "n2")


def test_who_was_given_up_with_others_is_taken_back_although_none_is_given_up_alone() -> None:
    lost = learn_all(must(give_up(cluster(nodes(8), partitions=8), names(1, 2))))
    several_only = Patience(0.0, 3600.0)
    assert returned(Topology(lost), {N1: 3599.0}, several_only) is None
    back = returned(Topology(lost), {N1: HOUR}, several_only)
    assert back is not None
    assert back.name == "n1"


def test_a_store_in_the_place_of_a_suspect_one_that_had_lost_its_share_is_given_one_again() -> None:
    lost = must(mark_suspect(learn_all(must(give_up(seven(), names(1)))), N1))
    fresh = store_id(99)
    replaced = must(replace_lost(lost, {N1: fresh}))
    back = returned(Topology(replaced), {fresh: 600.0}, PATIENCE)
    assert back is not None
    assert any(fresh in entry.moving for entry in entries(must(add_node(replaced, back))))
    in_use = must(replace_lost(mark(seven()), {N1: fresh}))
    assert in_use.nodes[0].state is StoreState.ACTIVE, "it has its homes still"


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
