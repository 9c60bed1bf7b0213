"""The checker on histories whose verdict is known, both ways."""

from __future__ import annotations

import pytest

from tests.sim.checker import FOREVER, Kind, Op, Result, linearizable, smallest_violation


def put(called: float, returned: float, content: str, version: int = 0, **more: bool | int) -> Op:
    if_absent, if_version = bool(more.get("if_absent", False)), int(more.get("if_version", -1))
    return Op(Kind.PUT, called, returned, Result.DONE, version, content, if_absent, if_version)


def maybe_put(called: float, content: str, **more: int) -> Op:
    return Op(Kind.PUT, called, FOREVER, Result.UNKNOWN, 0, content, if_version=more.get("if_version", -1))


def refused(
    called: float, returned: float, content: str, *, if_version: int = -1, if_absent: bool = False
) -> Op:
    return Op(Kind.PUT, called, returned, Result.CONDITION_FAILED, 0, content, if_absent, if_version)


def read(called: float, returned: float, content: str, version: int = 0) -> Op:
    return Op(Kind.READ, called, returned, Result.DONE, version, content)


def miss(called: float, returned: float) -> Op:
    return Op(Kind.READ, called, returned, Result.ABSENT)


def delete(called: float, returned: float, version: int = 0) -> Op:
    return Op(Kind.DELETE, called, returned, Result.DONE, version)


def delete_miss(called: float, returned: float) -> Op:
    return Op(Kind.DELETE, called, returned, Result.ABSENT)


def maybe_delete(called: float) -> Op:
    return Op(Kind.DELETE, called, FOREVER, Result.UNKNOWN)


GOOD: dict[str, list[Op]] = {
    "nothing happened": [],
    "write then read": [miss(0, 1), put(2, 3, "a", 1), read(4, 5, "a", 1)],
    "a read during a write sees either": [put(0, 9, "a", 1), miss(1, 2), read(3, 4, "a", 1)],
    "two readers of overlapping writes agree on an order": [
        put(0, 9, "a", 1),
        put(0, 9, "b", 2),
        read(1, 2, "a", 1),
        read(3, 4, "b", 2),
    ],
    "versions decide the order of concurrent writes": [
        put(0, 9, "a", 7),
        put(0, 9, "b", 3),
        read(10, 11, "a", 7),
    ],
    "an unknown write took effect late": [maybe_put(0, "a"), miss(5, 6), read(7, 8, "a", 4)],
    "an unknown write never took effect": [maybe_put(0, "a"), put(1, 2, "b", 1), read(3, 4, "b", 1)],
    "an unknown delete took effect late": [
        put(0, 1, "a", 1),
        maybe_delete(2),
        read(3, 4, "a", 1),
        miss(5, 6),
    ],
    "one of two creators won": [
        put(0, 9, "a", 1, if_absent=True),
        refused(0, 9, "b", if_absent=True),
        read(10, 11, "a", 1),
    ],
    "created again after a delete": [put(0, 1, "a", 1), delete(2, 3, 2), put(4, 5, "b", 3, if_absent=True)],
    "compare and set chain": [
        put(0, 1, "a", 1),
        put(2, 3, "b", 2, if_version=1),
        refused(4, 5, "c", if_version=1),
        read(6, 7, "b", 2),
    ],
    "refused because an unseen unknown write may have been applied": [
        put(0, 1, "a", 1),
        maybe_put(2, "b"),
        refused(3, 4, "c", if_version=1),
    ],
    "delete of nothing": [delete_miss(0, 1), put(2, 3, "a", 1)],
    "a tombstone's version can be named": [
        put(0, 1, "a", 1),
        delete(2, 3, 2),
        put(4, 5, "b", 3, if_version=2),
    ],
    "three unknown writes, one seen": [
        maybe_put(0, "a"),
        maybe_put(0, "b"),
        maybe_put(0, "c"),
        read(5, 6, "b", 2),
        read(7, 8, "c", 3),
    ],
}

BAD: dict[str, list[Op]] = {
    "a stale read": [put(0, 1, "a", 1), put(2, 3, "b", 2), read(4, 5, "a", 1)],
    "an acked write is gone": [put(0, 1, "a", 1), miss(2, 3)],
    "bytes nobody wrote": [put(0, 1, "a", 1), read(2, 3, "x", 1)],
    "bytes before they were written": [read(0, 1, "a", 1), put(2, 3, "a", 1)],
    "right bytes, wrong version": [put(0, 1, "a", 1), read(2, 3, "a", 2)],
    "a deleted blob came back": [put(0, 1, "a", 1), delete(2, 3, 2), read(4, 5, "a", 1)],
    "a deleted blob came back as another version": [
        maybe_put(0, "a"), read(1, 2, "a", 1), delete(3, 4, 2), read(5, 6, "a", 3)],
    "two winners of if_absent": [put(0, 9, "a", 1, if_absent=True), put(0, 9, "b", 2, if_absent=True)],
    "two winners of one if_version": [
        put(0, 1, "a", 1), put(2, 9, "b", 2, if_version=1), put(2, 9, "c", 3, if_version=1)],
    "a condition that held was refused": [put(0, 1, "a", 1), refused(2, 3, "b", if_version=1)],
    "refused as existing while absent": [refused(0, 1, "a", if_absent=True)],
    "versions restarted": [put(0, 1, "a", 5), delete(2, 3, 6), put(4, 5, "b", 1)],
    "one version twice": [put(0, 1, "a", 1), put(2, 3, "b", 1)],
    "two readers disagree about the order": [
        put(0, 9, "a", 1), put(0, 9, "b", 2), read(1, 2, "b", 2), read(3, 4, "a", 1)],
    "an unknown write seen, then unseen": [maybe_put(0, "a"), read(1, 2, "a", 1), miss(3, 4)],
    "an unknown write applied twice": [
        maybe_put(0, "a"), read(1, 2, "a", 1), put(3, 4, "b", 2), read(5, 6, "a", 3)],
    "delete said absent over an acked blob": [put(0, 1, "a", 1), delete_miss(2, 3)],
    "delete of nothing succeeded": [delete(0, 1, 1)],
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_history_that_makes_sense_passes(name: str) -> None:
    assert linearizable(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_a_history_that_cannot_be_is_found(name: str) -> None:
    assert not linearizable(BAD[name])
    assert not linearizable(smallest_violation(BAD[name]))


def test_the_violation_shown_is_small() -> None:
    noise = [read(number, number + 0.5, "b", 2) for number in range(10, 40)]
    shown = smallest_violation(
        [put(0, 1, "a", 1), put(2, 3, "b", 2), *noise, read(50, 51, "a", 1), miss(60, 61)]
    )
    assert len(shown) == 3


def test_forty_writers_at_once_are_checked_in_time() -> None:
    writers = [put(0, 100, f"w{number}", number + 1) for number in range(40)]
    readers = [read(number, 100, f"w{number}", number + 1) for number in range(40)]
    assert linearizable([*writers, *readers])
    assert not linearizable([*writers, *readers, read(101, 102, "w3", 4)])
