"""What may be dropped, given who holds what: pure arithmetic."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from holdfast_node.core.heal_order import away_from_home, may_go
from holdfast_node.core.ids import Epoch, Generation, StoreId
from holdfast_node.core.margin import shard_survives
from holdfast_node.core.topology import Topology
from tests.support.maps import cluster, nodes, store_id

K = 4
TWELVE = cluster(nodes(12, 6), partitions=1, protected=("san",))
"""rs:4+2 at home on n1 to n6, that is on SANs s0, s1 and s2, two of each."""


def held(*stores: tuple[int, ...]) -> dict[int, list[StoreId]]:
    """Who holds shard 0, 1, ...: numbers of nodes, the home first."""
    return {index: [store_id(number) for number in numbers] for index, numbers in enumerate(stores)}


def may(topology: Topology, who: dict[int, list[StoreId]], index: int, number: int) -> bool:
    return may_go(topology, (0, 0), who, (index, store_id(number)), k=K)


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
            assert shard_survives(who, K, domains) >= 1


def test_a_holder_that_has_left_the_map_counts_as_away_only_in_what_was_accepted_just_now() -> None:
    topology = Topology(TWELVE)
    named = [store_id(number) for number in (1, 2, 3, 4, 99, 8)]
    assert away_from_home(topology, 0, 0, named) == {5}
    assert away_from_home(topology, 0, 0, named, fresh=True) == {4, 5}
