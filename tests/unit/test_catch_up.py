"""Merging what several homes show of their registers."""

from __future__ import annotations

import pytest

from holdfast_node.core.catch_up import fences, merge
from holdfast_node.core.errors import Unavailable
from holdfast_node.core.head import Ballot, Manifest
from holdfast_node.core.ids import BlobId, BucketId, Digest, StoreId
from holdfast_node.core.messages import Floors, FloorsReply, RegisterCopies, RegisterCopy
from tests.support.maps import store_id

A, B, C = store_id(1), store_id(2), store_id(3)
BUCKET = BucketId(b"b" * 16)


def ballot(counter: int) -> Ballot:
    return Ballot(1, counter, A, 1, counter)


def copy(key: str, counter: int, *manifests: str) -> RegisterCopy:
    head = b"%s at %d" % (key.encode(), counter)
    digest = Digest(head.ljust(16)[:16])
    return RegisterCopy(
        BUCKET, key.encode(), 0, 0, ballot(counter), head, digest, tuple(manifest(name) for name in manifests)
    )


def manifest(name: str) -> Manifest:
    blob = BlobId(name.encode().ljust(16))
    return Manifest(blob, blob, 0, "rs:4+2", 1, 1, Digest(bytes(16)), ())


def page(*copies: RegisterCopy, complete: bool = True) -> RegisterCopies:
    return RegisterCopies(copies, complete)


def three(a: RegisterCopies, b: RegisterCopies, c: RegisterCopies) -> dict[StoreId, RegisterCopies]:
    return {A: a, B: b, C: c}


def test_what_all_sources_agree_on_is_known_at_once() -> None:
    same = page(copy("k1", 1), copy("k2", 5))
    window = merge(three(same, same, same), ())
    assert [one.key for one in window.known] == [b"k1", b"k2"]
    assert window.disputed == ()
    assert window.end is None


def test_the_highest_pair_wins_and_the_key_is_disputed() -> None:
    window = merge(three(page(copy("k", 1)), page(copy("k", 3)), page(copy("k", 2))), ())
    assert [one.accepted for one in window.known] == [ballot(3)]
    assert window.disputed == ((BUCKET, b"k"),)


def test_a_key_absent_from_one_source_is_disputed() -> None:
    window = merge(three(page(copy("k", 1)), page(), page(copy("k", 1))), ())
    assert window.disputed == ((BUCKET, b"k"),)


def test_a_key_that_was_settled_is_taken_as_it_is_shown() -> None:
    window = merge(three(page(copy("k", 1)), page(), page(copy("k", 4))), {(BUCKET, b"k")})
    assert [one.accepted for one in window.known] == [ballot(4)]
    assert window.disputed == ()


def test_nothing_is_concluded_beyond_the_shortest_page() -> None:
    window = merge(
        three(
            page(copy("a", 1), copy("b", 1), complete=False),
            page(copy("a", 1), copy("b", 1), copy("c", 1), complete=False),
            page(copy("a", 1), copy("b", 1), copy("c", 1), copy("d", 1)),
        ),
        (),
    )
    assert [one.key for one in window.known] == [b"a", b"b"]
    assert window.disputed == ()
    assert window.end == (BUCKET, b"b")


def test_manifests_of_all_sources_are_kept_together() -> None:
    window = merge(three(page(copy("k", 1, "x")), page(copy("k", 1, "y")), page(copy("k", 1, "x"))), ())
    assert [one.blob_id.strip() for one in window.known[0].manifests] == [b"x", b"y"]


def test_an_unfinished_page_without_rows_is_refused_not_turned_into_a_loop() -> None:
    with pytest.raises(Unavailable):
        merge(three(page(complete=False), page(), page()), ())


def test_fences_are_the_highest_of_each_kind() -> None:
    found = fences(
        [
            FloorsReply((Floors(0, 1, 7, None), Floors(0, 2, 0, ballot(2))), 3, (BucketId(b"x" * 16),)),
            FloorsReply((Floors(0, 1, 5, ballot(9)), Floors(0, 2, 1, ballot(1))), 4, (BUCKET,)),
        ]
    )
    assert found.floors == {(0, 1): Floors(0, 1, 7, ballot(9)), (0, 2): Floors(0, 2, 1, ballot(2))}
    assert found.era == 4
    assert found.closed_buckets == (BUCKET, BucketId(b"x" * 16))
