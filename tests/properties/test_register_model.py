"""Small clusters of the real register code, every reachable state; and the same with bugs planted, which must show.

`HOLDFAST_MODEL=large` adds the scenes that take minutes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from holdfast_node.core import proposal, register
from holdfast_node.core.acceptance import Acceptance, Late, Promise, Standing, accept, late, prepare
from holdfast_node.core.forgetting import Word, floors_of, word
from holdfast_node.core.head import Head
from holdfast_node.core.ids import StoreId
from holdfast_node.core.messages import Accept, Floors, HeldKey, Prepare
from holdfast_node.core.operation import Operation
from holdfast_node.core.proposal import Proposal
from holdfast_node.core.quorum import Agreement, Roster, Sight, agreement
from holdfast_node.core.records import RegisterRecord
from holdfast_node.core.register import Change, Facts, Verdict, decide
from tests.properties import register_model
from tests.properties.register_exploring import explore
from tests.properties.register_invariants import Violation
from tests.properties.register_model import Rules, Scene
from tests.properties.register_samples import ERA, ballot, collect, delete, deleted, expire, put, undelete

TWO_PUTS = Scene((put("u1"), put("u2")), (1, 1))
TWO_FIRSTS = Scene((put("u1", if_absent=True), put("u2", if_absent=True)), (1, 1))
ONE_REQUEST_TWICE = Scene((put("u1", "a"), put("u1", "b")), (1, 1))
PUT_AND_READ = Scene((put("u1"),), (2,), reader=True)
FOLLOWED = replace(TWO_PUTS, losses=0, follows=1)
FOLLOWED_AND_READ = replace(PUT_AND_READ, losses=0, follows=2)
RETRY_AND_DELETE = Scene((put("u1"), delete("u2")), (2, 1), losses=0, existing=True, patient=frozenset({1}))
COLLECTED_UPLOAD = Scene((put("u1"), collect()), (2, 1))
COLLECTED_VERSION = Scene(
    (undelete("u1", "u0"), expire(2), collect()),
    (1, 1, 1),
    losses=0,
    existing=True,
    kept=True,
    patient=frozenset({0, 1, 2}),
)

FORGOTTEN = Scene((put("u1"),), (2,), losses=0, forgotten=deleted(), stray=True)
FORGOTTEN_TWICE = Scene(
    (put("u1"), put("u2", if_absent=True)), (1, 1), losses=0, forgotten=deleted(), patient=frozenset({0, 1})
)
FORGOTTEN_FENCE = Scene(
    (put("u1"), replace(put("u2"), base=ballot(2, 9))),
    (1, 1),
    losses=0,
    forgotten=deleted(fence=ballot(1, 9)),
    patient=frozenset({1}),
)
ASKED_AGAIN = Scene((put("u0", "u0 again"),), (2,), losses=0, forgotten=deleted(ERA))

SCENES: Mapping[str, tuple[Scene, int]] = {
    "two puts": (TWO_PUTS, 12_000),
    "two put-if-absent": (TWO_FIRSTS, 10_000),
    "one request through two coordinators": (ONE_REQUEST_TWICE, 10_000),
    "a put and a one-round read": (PUT_AND_READ, 10_000),
    "a put with a second try and a delete": (RETRY_AND_DELETE, 20_000),
    "two puts and a home that catches up": (FOLLOWED, 13_000),
    "a put, a read and homes that catch up": (FOLLOWED_AND_READ, 24_000),
    "an upload and a collector": (replace(COLLECTED_UPLOAD, ballots=(1, 1)), 10_000),
    "a deleted key is forgotten, and written with a second try": (FORGOTTEN, 7_000),
    "a deleted key is forgotten, and written and made": (FORGOTTEN_TWICE, 7_000),
    "a fence is forgotten, and two uploads": (FORGOTTEN_FENCE, 7_000),
    "a deleted key is forgotten, and asked for again": (ASKED_AGAIN, 40),
    "a deleted key that one home missed is never forgotten": (replace(FORGOTTEN, lagging=1), 5_000),
}
LARGE: Mapping[str, tuple[Scene, int]] = {
    "two puts and a read": (Scene((put("u1"), put("u2")), (1, 1), losses=0, reader=True), 100_000),
    "two put-if-version with a second try": (
        Scene((put("u1", if_version=1), put("u2", if_version=1)), (2, 1), losses=0, existing=True),
        50_000,
    ),
    "a put and a delete with a lost reply": (
        replace(RETRY_AND_DELETE, losses=1, patient=frozenset[int]()),
        100_000,
    ),
    "a put and a delete that finishes it": (replace(RETRY_AND_DELETE, ballots=(2, 2)), 60_000),
    "three puts": (Scene((put("u1"), put("u2"), put("u3")), (1, 1, 1), losses=0), 100_000),
    "an upload with a second try and a collector": (COLLECTED_UPLOAD, 150_000),
    "an undelete, the end of its window and a collector": (COLLECTED_VERSION, 40_000),
    "an undelete that gives up, the end of its window and a collector": (
        replace(COLLECTED_VERSION, patient=frozenset({1, 2})),
        120_000,
    ),
    "a put with a second try, a delete and homes that catch up": (
        replace(RETRY_AND_DELETE, follows=2),
        40_000,
    ),
    "a deleted key is forgotten by four homes, and written and made": (
        replace(FORGOTTEN_TWICE, homes=4),
        10_000,
    ),
    "a deleted key is forgotten while homes catch up and somebody reads": (
        replace(FORGOTTEN, ballots=(1,), follows=1, reader=True),
        20_000,
    ),
    "two puts on four homes": (Scene((put("u1"), put("u2")), (1, 1), homes=4, losses=1), 30_000),
}


@pytest.mark.parametrize("name", SCENES)
def test_every_reachable_state_keeps_the_promises(name: str) -> None:
    scene, least = SCENES[name]
    assert explore(scene) >= least, "the scene has become smaller than it was: is it still the whole of it?"


@pytest.mark.skipif(os.environ.get("HOLDFAST_MODEL") != "large", reason="takes minutes: HOLDFAST_MODEL=large")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", LARGE)
def test_every_reachable_state_of_larger_scenes_keeps_the_promises(name: str) -> None:
    scene, least = LARGE[name]
    assert explore(scene) >= least


# --- planted bugs -----------------------------------------------------------------------------------------------


class NeverCompletes(Proposal):
    """R4 left out: whatever is highest is built upon at once."""

    def _shown(self, current: Any) -> bool:
        return True


class BelievesWithoutCompleting(Proposal):
    """Answers from a head it only saw, without making sure that it is decided."""

    def _shown(self, current: Any) -> bool:
        return super()._shown(current) or not isinstance(
            decide(self._codec.decode(Head, current.head), self._operation, self._facts()), Change
        )


def promises_anything(record: RegisterRecord | None, standing: Standing, request: Prepare) -> Promise:
    bare = replace(record, promised=None) if record is not None else None
    return prepare(bare, standing, request)


def accepts_anything(record: RegisterRecord | None, standing: Standing, request: Accept) -> Acceptance:
    bare = replace(record, promised=None) if record is not None else None
    return accept(bare, standing, request)


def forgets_accepted(record: RegisterRecord | None, standing: Standing, request: Prepare) -> Promise:
    bare = replace(record, accepted=None, head=b"") if record is not None else None
    promise = prepare(bare, standing, request)
    kept = promise.record
    if record is not None and kept is not None:
        kept = replace(kept, accepted=record.accepted, head=record.head)
    return Promise(kept, promise.reply)


def follows_anything(record: RegisterRecord | None, standing: Standing, copy: RegisterRecord) -> Late:
    """Takes a pair although a promise given here is in the way."""
    bare = replace(record, promised=None) if record is not None else None
    return late(bare, standing, copy)


def without_recent(current: Head, operation: Operation, facts: Facts) -> Verdict:
    """R5 left out."""
    return decide(replace(current, recent=()), operation, facts)


def forgets_promises(
    record: RegisterRecord | None, head: Head | None, standing: Standing, held: HeldKey
) -> Word:
    bare = replace(record, promised=record.accepted) if record is not None and head is not None else record
    return word(bare, head, standing, held)


def forgets_requests(
    record: RegisterRecord | None, head: Head | None, standing: Standing, held: HeldKey
) -> Word:
    bare = replace(head, recent=()) if head is not None else None
    return word(record, bare, standing, held)


def without_ballots(record: RegisterRecord, head: Head) -> Floors:
    return replace(floors_of(record, head), ballot_floor=None)


def without_versions(record: RegisterRecord, head: Head) -> Floors:
    return replace(floors_of(record, head), version_floor=0)


def without_fences(record: RegisterRecord, head: Head) -> Floors:
    return floors_of(record, replace(head, fence=None))


RED: Mapping[str, tuple[Scene, Rules]] = {
    "R4 left out": (replace(TWO_PUTS, ballots=(1, 2)), Rules(proposal=NeverCompletes)),
    "answers from an undecided head": (ONE_REQUEST_TWICE, Rules(proposal=BelievesWithoutCompleting)),
    "a quorum of majority - 1": (TWO_FIRSTS, Rules(quorum=1)),
    "promises below a promise": (TWO_PUTS, Rules(prepare=promises_anything, prune=False)),
    "accepts below a promise": (TWO_PUTS, Rules(accept=accepts_anything, prune=False)),
    "catches up below a promise": (FOLLOWED, Rules(late=follows_anything, prune=False)),
    "does not carry forward": (TWO_PUTS, Rules(prepare=forgets_accepted)),
    "forgets what a majority holds": (replace(FORGOTTEN, lagging=1), Rules(asked=2)),
    "forgets promises": (FORGOTTEN_TWICE, Rules(word=forgets_promises, prune=False)),
    "forgets requests that may come again": (ASKED_AGAIN, Rules(word=forgets_requests)),
    "forgets without a floor for ballots": (FORGOTTEN, Rules(floors_of=without_ballots)),
    "forgets without a floor for versions": (FORGOTTEN, Rules(floors_of=without_versions)),
    "forgets a fence": (FORGOTTEN_FENCE, Rules(floors_of=without_fences)),
}


@pytest.mark.parametrize("name", RED)
def test_a_planted_bug_is_found(name: str) -> None:
    scene, rules = RED[name]
    with pytest.raises(Violation):
        explore(replace(scene, rules=rules))


@pytest.mark.parametrize("scene", [RETRY_AND_DELETE, ONE_REQUEST_TWICE])
def test_leaving_out_the_memory_of_requests_is_found(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposal, "decide", without_recent)
    with pytest.raises(Violation):
        explore(scene)


@pytest.mark.parametrize(
    ("rule", "scene"), [("_expired", COLLECTED_UPLOAD), ("_source_gone", COLLECTED_VERSION)]
)
def test_leaving_out_a_rule_of_collection_is_found(
    rule: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave_out(*about: object) -> None:
        del about

    monkeypatch.setattr(register, rule, leave_out)
    with pytest.raises(Violation, match="names shards that were dropped"):
        explore(scene)


def test_a_read_that_trusts_one_home_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def weak(sights: Mapping[StoreId, Sight], roster: Roster) -> Agreement | None:
        return agreement(sights, replace(roster, quorum=1))

    monkeypatch.setattr(register_model, "agreement", weak)
    with pytest.raises(Violation):
        explore(PUT_AND_READ)
