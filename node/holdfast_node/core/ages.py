"""How long versions have been superseded, as one home saw it, and what a majority of homes agrees on.

Ages are in store time: seconds that a home has been running, which can only be fewer than those that passed. Nothing
here knows a clock, and nothing is expired by one home's word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from holdfast_node.core.head import Head, HeadKind
from holdfast_node.core.ids import StoreId
from holdfast_node.core.quorum import Roster
from holdfast_node.core.records import Age


def aged(known: Iterable[Age], head: Head, now_s: int) -> tuple[Age, ...]:
    """The ages to keep with a head that is accepted now. Of a version that came by another way nothing is known. A head
    of which nothing is left but that the key was deleted has its own age, which begins whenever it is accepted: whoever
    forgets it wants to know how old the ballot is."""
    if not head.retained:
        return () if head.kind is HeadKind.BLOB else (Age(head.version, now_s),)
    versions = {head.version, *(each.version for each in head.retained)}
    kept = {age.version: age.since_s for age in known if age.version in versions}
    kept.setdefault(head.version, now_s)
    return tuple(Age(version, kept[version]) for version in sorted(kept))


def superseded_below(ages: Iterable[Age], now_s: int, window_s: int) -> int:
    """Every version below this one was superseded here at least `window_s` ago; 0: none that is known."""
    return max((age.version for age in ages if now_s - age.since_s >= window_s), default=0)


def agreed(answers: Mapping[StoreId, int], roster: Roster) -> int:
    """The highest bound that as many homes confirm as decide; 0: none."""
    for below in sorted(set(answers.values()), reverse=True):
        if roster.decides([store for store, answer in answers.items() if answer >= below]):
            return below
    return 0
