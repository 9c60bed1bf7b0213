"""All nemeses there are, and which of them can work on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tests.thrash.nemeses import (
    Bridge,
    ClockJump,
    Delay,
    FailedSync,
    FullDisk,
    Halves,
    Isolate,
    KillAll,
    KillOne,
    KillSan,
    Lossy,
    Nemesis,
    OneWay,
    Pause,
    Stage,
    Starve,
    StayAway,
    WipeNode,
    WipeSan,
)
from tests.thrash.operators import ChangeCode, ComeAndGo

ALL: Final[tuple[type[Nemesis], ...]] = (
    KillOne,
    KillSan,
    KillAll,
    StayAway,
    Pause,
    Starve,
    ClockJump,
    Halves,
    Bridge,
    OneWay,
    Isolate,
    Delay,
    Lossy,
    WipeNode,
    WipeSan,
    FullDisk,
    FailedSync,
    ComeAndGo,
    ChangeCode,
)


def able(stage: Stage, kinds: Iterable[type[Nemesis]] = ALL) -> tuple[list[Nemesis], dict[str, str]]:
    """Those that can work here, and why the others cannot."""
    found: list[Nemesis] = []
    missing: dict[str, str] = {}
    for nemesis in (kind() for kind in kinds):
        if why := nemesis.missing(stage):
            missing[nemesis.name] = why
        else:
            found.append(nemesis)
    return found, missing
