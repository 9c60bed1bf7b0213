"""What heal does next, and what is wrong with one part: pure decisions over who holds what.

Smallest margin first, then age. Bounded: where there is no room the least grave go, must be found again by looking, and
the caller is told so. Refuses to know how anything is mended.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from holdfast_node.core.api import Margin
from holdfast_node.core.codes import Code
from holdfast_node.core.head import NO_BALLOT, Ballot
from holdfast_node.core.ids import BucketId, StoreId
from holdfast_node.core.margin import gravity, is_grave, least, shard_survives, shards_survive
from holdfast_node.core.topology import NOWHERE, Topology

AILING_MAX: Final = 10_000
"""Keys remembered as not in order: some 300 bytes each."""
DROPPED_SHARE: Final = 10
"""Of a full order this part is dropped at once: to find the least grave takes a look at all."""
RECODES: Final = 4
"""Keys in hand that are in another code than their pool's: they take turns, and others are not to wait for theirs.
Nor do the graver among them wait for a turn of the lesser."""
NO_MARGIN_KNOWN: Final = 1_000_000
"""Larger than any margin: what a partition without exceptions reports."""
NONE_AILING: Final = (0, Margin((), full=True))
"""What `HealOrder.per_partition` does not list."""

Held = Mapping[int, Sequence[StoreId]]
"""Shard index -> the stores that said they hold it."""


@dataclass(frozen=True, slots=True)
class Ailing:
    """A key some shard of which is not where it belongs. `margin` is what its shards survive, per protected tag; -1:
    it cannot be read now.

    `deep`: somebody met damage, so that what stores say they hold is not enough. `since` orders equal margins.
    `report` numbers the reports: one that came while the key was being mended is not lost.
    """

    pool: int
    partition: int
    bucket: BucketId
    key: bytes
    margin: Margin
    since: int
    deep: bool = False
    tries: int = 0
    due_s: float = 0.0
    report: int = 0
    why: str = ""
    """What went wrong the last time."""
    accepted: Ballot = NO_BALLOT
    """Under which the head was accepted that lacks shards: it need not be decided yet."""
    recode: bool = False
    """It is known to be in a code that its pool has no more."""

    @property
    def name(self) -> tuple[int, BucketId, bytes]:
        return self.pool, self.bucket, self.key

    @property
    def grave(self) -> bool:
        """One more loss of something that the pool protects against would take it."""
        return is_grave(self.margin)

    @property
    def urgency(self) -> tuple[tuple[int, ...], int, tuple[int, BucketId, bytes]]:
        """The smallest is next: margin, then age."""
        return gravity(self.margin), self.since, self.name

    @property
    def worth(self) -> tuple[tuple[int, ...], bool, float, int, tuple[int, BucketId, bytes]]:
        """The largest goes first where there is no room. Of equal margins, damage stays, which a look may not see; and
        what waits for a store that is down goes before what can be mended."""
        return gravity(self.margin), not self.deep, self.due_s, self.since, self.name


class HealOrder:
    """The keys known to ail, each once."""

    def __init__(self, limit: int = AILING_MAX) -> None:
        self._limit: Final = limit
        self._items: dict[tuple[int, BucketId, bytes], Ailing] = {}
        self._reports = 0
        self.in_hand: Final[dict[tuple[int, BucketId, bytes], Ailing]] = {}
        """What is being mended, as it was when that began."""

    def __len__(self) -> int:
        return len(self._items)

    def add(self, ailing: Ailing) -> list[Ailing]:
        """What there was no room for, this one perhaps among it. Of two reports the graver counts, and the older age.
        What failed a moment ago is due no sooner for being reported again: a disk that fails for a while is reported by
        every reader."""
        known = self._items.get(ailing.name)
        self._reports += 1
        ailing = replace(ailing, report=self._reports)
        if known is not None:
            ailing = replace(
                ailing,
                margin=least((known.margin, ailing.margin)),
                since=min(known.since, ailing.since),
                deep=known.deep or ailing.deep,
                tries=max(known.tries, ailing.tries),
                due_s=known.due_s if known.tries else min(known.due_s, ailing.due_s),
                why=known.why,
                accepted=max(known.accepted, ailing.accepted),
                recode=known.recode or ailing.recode,
            )
        self._items[ailing.name] = ailing
        if len(self._items) <= self._limit:
            return []
        kept = self._limit - self._limit // DROPPED_SHARE
        dropped = sorted(self._items.values(), key=lambda each: each.worth)[kept:]
        for each in dropped:
            del self._items[each.name]
        return dropped

    def most_urgent(self, now_s: float, places: int, *, paced: int | None = None) -> list[Ailing]:
        """The next to be mended, gravest first, without those in hand and those to be left alone for now. A key finds a
        place unless so many that are as grave have theirs, however large those are. `paced`: places for what is not
        grave, if they are to be fewer."""
        due = [each for each in self._items.values() if each.due_s <= now_s and each.name not in self.in_hand]
        found = [
            *heapq.nsmallest(places, (each for each in due if not each.recode), key=_urgency),
            *heapq.nsmallest(RECODES, (each for each in due if each.recode), key=_urgency),
        ]
        taken: list[Ailing] = list(self.in_hand.values())
        chosen: list[Ailing] = []
        for ailing in sorted(found, key=_urgency):
            before = [each for each in taken if gravity(each.margin) <= gravity(ailing.margin)]
            turns = RECODES - sum(each.recode for each in before) if ailing.recode else 1
            room = places - len(before)
            if paced is not None and not ailing.grave:
                room = min(room, paced - sum(not each.grave for each in before))
            if room > 0 and turns > 0:
                taken.append(ailing)
                chosen.append(ailing)
        return chosen

    def put_off(self, ailing: Ailing, *, margin: Margin, due_s: float, tries: int, why: str = "") -> None:
        """It was tried and is not in order yet. What was reported meanwhile, by its own mending perhaps, may be about a
        version that nobody has looked at: the smaller margin counts until the next try."""
        known = self._items.get(ailing.name)
        if known is not None:
            if known.report != ailing.report:
                margin = least((known.margin, margin))
            self._items[ailing.name] = replace(known, margin=margin, due_s=due_s, tries=tries, why=why)

    def hasten(self) -> None:
        """Whatever was put off is due now."""
        self._items = {name: replace(ailing, due_s=0.0) for name, ailing in self._items.items()}

    def remove(self, ailing: Ailing) -> None:
        """The key is in order, unless something was reported since `ailing` was taken."""
        known = self._items.get(ailing.name)
        if known is not None and known.report == ailing.report:
            del self._items[ailing.name]

    def forget(self, partitions: Collection[tuple[int, int]]) -> None:
        """Drop what belongs to partitions that are somebody else's now."""
        self._items = {
            name: ailing
            for name, ailing in self._items.items()
            if (ailing.pool, ailing.partition) not in partitions
        }

    def per_partition(self) -> dict[tuple[int, int], tuple[int, Margin]]:
        """(pool, partition) -> how many keys ail, and the least margin among them."""
        counts: dict[tuple[int, int], tuple[int, Margin]] = {}
        for ailing in self._items.values():
            at = (ailing.pool, ailing.partition)
            count, margin = counts.get(at, NONE_AILING)
            counts[at] = (count + 1, least((margin, ailing.margin)))
        return counts

    def hopeless(self, tries: int) -> list[Ailing]:
        """The keys that were tried so often in vain, gravest first."""
        found = (ailing for ailing in self._items.values() if ailing.tries >= tries)
        return sorted(found, key=lambda ailing: ailing.urgency)

    def try_again(self, tries: int) -> None:
        """Whatever was tried so often in vain is due now, as if for the first time."""
        for ailing in self.hopeless(tries):
            self._items[ailing.name] = replace(ailing, due_s=0.0, tries=0)


