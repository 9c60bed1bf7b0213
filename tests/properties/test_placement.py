"""Placement against brute force on small topologies with crossing tags; balance and moves on ordinary ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_node.core.cluster_map import NodeEntry
from holdfast_node.core.codes import Code, parse_code
from holdfast_node.core.conflict import in_words, minimal_conflict, most_that_fit
from holdfast_node.core.errors import Refused
from holdfast_node.core.ids import StoreId
from holdfast_node.core.placement import choose_voters, domains_of, homes_per_domain, place, water_fill
from holdfast_node.core.placement_search import Domain, Search, Verdict
from holdfast_node.core.topology import domain_of
from tests.support.maps import node, nodes

TAGS = ("san", "pdu")
small = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz-")), min_size=3, max_size=8)
codes = st.sampled_from([parse_code(text) for text in ("rs:2+1", "rs:2+2", "rs:3+2", "rs:4+2", "copy:3")])


def crossed(tags: Sequence[tuple[str, str]]) -> list[NodeEntry]:
    return [
        node(number, {"san": san} | ({} if pdu == "-" else {"pdu": pdu}))
        for number, (san, pdu) in enumerate(tags, 1)
    ]


def fits(members: Sequence[NodeEntry], tags: Sequence[str], cap: int) -> bool:
    return all(
        max(Counter(domain_of(one, tag) for one in members).values(), default=0) <= cap for tag in tags
    )


def feasible(entries: Sequence[NodeEntry], n: int, tags: Sequence[str], cap: int) -> bool:
    return any(fits(members, tags, cap) for members in combinations(entries, n))


def check_table(
    homes: Sequence[Sequence[StoreId]], entries: Sequence[NodeEntry], code: Code, tags: Sequence[str]
) -> None:
    by_store = {one.store: one for one in entries}
    for row in homes:
        assert len(set(row)) == code.n == len(row)
        assert fits([by_store[store] for store in row], tags, homes_per_domain(code))


@given(small, codes)
@settings(max_examples=300)
def test_a_table_exists_exactly_when_brute_force_finds_a_row(tags: list[tuple[str, str]], code: Code) -> None:
    entries = crossed(tags)
    if not feasible(entries, code.n, TAGS, homes_per_domain(code)):
        with pytest.raises(Refused, match="impossible placement"):
            place(code, entries, protected_tags=TAGS, partitions=4)
        return
    check_table(place(code, entries, protected_tags=TAGS, partitions=4).homes, entries, code, TAGS)


@given(small, codes)
@settings(max_examples=200)
def test_a_conflict_is_impossible_as_a_whole_and_possible_without_any_one_of_it(
    tags: list[tuple[str, str]], code: Code
) -> None:
    entries = crossed(tags)
    if len(entries) < code.n or feasible(entries, code.n, TAGS, homes_per_domain(code)):
        return

    def possible(domains: Sequence[Domain]) -> bool:
        return any(
            all((d.members & sum(1 << at for at in chosen)).bit_count() <= d.cap for d in domains)
            for chosen in combinations(range(len(entries)), code.n)
        )

    conflict = minimal_conflict(domains_of(entries, TAGS, homes_per_domain(code)), len(entries), code.n)
    assert conflict
    assert not possible(conflict)
    assert all(possible([other for other in conflict if other is not one]) for one in conflict)
    assert most_that_fit(conflict, len(entries), code.n) < code.n


def test_the_conflict_is_named_as_an_operator_would() -> None:
    entries = [node(number, {"san": san}) for number, san in enumerate("aaaabc", 1)]
    with pytest.raises(Refused) as refused:
        place(parse_code("rs:4+2"), entries, protected_tags=("san",), partitions=16)
    assert "san=a has 4 of 6 nodes; rs:4+2 tolerates 2 shards per san" in refused.value.message


def test_too_few_nodes_are_a_conflict_of_their_own() -> None:
    assert in_words((), 5, 6, "rs:4+2") == "rs:4+2 needs 6 nodes, there are 5"


def test_two_tags_that_only_clash_together_are_named_together() -> None:
    tags = [("a", "x"), ("a", "x"), ("b", "y"), ("b", "y"), ("c", "x"), ("d", "y")]
    entries = crossed(tags)
    code = parse_code("rs:2+1")
    assert feasible(entries, 3, ("san",), 1)
    conflict = minimal_conflict(domains_of(entries, TAGS, 1), 6, 3)
    assert {domain.tag for domain in conflict} == {"pdu"}
    with pytest.raises(Refused, match="pdu=x has 3, pdu=y has 3 of 6 nodes"):
        place(code, entries, protected_tags=TAGS, partitions=4)


def test_giving_up_is_not_called_impossible() -> None:
    entries = [node(number, {"san": f"{number % 7}", "pdu": f"{number % 5}"}) for number in range(1, 36)]
    search = Search(domains_of(entries, TAGS, 1), steps_max=2)
    assert search.complete(0, 5, range(35)) == (Verdict.GAVE_UP, 0)
    assert search.complete(0, 6, range(35)) == (Verdict.IMPOSSIBLE, 0)
    assert Search(domains_of(entries, TAGS, 1)).complete(0, 5, range(35))[0] is Verdict.FOUND


@given(st.integers(6, 14), st.sampled_from(["rs:2+2", "rs:4+2", "rs:3+1"]), st.integers(0, 5))
@settings(max_examples=40)
def test_equal_nodes_are_within_one_shard_of_each_other(count: int, text: str, salt: int) -> None:
    code = parse_code(text)
    entries = [node(number + 100 * salt, {"host": f"h{number}"}) for number in range(1, count + 1)]
    placement = place(code, entries, protected_tags=("host",), partitions=64)
    loads = Counter(store for row in placement.homes for store in row)
    assert max(loads.values()) - min(loads.values()) <= 1
    by_index = Counter((store, index) for row in placement.homes for index, store in enumerate(row))
    stewarded = [by_index[one.store, 0] for one in entries]
    assert max(stewarded) - min(stewarded) <= 4


@given(st.lists(st.integers(1, 4), min_size=9, max_size=16))
@settings(max_examples=30)
def test_loads_follow_weights_within_five_percent_or_one_shard(weights: list[int]) -> None:
    code = parse_code("rs:2+1")
    entries = [node(number, {}, weight) for number, weight in enumerate(weights, 1)]
    placement = place(code, entries, protected_tags=(), partitions=128)
    targets = water_fill([one.weight for one in sorted(entries, key=lambda e: e.name)], (), 128, 3)
    loads = Counter(store for row in placement.homes for store in row)
    for one, target in zip(sorted(entries, key=lambda e: e.name), targets, strict=True):
        assert abs(loads[one.store] - target) <= max(1.0, 0.05 * target)


def test_a_domain_that_binds_is_filled_and_the_loss_of_capacity_said() -> None:
    entries = [
        node(number, {"san": "abcd"[(number - 1) // 3]}, 50 if number > 9 else 10) for number in range(1, 13)
    ]
    placement = place(parse_code("rs:4+2"), entries, protected_tags=("san",), partitions=64)
    assert any("56%" in warning for warning in placement.warnings)


def moves_needed(before: Sequence[Sequence[StoreId]], after: Sequence[NodeEntry], n: int) -> float:
    """Every shard of a node that left must move; a newcomer must be filled, up to the tolerance."""
    left = {one.store for one in after}
    orphans = sum(store not in left for row in before for store in row)
    known = {store for row in before for store in row}
    share = len(before) * n / len(after)
    newcomers = sum(one.store not in known for one in after) * share * 0.96
    return max(orphans, newcomers)


@pytest.mark.parametrize("text", ["rs:4+2", "rs:3+2", "rs:2+1"])
def test_growing_and_shrinking_by_one_moves_little_more_than_it_must(text: str) -> None:
    code = parse_code(text)
    everyone = nodes(12)
    homes: Sequence[Sequence[StoreId]] = ()
    for count in [*range(6, 13), *range(11, 5, -1)]:
        entries = everyone[:count]
        placement = place(code, entries, protected_tags=("host",), partitions=64, previous=homes)
        check_table(placement.homes, entries, code, ("host",))
        if homes:
            assert placement.moved <= 1.2 * moves_needed(homes, entries, code.n) + 1
        homes = placement.homes


@given(small, small, codes)
@settings(max_examples=150)
def test_a_store_that_keeps_a_partition_keeps_its_shard_index(
    before: list[tuple[str, str]], after: list[tuple[str, str]], code: Code
) -> None:
    try:
        old = place(code, crossed(before), protected_tags=TAGS, partitions=8).homes
        new = place(code, crossed(after), protected_tags=TAGS, partitions=8, previous=old).homes
    except Refused:
        return
    check_table(new, crossed(after), code, TAGS)
    for was, now in zip(old, new, strict=True):
        for index, store in enumerate(was):
            assert store not in now or now.index(store) == index


def test_nothing_moves_when_nothing_changed() -> None:
    entries = nodes(9, sans=3)
    first = place(parse_code("rs:4+2"), entries, protected_tags=("host", "san"), partitions=32)
    again = place(
        parse_code("rs:4+2"), entries, protected_tags=("host", "san"), partitions=32, previous=first.homes
    )
    assert again.moved == 0
    assert again.homes == first.homes


def test_the_table_does_not_depend_on_the_order_of_nodes() -> None:
    entries = nodes(9, sans=3)
    code = parse_code("rs:4+2")
    one = place(code, entries, protected_tags=("san", "host"), partitions=32)
    other = place(code, entries[::-1], protected_tags=("host", "san"), partitions=32)
    assert one == other


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("xyz-")), min_size=3, max_size=7))
@settings(max_examples=150)
def test_no_domain_holds_half_of_the_voters_when_that_can_be(tags: list[tuple[str, str]]) -> None:
    entries = crossed(tags)
    chosen = choose_voters(entries, TAGS, simulated_domains=False)
    members = [one for one in entries if one.store in chosen.voters]
    assert len(members) in (3, 5)
    possible = any(feasible(entries, size, TAGS, (size - 1) // 2) for size in (3, 5) if size <= len(entries))
    assert fits(members, TAGS, (len(members) - 1) // 2) == possible
    assert bool(chosen.warnings) != possible


def test_six_nodes_on_three_sans_have_five_voters_of_which_no_san_holds_half() -> None:
    entries = nodes(6, sans=3)
    chosen = choose_voters(entries, {"host", "san"}, simulated_domains=True)
    assert len(chosen.voters) == 5
    assert not chosen.warnings


def test_fewer_than_three_nodes_have_one_voter_only_where_domains_are_simulated() -> None:
    assert len(choose_voters(nodes(2), set(), simulated_domains=True).voters) == 1
    with pytest.raises(Refused, match="three voters"):
        choose_voters(nodes(2), set(), simulated_domains=False)


def test_a_code_with_as_much_parity_as_data_is_spread_so_that_registers_survive_too() -> None:
    """Two of four homes in one domain: its loss leaves enough shards, and no majority to decide anything."""
    code = parse_code("rs:2+2")
    two_each = [node(at, {"san": f"s{(at - 1) // 2}"}) for at in range(1, 5)]
    with pytest.raises(Refused, match="tolerates 1 shards per san"):
        _ = place(code, two_each, protected_tags=("san",), partitions=4)
    assert [homes_per_domain(parse_code(of)) for of in ("rs:4+2", "rs:3+2", "rs:2+1", "rs:6+3")] == [
        2,
        2,
        1,
        3,
    ]
