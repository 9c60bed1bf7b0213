"""How a pool's code changes from map to map: shards at once, registers by a move in which enough of them learn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_node.core.cluster_map import ChangeKind, ClusterMap, PartitionEntry, StoreState
from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import HoldfastError, IntegrityError, InvalidArgument, Refused
from holdfast_node.core.ids import Epoch, Generation, NodeName, StoreId
from holdfast_node.core.map_changes import finish_learning, relearn, replace_lost, validate
from holdfast_node.core.map_moves import add_node, cancel, drain, in_one_code, plan_open, recode, remove
from holdfast_node.core.quorum import majority, meet, overlap
from holdfast_node.core.topology import NOWHERE, Topology
from holdfast_node.services.replacing import shard_warnings
from tests.support.maps import cluster, node, nodes, store_id
from tests.unit.test_map_moves import entries, learn_all, must

N13 = node(13, {"host": "h13", "san": "s0"})


def base(code: str = "rs:4+2") -> ClusterMap:
    return cluster(nodes(12, sans=4), code=code, partitions=8, protected=("san",))


def went(current: ClusterMap, code: str) -> ClusterMap:
    after = must(recode(current, "default", code))
    validate(current, after)
    return after


def settled(current: ClusterMap) -> ClusterMap:
    return in_one_code(current, {pool.name: pool.moved_epoch for pool in current.pools})


def test_new_shards_belong_in_the_new_row_at_once_and_old_ones_where_they_were() -> None:
    before = base()
    after = went(before, "rs:6+3")
    pool = after.pools[0]
    assert (pool.code, pool.former_code, pool.moved_epoch) == ("rs:6+3", "rs:4+2", after.epoch)
    assert after.plan is not None
    assert (after.plan.kind, after.plan.pool) == (ChangeKind.RECODE, "default")
    topology = Topology(after)
    for at, was in enumerate(entries(before)):
        now = entries(after)[at]
        assert len(topology.homes_for(0, at, parse_code("rs:6+3"))) == 9
        assert topology.homes_for(0, at, parse_code("copy:9")) == now.shards
        assert topology.homes_for(0, at, parse_code("rs:4+2")) == was.homes
        assert topology.homes_for(0, at, parse_code("copy:6")) == was.homes
        assert topology.homes_for(0, at, parse_code("rs:2+1")) == (NOWHERE,) * 3
        assert topology.voting_homes(0, at) == was.homes
    closed = learn_all(after)
    assert not plan_open(closed)
    for at, was in enumerate(entries(before)):
        assert Topology(closed).homes_for(0, at, parse_code("rs:4+2")) == was.homes
        assert entries(closed)[at].homes == entries(after)[at].shards


@pytest.mark.parametrize(
    ("code", "to"), [("rs:6+3", "rs:4+2"), ("lrc:8+4/2", "rs:4+2"), ("rs:4+2", "rs:2+1")]
)
def test_where_homes_become_fewer_those_that_stay_learn_too_and_go_on_voting(code: str, to: str) -> None:
    after = went(base(code), to)
    for at, entry in enumerate(entries(after)):
        assert set(entry.learners) == set(entry.shards)
        assert Topology(after).voting_homes(0, at) == entry.homes


@given(st.integers(1, 16), st.integers(1, 16), st.data())
def test_whoever_decides_among_new_homes_meets_what_the_old_ones_decided(
    old: int, new: int, data: st.DataObject
) -> None:
    """Brute force beside the arithmetic of `meet`: the newcomers and the homes that had to learn know everything, the
    others what they took part in."""
    stay = data.draw(st.integers(0, min(old, new)))
    newcomers = new - stay
    knows_least = max(0, majority(old) - (old - stay)) + newcomers if meet(old, new) else new
    assert majority(new) + knows_least > new
    assert overlap(new) + knows_least > new, "who lists and who learns asks no more of them"


def test_with_few_homes_less_nobody_who_stays_learns() -> None:
    after = went(base("rs:4+2"), "rs:3+2")
    for entry in entries(after):
        assert not set(entry.learners) & set(entry.homes)


def test_a_lost_store_does_not_end_a_change_of_code() -> None:
    current = went(base("rs:6+3"), "rs:4+2")
    lost, new = current.nodes[0].store, store_id(99)
    after = must(replace_lost(current, {lost: new}))
    validate(current, after)
    for was, now in zip(entries(current), entries(after), strict=True):
        assert lost not in (*now.homes, *now.moving, *now.shards, *now.former)
        if lost in was.homes:
            assert (now.moving, now.learners) == ((), (new,)), "the old homes come first"
            assert now.shards == tuple(new if home == lost else home for home in was.shards)
    done = learn_all(learn_all(after))
    assert all(len(entry.homes) == 6 and not entry.shards for entry in entries(done))


def test_a_newcomer_lost_on_the_way_is_another_newcomer() -> None:
    current = went(base("rs:4+2"), "rs:6+3")
    at, entry = next((at, each) for at, each in enumerate(entries(current)) if each.learners)
    lost, new = entry.learners[0], store_id(99)
    after = must(replace_lost(current, {lost: new}))
    validate(current, after)
    now = entries(after)[at]
    assert now.generation == entry.generation + 1
    assert new in now.learners
    assert new in now.moving
    assert all(len(each.homes) == 9 for each in entries(learn_all(learn_all(after))))


def test_a_home_that_cannot_vouch_learns_first_and_the_registers_set_out_again() -> None:
    current = went(base("rs:6+3"), "rs:4+2")
    entry = entries(current)[0]
    store = entry.shards[0]
    after = must(relearn(current, store, {(0, 0): entry.generation}))
    validate(current, after)
    now = entries(after)[0]
    assert (now.moving, now.learners, now.shards) == ((), (store,), entry.shards)
    assert store not in Topology(after).voting_homes(0, 0)
    again = must(finish_learning(after, store, {(0, 0): now.generation}))
    validate(after, again)
    assert entries(again)[0].moving == entry.shards
    assert set(entries(again)[0].learners) == set(entry.shards)


@pytest.mark.parametrize("closed", [False, True])
def test_a_cancelled_change_of_code_goes_back_to_the_old_row(closed: bool) -> None:
    before = base("rs:6+3")
    current = went(before, "rs:4+2")
    current = learn_all(current) if closed else current
    after = must(cancel(current))
    validate(current, after)
    pool = after.pools[0]
    assert (pool.code, pool.former_code) == ("rs:6+3", "rs:4+2")
    done = learn_all(after)
    assert [entry.homes for entry in entries(done)] == [entry.homes for entry in entries(before)]
    assert cancel(done) is None


@pytest.mark.parametrize("code", [True, False])
def test_nothing_is_cancelled_while_a_home_that_took_a_lost_ones_place_is_learning(code: bool) -> None:
    """An open move lets all old homes vote: a blank one would, too, and what it does not know be decided twice."""
    started = went(base(), "rs:6+3") if code else must(add_node(base(), N13))
    closed = learn_all(started)
    lost = entries(closed)[0].homes[0]
    after = must(replace_lost(closed, {lost: store_id(99)}))
    with pytest.raises(Refused, match="has not learned yet"):
        cancel(after)
    assert cancel(learn_all(after)) is not None


def test_nothing_else_moves_until_nothing_is_left_in_the_former_code() -> None:
    current = learn_all(went(base(), "rs:6+3"))
    changes: tuple[Callable[[], ClusterMap | None], ...] = (
        lambda: add_node(current, N13),
        lambda: drain(current, (NodeName("n1"),)),
        lambda: recode(current, "default", "rs:2+1"),
    )
    for change in changes:
        with pytest.raises(Refused) as refused:
            change()
        assert "may have blobs in rs:4+2" in refused.value.evidence[0].said
    assert recode(current, "default", "rs:6+3") is None
    after = must(add_node(settled(current), N13))
    validate(current, after)
    assert after.pools[0].former_code == ""
    assert settled(replace(current, pools=current.pools)).pools[0].former_code == ""
    assert in_one_code(current, {"default": current.pools[0].moved_epoch - 1}) == current


def test_a_node_that_may_hold_versions_in_the_former_code_is_not_removed() -> None:
    current = learn_all(went(base(), "rs:2+1"))
    name = current.nodes[0].name
    drained = replace(
        current,
        nodes=tuple(
            replace(each, state=StoreState.DRAINING) if each.name == name else each for each in current.nodes
        ),
        voters=tuple(store for store in current.voters if store != current.nodes[0].store)
        or (current.nodes[1].store,),
        pools=tuple(
            replace(
                pool,
                partitions=tuple(
                    replace(entry, homes=tuple(_not(current, home) for home in entry.homes))
                    for entry in pool.partitions
                ),
            )
            for pool in current.pools
        ),
    )
    with pytest.raises(Refused):
        remove(drained, (name,))


def _not(current: ClusterMap, home: StoreId) -> StoreId:
    return store_id(77) if home == current.nodes[0].store else home


def test_unknown_pools_and_codes_and_what_the_domains_cannot_hold_are_refused() -> None:
    current = base()
    with pytest.raises(InvalidArgument, match="there is no pool"):
        recode(current, "nope", "rs:4+2")
    with pytest.raises(InvalidArgument, match="unknown code"):
        recode(current, "default", "rs:40+2")
    with pytest.raises(Refused, match="impossible placement"):
        recode(current, "default", "rs:10+2")


def test_maps_that_cheat_are_not_followed() -> None:
    before = base("rs:6+3")
    after = went(before, "rs:4+2")
    entry = entries(after)[0]

    def with_first(changed: PartitionEntry, **others: object) -> ClusterMap:
        pool = after.pools[0]
        rest = replace(pool, partitions=(changed, *pool.partitions[1:]), **others)  # type: ignore[arg-type]
        return replace(after, pools=(rest,))

    generation = Generation(entry.generation + 1)
    closed_early = with_first(PartitionEntry(generation, entry.moving, former=entry.homes))
    fewer_pupils = with_first(replace(entry, learners=entry.learners[:1]))
    elsewhere = with_first(replace(entry, moving=tuple(reversed(entry.moving))))
    for wrong in (
        replace(closed_early, epoch=Epoch(after.epoch + 1)),
        replace(after, pools=(replace(after.pools[0], former_code=""),)),
        elsewhere,
    ):
        with pytest.raises(IntegrityError):
            validate(after if wrong.epoch > after.epoch else before, wrong)
    validate(before, fewer_pupils)  # who has learned is not to be seen from the map alone


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["code", "cancel", "lose", "relearn", "learn", "settle"]), st.integers(0, 99)
        ),
        max_size=14,
    )
)
def test_whatever_happens_every_map_is_sound_and_ends_in_one_code(steps: list[tuple[str, int]]) -> None:
    current = base()
    for what, number in steps:
        with contextlib.suppress(HoldfastError):
            current = _after(current, what, number)
    for _ in range(3):
        current = learn_all(current)
    n = parse_code(current.pools[0].code).n
    for entry in entries(current):
        assert (len(entry.homes), entry.moving, entry.shards, entry.learners) == (n, (), (), ())


CODES = ("rs:4+2", "rs:6+3", "lrc:8+4/2", "rs:2+1", "rs:3+2")


def _after(current: ClusterMap, what: str, number: int) -> ClusterMap:
    """The map after one step; as it was if there is nothing to do. Checked by everybody who adopts it."""
    store = current.nodes[number % 12].store
    if what == "learn":
        return learn_all(current)
    if what == "settle":
        return current if plan_open(current) else settled(current)
    changes: dict[str, Callable[[], ClusterMap | None]] = {
        "code": lambda: recode(current, "default", CODES[number % len(CODES)]),
        "cancel": lambda: cancel(current),
        "lose": lambda: replace_lost(current, {store: store_id(1000 + current.epoch)}),
        "relearn": lambda: relearn(
            current, store, {(0, at): entry.generation for at, entry in enumerate(entries(current))}
        ),
    }
    after = changes[what]()
    if after is not None:
        validate(current, after)
    return after or current


def test_stores_that_the_new_code_cannot_miss_are_warned_of_though_the_former_could() -> None:
    current = learn_all(went(cluster(nodes(12, sans=4), code="rs:2+4", partitions=8), "rs:8+1"))
    lost = entries(current)[0].homes[:2]
    told = shard_warnings(current, {store: store_id(90 + at) for at, store in enumerate(lost)})
    assert any("are lost" in line for line in told)
    assert not shard_warnings(current, {lost[0]: store_id(90)})
