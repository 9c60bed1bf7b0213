"""One proposer, one answer at a time; the counterexamples that shaped the rules among them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast_node.core.acceptance import Standing, accept, prepare
from holdfast_node.core.errors import (
    AlreadyExists,
    BucketClosing,
    HoldfastError,
    NotVoting,
    OutcomeUnknown,
    PeerUnreachable,
    StaleEra,
    StaleGeneration,
    Unavailable,
)
from holdfast_node.core.head import Head
from holdfast_node.core.ids import Digest, Era
from holdfast_node.core.messages import Accept, AcceptReply, Prepare, PrepareReply, Scope
from holdfast_node.core.operation import Operation
from holdfast_node.core.proposal import (
    Again,
    Effect,
    Failed,
    Finished,
    Linger,
    Proposal,
    Reason,
    SendAccept,
    SendPrepare,
)
from holdfast_node.core.quorum import Roster
from holdfast_node.core.records import RegisterRecord
from tests.properties.register_samples import BUCKET, CODEC, KEY, SCOPE, ballot, delete, put, store


class Homes:
    """Real homes, asked by hand."""

    def __init__(self, count: int = 3, *, generation: int = 1, era: int = 1) -> None:
        self.records: list[RegisterRecord | None] = [None] * count
        self.standing = [Standing(generation, era) for _ in range(count)]
        self.scope = replace(SCOPE, generation=generation)
        self.roster = Roster(frozenset(store(at) for at in range(count)), count // 2 + 1)

    def prepare(self, proposal: Proposal, *homes: int, stamp: int = 1) -> list[Effect]:
        effects: list[Effect] = []
        assert proposal.ballot is not None
        request = Prepare(self.scope, BUCKET, KEY, proposal.ballot, stamp)
        for home in homes:
            try:
                promise = prepare(self.records[home], self.standing[home], request)
            except HoldfastError as error:
                effects += proposal.not_promised(proposal.ballot, store(home), error)
                continue
            self.records[home] = promise.record or self.records[home]
            effects += proposal.promised(proposal.ballot, store(home), promise.reply)
        return effects

    def accept(self, proposal: Proposal, effect: Effect, *homes: int, stamp: int = 1) -> list[Effect]:
        effects: list[Effect] = []
        assert isinstance(effect, SendAccept)
        scope = replace(self.scope, generation=effect.ballot.generation)
        request = Accept(scope, BUCKET, KEY, effect.ballot, stamp, effect.head, effect.head_hash)
        for home in homes:
            acceptance = accept(self.records[home], self.standing[home], request)
            self.records[home] = acceptance.record or self.records[home]
            effects += proposal.accepted(effect.ballot, store(home), acceptance.reply)
        return effects

    def silence(self, proposal: Proposal, *homes: int) -> list[Effect]:
        effects: list[Effect] = []
        assert proposal.ballot is not None
        for home in homes:
            lost = PeerUnreachable("lost")
            effects += proposal.not_promised(proposal.ballot, store(home), lost)
            effects += proposal.not_accepted(proposal.ballot, store(home), lost)
        return effects

    def run(self, operation: Operation, counter: int, *homes: int) -> Finished | Failed:
        """Ballot after ballot on these homes, nobody else in the way."""
        proposal = Proposal(operation, CODEC)
        for attempt in range(3):
            _ = proposal.begin(ballot(counter + attempt, 0), self.roster)
            effects = self.prepare(proposal, *homes)
            if isinstance(effects[-1], Linger):
                effects += self.silence(proposal, *(set(range(len(self.records))) - set(homes)))
            if isinstance(effects[-1], SendAccept):
                effects = self.accept(proposal, effects[-1], *homes)
            last = effects[-1]
            if isinstance(last, (Finished, Failed)):
                return last
        raise AssertionError("no end")

    def head(self, home: int) -> Head | None:
        record = self.records[home]
        return CODEC.decode(Head, record.head) if record is not None and record.accepted is not None else None


def begun(operation: Operation, homes: Homes, counter: int = 1, proposer: int = 0) -> Proposal:
    proposal = Proposal(operation, CODEC)
    effects = proposal.begin(ballot(counter, proposer), homes.roster)
    assert effects == [SendPrepare(ballot(counter, proposer))]
    return proposal


def finished(effects: list[Effect]) -> Finished:
    last = effects[-1]
    assert isinstance(last, Finished), effects
    return last


def failure(effects: list[Effect]) -> HoldfastError:
    last = effects[-1]
    assert isinstance(last, Failed), effects
    return last.error


def test_a_first_put_takes_two_rounds_and_a_majority() -> None:
    homes = Homes()
    proposal = begun(put("u1"), homes)
    effects = homes.prepare(proposal, 0, 1)
    assert isinstance(effects[-1], SendAccept)
    done = finished(homes.accept(proposal, effects[-1], 1, 2))
    assert done.version == 1
    assert done.accepted == frozenset({store(1), store(2)})
    assert not done.repeated


def test_answers_to_an_earlier_ballot_or_twice_or_from_strangers_do_not_count() -> None:
    homes = Homes()
    proposal = begun(put("u1"), homes)
    reply = PrepareReply(True, None, None, Digest(b""), b"", 0, None, 1)
    assert proposal.promised(ballot(9, 9), store(0), reply) == []
    assert proposal.promised(ballot(1, 0), store(7), reply) == []
    assert proposal.promised(ballot(1, 0), store(0), reply) == []
    assert proposal.promised(ballot(1, 0), store(0), reply) == []
    assert proposal.accepted(ballot(1, 0), store(1), AcceptReply(True, None)) == []
    assert isinstance(proposal.promised(ballot(1, 0), store(1), reply)[-1], SendAccept)


def test_what_a_stranger_has_accepted_is_not_carried_on() -> None:
    """A home of another generation may hold what was never decided, or was decided away since."""
    homes, others = Homes(), Homes()
    _ = others.run(put("of others"), 7, 0, 1, 2)
    proposal = begun(put("u1"), homes, 9)
    assert proposal.ballot is not None
    strange = prepare(others.records[0], others.standing[0], Prepare(SCOPE, BUCKET, KEY, proposal.ballot, 1))
    assert strange.reply.accepted is not None
    assert proposal.promised(proposal.ballot, store(7), strange.reply) == []
    sent = homes.prepare(proposal, 0, 1, 2)[-1]
    assert isinstance(sent, SendAccept)
    head = CODEC.decode(Head, sent.head)
    assert head.recent[-1].request_id == put("u1").request_id


def test_promises_that_came_with_the_shards_save_the_first_round() -> None:
    homes = Homes()
    request = Prepare(SCOPE, BUCKET, KEY, ballot(1, 0), 1)
    promises = {store(at): prepare(None, Standing(1, 1), request).reply for at in (0, 2)}
    effects = Proposal(put("u1"), CODEC).resume(ballot(1, 0), homes.roster, promises)
    assert isinstance(effects[-1], SendAccept)


def test_a_failed_condition_on_a_decided_value_writes_nothing() -> None:
    homes = Homes()
    _ = homes.run(put("u1"), 1, 0, 1, 2)
    proposal = begun(put("u2", if_absent=True), homes, 5)
    assert isinstance(failure(homes.prepare(proposal, 0, 1)), AlreadyExists)
    assert not proposal.accept_sent


def test_a_failed_condition_on_an_undecided_value_completes_it_first() -> None:
    homes = Homes()
    first = begun(put("u1"), homes)
    _ = homes.accept(first, homes.prepare(first, 0, 1)[-1], 0)
    second = begun(put("u2", if_absent=True), homes, 2, 1)
    effects = homes.prepare(second, 0, 1, 2)
    assert isinstance(effects[-1], SendAccept)
    assert isinstance(failure(homes.accept(second, effects[-1], 1, 2)), AlreadyExists)
    assert homes.head(1) == homes.head(2) == homes.head(0)


def test_a_quorum_that_disagrees_waits_a_moment_for_the_others() -> None:
    homes = Homes()
    first = begun(put("u1"), homes)
    _ = homes.accept(first, homes.prepare(first, 0, 1)[-1], 0, 1)
    second = begun(put("u2"), homes, 2, 1)
    assert homes.prepare(second, 0, 2) == [Linger(ballot(2, 1))]
    effects = homes.prepare(second, 1)
    assert isinstance(effects[-1], SendAccept)
    assert CODEC.decode(Head, effects[-1].head).version == 2, "no write-back was needed"


def test_counterexample_2_a_retry_of_an_applied_put_does_not_bring_a_deleted_blob_back() -> None:
    homes = Homes()
    _ = homes.run(put("u0"), 1, 0, 1, 2)
    first = begun(put("u1"), homes, 5)
    _ = homes.accept(first, homes.prepare(first, 0, 1)[-1], 0)
    assert homes.silence(first, 1, 2) == [Again(Reason.SHORT)]
    removed = homes.run(delete("u2"), 6, 0, 2)
    assert isinstance(removed, Finished)
    assert removed.version == 3
    _ = first.begin(ballot(9, 0), homes.roster)
    done = finished(homes.prepare(first, 0, 2))
    assert done.version == 2, "the recorded result"
    assert done.head.version == 3, "nothing new was written"


def test_counterexample_3_a_version_is_at_a_majority_before_it_is_superseded() -> None:
    homes = Homes()
    first = begun(put("u1"), homes)
    _ = homes.accept(first, homes.prepare(first, 0, 1)[-1], 0)
    second = begun(put("u2"), homes, 2, 1)
    effects = homes.prepare(second, 0, 1)
    effects += second.overdue(ballot(2, 1))
    assert isinstance(effects[-1], SendAccept)
    assert CODEC.decode(Head, effects[-1].head).version == 1, "the first value is written back"
    assert homes.accept(second, effects[-1], 0, 1) == [Again(Reason.COMPLETED)]
    assert homes.head(1) == homes.head(0)


def test_counterexample_4_promises_of_one_generation_do_not_win_in_the_next() -> None:
    old = Homes(6)
    first = begun(put("u1", if_absent=True), old)
    effects = old.prepare(first, 0, 1, 2, 3)
    assert isinstance(effects[-1], SendAccept)
    new = Homes(6, generation=2)
    new.records = [None, None, *old.records[2:]]
    new.roster = Roster(frozenset(store(at) for at in (2, 3, 4, 5)), 4)
    won = Proposal(put("u2", if_absent=True), CODEC)
    _ = won.begin(replace(ballot(1, 1), generation=2), new.roster)
    decided = finished(new.accept(won, new.prepare(won, 2, 3, 4, 5)[-1], 2, 3, 4, 5))
    assert decided.version == 1
    late = Accept(SCOPE, BUCKET, KEY, effects[-1].ballot, 1, effects[-1].head, effects[-1].head_hash)
    for home in (2, 3, 4, 5):
        with pytest.raises(StaleGeneration):
            _ = accept(new.records[home], new.standing[home], late)


def test_counterexample_4_who_lost_its_promises_does_not_vote() -> None:
    homes = Homes()
    homes.standing[0] = replace(homes.standing[0], not_voting="wiped, still learning")
    proposal = begun(put("u1"), homes)
    assert homes.prepare(proposal, 0, 1) == []
    assert isinstance(homes.prepare(proposal, 2)[-1], SendAccept)


def test_counterexample_7_versions_do_not_begin_again_after_a_key_was_forgotten() -> None:
    homes = Homes()
    for at in range(3):
        homes.standing[at] = replace(homes.standing[at], version_floor=8, ballot_floor=ballot(20, 0))
    refused = begun(put("u1"), homes, 3)
    assert homes.prepare(refused, 0, 1, 2) == [Again(Reason.CONTENDED)]
    assert refused.highest == 20
    done = homes.run(replace(put("u1"), base=ballot(21, 0)), 21, 0, 1, 2)
    assert isinstance(done, Finished)
    assert done.version == 9


def test_a_refusal_says_how_high_the_next_ballot_must_be() -> None:
    homes = Homes()
    _ = homes.run(put("u1"), 7, 0, 1, 2)
    low = begun(put("u2"), homes, 3)
    assert homes.prepare(low, 0, 1) == [Again(Reason.CONTENDED)]
    assert low.highest == 7


def test_a_newer_generation_ends_the_ballot_and_names_who_knows() -> None:
    homes = Homes()
    for at in (0, 1):
        homes.standing[at] = Standing(2, 1)
    proposal = begun(put("u1"), homes)
    assert homes.prepare(proposal, 0, 1) == [Again(Reason.STALE, store(0))]


def test_promises_of_an_earlier_generation_are_forgotten_in_a_new_one() -> None:
    """Also when a quorum had promised and only the accept came too late: others may have decided since."""
    homes = Homes()
    proposal = begun(put("u1"), homes)
    effect = homes.prepare(proposal, 0, 1)[-1]
    assert isinstance(effect, SendAccept)
    stale = StaleGeneration("adopted a newer one")
    assert proposal.not_accepted(effect.ballot, store(0), stale) == []
    assert proposal.not_accepted(effect.ballot, store(1), stale) == [Again(Reason.STALE, store(0))]
    again = replace(ballot(1, 1), generation=2)
    assert proposal.begin(again, homes.roster) == [SendPrepare(again)]


def test_an_old_stamp_is_final_before_an_accept_and_unknown_after() -> None:
    homes = Homes()
    for at in (0, 1):
        homes.standing[at] = Standing(1, 3)
    fresh = begun(put("u1"), homes)
    assert isinstance(failure(homes.prepare(fresh, 0, 1)), StaleEra)
    homes = Homes()
    tried = begun(put("u1"), homes)
    _ = homes.accept(tried, homes.prepare(tried, 0, 1)[-1], 0)
    _ = homes.silence(tried, 1, 2)
    for at in (0, 1):
        homes.standing[at] = Standing(1, 3)
    _ = tried.begin(ballot(2, 0), homes.roster)
    assert isinstance(failure(homes.prepare(tried, 0, 1)), OutcomeUnknown)


def test_remembered_writes_go_when_a_majority_refuses_their_stamp_not_before() -> None:
    homes = Homes()
    _ = homes.run(put("u1"), 1, 0, 1, 2)
    homes.standing[0] = Standing(1, 3)
    proposal = Proposal(replace(put("u3"), stamp=Era(3)), CODEC)
    _ = proposal.begin(ballot(8, 0), homes.roster)
    effects = homes.prepare(proposal, 0, 1, stamp=3)
    assert isinstance(effects[-1], SendAccept)
    assert len(CODEC.decode(Head, effects[-1].head).recent) == 2
    for at in (0, 1):
        homes.standing[at] = Standing(1, 3)
    proposal = Proposal(replace(put("u3"), stamp=Era(3)), CODEC)
    _ = proposal.begin(ballot(9, 0), homes.roster)
    effects = homes.prepare(proposal, 0, 1, stamp=3)
    assert isinstance(effects[-1], SendAccept)
    assert [a.stamp for a in CODEC.decode(Head, effects[-1].head).recent] == [3]


def test_a_closing_bucket_ends_the_operation() -> None:
    homes = Homes()
    for at in (0, 2):
        homes.standing[at] = Standing(1, 1, closing=True)
    assert isinstance(failure(homes.prepare(begun(put("u1"), homes), 0, 1, 2)), BucketClosing)


def test_a_broken_home_does_not_hide_that_the_bucket_is_closed() -> None:
    """Of three refusals of six two are for good: no quorum can come any more, and who answers next may tell why."""
    homes = Homes(6)
    for at in range(6):
        homes.standing[at] = Standing(1, 1, closing=True)
    proposal = begun(put("u1"), homes)
    assert proposal.not_promised(ballot(1, 0), store(5), NotVoting("its copy is broken")) == []
    assert homes.prepare(proposal, 0, 1) == []
    assert isinstance(failure(homes.prepare(proposal, 2)), BucketClosing)


def test_a_door_that_one_home_alone_has_closed_ends_nothing() -> None:
    homes = Homes()
    homes.standing[0] = Standing(1, 1, closing=True)
    proposal = begun(put("u1"), homes)
    assert homes.prepare(proposal, 0) == []
    assert proposal.not_promised(ballot(1, 0), store(1), PeerUnreachable("away")) == []
    [again] = proposal.not_promised(ballot(1, 0), store(2), PeerUnreachable("away"))
    assert again == Again(Reason.SHORT)


def test_a_late_failure_of_a_prepare_is_not_a_failed_accept() -> None:
    homes = Homes()
    proposal = begun(put("u1"), homes)
    effects = homes.prepare(proposal, 0, 1)
    assert proposal.not_promised(ballot(1, 0), store(2), PeerUnreachable("late")) == []
    assert proposal.not_promised(ballot(1, 0), store(1), PeerUnreachable("late")) == []
    assert finished(homes.accept(proposal, effects[-1], 1, 2)).version == 1


def test_giving_up_is_harmless_before_an_accept_and_unknown_after() -> None:
    homes = Homes()
    proposal = begun(put("u1"), homes)
    error = Unavailable("enough")
    assert proposal.give_up(error) is error
    _ = homes.prepare(proposal, 0, 1)
    assert isinstance(proposal.give_up(error), OutcomeUnknown)


def test_writing_back_another_value_is_not_an_accept_of_ones_own() -> None:
    homes = Homes()
    first = begun(put("u1"), homes)
    _ = homes.accept(first, homes.prepare(first, 0, 1)[-1], 0)
    second = begun(put("u2"), homes, 2, 1)
    effects = homes.prepare(second, 0, 1) + second.overdue(ballot(2, 1))
    assert isinstance(effects[-1], SendAccept)
    assert not second.accept_sent


def test_a_head_that_does_not_hash_as_said_is_no_promise() -> None:
    homes = Homes()
    _ = homes.run(put("u1"), 1, 0, 1, 2)
    proposal = begun(put("u2"), homes, 5)
    request = Prepare(Scope(0, 0, 1), BUCKET, KEY, ballot(5, 0), 1)
    reply = prepare(homes.records[0], homes.standing[0], request).reply
    assert proposal.promised(ballot(5, 0), store(0), replace(reply, head=reply.head + b"x")) == []
    assert homes.prepare(proposal, 1) == []
    assert isinstance(homes.prepare(proposal, 2)[-1], SendAccept)


def test_silence_of_too_many_is_short_and_not_voting_too() -> None:
    homes = Homes()
    proposal = begun(put("u1"), homes)
    assert proposal.not_promised(ballot(1, 0), store(0), NotVoting("learning")) == []
    assert proposal.not_promised(ballot(1, 0), store(1), PeerUnreachable("down")) == [Again(Reason.SHORT)]


def test_what_the_old_homes_of_a_move_decided_is_brought_over_before_it_is_changed() -> None:
    """Homes 0, 1 and 2 are on their way to 2, 3 and 4; the old ones know a value that the newcomers do not."""
    homes = Homes(5)
    homes.roster = Roster(frozenset(map(store, (0, 1, 2))), 2)
    assert isinstance(homes.run(put("one"), 1, 0, 1), Finished)
    homes.standing = [replace(standing, generation=2) for standing in homes.standing]
    homes.scope = replace(homes.scope, generation=2)
    moving = frozenset(map(store, (2, 3, 4)))
    homes.roster = Roster(frozenset(map(store, (0, 1, 2))), 2, moving, generation=2)
    proposal = Proposal(put("two"), CODEC)
    first = replace(ballot(5, 0), generation=2)
    assert proposal.begin(first, homes.roster) == [SendPrepare(first)]
    assert homes.prepare(proposal, 0, 1, 3) == [], "two of the old, one of the new"
    [linger] = homes.prepare(proposal, 4)
    assert isinstance(linger, Linger)
    [write_back] = homes.prepare(proposal, 2)
    assert isinstance(write_back, SendAccept)
    assert write_back.head == homes.records[0].head if homes.records[0] else False
    assert homes.accept(proposal, write_back, 0, 1) == [], "a quorum of the old set decides nothing"
    assert homes.accept(proposal, write_back, 3, 4) == [Again(Reason.COMPLETED)]
