"""A cluster's first map, from what an operator asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast_node.core.errors import InvalidArgument, Refused
from holdfast_node.core.map_changes import validate
from holdfast_node.core.seed import Seed, SeedNode, SeedPool, born, default_partitions, same_founding
from holdfast_node.core.topology import Topology
from tests.support.maps import CLUSTER, seed, store_id

STORES = {f"n{number}": store_id(number) for number in range(1, 25)}


def test_a_cluster_is_born_valid_with_its_tags_protected() -> None:
    birth = born(seed(), STORES, CLUSTER)
    validate(None, birth.map)
    assert birth.warnings == ()
    assert (birth.map.epoch, birth.map.era) == (1, 1)
    assert birth.map.pools[0].protected_tags == ("host", "san")
    san = Topology(birth.map).domain_by_store("san")
    for entry in birth.map.pools[0].partitions:
        homes = [san[store] for store in entry.homes]
        assert all(homes.count(value) <= 2 for value in homes)


def test_the_same_seed_and_stores_give_the_same_map() -> None:
    assert born(seed(12, 4), STORES, CLUSTER) == born(seed(12, 4), STORES, CLUSTER)


def test_partitions_default_to_enough_slots_for_even_loads() -> None:
    assert default_partitions("rs:4+2", 6) == 16
    assert default_partitions("rs:4+2", 24) == 64
    assert len(born(seed(12, 4, partitions=0), STORES, CLUSTER).map.pools[0].partitions) == 32


def test_a_tag_on_some_nodes_only_is_not_protected_and_said_so() -> None:
    plain = seed()
    odd = replace(plain.nodes[0], tags=(*plain.nodes[0].tags, ("rack", "r1")))
    birth = born(replace(plain, nodes=(odd, *plain.nodes[1:])), STORES, CLUSTER)
    assert birth.map.pools[0].protected_tags == ("host", "san")
    assert any("'rack'" in warning for warning in birth.warnings)


def test_a_host_tag_on_some_nodes_is_protected_all_the_same() -> None:
    nodes = tuple(
        SeedNode(f"n{number}", f"a:{number}", (("host", f"h{number}"),) if number > 2 else ())
        for number in range(1, 8)
    )
    birth = born(Seed(nodes, (SeedPool("default", "rs:4+2", 4),)), STORES, CLUSTER)
    assert birth.map.pools[0].protected_tags == ("host",)


def test_nodes_without_hosts_are_hosts_of_their_own_and_said_so() -> None:
    nodes = tuple(SeedNode(f"n{number}", f"a:{number}") for number in range(1, 7))
    birth = born(Seed(nodes, (SeedPool("default", "rs:4+2", 4),)), STORES, CLUSTER)
    assert any("host" in warning for warning in birth.warnings)


def test_all_mistakes_of_a_seed_are_named_at_once() -> None:
    bad = Seed(
        (
            SeedNode("n1", "a:1", (("node", "x"),)),
            SeedNode("n1", "a:1", weight=0),
            SeedNode("", ""),
        ),
        (SeedPool("p", "raid5", 3, ack_floor="hope"), SeedPool("p", "rs:4+2")),
    )
    with pytest.raises(InvalidArgument) as refused:
        born(bad, STORES, CLUSTER)
    said = "; ".join(f"{evidence.who} {evidence.said}" for evidence in refused.value.evidence)
    for part in (
        "n1 name used twice",
        "a:1 address used twice",
        "no address",
        "weight 0",
        "is its name",
        "pool name used twice",
        "unknown code",
        "power of two",
        "ack_floor",
        "needs 6 nodes, the seed has 3",
    ):
        assert part in said, part


def test_an_impossible_placement_is_refused_with_its_conflict() -> None:
    with pytest.raises(Refused, match=r"san=s0 has 3, san=s1 has 3|san=s\d has 3 of 6"):
        born(seed(6, 2), STORES, CLUSTER)


def test_a_code_without_parity_is_allowed_and_called_what_it_is() -> None:
    birth = born(seed(6, 3, code="rs:2+0"), STORES, CLUSTER)
    assert any("survives no loss" in warning for warning in birth.warnings)


def test_a_map_is_recognised_by_the_seed_it_was_born_of() -> None:
    first = born(seed(), STORES, CLUSTER).map
    assert same_founding(seed(), first) == ""
    assert "nodes differ: n7, n8" in same_founding(seed(8, 4), first)
    assert "pools differ" in same_founding(seed(code="rs:3+2"), first)
