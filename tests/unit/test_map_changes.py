"""From one cluster map to the next, and what is never followed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_node.core.cluster_map import ClusterMap, NodeEntry, PartitionEntry, StoreState
from holdfast_node.core.errors import IntegrityError, MapConflict, Refused
from holdfast_node.core.ids import ClusterId, Epoch, Era, Generation, NodeName, StoreId
from holdfast_node.core.map_changes import (
    finish_learning,
    mark_suspect,
    raise_era,
    relearn,
    replace_lost,
    validate,
)
from holdfast_node.core.topology import Topology
from tests.support.maps import cluster, nodes, store_id


def fresh(old: int) -> StoreId:
    """The new store under the node name of an old one."""
    return store_id(1000 + old)


def must(changed: ClusterMap | None) -> ClusterMap:
    assert changed is not None
    return changed


def test_a_replaced_store_is_a_learner_at_the_same_index_under_the_same_name() -> None:
    before = cluster(nodes(6, sans=3))
    after = must(replace_lost(before, {store_id(1): fresh(1), store_id(2): fresh(2)}))
    validate(before, after)
    assert after.epoch == 2
    for was, now in zip(before.nodes, after.nodes, strict=True):
        swapped = was.store in (store_id(1), store_id(2))
        assert (now.name, now.tags, now.address) == (was.name, was.tags, was.address)
        assert (now.store, now.joined_epoch) == ((fresh(int(was.name[1:])), 2) if swapped else (was.store, 1))
    for was_entry, entry in zip(before.pools[0].partitions, after.pools[0].partitions, strict=True):
        assert entry.generation == was_entry.generation + 1
        assert set(entry.learners) == {fresh(1), fresh(2)}
        for old, new in zip(was_entry.homes, entry.homes, strict=True):
            assert new == {store_id(1): fresh(1), store_id(2): fresh(2)}.get(old, old)
    assert set(after.voters) == {fresh(1), fresh(2), store_id(3), store_id(4), store_id(5)}


def test_a_partition_without_the_lost_store_keeps_its_generation() -> None:
    before = cluster(nodes(8), partitions=8)
    after = must(replace_lost(before, {store_id(8): fresh(8)}))
    for was, now in zip(before.pools[0].partitions, after.pools[0].partitions, strict=True):
        assert now.generation == was.generation + (store_id(8) in was.homes)


def test_replacing_again_is_nothing_to_do() -> None:
    before = cluster(nodes(6))
    after = must(replace_lost(before, {store_id(1): fresh(1)}))
    assert replace_lost(after, {store_id(1): fresh(1)}) is None


def test_a_replacement_that_was_overtaken_by_another_is_not_taken_for_done() -> None:
    before = cluster(nodes(6, sans=3))
    after = must(replace_lost(before, {store_id(1): fresh(1)}))
    with pytest.raises(MapConflict, match="not in the map any more"):
        replace_lost(after, {store_id(1): fresh(2)})


def test_a_partition_that_would_lose_its_majority_is_refused_by_name() -> None:
    before = cluster(nodes(6), partitions=2)
    with pytest.raises(Refused) as refused:
        replace_lost(before, {store_id(number): fresh(number) for number in (1, 2, 3)})
    assert "2 partitions" in refused.value.message
    assert "keep 3 of 6 voting homes (n4, n5, n6), needs 4" in refused.value.evidence[0].said


def test_learners_and_suspects_do_not_count_as_voting_homes_that_stay() -> None:
    before = must(replace_lost(cluster(nodes(6)), {store_id(1): fresh(1)}))
    assert replace_lost(before, {store_id(2): fresh(2)}) is not None
    suspected = must(mark_suspect(before, store_id(3)))
    with pytest.raises(Refused):
        replace_lost(suspected, {store_id(2): fresh(2)})
    assert replace_lost(suspected, {fresh(1): fresh(11)}) is not None


def test_a_suspect_store_is_mended_by_its_replacement() -> None:
    suspected = must(mark_suspect(cluster(nodes(6)), store_id(3)))
    mended = must(replace_lost(suspected, {store_id(3): fresh(3)}))
    assert all(node.state is StoreState.ACTIVE for node in mended.nodes)


def test_a_store_of_the_map_cannot_replace_another() -> None:
    with pytest.raises(Refused):
        replace_lost(cluster(nodes(6)), {store_id(1): store_id(2)})
    with pytest.raises(Refused):
        replace_lost(cluster(nodes(6)), {store_id(1): fresh(1), store_id(2): fresh(1)})


def test_learning_finishes_only_in_the_generation_it_was_done_in() -> None:
    learning = must(replace_lost(cluster(nodes(6)), {store_id(1): fresh(1), store_id(2): fresh(2)}))
    done = must(finish_learning(learning, fresh(1), {(0, 0): 2, (0, 1): 1}))
    validate(learning, done)
    first, second = done.pools[0].partitions[:2]
    assert (first.generation, first.learners) == (3, (fresh(2),))
    assert second == learning.pools[0].partitions[1]
    assert finish_learning(done, fresh(1), {(0, 0): 2}) is None
    assert finish_learning(done, fresh(2), {(0, 0): 2}) is None
    assert finish_learning(done, store_id(5), {(0, 0): 3}) is None


def test_a_store_that_rotted_learns_again_while_a_majority_still_votes() -> None:
    before = cluster(nodes(6), partitions=1)
    one = must(relearn(before, store_id(1), {(0, 0): 1}))
    validate(before, one)
    assert one.pools[0].partitions[0] == PartitionEntry(
        Generation(2), before.pools[0].partitions[0].homes, (store_id(1),)
    )
    assert relearn(one, store_id(1), {(0, 0): 2}) is None
    two = must(relearn(one, store_id(2), {(0, 0): 2}))
    assert relearn(two, store_id(3), {(0, 0): 3}) is None
    assert relearn(before, store_id(1), {(0, 0): 7}) is None


def test_the_era_is_raised_once_however_many_ask() -> None:
    before = cluster(nodes(6))
    raised = must(raise_era(before, Era(1)))
    assert (raised.era, raised.epoch) == (2, 2)
    assert raise_era(raised, Era(1)) is None
    assert must(raise_era(raised)).era == 3


def test_a_store_is_marked_suspect_once() -> None:
    before = cluster(nodes(6))
    marked = must(mark_suspect(before, store_id(2)))
    validate(before, marked)
    assert mark_suspect(marked, store_id(2)) is None
    assert mark_suspect(before, store_id(99)) is None
    assert store_id(2) not in Topology(marked).voting_homes(0, 0)


def spoil_node(map_: ClusterMap, at: int, **changes: object) -> ClusterMap:
    spoilt = replace(map_.nodes[at], **changes)  # type: ignore[arg-type]
    return replace(map_, nodes=(*map_.nodes[:at], spoilt, *map_.nodes[at + 1 :]))


def spoil_partition(map_: ClusterMap, entry: PartitionEntry) -> ClusterMap:
    pool = map_.pools[0]
    return replace(map_, pools=(replace(pool, partitions=(entry, *pool.partitions[1:])),))


def next_map(map_: ClusterMap) -> ClusterMap:
    return replace(map_, epoch=Epoch(map_.epoch + 1))


BASE = cluster(nodes(6))
HOMES = BASE.pools[0].partitions[0].homes


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (replace(next_map(BASE), cluster_id=ClusterId(b"another cluster!")), "another cluster"),
        (replace(next_map(BASE), cluster_id=ClusterId(b"")), "no cluster id"),
        (BASE, "neither goes back"),
        (replace(next_map(BASE), era=Era(0)), "begin at 1"),
        (replace(next_map(BASE), voters=()), "voters"),
        (replace(next_map(BASE), voters=(HOMES[0], HOMES[0], HOMES[1])), "voters"),
        (replace(next_map(BASE), voters=(store_id(77),)), "voters"),
        (replace(next_map(BASE), pools=()), "at least one pool"),
        (replace(next_map(BASE), nodes=()), "no nodes"),
        (spoil_node(next_map(BASE), 0, name=NodeName("n2")), "own name"),
        (spoil_node(next_map(BASE), 0, address=""), "own address"),
        (spoil_node(next_map(BASE), 0, weight=0), "weight"),
        (spoil_node(next_map(BASE), 0, store=StoreId(b"short")), "malformed"),
        (replace(next_map(BASE), pools=(replace(BASE.pools[0], code="rs:4+1"),)), "changed its code"),
        (replace(next_map(BASE), pools=(replace(BASE.pools[0], code="raid5"),)), "unknown code"),
        (replace(next_map(BASE), pools=(replace(BASE.pools[0], name="x"),)), "known by their place"),
        (replace(next_map(BASE), pools=(replace(BASE.pools[0], ack_floor="none"),)), "ack floor"),
        (
            replace(next_map(BASE), pools=(replace(BASE.pools[0], partitions=BASE.pools[0].partitions[:3]),)),
            "power of two",
        ),
        (spoil_partition(next_map(BASE), PartitionEntry(Generation(2), HOMES[:5])), "needs 6"),
        (spoil_partition(next_map(BASE), PartitionEntry(Generation(2), (*HOMES[:5], HOMES[0]))), "needs 6"),
        (
            spoil_partition(next_map(BASE), PartitionEntry(Generation(2), (*HOMES[:5], store_id(9)))),
            "not a store",
        ),
        (spoil_partition(next_map(BASE), PartitionEntry(Generation(2), HOMES, (store_id(9),))), "not a home"),
        (spoil_partition(next_map(BASE), PartitionEntry(Generation(1), HOMES[::-1])), "new generation"),
        (spoil_partition(next_map(BASE), PartitionEntry(Generation(1), HOMES, HOMES[:1])), "new generation"),
        (spoil_partition(next_map(BASE), PartitionEntry(Generation(0), HOMES)), "begin at 1"),
    ],
)
def test_a_map_that_must_not_be_followed_is_refused_with_what_is_wrong(spoilt: ClusterMap, said: str) -> None:
    with pytest.raises(IntegrityError) as refused:
        validate(BASE, spoilt)
    assert any(said in evidence.said for evidence in refused.value.evidence)


def test_epochs_may_be_skipped_by_who_was_away() -> None:
    validate(BASE, replace(BASE, epoch=Epoch(9)))
    validate(None, replace(BASE, epoch=Epoch(9)))


@given(
    st.lists(
        st.tuples(st.sampled_from(["lose", "learn", "rot", "era", "suspect"]), st.integers(0, 5)), max_size=25
    )
)
def test_whatever_happens_each_map_may_follow_the_one_before(steps: list[tuple[str, int]]) -> None:
    current = cluster(nodes(6), partitions=2)
    passed = [current]
    number = 2000
    for what, at in steps:
        number += 1
        after = _step(current, what, current.nodes[at], number)
        if after is None:
            continue
        for earlier in passed:
            validate(earlier, after)
        passed.append(after)
        assert after.epoch == current.epoch + 1
        topology = Topology(after)
        if what in ("lose", "rot"):
            assert all(
                len(topology.voting_homes(0, p)) >= 4
                for p in range(2)
                if after.pools[0].partitions[p] != current.pools[0].partitions[p]
            )
        current = after


def _step(current: ClusterMap, what: str, node: NodeEntry, number: int) -> ClusterMap | None:
    generations = {(0, at): entry.generation for at, entry in enumerate(current.pools[0].partitions)}
    match what:
        case "lose":
            try:
                return replace_lost(current, {node.store: store_id(number)})
            except Refused:
                return None
        case "learn":
            return finish_learning(current, node.store, generations)
        case "rot":
            return relearn(current, node.store, generations)
        case "suspect":
            return mark_suspect(current, node.store)
        case _:
            return raise_era(current)
