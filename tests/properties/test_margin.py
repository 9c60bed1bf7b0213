"""Margins against brute force: remove every set of domains and look."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from holdfast_node.core.codes import Code, parse_code
from holdfast_node.core.ids import StoreId
from holdfast_node.core.margin import (
    least,
    majority_survives,
    margin_of,
    partition_margin,
    shard_survives,
)
from holdfast_node.core.topology import Topology
from tests.support.maps import cluster, node, store_id

STORES = [store_id(number) for number in range(1, 8)]
domains_of_stores = st.fixed_dictionaries({}, optional={store: st.sampled_from("abcd") for store in STORES})
holders_by_index = st.dictionaries(
    st.integers(0, 5), st.lists(st.sampled_from(STORES), min_size=0, max_size=3), min_size=0, max_size=6
)


def survives(good_without: dict[frozenset[str], bool], values: list[str]) -> int:
    """The largest j such that every j domains may go; -1 if it is not good to begin with."""
    best = -1
    for count in range(len(values) + 1):
        if not all(good_without[frozenset(lost)] for lost in combinations(values, count)):
            return best
        best = count
    return best


CODES = [parse_code(text) for text in ("copy:6", "rs:2+4", "rs:3+3", "rs:4+2", "lrc:4+3/2")]


@given(st.data(), st.sampled_from(CODES), domains_of_stores)
def test_shards_survive_what_brute_force_says(
    data: st.DataObject, code: Code, domains: dict[StoreId, str]
) -> None:
    stores = st.lists(st.sampled_from(STORES), min_size=0, max_size=3)
    holders = data.draw(st.dictionaries(st.integers(0, code.n - 1), stores))
    values = sorted(set(domains.values()))

    def left(lost: frozenset[str]) -> list[int]:
        return [i for i, at in holders.items() if any(s in domains and domains[s] not in lost for s in at)]

    good = {
        frozenset(c): code.decodes(left(frozenset(c)))
        for j in range(len(values) + 1)
        for c in combinations(values, j)
    }
    assert shard_survives(holders, code, domains) == survives(good, values)


def test_a_code_with_groups_survives_what_its_worst_loss_leaves() -> None:
    code = parse_code("lrc:8+4/2")
    holders = {index: (store_id(index),) for index in range(code.n)}
    assert shard_survives(holders, code, {store_id(i): f"n{i}" for i in range(code.n)}) == 3, "not any four"
    in_twos = {store_id(i): f"rack {i // 2}" for i in range(code.n)}
    assert shard_survives(holders, code, in_twos) == 1, "not two of a group and both global parities"


@given(st.frozensets(st.sampled_from(STORES)), st.integers(1, 7), domains_of_stores)
def test_a_majority_survives_what_brute_force_says(
    alive: frozenset[StoreId], total: int, domains: dict[StoreId, str]
) -> None:
    values = sorted(set(domains.values()))

    def left(lost: frozenset[str]) -> int:
        return sum(s in domains and domains[s] not in lost for s in alive)

    good = {
        frozenset(c): 2 * left(frozenset(c)) > total
        for j in range(len(values) + 1)
        for c in combinations(values, j)
    }
    assert majority_survives(alive, total, domains) == survives(good, values)


@given(
    st.lists(st.sampled_from("abc"), min_size=6, max_size=8),
    st.frozensets(st.integers(1, 8), max_size=4),
    st.lists(holders_by_index, min_size=0, max_size=2),
    st.integers(0, 3),
)
def test_a_margin_is_what_brute_force_over_whole_domains_says(
    sans: list[str], down: frozenset[int], parts: list[dict[int, list[StoreId]]], partition: int
) -> None:
    entries = [node(number, {"san": value}) for number, value in enumerate(sans, 1)]
    topology = Topology(cluster(entries, protected=("san",)))
    dead = {store_id(number) for number in down}
    partitions = [partition, 1][: max(1, len(parts))]
    margin = margin_of(topology, 0, partitions, parts, lambda store: store not in dead)
    assert [tag for tag, _ in margin.entries] == ["node", "san"]
    for tag, claimed in margin.entries:
        domains = topology.domain_by_store(tag)
        values = sorted(set(domains.values()))

        def readable(lost: frozenset[str]) -> bool:
            alive = {s for s in topology.stores if s not in dead and domains[s] not in lost}  # noqa: B023
            shards = all(sum(any(s in alive for s in at) for at in part.values()) >= 4 for part in parts)
            register = len(alive.intersection(topology.entry(0, partition).homes)) >= 4
            return shards and register and 2 * len(alive.intersection(topology.map.voters)) > 5

        good = {
            frozenset(c): readable(frozenset(c))
            for j in range(len(values) + 1)
            for c in combinations(values, j)
        }
        assert claimed == survives(good, values), tag


def test_a_whole_healthy_blob_is_full_and_survives_two_nodes() -> None:
    entries = [node(number, {"san": "aabbcc"[number - 1]}) for number in range(1, 7)]
    topology = Topology(cluster(entries, protected=("san",)))
    margin = partition_margin(topology, 0, 0, lambda _: True)
    assert margin.full
    assert dict(margin.entries) == {"node": 2, "san": 1}


def test_a_missing_shard_a_home_that_is_down_and_a_lost_voter_are_each_not_full() -> None:
    entries = [node(number) for number in range(1, 9)]
    topology = Topology(cluster(entries))
    homes = topology.entry(0, 0).homes
    assert partition_margin(topology, 0, 0, lambda _: True).full
    assert not partition_margin(topology, 0, 0, lambda _: True, holding=lambda store: store != homes[5]).full
    assert not partition_margin(topology, 0, 0, lambda store: store != homes[5]).full
    assert partition_margin(topology, 0, 0, lambda store: store != store_id(8)).full
    assert not partition_margin(topology, 0, 3, lambda store: store != store_id(1)).full


def test_a_handoff_keeps_the_margin_but_is_not_full() -> None:
    topology = Topology(cluster([node(number) for number in range(1, 9)]))
    holders = dict(enumerate([(store,) for store in topology.entry(0, 0).homes]))
    holders[0] = (store_id(8),)
    margin = margin_of(topology, 0, [0], [holders], lambda _: True)
    assert dict(margin.entries)["node"] == 2
    assert not margin.full


def test_copies_decode_from_one() -> None:
    topology = Topology(cluster([node(number) for number in range(1, 8)]))
    holders = {0: (store_id(1),), 1: (store_id(2),)}
    assert dict(margin_of(topology, 0, [0], [holders], lambda _: True).entries)["node"] == -1
    assert (
        dict(margin_of(topology, 0, [0], [holders], lambda _: True, code=parse_code("copy:6")).entries)[
            "node"
        ]
        == 1
    )


def test_the_least_of_margins_is_the_least_of_each_entry() -> None:
    topology = Topology(cluster([node(number) for number in range(1, 7)]))
    one = partition_margin(topology, 0, 0, lambda _: True)
    other = partition_margin(topology, 0, 0, lambda store: store != store_id(1))
    assert least([one, other]) == other
    assert least([one, one]).full
    assert least([]).full


def test_shards_at_stores_that_are_down_are_no_margin() -> None:
    """Where register and voters could stand more: the shards alone decide."""
    topology = Topology(cluster([node(number) for number in range(1, 9)]))
    holders = dict(enumerate([(store,) for store in topology.entry(0, 0).homes]))
    holders[0], holders[1] = (store_id(7),), (store_id(8),)
    down = {store_id(7), store_id(8)}
    margin = margin_of(topology, 0, [0], [holders], lambda store: store not in down)
    assert dict(margin.entries)["node"] == 0
