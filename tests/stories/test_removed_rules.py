"""Without its rule, a story ends badly: each removal undoes one rule of the product, and the transcript must show it.

What a story is said to hold, it holds. Nothing on disk changes; a removal lasts for one performance.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from holdfast_node.core import acceptance, holders, proposal, quorum, register
from holdfast_node.core.acceptance import Standing
from holdfast_node.core.codes import Code
from holdfast_node.core.head import Ballot, Head
from holdfast_node.core.operation import Operation
from holdfast_node.core.topology import Topology
from holdfast_node.ports import Codec
from holdfast_node.services import membership, striping
from holdfast_node.services.log.replay import Replay
from tests.stories import cluster_stage, register_stage, removals
from tests.stories.removals import Patch, always, everywhere

HERE: Final = Path(__file__).parent


@dataclass(frozen=True)
class Removal:
    """`ends` is in the transcript without the rule, and never with it."""

    story: str
    rule: str
    patches: Callable[[], Sequence[Patch]]
    ends: str


@contextmanager
def removed(patches: Sequence[Patch]) -> Generator[None]:
    before = [(where, name, vars(where)[name]) for where, name, _ in patches]
    try:
        for where, name, change in patches:
            setattr(where, name, change(getattr(where, name)))
        yield
    finally:
        for where, name, was in reversed(before):
            setattr(where, name, was)


def _homes_without(**known: object) -> Callable[[], Sequence[Patch]]:
    """Homes that never heard of something."""

    def change(answer: Callable[..., Any]) -> Callable[..., Any]:
        def forgetful(record: object, standing: Standing, request: object) -> object:
            return answer(record, replace(standing, **known), request)  # type: ignore[arg-type]

        return forgetful

    return lambda: [*everywhere(acceptance.prepare, change), *everywhere(acceptance.accept, change)]


def _generations_do_not_matter() -> Sequence[Patch]:
    """Neither in ballots nor in messages: either alone is enough to keep the rule."""

    def without(ballot: Ballot) -> Ballot:
        return replace(ballot, generation=0)

    def compared(name: str) -> Patch:
        def change(compare: Callable[[Ballot, Ballot], bool]) -> Callable[[Ballot, Ballot], bool]:
            return lambda one, other: compare(without(one), without(other))

        return (Ballot, name, change)

    return [
        *everywhere(acceptance.check_generation, always(None)),
        *(compared(name) for name in ("__lt__", "__le__", "__gt__", "__ge__")),
    ]


def _one_home_less_agrees() -> Sequence[Patch]:
    def change(agreement: Callable[..., object]) -> Callable[..., object]:
        def hasty(sights: object, roster: quorum.Roster) -> object:
            return agreement(sights, replace(roster, quorum=roster.quorum - 1))

        return hasty

    return everywhere(quorum.agreement, change)


def _versions_begin_anew() -> Sequence[Patch]:
    def change(decide: Callable[..., Any]) -> Callable[..., Any]:
        def forgetful(current: Head, operation: Operation, facts: register.Facts) -> object:
            return decide(current, operation, replace(facts, version_floor=0))

        return forgetful

    return [(proposal, "decide", change)]


def _any_stamp() -> Sequence[Patch]:
    """Homes take operations of any era; proposers still forget what they think will be refused."""
    return [(acceptance, "refused", always(False))]


def _the_first_bad_record_is_the_end() -> Sequence[Patch]:
    async def nothing(self: Replay, window: object) -> None:
        del self, window

    return [(Replay, "_find_later", lambda _: nothing)]


def _fewer_teachers() -> Sequence[Patch]:
    def one_less(enough: Callable[[Topology, int, int], int]) -> Callable[[Topology, int, int], int]:
        return lambda topology, pool, partition: enough(topology, pool, partition) - 1

    return [(Topology, "enough_to_see", one_less)]


def _fewer_listed() -> Sequence[Patch]:
    def change(overlap: Callable[[int], int]) -> Callable[[int], int]:
        return lambda homes: overlap(homes) - 1

    return everywhere(quorum.overlap, change)


def _one_parity_cell_is_checked() -> Sequence[Patch]:
    """From {1, 2, 3, 4} of rs:4+2: what is wrong with cell 5 is not seen."""

    def change(check: Callable[[Codec, Code, Sequence[bytes]], None]) -> Callable[..., None]:
        def hasty(codec: Codec, code: Code, cells: Sequence[bytes]) -> None:
            subset = {index: cells[index] for index in range(1, code.k + 1)}
            assert codec.decode(str(code), subset, [0]) == [cells[0]]

        return hasty

    return [(striping, "check_encoding", change)]


def _floorless() -> Sequence[Patch]:
    return everywhere(holders.ack_allowed, always(True))


def _no_fence() -> Sequence[Patch]:
    return [(register, "_expired", always(None))]


def _any_source() -> Sequence[Patch]:
    return [(register, "_source_gone", always(None))]


def _no_later_life() -> Sequence[Patch]:
    return everywhere(membership.later_life_seen, always(""))


REMOVALS: Final = (
    Removal(
        "register/ce5-promises-end-with-their-generation",
        "generations",
        _generations_do_not_matter,
        "p1: done, version 1; now v1=u1",
    ),
    Removal(
        "register/read-finishes-a-value", "majority", _one_home_less_agrees, "> read 0 1\n  decided: v1=u1"
    ),
    Removal("register/ce2-retry-after-delete", "R5", removals.no_dedupe, "v4=u1 over 3,2,1"),
    Removal(
        "register/ce3-superseded-on-one-home",
        "R4",
        removals.incomplete_is_complete,
        "accept 1.2 of p2 v2=u2 over 1",
    ),
    Removal(
        "register/ce7-versions-and-floors",
        "ballot floor",
        _homes_without(ballot_floor=None),
        "accept 1.3 of p1 v9=u1",
    ),
    Removal("register/ce7-versions-and-floors", "version floor", _versions_begin_anew, "v1=u2"),
    Removal("register/eras-forget-requests", "stamps", _any_stamp, "v3=once-more over 2,1"),
    Removal("register/fence-expires-an-upload", "fence", _no_fence, "accept 1.7 of p1 v1=u1"),
    Removal(
        "cluster/ce1-shards-outlive-a-failed-commit",
        "drop before accept only",
        removals.drop_after_failure,
        "Unavailable: 0 of the 4 shards needed",
    ),
    Removal(
        "cluster/ce4-a-wiped-home-does-not-vote",
        "learners do not vote",
        removals.learners_vote,
        "v1=B | n1' n2' n5 n6 accepted",
    ),
    Removal(
        "cluster/ce5-a-learner-hears-enough-homes",
        "enough teachers",
        _fewer_teachers,
        "BlobNotFound: there is no such blob",
    ),
    Removal(
        "cluster/ce8-undelete-against-removal",
        "the source is named",
        _any_source,
        "Unavailable: 0 of the 4 shards needed",
    ),
    Removal(
        "cluster/ce10-rot-is-not-a-torn-tail",
        "rot is not torn",
        _the_first_bad_record_is_the_end,
        "n3 has nothing of it",
    ),
    Removal(
        "cluster/ce11-wrong-parity-reaches-no-ack",
        "all parity is checked",
        _one_parity_cell_is_checked,
        "IntegrityError: the bytes do not hash to what was stored",
    ),
    Removal(
        "cluster/no-majority-is-unavailable", "majority", removals.one_less_than_a_majority, "ack v3, deleted"
    ),
    Removal(
        "cluster/bucket-closes-before-it-goes",
        "closed door",
        _homes_without(closing=False),
        "the put on n1: ack v3",
    ),
    Removal("cluster/acked-survives-a-power-cut", "sync", removals.no_sync, "Unavailable: "),
    Removal("cluster/retry-is-applied-once", "R5", removals.no_dedupe, "ack v3"),
    Removal("cluster/list-settles-a-disagreement", "enough listed", _fewer_listed, "\n  other v1\n"),
    Removal("cluster/below-the-floor-unavailable", "floor", _floorless, "ack v1"),
    Removal("cluster/undelete-below-the-floor", "floor", _floorless, "ack v3"),
    Removal(
        "cluster/rolled-back-store-is-suspect",
        "later life",
        _no_later_life,
        "n3 sealed, promised, has v1=A at 1.1.n1",
    ),
    Removal(
        "cluster/cloned-store-is-refused",
        "later life",
        _no_later_life,
        "n3 sealed, promised, has v1=A at 1.1.n1",
    ),
    Removal("cluster/fenced-upload-expires", "fence", _no_fence, "v2 = B, 20000 bytes"),
    Removal(
        "cluster/flipped-cell-is-an-erasure", "cell checksums", removals.no_cell_checksum, "IntegrityError:"
    ),
    Removal(
        "cluster/read-finishes-a-half-accepted-put",
        "majority",
        removals.one_less_than_a_majority,
        "BlobNotFound: there",
    ),
)


@pytest.mark.parametrize("removal", REMOVALS, ids=lambda removal: f"{removal.story}, {removal.rule}")
def test_without_its_rule_the_story_ends_badly(removal: Removal) -> None:
    written = (HERE / f"{removal.story}.txt").read_text()
    perform = (cluster_stage if removal.story.startswith("cluster") else register_stage).perform
    assert removal.ends not in written
    with removed(removal.patches()):
        played = perform(written)
    assert removal.ends in played


def test_every_story_that_holds_a_rule_is_tried_without_it() -> None:
    holding = {
        f"{story.parent.name}/{story.stem}"
        for story in HERE.glob("*/*.txt")
        if "\nHolds: " in story.read_text()
    }
    assert holding == {removal.story for removal in REMOVALS}