def _urgency(ailing: Ailing) -> tuple[tuple[int, ...], int, tuple[int, BucketId, bytes]]:
    return ailing.urgency


@dataclass(frozen=True, slots=True)
class PartPlan:
    """What to do about one part: make `missing` shards (index, home); drop `surplus` copies (index, store) of shards
    that are at home; wait for the homes of `waiting`, which did not say. Shards in `elsewhere` wait, but somebody else
    holds them. `margin` counts what was said.
    """

    missing: tuple[tuple[int, StoreId], ...]
    surplus: tuple[tuple[int, StoreId], ...]
    waiting: tuple[int, ...]
    elsewhere: frozenset[int]
    margin: Margin

    @property
    def in_order(self) -> bool:
        """Everything that could be asked about is where it belongs."""
        return not self.missing and not self.surplus


def plan_part(
    topology: Topology, pool: int, partition: int, *, held: Held, silent: Collection[StoreId], code: Code
) -> PartPlan:
    """Compare who holds a part's shards with the homes of its partition. `silent` stores did not say."""
    missing: list[tuple[int, StoreId]] = []
    surplus: list[tuple[int, StoreId]] = []
    waiting: list[int] = []
    for index, home in enumerate(topology.homes_for(pool, partition, code)):
        holders = held.get(index, ())
        if home == NOWHERE:
            continue
        if home in holders:
            surplus.extend((index, store) for store in holders if store != home)
        elif home in silent:
            waiting.append(index)
        else:
            missing.append((index, home))
    margin = shards_survive(topology, pool, held, code)
    elsewhere = frozenset(index for index in waiting if held.get(index))
    return PartPlan(tuple(missing), tuple(surplus), tuple(waiting), elsewhere, margin)


def may_go(
    topology: Topology, where: tuple[int, int], held: Held, copy: tuple[int, StoreId], *, code: Code
) -> bool:
    """Whether a copy (index, store) whose shard is proven at home may be dropped, given who holds the part's shards.

    Not while the part would survive less without it than now, and less than with every shard at home: shards that
    follow a change of homes may be crowded into one domain on the way. `where` is the pool and the partition.
    """
    index, store = copy
    after = {**held, index: [each for each in held[index] if each != store]}
    goal = {at: (home,) for at, home in enumerate(topology.homes_for(*where, code))}
    for tag in topology.protected_tags(where[0]):
        domains = topology.domain_by_store(tag)
        least = min(shard_survives(held, code, domains), shard_survives(goal, code, domains))
        if shard_survives(after, code, domains) < least:
            return False
    return True


def away_from_home(
    topology: Topology,
    pool: int,
    partition: int,
    named: Iterable[StoreId],
    *,
    code: Code | None = None,
    fresh: bool = False,
) -> frozenset[int]:
    """The shards whose holder named by the manifest is not their home: a handoff, a double, or nobody.

    A store that has left the map does not count: whoever took its place was healed, or is about to be. Unless the
    manifest is `fresh`: its shards may have been sealed there before the store left, and named after heal had passed.
    """
    homes = topology.homes_for(pool, partition, code or topology.code(pool))
    return frozenset(
        index
        for index, (store, home) in enumerate(zip(named, homes, strict=True))
        if home not in (store, NOWHERE) and (fresh or not store or topology.node(store) is not None)
    )
