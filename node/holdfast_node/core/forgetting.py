"""Whether a home may forget a key that was deleted (docs/adr/0098-deleted-keys-are-forgotten.md). Pure:
`services.forgetting` asks the homes.

A tombstone, or a fence where nothing ever was, may go once every home holds it, every request it remembers is refused
everywhere, and no attempt can be under way that is as old. What stays are two floors for the whole partition.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from holdfast_node.core.acceptance import Standing
from holdfast_node.core.head import Ballot, Head, HeadKind
from holdfast_node.core.messages import Floors, HeldKey
from holdfast_node.core.records import Age, RegisterRecord
from holdfast_node.core.register import refused


class Word(IntEnum):
    """What a home says of a key. Numbers are wire format."""

    NO = 0
    """It holds something else, or it is too soon."""
    YES = 1
    """It holds just that and may forget it, or has forgotten it; or never held it, and nothing so old can come."""
    PROMISED = 2
    """It would, but for a promise under which the key may still be written: it has to be decided once more."""


def has_rested(ages: Iterable[Age], now_s: int, rest_s: int) -> bool:
    """Whether a deleted key was accepted here so long ago, in store time: under its ballot, for whatever is accepted
    anew is young again. What came before ages were written down is old."""
    return max((age.since_s for age in ages), default=0) + rest_s <= now_s


def is_over(head: Head) -> bool:
    """Whether nothing of the key is left that anybody could want."""
    return head.kind is not HeadKind.BLOB and not head.retained


def remembers(head: Head, era: int) -> bool:
    """Whether a request may still come again that only this head would recognise."""
    return any(not refused(applied.stamp, era) for applied in head.recent)


def word(record: RegisterRecord | None, head: Head | None, standing: Standing, held: HeldKey) -> Word:
    """Of a home that votes, in a partition where all do. `head` is the record's. Whether it has rested is not looked
    at here."""
    if record is None or record.accepted is None or head is None:
        floor = standing.ballot_floor
        below = floor is not None and held.accepted <= floor and held.version <= standing.version_floor
        promised = record.promised if record is not None else None
        if not below:
            return Word.NO
        return Word.YES if promised is None or is_void(promised, floor) else Word.PROMISED
    if record.accepted != held.accepted or not is_over(head) or remembers(head, standing.era):
        return Word.NO
    return Word.YES if record.promised == record.accepted else Word.PROMISED


def is_void(promised: Ballot | None, floor: Ballot | None) -> bool:
    """Whether a register in which nothing is accepted promises only what the floor of its partition does, so that a
    home that votes, where none comes or goes, may forget it without asking anybody."""
    return promised is not None and floor is not None and promised <= floor


def floors_of(record: RegisterRecord, head: Head) -> Floors:
    """Above which versions and ballots the key may begin anew: no older accept is taken, and no attempt that its fence
    has ended comes back to life."""
    assert record.accepted is not None, "only what was accepted is forgotten"
    ballot = record.accepted if head.fence is None else max(record.accepted, head.fence)
    return Floors(record.pool, record.partition, head.version, ballot)
