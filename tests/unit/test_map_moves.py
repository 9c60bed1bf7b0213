"""How homes change from map to map while everybody works: opened all at once, closed one by one, undone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_node.core.cluster_map import ChangeKind, ClusterMap, NodeEntry, PartitionEntry, StoreState
from holdfast_node.core.errors import IntegrityError, Refused
from holdfast_node.core.ids import Generation, NodeName, StoreId
from holdfast_node.core.map_changes import finish_learning, relearn, replace_lost, validate
from holdfast_node.core.map_moves import add_node, cancel, costs, drain, plan_open, remove
from holdfast_node.core.seed import SeedPool, made
from holdfast_node.core.topology import Topology
from tests.support.maps import cluster, node, nodes, store_id

N7 = node(7, {"host": "h7", "san": "s3"})


def must(changed: ClusterMap | None) -> ClusterMap:
    assert changed is not None
    return changed


def base(partitions: int = 16) -> ClusterMap:
    return cluster(nodes(6, sans=3), partitions=partitions, protected=("san",))


def entries(current: ClusterMap) -> tuple[PartitionEntry, ...]:
    return current.pools[0].partitions


def learn_all(current: ClusterMap) -> ClusterMap:
    """Every newcomer catches up, in the order of the stores."""
    for store in sorted({learner for entry in entries(current) for learner in entry.learners}):
        scoped = {
            (0, at): entry.generation for at, entry in enumerate(entries(current)) if store in entry.learners
        }
        after = must(finish_learning(current, store, scoped))
        validate(current, after)
        current = after
    return current


def names(*numbers: int) -> tuple[NodeName, ...]:
    return tuple(NodeName(f"n{number}") for number in numbers)


def test_a_new_node_is_a_newcomer_wherever_it_is_to_be_home_and_shards_belong_there_at_once() -> None:
    before = base()
    after = must(add_node(before, N7))
    validate(before, after)
    moving = [entry for entry in entries(after) if entry.moving]
    assert moving
    assert plan_open(after)
    assert after.plan is not None
    assert (after.plan.kind, after.plan.nodes) == (ChangeKind.ADD, ("n7",))
    topology = Topology(after)
    for at, (was, now) in enumerate(zip(entries(before), entries(after), strict=True)):
        assert now.homes == was.homes, "the old homes go on"
        assert now.generation == was.generation + bool(now.moving)
        if now.moving:
            assert now.learners == (N7.store,)
            assert topology.shard_homes(0, at) == now.moving
            assert topology.register_homes(0, at) == (*now.homes, N7.store)
            assert topology.voting_homes(0, at) == now.homes
            stays = [a for a, b in zip(now.moving, now.homes, strict=True) if a == b]
            assert len(stays) == 5, "whoever stays keeps its shard"
    assert after.pools[0].moved_epoch == after.epoch
    assert next(each for each in after.nodes if each.name == "n7").joined_epoch == after.epoch


def test_no_plan_moves_less_than_it_says_must_move() -> None:
    before = replace(base(64), pools=(made(SeedPool("default", "rs:4+2", 64), tuple(base().nodes))[0],))
    [cost] = costs(before, must(add_node(before, N7)))
    assert 0 < cost.least_slots <= cost.shard_slots


def test_a_move_closes_with_the_last_of_its_newcomers() -> None:
    opened = must(drain(cluster(nodes(8), partitions=2), names(1, 2)))
    at = next(at for at, entry in enumerate(entries(opened)) if len(entry.learners) == 2)
    entry = entries(opened)[at]
    first, second = entry.learners
    half = must(finish_learning(opened, first, {(0, at): entry.generation}))
    validate(opened, half)
    assert entries(half)[at] == replace(entry, learners=(second,)), (
        "in the same generation: nobody's vote changes"
    )
    closed = must(finish_learning(half, second, {(0, at): entry.generation}))
    validate(half, closed)
    after = Generation(entry.generation + 1)
    assert entries(closed)[at] == PartitionEntry(after, entry.moving, former=entry.homes)


def test_draining_moves_what_is_there_and_nothing_else() -> None:
    before = cluster(nodes(8), partitions=16)
    after = must(drain(before, names(3)))
    validate(before, after)
    gone = store_id(3)
    for was, now in zip(entries(before), entries(after), strict=True):
        assert bool(now.moving) == (gone in was.homes)
        assert gone not in now.moving
    assert gone not in after.voters, "three was a voter"
    [cost] = costs(before, after)
    assert cost.shard_slots == sum(gone in entry.homes for entry in entries(before)) == cost.least_slots
    assert gone in Topology(after).active, "it votes until the moves are closed"
    assert gone not in Topology(after).placeable
    assert drain(after, names(3)) is None, "said again while it goes on"
    done = learn_all(after)
    assert not plan_open(done)
    assert drain(done, names(3)) is None, "nothing is left to move"


def test_one_change_of_homes_at_a_time_and_the_refusal_names_it() -> None:
    opened = must(add_node(base(), N7))
    eighth = node(8, {"host": "h8", "san": "s0"})
    with pytest.raises(Refused, match=r"not settled \(n7\)") as refused:
        add_node(opened, eighth)
    assert "plan --cancel" in refused.value.hint
    with pytest.raises(Refused, match=r"not settled \(n7\)"):
        drain(opened, names(1))
    learning = must(replace_lost(base(), {store_id(1): store_id(101)}))
    with pytest.raises(Refused, match="not settled") as refused:
        add_node(learning, N7)
    assert "catching up" in refused.value.evidence[0].said


def test_whoever_is_known_by_name_address_or_store_is_not_new() -> None:
    for taken in (
        replace(N7, name=NodeName("n1")),
        replace(N7, address=nodes(1)[0].address),
        replace(N7, store=store_id(2)),
    ):
        with pytest.raises(Refused, match="not new"):
            add_node(base(), taken)
    joined = must(add_node(base(), N7))
    assert add_node(joined, N7) is None


def test_a_drain_that_the_others_cannot_hold_is_refused_with_the_conflict() -> None:
    with pytest.raises(Refused) as refused:
        drain(base(), names(1))
    assert refused.value.evidence or "n1" in refused.value.message or "6" in refused.value.message


def test_a_node_is_removed_only_when_nothing_is_bound_to_it() -> None:
    before = must(add_node(base(), N7))
    with pytest.raises(Refused) as refused:
        remove(before, names(7))
    assert refused.value.evidence[0].said == "is not draining"
    settled = learn_all(before)
    draining = must(drain(settled, names(7)))
    with pytest.raises(Refused) as refused:
        remove(draining, names(7))
    assert refused.value.evidence[0].said == "is still a home"
    drained = learn_all(draining)
    after = must(remove(drained, names(7)))
    validate(drained, after)
    assert [each.name for each in after.nodes] == [each.name for each in base().nodes]
    assert all(not entry.former for entry in entries(after)), (
        "nobody looks for shards at a store that has left"
    )
    assert after.plan is None
    assert remove(after, names(7)) is None


def test_a_cancelled_change_ends_where_it_began_open_or_closed() -> None:
    before = base()
    opened = must(add_node(before, N7))
    at = next(at for at, entry in enumerate(entries(opened)) if entry.moving)
    half = must(finish_learning(opened, N7.store, {(0, at): entries(opened)[at].generation}))
    undone = must(cancel(half))
    validate(half, undone)
    assert entries(undone)[at].moving == entries(before)[at].homes, "what was closed goes back"
    back = learn_all(undone)
    assert [entry.homes for entry in entries(back)] == [entry.homes for entry in entries(before)]
    assert cancel(back) is None, "once"
    assert next(each for each in back.nodes if each.name == "n7").state is StoreState.DRAINING
    assert must(remove(back, names(7))).nodes == before.nodes


def test_a_cancelled_drain_lets_the_node_stay() -> None:
    before = cluster(nodes(8), partitions=16)
    opened = must(drain(before, names(3)))
    undone = must(cancel(opened))
    validate(opened, undone)
    assert [entry.homes for entry in entries(undone)] == [entry.homes for entry in entries(before)]
    assert not plan_open(undone)
    assert all(each.state is StoreState.ACTIVE for each in undone.nodes)


def test_nothing_to_cancel_is_said() -> None:
    with pytest.raises(Refused, match="no change"):
        cancel(base())
    removed = must(remove(learn_all(must(drain(learn_all(must(add_node(base(), N7))), names(7)))), names(7)))
    with pytest.raises(Refused, match="no change"):
        cancel(removed)


def test_a_lost_store_ends_the_moves_it_has_part_in_and_no_others() -> None:
    opened = must(drain(cluster(nodes(8), partitions=16), names(3)))
    lost, fresh = store_id(8), store_id(108)
    after = must(replace_lost(opened, {lost: fresh}))
    validate(opened, after)
    for was, now in zip(entries(opened), entries(after), strict=True):
        if lost in (*was.homes, *was.moving):
            assert not now.moving
            assert now.learners == ((fresh,) if lost in was.homes else ())
        else:
            assert now == was


def test_a_newcomer_that_cannot_vouch_for_itself_ends_its_move() -> None:
    opened = must(add_node(base(), N7))
    at = next(at for at, entry in enumerate(entries(opened)) if entry.moving)
    after = must(relearn(opened, N7.store, {(0, at): entries(opened)[at].generation}))
    validate(opened, after)
    assert (entries(after)[at].homes, entries(after)[at].moving) == (entries(opened)[at].homes, ())


def spoilt(current: ClusterMap, at: int, entry: PartitionEntry) -> ClusterMap:
    rows = list(entries(current))
    rows[at] = entry
    pool = replace(current.pools[0], partitions=tuple(rows))
    return replace(current, epoch=current.epoch + 1, pools=(pool,))  # type: ignore[arg-type]


def test_maps_that_skip_a_step_are_not_followed() -> None:
    opened = must(add_node(base(), N7))
    at = next(at for at, entry in enumerate(entries(opened)) if entry.moving)
    entry = entries(opened)[at]
    up = Generation(entry.generation + 1)
    for wrong, reason in (
        (replace(entry, moving=(), learners=()), "new generation"),
        (replace(entry, generation=up, moving=entry.homes[::-1], learners=()), "takes the place"),
        (replace(entry, generation=up, homes=entry.moving[::-1], moving=(), learners=()), "without a move"),
        (replace(entry, moving=entry.moving[:5]), "moves to other than 6"),
        (replace(entry, learners=entry.homes[:1]), "not a newcomer"),
        (replace(entry, former=entry.homes[:2]), "came from other than 6"),
    ):
        with pytest.raises(IntegrityError) as refused:
            validate(opened, spoilt(opened, at, wrong))
        assert any(reason in each.said for each in refused.value.evidence), (reason, refused.value.evidence)


def test_who_was_away_from_the_beginning_of_a_move_to_its_end_follows_the_map() -> None:
    before = base()
    opened = must(add_node(before, N7))
    closed = learn_all(opened)
    assert not any(entry.moving for entry in entries(closed))
    validate(before, closed)
    back = learn_all(must(drain(closed, names(7))))
    validate(before, back)
    validate(opened, back)


def well_spread(current: ClusterMap) -> None:
    """No SAN has more than two of six shards, where they are and where they go."""
    topology = Topology(current)
    sans = topology.domain_by_store("san")
    for entry in entries(current):
        for row in (entry.homes, entry.moving):
            assert max(Counter(sans[store] for store in row).values(), default=0) <= 2


@given(
    st.lists(
        st.tuples(st.sampled_from(("add", "drain", "learn", "cancel", "remove")), st.integers(1, 12)),
        max_size=25,
    )
)
def test_whatever_operators_do_every_map_is_sound_and_no_domain_is_crowded(
    acts: list[tuple[str, int]],
) -> None:
    current = base()
    passed = [current]
    for act, number in acts:
        added: NodeEntry = node(number, {"host": f"h{number}", "san": f"s{number % 4}"})
        try:
            if act == "add":
                after = add_node(current, added)
            elif act == "drain":
                after = drain(current, names(number))
            elif act == "cancel":
                after = cancel(current)
            elif act == "remove":
                after = remove(current, names(number))
            else:
                after = learn_all(current)
        except Refused:
            continue
        if after is None or after is current:
            continue
        if act != "learn":
            validate(current, after)
        for earlier in passed:
            validate(earlier, after)  # by a node that was away meanwhile
        well_spread(after)
        current = after
        passed.append(after)
    stores: set[StoreId] = {each.store for each in current.nodes}
    assert stores.issuperset(current.voters)
