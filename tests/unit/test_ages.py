"""How long versions have been superseded: one home's memory of it, and what homes agree on."""

from __future__ import annotations

from holdfast_node.core.ages import aged, agreed, superseded_below
from holdfast_node.core.forgetting import has_rested
from holdfast_node.core.head import Head, HeadKind, Retained
from holdfast_node.core.ids import BlobId, StoreId, Version
from holdfast_node.core.quorum import Roster
from holdfast_node.core.records import Age


def head(version: int, *kept: int) -> Head:
    retained = tuple(Retained(Version(each), HeadKind.BLOB, BlobId(bytes(16)), 1, 0) for each in kept)
    return Head(Version(version), HeadKind.BLOB, retained=retained)


def store(number: int) -> StoreId:
    return StoreId(bytes([number]) * 16)


STORES = [store(number) for number in range(6)]


def test_a_head_that_keeps_nothing_needs_no_ages() -> None:
    assert aged([Age(3, 10)], head(4), 20) == ()


def test_a_deleted_key_is_as_old_as_its_newest_acceptance_here() -> None:
    """Whoever forgets it goes by the ballot, not by the version."""
    gone = Head(Version(4), HeadKind.TOMBSTONE)
    ages = aged((), gone, 100)
    assert ages == (Age(4, 100),)
    assert aged(ages, gone, 500) == (Age(4, 500),)
    assert aged(ages, Head(Version(0), HeadKind.ABSENT), 500) == (Age(0, 500),)
    assert not has_rested(ages, 199, 100)
    assert has_rested(ages, 200, 100)
    assert has_rested((), 200, 100), "accepted before ages were written down"


def test_a_version_is_as_old_as_its_first_acceptance_here() -> None:
    ages = aged((), head(2, 1), 100)
    assert ages == (Age(2, 100),)
    again = aged(ages, head(2, 1), 500)
    assert again == ages, "deciding the same head once more makes nothing younger"
    assert aged(again, head(3, 2, 1), 700) == (Age(2, 100), Age(3, 700))


def test_ages_of_versions_that_are_gone_go_with_them() -> None:
    assert aged([Age(1, 5), Age(2, 10), Age(3, 20)], head(4, 3), 30) == (Age(3, 20), Age(4, 30))


def test_what_a_version_replaced_is_superseded_since_that_version_came() -> None:
    ages = [Age(2, 100), Age(5, 300)]
    assert superseded_below(ages, 399, 300) == 0, "one second early"
    assert superseded_below(ages, 400, 300) == 2
    assert superseded_below(ages, 600, 300) == 5
    assert superseded_below(ages, 100, 0) == 2
    assert superseded_below((), 1000, 0) == 0, "who knows nothing says nothing"


def test_as_many_homes_confirm_as_decide() -> None:
    roster = Roster(frozenset(STORES), 4)
    three = {STORES[0]: 9, STORES[1]: 9, STORES[2]: 9}
    assert agreed(three, roster) == 0
    assert agreed({**three, STORES[3]: 0}, roster) == 0
    assert agreed({**three, STORES[3]: 4}, roster) == 4, "what the most reluctant of a majority says"
    assert agreed({**three, STORES[3]: 4, STORES[4]: 7}, roster) == 7


def test_strangers_confirm_nothing() -> None:
    roster = Roster(frozenset(STORES[:4]), 3)
    assert agreed({STORES[0]: 5, STORES[1]: 5, STORES[4]: 5, STORES[5]: 5}, roster) == 0


def test_during_a_move_both_sets_must_agree() -> None:
    roster = Roster(frozenset(STORES[:3]), 2, frozenset(STORES[3:]), 7)
    assert agreed({STORES[0]: 5, STORES[1]: 5, STORES[3]: 5}, roster) == 0
    assert agreed({STORES[0]: 5, STORES[1]: 5, STORES[3]: 5, STORES[4]: 3}, roster) == 3
