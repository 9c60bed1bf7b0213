"""Lookups over one map."""

from __future__ import annotations

from dataclasses import replace

import pytest
from xxhash import xxh3_64_intdigest

from holdfast_node.core.cluster_map import PartitionEntry, StoreState
from holdfast_node.core.errors import InvalidArgument
from holdfast_node.core.ids import BlobId, BucketId, Generation
from holdfast_node.core.topology import UNKNOWN_DOMAIN, Topology, default_protected_tags
from tests.support.maps import cluster, node, nodes, store_id

BUCKET = BucketId(b"bucket-of-tests!")
SEED = BlobId(b"a seed of shards")


def test_a_key_and_the_first_part_of_its_blobs_share_a_partition() -> None:
    topology = Topology(cluster(nodes(6), partitions=16))
    for number in range(50):
        key = b"key %d" % number
        expected = xxh3_64_intdigest(BUCKET + key) % 16
        assert topology.key_partition(0, BUCKET, key) == expected
        assert topology.part_partition(0, BUCKET, key, SEED, 0) == expected


def test_later_parts_go_where_their_seed_and_number_say() -> None:
    topology = Topology(cluster(nodes(6), partitions=16))
    for part in range(1, 50):
        expected = xxh3_64_intdigest(SEED + part.to_bytes(4, "big")) % 16
        assert topology.part_partition(0, BUCKET, b"any", SEED, part) == expected


def test_a_selector_is_a_node_name_or_a_tag_value() -> None:
    topology = Topology(cluster(nodes(6, sans=3)))
    assert [entry.name for entry in topology.select("n3")] == ["n3"]
    assert [entry.name for entry in topology.select("san=s1")] == ["n3", "n4"]
    assert [entry.name for entry in topology.select("node=n3")] == ["n3"]


@pytest.mark.parametrize("selector", ["", "n9", "san=", "=s1", "san=s9", "rack=r1"])
def test_a_selector_that_matches_nothing_is_refused_by_name(selector: str) -> None:
    with pytest.raises(InvalidArgument, match="nothing matches"):
        Topology(cluster(nodes(6, sans=3))).select(selector)


def test_nodes_without_a_value_are_one_unknown_domain() -> None:
    topology = Topology(cluster([node(1, {"san": "a"}), node(2), node(3, {"san": ""})], code="rs:2+1"))
    assert topology.domains("san") == {
        "a": frozenset({store_id(1)}),
        UNKNOWN_DOMAIN: frozenset({store_id(2), store_id(3)}),
    }


def test_each_node_is_always_a_protected_domain_of_its_own() -> None:
    topology = Topology(cluster(nodes(6, sans=3), protected=("san",)))
    assert topology.protected_tags(0) == ("node", "san")
    assert len(topology.domains("node")) == 6


def test_tags_set_on_every_node_are_protected_by_default() -> None:
    entries = [node(1, {"host": "a", "san": "x"}), node(2, {"host": "b", "san": ""}), node(3, {"host": "c"})]
    assert default_protected_tags(entries) == ("host",)
    assert default_protected_tags([]) == ()


def test_learners_and_suspects_are_homes_that_do_not_vote() -> None:
    plain = cluster(nodes(6), partitions=1)
    homes = plain.pools[0].partitions[0].homes
    entry = PartitionEntry(Generation(2), homes, (homes[1],))
    changed = replace(
        plain,
        pools=(replace(plain.pools[0], partitions=(entry,)),),
        nodes=tuple(
            replace(one, state=StoreState.SUSPECT) if one.store == homes[4] else one for one in plain.nodes
        ),
    )
    topology = Topology(changed)
    assert topology.voting_homes(0, 0) == (homes[0], homes[2], homes[3], homes[5])
    assert topology.roster(0, 0).quorum == 4
    assert topology.enough_to_see(0, 0) == 3
    assert topology.scope(0, 0).generation == 2
    assert [scope.partition for scope in topology.learned_by(homes[1])] == [0]
    assert topology.learned_by(homes[0]) == ()


def test_a_store_knows_the_partitions_it_keeps() -> None:
    topology = Topology(cluster(nodes(8), partitions=8))
    for entry in topology.map.nodes:
        kept = {scope.partition for scope in topology.kept_by(entry.store)}
        assert kept == {at for at in range(8) if entry.store in topology.entry(0, at).homes}


def test_an_unknown_pool_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidArgument, match="default"):
        Topology(cluster(nodes(6))).pool_index("fast")


def test_a_store_that_left_is_still_called_something() -> None:
    topology = Topology(cluster(nodes(6)))
    assert topology.name(store_id(2)) == "n2"
    assert topology.name(store_id(77)).startswith("store ")
