"""What one home promises, accepts and shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast_node.core.acceptance import Standing, accept, learn, prepare, view
from holdfast_node.core.errors import (
    BucketClosing,
    ChecksumMismatch,
    HoldfastError,
    InternalError,
    InvalidArgument,
    NotVoting,
    StaleEra,
    StaleGeneration,
)
from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import BucketId, StoreId
from holdfast_node.core.messages import Accept, Prepare, ReadRegister, Scope
from holdfast_node.core.records import RegisterRecord
from holdfast_node.core.register import head_hash

SCOPE = Scope(0, 3, 2)
BUCKET, KEY = BucketId(b"b" * 16), b"k"
HERE = Standing(generation=2, era=5)


def at(counter: int, generation: int = 2) -> Ballot:
    return Ballot(generation, counter, StoreId(b"s" * 16), 1, counter)


def asks(counter: int, **changes: object) -> Prepare:
    return replace(Prepare(SCOPE, BUCKET, KEY, at(counter), 5), **changes)  # type: ignore[arg-type]


def sends(counter: int, head: bytes = b"head", **changes: object) -> Accept:
    accept = Accept(SCOPE, BUCKET, KEY, at(counter), 5, head, head_hash(head))
    return replace(accept, **changes)  # type: ignore[arg-type]


def record(promised: int, accepted: int = 0, head: bytes = b"") -> RegisterRecord:
    return RegisterRecord(BUCKET, KEY, 0, 3, at(promised), at(accepted) if accepted else None, head)


def test_a_first_promise_is_written_down_and_shows_nothing() -> None:
    promise = prepare(None, HERE, asks(1))
    assert promise.record == record(1)
    assert promise.reply.promised
    assert promise.reply.accepted is None


def test_a_promise_shows_what_was_accepted() -> None:
    reply = prepare(record(3, 3, b"h"), HERE, asks(4)).reply
    assert (reply.promised, reply.accepted, reply.head, reply.head_hash) == (
        True,
        at(3),
        b"h",
        head_hash(b"h"),
    )


@pytest.mark.parametrize("counter", [2, 3])
def test_only_a_strictly_higher_ballot_is_promised(counter: int) -> None:
    promise = prepare(record(3), HERE, asks(counter))
    assert promise.record is None
    assert not promise.reply.promised
    assert promise.reply.higher == at(3)


@pytest.mark.parametrize(("counter", "taken"), [(2, False), (3, True), (4, True)])
def test_an_accept_needs_no_smaller_ballot_than_the_promise(counter: int, taken: bool) -> None:
    acceptance = accept(record(3), HERE, sends(counter))
    assert acceptance.reply.accepted is taken
    assert acceptance.record == (record(counter, counter, b"head") if taken else None)


def test_the_same_accept_again_is_answered_without_a_record() -> None:
    again = accept(record(3, 3, b"head"), HERE, sends(3))
    assert again.record is None
    assert again.reply.accepted


def test_two_heads_under_one_ballot_are_a_bug_that_is_not_hidden() -> None:
    with pytest.raises(InternalError):
        _ = accept(record(3, 3, b"other"), HERE, sends(3))


def test_a_head_that_does_not_hash_as_said_is_refused() -> None:
    with pytest.raises(ChecksumMismatch):
        _ = accept(None, HERE, sends(1, head_hash=head_hash(b"x")))


@pytest.mark.parametrize("generation", [1, 3])
def test_another_generation_is_refused_by_every_message(generation: int) -> None:
    scope = replace(SCOPE, generation=generation)
    for ask in (
        lambda: prepare(None, HERE, asks(1, scope=scope, ballot=at(1, generation))),
        lambda: accept(None, HERE, sends(1, scope=scope, ballot=at(1, generation))),
        lambda: view(None, HERE, ReadRegister(scope, BUCKET, KEY, want_head=True, inline_bytes_max=0)),
    ):
        with pytest.raises(StaleGeneration):
            _ = ask()


def test_a_ballot_is_of_the_generation_of_its_message() -> None:
    with pytest.raises(InvalidArgument):
        _ = prepare(None, HERE, asks(1, ballot=at(1, generation=1)))


def test_an_old_stamp_is_refused_and_the_one_before_the_current_is_not() -> None:
    assert prepare(None, HERE, asks(1, stamp=4)).reply.promised
    for ask in (lambda: prepare(None, HERE, asks(1, stamp=3)), lambda: accept(None, HERE, sends(1, stamp=3))):
        with pytest.raises(StaleEra):
            _ = ask()


def test_who_may_not_vote_promises_and_shows_nothing_but_keeps_what_is_accepted() -> None:
    learner = replace(HERE, not_voting="learning")
    with pytest.raises(NotVoting):
        _ = prepare(None, learner, asks(1))
    with pytest.raises(NotVoting):
        _ = view(None, learner, ReadRegister(SCOPE, BUCKET, KEY, want_head=False, inline_bytes_max=0))
    assert accept(None, learner, sends(1)).record == record(1, 1, b"head")


@pytest.mark.parametrize("error", [BucketClosing])
def test_a_closing_bucket_takes_no_writes_but_can_be_read(error: type[HoldfastError]) -> None:
    closing = replace(HERE, closing=True)
    with pytest.raises(error):
        _ = prepare(None, closing, asks(1))
    with pytest.raises(error):
        _ = accept(None, closing, sends(1))
    assert (
        view(None, closing, ReadRegister(SCOPE, BUCKET, KEY, want_head=True, inline_bytes_max=0)).ballot
        is None
    )


def test_what_was_forgotten_leaves_a_floor_for_absent_keys_only() -> None:
    floored = replace(HERE, ballot_floor=at(9), version_floor=7)
    assert prepare(None, floored, asks(9)).reply.higher == at(9)
    assert accept(None, floored, sends(9)).reply.higher == at(9)
    reply = prepare(None, floored, asks(10)).reply
    assert (reply.promised, reply.version_floor, reply.ballot_floor) == (True, 7, at(9))
    assert prepare(record(3, 3, b"h"), floored, asks(4)).reply.promised


def test_a_view_gives_the_head_only_when_asked() -> None:
    held = record(3, 3, b"h")
    full = view(held, HERE, ReadRegister(SCOPE, BUCKET, KEY, want_head=True, inline_bytes_max=0))
    brief = view(held, HERE, ReadRegister(SCOPE, BUCKET, KEY, want_head=False, inline_bytes_max=0))
    assert (full.head, brief.head) == (b"h", b"")
    assert full.head_hash == brief.head_hash == head_hash(b"h")


def test_a_promise_without_an_acceptance_shows_as_nothing() -> None:
    shown = view(record(3), HERE, ReadRegister(SCOPE, BUCKET, KEY, want_head=True, inline_bytes_max=0))
    assert (shown.ballot, shown.head, shown.head_hash) == (None, b"", b"")


def test_learning_takes_only_what_is_newer_and_keeps_promises() -> None:
    copy = record(5, 5, b"new")
    assert learn(None, copy) == copy
    assert learn(record(3, 3, b"old"), copy) == copy
    assert learn(record(9, 3, b"old"), copy) == record(9, 5, b"new")
    assert learn(record(6, 6, b"newer"), copy) is None
    assert learn(copy, copy) is None
