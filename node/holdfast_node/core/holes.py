"""Stretches of the log that are gone on purpose: volumes that were compacted and removed.

Pure. The log goes on behind a hole as if nothing had been there: its first batch, sequence and checksum are written
down before the volumes go. Whatever else is missing from the log is a loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from holdfast_node.core.log_format import Position, VolumeHeader
from holdfast_node.core.records import Hole

HOLES_MAX: Final = 8192
"""Some 350 KB of the superblock, of which a start reads 1 MiB. Then only neighbours of a hole may go, which makes it
larger and adds none."""


def has_room(holes: Sequence[Hole], volume: int) -> bool:
    """Whether one more volume may go."""
    return len(holes) < HOLES_MAX or any(
        volume in (each.first_volume - 1, each.next_volume) for each in holes
    )


def with_volume(
    holes: Sequence[Hole], header: VolumeHeader, following: VolumeHeader | None
) -> tuple[Hole, ...]:
    """The holes once the volume is gone too. `following` is the one behind it; None if that is in a hole already."""
    hole = Hole(
        first_volume=header.number,
        first_sequence=header.first_sequence,
        next_volume=header.number + 1,
        next_sequence=following.first_sequence if following else 0,
        next_batch=following.first_batch if following else 0,
        previous=following.previous if following else 0,
    )
    joined: list[Hole] = []
    for each in sorted((*holes, hole), key=lambda each: each.first_volume):
        if joined and joined[-1].next_volume == each.first_volume:
            last = joined.pop()
            joined.append(replace(each, first_volume=last.first_volume, first_sequence=last.first_sequence))
        else:
            joined.append(each)
    assert all(each.next_batch for each in joined), "what comes behind a hole is known"
    return tuple(joined)


def covers(holes: Iterable[Hole], volume: int) -> bool:
    """Whether this volume was removed on purpose, and is to be removed again if its file is still there."""
    return any(hole.first_volume <= volume < hole.next_volume for hole in holes)


def behind(holes: Iterable[Hole], position: Position) -> Position:
    """Where the log goes on after a volume that ended at `position`: behind the hole, if one begins there."""
    for hole in holes:
        if hole.first_volume == position.volume + 1 and hole.first_sequence == position.sequence:
            return Position(
                volume=hole.next_volume - 1,
                life=0,
                offset=0,
                batch=hole.next_batch,
                sequence=hole.next_sequence,
                previous=hole.previous,
            )
    return position


def outside(holes: Iterable[Hole], first: int, end: int) -> list[int]:
    """The sequences from `first` up to `end` that ought to be in the log."""
    wanted = [range(first, end)]
    for hole in holes:
        wanted = [
            part
            for each in wanted
            for part in (
                range(each.start, min(each.stop, hole.first_sequence)),
                range(max(each.start, hole.next_sequence), each.stop),
            )
            if part
        ]
    return [sequence for each in wanted for sequence in each]
