"""How many are enough, counted out; and who counts."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import Digest, StoreId
from holdfast_node.core.quorum import Roster, Sight, agreement, majority, overlap
from holdfast_node.services.ballots import Ballots
from tests.support.maps import store_id
from tests.support.stores import ballot


@pytest.mark.parametrize("homes", range(1, 10))
def test_any_two_majorities_share_a_home_and_one_less_would_not_do(homes: int) -> None:
    def share(count: int) -> bool:
        sets = [set(chosen) for chosen in combinations(range(homes), count)]
        return all(one & other for one in sets for other in sets)

    assert share(majority(homes))
    assert not share(majority(homes) - 1) or majority(homes) == 1


@pytest.mark.parametrize("homes", range(1, 10))
def test_an_overlap_meets_every_majority_and_one_less_would_not(homes: int) -> None:
    def meets(count: int) -> bool:
        decided = [set(chosen) for chosen in combinations(range(homes), majority(homes))]
        return all(one & other for one in decided for other in map(set, combinations(range(homes), count)))

    assert meets(overlap(homes))
    assert not meets(overlap(homes) - 1)


ROSTER = Roster(frozenset(map(store_id, (1, 2, 3, 4))), 3)
ONE: Sight = (ballot(1), Digest(b"1" * 16))
TWO: Sight = (ballot(2), Digest(b"2" * 16))


def sights(*seen: Sight) -> dict[StoreId, Sight]:
    return {store_id(at): sight for at, sight in enumerate(seen, start=1)}


def test_a_quorum_of_voters_that_say_the_same_agree() -> None:
    found = agreement(sights(ONE, TWO, ONE, ONE), ROSTER)
    assert found is not None
    assert (found.ballot, found.stores) == (ballot(1), frozenset(map(store_id, (1, 3, 4))))


def test_fewer_than_a_quorum_never_agree_and_strangers_do_not_help() -> None:
    assert agreement(sights(ONE, ONE), ROSTER) is None
    assert agreement(sights(ONE, ONE, TWO, TWO), ROSTER) is None
    assert agreement(sights(ONE, ONE, TWO, TWO, ONE, ONE), ROSTER) is None, "5 and 6 do not vote"


def test_the_same_ballot_with_another_head_is_no_agreement() -> None:
    other: Sight = (ONE[0], TWO[1])
    assert agreement(sights(ONE, ONE, other, other), ROSTER) is None


MOVING = Roster(
    frozenset(map(store_id, (1, 2, 3, 4))), 3, frozenset(map(store_id, (3, 4, 5, 6))), generation=2
)
"""Stores 1 and 2 leave, 5 and 6 come."""


def stores(*numbers: int) -> frozenset[StoreId]:
    return frozenset(map(store_id, numbers))


def test_while_a_move_is_open_a_decision_needs_a_quorum_of_both_sets() -> None:
    assert MOVING.everyone == stores(1, 2, 3, 4, 5, 6)
    assert MOVING.decides(stores(2, 3, 4, 5))
    assert not MOVING.decides(stores(1, 2, 3, 4)), "two of the new set"
    assert not MOVING.decides(stores(3, 4, 5, 6)), "two of the old set"


def test_what_was_accepted_before_the_move_is_decided_by_the_old_set_alone() -> None:
    before, since = replace(ballot(1), generation=1), replace(ballot(1), generation=2)
    for value in (None, before):
        assert MOVING.decided(value, stores(1, 2, 3))
        assert not MOVING.decided(value, stores(3, 4, 5, 6))
    assert not MOVING.decided(since, stores(1, 2, 3))
    assert MOVING.decided(since, stores(2, 3, 4, 6))
    seen: Sight = (since, ONE[1])
    assert agreement(sights(seen, seen, seen), MOVING) is None
    assert agreement(sights(ONE, ONE, ONE), MOVING) is not None
    assert agreement(sights(ONE, seen, seen, seen, seen), MOVING) is not None


def test_a_new_set_that_may_not_vote_decides_nothing() -> None:
    assert not replace(MOVING, moving=frozenset()).decides(stores(1, 2, 3, 4))


def test_no_ballot_is_minted_twice_in_any_run_of_any_store() -> None:
    minted: list[Ballot] = []
    for store in (1, 2):
        for boot in (1, 2):
            ballots = Ballots(store_id(store), boot)
            minted += [ballots.mint(1) for _ in range(3)]
            ballots.observe(1)
            minted.append(ballots.mint(1))
    assert len(set(minted)) == len(minted)


def test_a_ballot_is_above_everything_its_process_has_met() -> None:
    ballots = Ballots(store_id(1), 1)
    first = ballots.mint(1)
    ballots.observe(first.counter + 7)
    assert ballots.mint(1) > Ballot(1, first.counter + 7, StoreId(b"\xff" * 16), 99, 99)
