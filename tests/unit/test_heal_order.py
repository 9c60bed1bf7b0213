"""What may be dropped, given who holds what: pure arithmetic."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from holdfast_node.core.api import Margin
from holdfast_node.core.codes import parse_code
from holdfast_node.core.heal_order import RECODES, Ailing, HealOrder, away_from_home, may_go
from holdfast_node.core.ids import RESERVED_BUCKET, Epoch, Generation, StoreId
from holdfast_node.core.margin import shard_survives
from holdfast_node.core.topology import Topology
from tests.support.maps import cluster, nodes, store_id

CODE = parse_code("rs:4+2")
TWELVE = cluster(nodes(12, 6), partitions=1, protected=("san",))
"""rs:4+2 at home on n1 to n6, that is on SANs s0, s1 and s2, two of each."""


def held(*stores: tuple[int, ...]) -> dict[int, list[StoreId]]:
    """Who holds shard 0, 1, ...: numbers of nodes, the home first."""
    return {index: [store_id(number) for number in numbers] for index, numbers in enumerate(stores)}


def may(topology: Topology, who: dict[int, list[StoreId]], index: int, number: int) -> bool:
    return may_go(topology, (0, 0), who, (index, store_id(number)), code=CODE)


def test_a_copy_beside_the_one_at_home_may_go() -> None:
    topology = Topology(TWELVE)
    assert may(topology, held((1,), (2,), (3, 9), (4,), (5,), (6,)), 2, 9)


def test_a_copy_stays_while_its_domain_is_less_crowded_than_that_of_its_home() -> None:
    """On the way: shards 2 and 3 have arrived in SAN s1 where 4 and 5 still are; s1 with four would cost the part."""
    entry = TWELVE.pools[0].partitions[0]
    homes = tuple(store_id(number) for number in (1, 2, 3, 4, 5, 6))
    was = tuple(store_id(number) for number in (1, 2, 5, 6, 3, 4))
    entries = (replace(entry, generation=Generation(2), homes=was, moving=homes),)
    opened = replace(TWELVE, epoch=Epoch(2), pools=(replace(TWELVE.pools[0], partitions=entries),))
    topology = Topology(opened)
    crowded = held((1,), (2,), (3, 5), (4, 6), (3,), (4,))
    assert not may(topology, crowded, 2, 5), "shards 2, 3, 4 and 5 would be in one SAN"
    arrived = held((1,), (2,), (3, 5), (4, 6), (5, 3), (6, 4))
    assert may(topology, arrived, 2, 5)


@given(st.lists(st.lists(st.integers(7, 12), max_size=2, unique=True), min_size=6, max_size=6))
def test_copies_go_one_by_one_until_only_those_at_home_are_left(elsewhere: list[list[int]]) -> None:
    """Whatever is where beside a whole set at home: every copy may go in some order, here in any."""
    topology = Topology(TWELVE)
    who = held(*((index + 1, *numbers) for index, numbers in enumerate(elsewhere)))
    domains = topology.domain_by_store("san")
    for index, numbers in enumerate(elsewhere):
        for number in numbers:
            assert may(topology, who, index, number)
            who[index].remove(store_id(number))
            assert shard_survives(who, CODE, domains) >= 1


def test_a_holder_that_has_left_the_map_counts_as_away_only_in_what_was_accepted_just_now() -> None:
    topology = Topology(TWELVE)
    named = [store_id(number) for number in (1, 2, 3, 4, 99, 8)]
    assert away_from_home(topology, 0, 0, named) == {5}
    assert away_from_home(topology, 0, 0, named, fresh=True) == {4, 5}


def survives(spare: int, sans: int) -> Margin:
    return Margin((("node", spare), ("san", sans)), full=False)


def ailing(key: bytes, spare: int, since: int = 0, *, sans: int | None = None) -> Ailing:
    return Ailing(0, 1, RESERVED_BUCKET, key, survives(spare, spare if sans is None else sans), since)


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 5)), max_size=30))
def test_the_smallest_margin_goes_first_then_the_oldest(drawn: list[tuple[int, int]]) -> None:
    order = HealOrder()
    for number, (margin, since) in enumerate(drawn):
        assert not order.add(ailing(b"%d" % number, margin, since))
    found = [(dict(each.margin.entries)["node"], each.since) for each in order.most_urgent(0.0, 100)]
    assert found == sorted(drawn)


def test_what_a_whole_san_would_take_is_grave_and_what_a_node_would_take_as_well_is_graver() -> None:
    order = HealOrder()
    for name, among, sans in ((b"no node", 0, 0), (b"none", 2, 1), (b"no san", 1, 0), (b"gone", -1, -1)):
        assert not order.add(ailing(name, among, sans=sans))
    found = order.most_urgent(0.0, 100)
    assert [each.key for each in found] == [b"gone", b"no node", b"no san", b"none"]
    assert [each.grave for each in found] == [True, True, True, False]
    assert order.per_partition() == {(0, 1): (4, survives(-1, -1))}


def in_hand(order: HealOrder, *, due: int) -> None:
    """All that is due is being mended."""
    begun = order.most_urgent(0.0, 16)
    assert len(begun) == due
    order.in_hand.update((each.name, each) for each in begun)


def test_a_key_finds_a_place_though_lesser_ones_have_theirs_for_long() -> None:
    order = HealOrder()
    for number in range(20):
        assert not order.add(ailing(b"large %d" % number, 2))
    in_hand(order, due=16)
    assert not order.most_urgent(0.0, 16), "the others wait for one of the same to end"
    order.add(ailing(b"graver", 1))
    assert [each.key for each in order.most_urgent(0.0, 16)] == [b"graver"]
    in_hand(order, due=1)
    for number in range(2):
        del order.in_hand[0, RESERVED_BUCKET, b"large %d" % number]
    assert len(order.most_urgent(0.0, 16)) == 1, "the graver take places too"


def test_what_waits_for_a_turn_to_be_made_anew_is_in_nobodys_way() -> None:
    order = HealOrder()
    for number in range(100):
        assert not order.add(replace(ailing(b"old code %d" % number, 1), recode=True))
        assert not order.add(ailing(b"%d" % number, 1, since=1))
    found = order.most_urgent(0.0, 16)
    assert sum(each.recode for each in found) == RECODES
    assert len(found) == 16
    order.in_hand.update((each.name, each) for each in found if each.recode)
    assert not any(each.recode for each in order.most_urgent(0.0, 16))


def test_what_is_graver_waits_for_no_turn_of_the_lesser() -> None:
    """A pool goes to another code, and a SAN is lost: all that is grave was behind four blobs of terabytes."""
    order = HealOrder()
    for number in range(RECODES):
        order.add(replace(ailing(b"large %d" % number, 1), recode=True))
    in_hand(order, due=RECODES)
    for number in range(9):
        order.add(replace(ailing(b"as grave as others %d" % number, 1), recode=True))
        order.add(replace(ailing(b"grave %d" % number, 0), recode=True))
    found = order.most_urgent(0.0, 16)
    assert [each.grave for each in found] == [True] * RECODES, "and not all of them at once either"


def test_while_callers_wait_few_of_what_is_not_grave_find_a_place_and_the_graver_find_theirs() -> None:
    """Two large blobs in hand kept all else waiting that one more loss would not take."""
    order = HealOrder()
    for number in range(9):
        order.add(ailing(b"large %d" % number, 3))
    begun = order.most_urgent(0.0, 16, paced=2)
    assert len(begun) == 2
    order.in_hand.update((each.name, each) for each in begun)
    assert not order.most_urgent(0.0, 16, paced=2)
    order.add(ailing(b"graver", 1))
    assert [each.key for each in order.most_urgent(0.0, 16, paced=2)] == [b"graver"]
    for number in range(5):
        order.add(ailing(b"grave %d" % number, 0))
        order.add(ailing(b"as large %d" % number, 3))
    found = order.most_urgent(0.0, 16, paced=2)
    assert [each.grave for each in found] == [True] * 5 + [False], (
        "what is grave takes none of the few places"
    )


def test_a_report_that_came_meanwhile_is_not_lost() -> None:
    order = HealOrder()
    order.add(ailing(b"k", 1))
    (taken,) = order.most_urgent(0.0, 1)
    order.add(ailing(b"k", 1))
    order.remove(taken)
    assert len(order) == 1


def test_what_was_written_while_an_older_version_was_being_mended_keeps_its_margin() -> None:
    """Status had claimed the older one's, which more losses would have spared. Found by seed 4128."""
    order = HealOrder()
    order.add(ailing(b"k", 2))
    (taken,) = order.most_urgent(0.0, 1)
    order.add(ailing(b"k", 0))
    order.put_off(taken, margin=survives(2, 2), due_s=4.0, tries=1)
    assert order.per_partition() == {(0, 1): (1, survives(0, 0))}
    (again,) = order.most_urgent(4.0, 1)
    order.put_off(again, margin=survives(1, 1), due_s=8.0, tries=2)
    assert order.per_partition() == {(0, 1): (1, survives(1, 1))}, "looked at since, as it is now"


