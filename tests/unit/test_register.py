"""What one write makes of a decided head."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast_node.core.errors import (
    AlreadyExists,
    BlobNotFound,
    HoldfastError,
    Overloaded,
    PreconditionFailed,
    TooLarge,
    UploadExpired,
    VersionNotFound,
)
from holdfast_node.core.head import (
    ABSENT_HEAD,
    Applied,
    Ballot,
    Head,
    HeadKind,
    Manifest,
    Part,
    Retained,
    seeds_of,
)
from holdfast_node.core.ids import RETAINED_MAX, BlobId, Digest, Era, RequestId, StoreId, Version
from holdfast_node.core.operation import Operation, OperationKind
from holdfast_node.core.register import (
    RECENT_MAX,
    Change,
    Facts,
    Keep,
    Refuse,
    Verdict,
    decide,
    fits,
    refused,
    seal,
)
from tests.properties.register_samples import CODEC

FACTS = Facts(version_floor=0, ballot_floor=None, era=1)


def at(counter: int) -> Ballot:
    return Ballot(1, counter, StoreId(b"s" * 16), 1, counter)


def manifest(name: bytes = b"m", size: int = 7) -> Manifest:
    blob = BlobId(name.ljust(16, b"."))
    return Manifest(blob, blob, size, "copy:6", 8, 8, Digest(b"d" * 16), ())


def put(name: bytes = b"r", **changes: object) -> Operation:
    request = RequestId(name.ljust(16, b"."))
    operation = Operation(
        OperationKind.PUT, request, Era(1), manifest=manifest(name), base=at(5), created_ms=9
    )
    return replace(operation, **changes)  # type: ignore[arg-type]


def delete(name: bytes = b"d", **changes: object) -> Operation:
    operation = Operation(OperationKind.DELETE, RequestId(name.ljust(16, b".")), Era(1))
    return replace(operation, **changes)  # type: ignore[arg-type]


def changed(verdict: Verdict) -> Head:
    assert isinstance(verdict, Change), verdict
    return verdict.head


def refusal(verdict: Verdict) -> HoldfastError:
    assert isinstance(verdict, Refuse), verdict
    return verdict.error


BLOB = Head(Version(4), HeadKind.BLOB, manifest(b"old"), created_ms=3)
TOMB = Head(Version(5), HeadKind.TOMBSTONE)


def test_a_put_makes_the_next_version_and_keeps_the_one_before() -> None:
    head = changed(decide(BLOB, put(), FACTS))
    assert (head.version, head.kind, head.manifest) == (5, HeadKind.BLOB, manifest(b"r"))
    assert head.retained[0].blob_id == manifest(b"old").blob_id
    assert [applied.version for applied in head.recent] == [5]


def test_versions_begin_above_the_floor_and_never_fall() -> None:
    facts = replace(FACTS, version_floor=41)
    assert changed(decide(ABSENT_HEAD, put(), facts)).version == 42
    assert changed(decide(BLOB, put(), facts)).version == 5, "floors are for keys that begin"
    assert changed(decide(replace(BLOB, version=Version(50)), put(), facts)).version == 51


def test_a_repeated_request_gets_its_recorded_version_and_changes_nothing() -> None:
    head = changed(decide(BLOB, put(), FACTS))
    deleted = changed(decide(head, delete(), FACTS))
    assert decide(deleted, put(), FACTS) == Keep(Version(5), repeated=True)
    assert decide(deleted, delete(), FACTS) == Keep(Version(6), repeated=True)


def test_a_repeat_is_found_before_its_condition_is_looked_at() -> None:
    head = changed(decide(ABSENT_HEAD, put(if_absent=True), FACTS))
    assert decide(head, put(if_absent=True), FACTS) == Keep(Version(1), repeated=True)


@pytest.mark.parametrize(
    ("current", "operation", "error"),
    [
        (BLOB, put(if_absent=True), AlreadyExists),
        (BLOB, put(if_version=3), PreconditionFailed),
        (TOMB, put(if_version=4), PreconditionFailed),
        (ABSENT_HEAD, put(if_version=0), PreconditionFailed),
        (ABSENT_HEAD, delete(), BlobNotFound),
        (TOMB, delete(), BlobNotFound),
        (TOMB, delete(if_version=5), BlobNotFound),
        (BLOB, delete(if_version=3), PreconditionFailed),
    ],
)
def test_a_condition_that_fails_writes_nothing_and_says_the_version(
    current: Head, operation: Operation, error: type[HoldfastError]
) -> None:
    verdict = decide(current, operation, FACTS)
    assert isinstance(verdict, Refuse)
    assert type(verdict.error) is error
    assert verdict.settled
    assert verdict.error.evidence[0].said == str(current.version)


@pytest.mark.parametrize(
    ("current", "operation"),
    [
        (TOMB, put(if_absent=True)),
        (ABSENT_HEAD, put(if_absent=True)),
        (BLOB, put(if_version=4)),
        (TOMB, put(if_version=5)),
        (BLOB, delete(if_version=4)),
    ],
)
def test_a_condition_that_holds_lets_the_write_through(current: Head, operation: Operation) -> None:
    assert changed(decide(current, operation, FACTS)).version == current.version + 1


def test_a_base_at_or_under_the_fence_has_expired() -> None:
    assert isinstance(refusal(decide(replace(BLOB, fence=at(5)), put(), FACTS)), UploadExpired)
    assert changed(decide(replace(BLOB, fence=at(4)), put(), FACTS)).fence == at(4)


def test_a_base_at_or_under_the_floor_has_expired_but_tells_nothing_of_earlier_tries() -> None:
    verdict = decide(ABSENT_HEAD, put(), replace(FACTS, ballot_floor=at(5)))
    assert isinstance(verdict, Refuse)
    assert isinstance(verdict.error, UploadExpired)
    assert not verdict.settled


def test_a_fence_rises_keeps_the_value_and_is_idempotent() -> None:
    fence = Operation(OperationKind.FENCE, RequestId(b"f" * 16), Era(1), base=at(7))
    head = changed(decide(BLOB, fence, FACTS))
    assert head == replace(BLOB, fence=at(7))
    assert decide(head, fence, FACTS) == Keep(Version(4))
    assert decide(head, replace(fence, base=at(6)), FACTS) == Keep(Version(4))
    assert changed(decide(ABSENT_HEAD, fence, FACTS)).kind is HeadKind.ABSENT


def test_without_retain_the_replaced_version_is_not_kept() -> None:
    assert changed(decide(BLOB, put(retain=False), FACTS)).retained == ()


def test_the_oldest_retained_version_goes_at_the_bound() -> None:
    head = ABSENT_HEAD
    for number in range(RETAINED_MAX + 3):
        head = changed(decide(head, put(b"r%d" % number), FACTS))
    assert [kept.version for kept in head.retained] == list(range(RETAINED_MAX + 2, 2, -1))


def undelete(of: bytes, name: bytes = b"u") -> Operation:
    """A put of a new blob id over the shards of an older version."""
    return put(name, manifest=replace(manifest(name), seed_id=manifest(of).seed_id))


def test_a_head_names_the_seeds_of_all_versions_it_keeps() -> None:
    head = changed(decide(BLOB, put(b"new"), FACTS))
    assert seeds_of(head) == {manifest(b"old").seed_id, manifest(b"new").seed_id}
    gone = changed(decide(head, delete(), FACTS))
    assert seeds_of(gone) == seeds_of(head)
    assert seeds_of(ABSENT_HEAD) == frozenset()
    assert seeds_of(changed(decide(TOMB, put(b"new"), FACTS))) == {manifest(b"new").seed_id}


def test_an_undeleted_version_that_is_overwritten_still_names_its_shards() -> None:
    head = changed(decide(BLOB, put(b"new"), FACTS))
    back = changed(decide(head, undelete(b"old"), FACTS))
    over = changed(decide(back, put(b"newest"), FACTS))
    only = changed(decide(over, Operation(OperationKind.EXPIRE, RequestId(b""), Era(1), below=6), FACTS))
    assert [each.version for each in only.retained] == [6]
    assert seeds_of(only) == {manifest(b"old").seed_id, manifest(b"newest").seed_id}


def test_an_undelete_of_what_no_head_names_any_more_is_refused_for_good() -> None:
    verdict = decide(BLOB, undelete(b"long gone"), FACTS)
    assert isinstance(refusal(verdict), VersionNotFound)
    assert isinstance(verdict, Refuse)
    assert verdict.settled
    assert isinstance(refusal(decide(TOMB, undelete(b"old"), FACTS)), VersionNotFound)
    assert isinstance(refusal(decide(ABSENT_HEAD, undelete(b"old"), FACTS)), VersionNotFound)


def test_an_undelete_that_was_applied_is_answered_though_its_source_is_gone() -> None:
    head = replace(BLOB, recent=(Applied(RequestId(b"u".ljust(16, b".")), Version(3), Era(1)),))
    assert decide(head, undelete(b"long gone"), FACTS) == Keep(Version(3), repeated=True)


def test_expiry_lets_go_of_what_is_below_and_of_nothing_else() -> None:
    kept = tuple(
        Retained(Version(version), HeadKind.BLOB, BlobId(bytes([version]) * 16), 1, 0)
        for version in (3, 2, 1)
    )
    head = replace(BLOB, retained=kept, fence=at(3))
    expire = Operation(OperationKind.EXPIRE, RequestId(b""), Era(1), below=3)
    after = changed(decide(head, expire, FACTS))
    assert after == replace(head, retained=kept[:1])
    assert decide(after, expire, FACTS) == Keep(Version(4)), "nothing is written twice"
    assert decide(ABSENT_HEAD, expire, FACTS) == Keep(Version(0))


def test_applied_writes_are_forgotten_only_when_their_stamp_is_refused() -> None:
    old, newer = (
        Applied(RequestId(b"o" * 16), Version(3), Era(1)),
        Applied(RequestId(b"n" * 16), Version(4), Era(2)),
    )
    head = replace(BLOB, recent=(old, newer))
    two = changed(decide(head, put(stamp=Era(2)), replace(FACTS, era=2)))
    assert [applied.version for applied in two.recent] == [3, 4, 5]
    three = changed(decide(head, put(stamp=Era(3)), replace(FACTS, era=3)))
    assert [applied.version for applied in three.recent] == [4, 5]
    assert refused(1, 3)
    assert not refused(2, 3)


def test_too_many_remembered_writes_are_overload_and_not_forgotten_early() -> None:
    full = tuple(Applied(RequestId(b"%016d" % n), Version(n), Era(1)) for n in range(RECENT_MAX))
    verdict = decide(replace(BLOB, recent=full), put(), FACTS)
    assert isinstance(refusal(verdict), Overloaded)
    assert isinstance(verdict, Refuse)
    assert not verdict.settled


def test_a_head_too_long_says_whether_the_manifest_or_the_memory_is_to_blame() -> None:
    part = Part(8, (StoreId(b"s" * 16),) * 6, (Digest(b"d" * 16),) * 6)
    large = replace(BLOB, manifest=replace(manifest(), parts=(part,) * 400))
    assert isinstance(fits(seal(large, CODEC), CODEC), TooLarge)
    many = tuple(Applied(RequestId(b"%016d" % n), Version(n), Era(1)) for n in range(2 * RECENT_MAX))
    assert isinstance(fits(seal(replace(BLOB, recent=many), CODEC), CODEC), Overloaded)
    assert fits(seal(BLOB, CODEC), CODEC) is None


def recode(replaces: bytes = b"old", name: bytes = b"new") -> Operation:
    request = RequestId(b"c" * 16)
    return Operation(
        OperationKind.RECODE,
        request,
        Era(1),
        manifest=manifest(name),
        base=at(5),
        replaces=BlobId(replaces.ljust(16, b".")),
    )


def test_a_change_of_code_replaces_the_manifest_and_nothing_else() -> None:
    before = changed(decide(BLOB, put(), FACTS))
    after = changed(decide(before, recode(b"r"), FACTS))
    assert after == replace(before, manifest=manifest(b"new"))
    assert decide(after, recode(b"r"), FACTS) == Keep(after.version), "a repeat finds its own result"


@pytest.mark.parametrize("current", [TOMB, ABSENT_HEAD, changed(decide(BLOB, put(), FACTS))])
def test_whoever_writes_the_key_meanwhile_wins_over_a_change_of_code(current: Head) -> None:
    verdict = decide(current, recode(), FACTS)
    assert isinstance(verdict, Refuse)
    assert isinstance(verdict.error, PreconditionFailed)
    assert not verdict.settled


def test_what_a_change_of_code_has_staged_expires_like_an_upload() -> None:
    fenced = replace(BLOB, fence=at(5))
    assert isinstance(refusal(decide(fenced, recode(), FACTS)), UploadExpired)
