"""Holders of a part: homes, handoffs under the domain rules, doubling; and the ack rule against brute force."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import Unavailable
from holdfast_node.core.holders import ack_allowed, choose, replacement
from holdfast_node.core.ids import StoreId
from holdfast_node.core.topology import Topology
from tests.support.maps import cluster, node, nodes, store_id

sans = st.lists(st.sampled_from("abcd"), min_size=6, max_size=10)
downs = st.frozensets(st.integers(1, 10), max_size=6)


def build(values: list[str], floor: str = "any-node") -> Topology:
    entries = [node(number, {"san": value}) for number, value in enumerate(values, 1)]
    return Topology(cluster(entries, protected=("san",), ack_floor=floor))


def within_rules(topology: Topology, chosen: tuple[StoreId, ...]) -> bool:
    san = topology.domain_by_store("san")
    return len(set(chosen)) == 6 and max(Counter(san[store] for store in chosen).values()) <= 2


@given(sans, downs, st.integers(0, 3))
@settings(max_examples=300)
def test_homes_that_are_up_keep_their_shards_and_handoffs_obey_the_rules_if_they_can(
    values: list[str], down: frozenset[int], partition: int
) -> None:
    topology = build(values)
    dead = {store_id(number) for number in down}
    alive = [store for store in topology.stores if store not in dead]
    if not alive:
        return
    chosen = choose(topology, 0, partition, lambda store: store not in dead)
    homes = topology.entry(0, partition).homes
    assert len(chosen) == 6
    assert set(chosen) <= set(alive)
    assert all(store == home for store, home in zip(chosen, homes, strict=True) if home not in dead)
    kept = [home for home in homes if home not in dead]
    missing = 6 - len(kept)
    spares = [store for store in alive if store not in homes]
    possible = missing == 0 or any(
        within_rules(topology, (*kept, *extra)) for extra in combinations(spares, missing)
    )
    if possible and missing:
        assert within_rules(topology, chosen)


@given(downs, st.integers(0, 3))
def test_shards_are_doubled_evenly_where_no_store_is_spare(down: frozenset[int], partition: int) -> None:
    topology = Topology(cluster(nodes(6), protected=("host",)))
    dead = {store_id(number) for number in down}
    live = 6 - len(dead & set(topology.stores))
    if not live:
        with pytest.raises(Unavailable):
            choose(topology, 0, partition, lambda store: store not in dead)
        return
    chosen = choose(topology, 0, partition, lambda store: store not in dead)
    loads = Counter(chosen).values()
    assert max(loads) <= -(-6 // live)
    assert ack_allowed(topology, 0, dict(enumerate(chosen))) == (live >= 3)


def test_two_dead_nodes_of_six_double_as_two_two_one_one_over_both_sans_left() -> None:
    topology = Topology(cluster(nodes(6, sans=3), protected=("host", "san")))
    dead = {store_id(1), store_id(2)}
    for partition in range(4):
        chosen = choose(topology, 0, partition, lambda store: store not in dead)
        assert sorted(Counter(chosen).values()) == [1, 1, 2, 2]
        san = topology.domain_by_store("san")
        assert sorted(Counter(san[store] for store in chosen).values()) == [3, 3]
        assert ack_allowed(topology, 0, dict(enumerate(chosen)))


@given(
    sans, st.dictionaries(st.integers(0, 5), st.integers(1, 6)), st.sampled_from(["any-node", "any-domain"])
)
@settings(max_examples=300)
def test_an_ack_survives_the_loss_its_floor_names(
    values: list[str], sealed: dict[int, int], floor: str
) -> None:
    topology = build(values, floor)
    holders = {index: store_id(number) for index, number in sealed.items()}
    tags = ("node", "san") if floor == "any-domain" else ("node",)
    losses = [stores for tag in tags for stores in topology.domains(tag).values()]
    decodable = all(sum(store not in lost for store in holders.values()) >= 4 for lost in losses)
    assert ack_allowed(topology, 0, holders) == decodable


def test_whole_copies_need_two_nodes_to_survive_one() -> None:
    topology = build(list("aabbcc"))
    copies = parse_code("copy:6")
    assert not ack_allowed(topology, 0, {0: store_id(1)}, copies)
    assert ack_allowed(topology, 0, {0: store_id(1), 1: store_id(2)}, copies)
    assert not ack_allowed(topology, 0, {0: store_id(1), 1: store_id(1)}, copies)


@given(st.frozensets(st.integers(0, 11), min_size=8), st.lists(st.integers(1, 12), min_size=12, max_size=12))
def test_an_ack_of_a_code_with_groups_looks_at_which_shards_are_left(
    sealed: frozenset[int], numbers: list[int]
) -> None:
    code = parse_code("lrc:8+4/2")
    topology = Topology(cluster(nodes(12, 4), partitions=1, protected=("san",), code=str(code)))
    holders = {index: store_id(numbers[index]) for index in sealed}

    def left(lost: StoreId | None) -> list[int]:
        return [index for index, store in holders.items() if store != lost]

    assert ack_allowed(topology, 0, holders) == all(
        code.decodes(left(lost)) for lost in (None, *topology.stores)
    )


def test_a_failed_holder_is_replaced_by_its_home_then_a_spare_then_a_double() -> None:
    topology = Topology(cluster(nodes(7)))
    homes = topology.entry(0, 0).homes
    holders = dict(enumerate(homes))
    spare = store_id(7)
    assert replacement(topology, 0, 0, index=2, holders=holders, usable=lambda _: True) == homes[2]
    assert replacement(topology, 0, 0, index=2, holders=holders, usable=lambda s: s != homes[2]) == spare
    doubled = replacement(
        topology, 0, 0, index=2, holders=holders, usable=lambda s: s not in (homes[2], spare)
    )
    assert doubled in set(homes) - {homes[2]}
    assert replacement(topology, 0, 0, index=2, holders=holders, usable=lambda _: False) is None


def test_the_choice_is_the_same_on_every_node() -> None:
    one, other = (Topology(cluster(nodes(9, sans=3), protected=("san",))) for _ in range(2))
    for partition in range(4):
        assert choose(one, 0, partition, lambda s: s != store_id(2)) == choose(
            other, 0, partition, lambda s: s != store_id(2)
        )


def test_an_excluded_store_gets_nothing() -> None:
    topology = Topology(cluster(nodes(7)))
    assert store_id(1) not in choose(topology, 0, 0, lambda _: True, {store_id(1)})


def test_a_home_whose_domain_is_full_is_not_the_replacement_while_there_is_another() -> None:
    topology = build(list("abbcdaaec"))
    homes = topology.entry(0, 0).homes
    assert homes[0] == store_id(1)
    holders = dict(enumerate(homes)) | {1: store_id(6), 2: store_id(7)}
    holders[5] = store_id(2)
    chosen = replacement(topology, 0, 0, index=0, holders=holders, usable=lambda s: s != store_id(3))
    assert chosen is not None
    assert topology.domain_by_store("san")[chosen] != "a"


def test_doubles_are_even_also_where_a_code_could_lose_many_at_once() -> None:
    topology = Topology(cluster(nodes(6), code="rs:2+4"))
    chosen = choose(topology, 0, 0, lambda store: store in topology.stores[:3])
    assert sorted(Counter(chosen).values()) == [2, 2, 2]