def test_reports_do_not_hurry_what_has_just_failed() -> None:
    """A key was in quarantine after three seconds of read errors, for its own mending reported it again and again."""
    order = HealOrder()
    order.add(ailing(b"k", 1))
    (taken,) = order.most_urgent(0.0, 1)
    order.add(ailing(b"k", 0))
    order.put_off(taken, margin=survives(0, 0), due_s=4.0, tries=1)
    order.add(ailing(b"k", 0))
    assert not order.most_urgent(3.9, 1)
    (again,) = order.most_urgent(4.0, 1)
    assert again.tries == 1
    order.hasten()
    assert order.most_urgent(0.0, 1), "unless somebody is back"


def test_what_was_put_off_waits_until_somebody_is_back() -> None:
    order = HealOrder()
    order.add(ailing(b"k", 1))
    (taken,) = order.most_urgent(0.0, 1)
    order.put_off(taken, margin=survives(0, 0), due_s=60.0, tries=9)
    assert order.most_urgent(59.0, 1) == []
    assert len(order.hopeless(8)) == 1
    assert order.per_partition() == {(0, 1): (1, survives(0, 0))}
    order.hasten()
    assert order.most_urgent(0.0, 1)


def test_the_order_is_bounded_and_says_so() -> None:
    order = HealOrder(limit=2)
    assert not order.add(ailing(b"a", 1))
    assert not order.add(ailing(b"b", 1))
    assert [each.key for each in order.add(ailing(b"c", 2))] == [b"c"]
    assert not order.add(ailing(b"a", 0)), "known keys may get worse"
    order.forget({(0, 1)})
    assert len(order) == 0


def test_what_is_graver_always_finds_room() -> None:
    """Ten thousand keys that waited for a node that was down kept out every other, however grave."""
    order = HealOrder(limit=3)
    waiting = replace(ailing(b"waiting", 1, since=1), due_s=60.0)
    for each in (waiting, ailing(b"young", 1, since=9), replace(ailing(b"damaged", 1, since=9), deep=True)):
        assert not order.add(each)
    assert [each.key for each in order.add(ailing(b"grave", 0, since=9))] == [b"waiting"]
    assert [each.key for each in order.add(ailing(b"lost", -1, since=9))] == [b"young"]
    assert [each.key for each in order.most_urgent(0.0, 100)] == [b"lost", b"grave", b"damaged"]


def test_a_full_order_makes_room_for_many_at_once() -> None:
    """To find the least grave of ten thousand for each degraded write would take longer than the write."""
    order = HealOrder(limit=100)
    dropped = [len(order.add(ailing(b"%d" % number, 1))) for number in range(112)]
    assert [count for count in dropped if count] == [11, 11]
