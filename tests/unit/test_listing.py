"""Merging, paging, prefixes and tokens of a listing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_node.core.errors import InvalidArgument, Unavailable
from holdfast_node.core.head import Ballot, HeadKind
from holdfast_node.core.ids import BucketId, Digest, StoreId
from holdfast_node.core.listing import (
    Electorate,
    Page,
    Query,
    check_query,
    decode_token,
    encode_token,
    info_of_row,
    merge,
    plan,
    successor,
)
from holdfast_node.core.messages import RegisterPage, RegisterRow, Scope

QUERY = Query(BucketId(b"b" * 16), b"", b"")
A, B, C, D = (StoreId(bytes([at]) * 16) for at in range(4))
SCOPES = (Scope(0, 0, 1), Scope(0, 1, 1))


def row(key: bytes, *, partition: int = 0, version: int = 1, kind: HeadKind = HeadKind.BLOB) -> RegisterRow:
    at = Ballot(1, version, A, 1, 1)
    return RegisterRow(
        key, 0, partition, at, Digest(b"%016d" % version), version, kind, 1, Digest(b"d" * 16), 0, ""
    )


def page(*rows: RegisterRow, complete: bool = True) -> RegisterPage:
    return RegisterPage(rows, complete)


def test_what_all_homes_agree_on_needs_no_settling() -> None:
    merged = merge({A: SCOPES, B: SCOPES}, {A: page(row(b"x")), B: page(row(b"x"))})
    assert [(s.key, s.row is not None) for s in merged.sightings] == [(b"x", True)]
    assert merged.last is None


def test_a_difference_or_an_absence_needs_settling() -> None:
    merged = merge(
        {A: SCOPES, B: SCOPES},
        {A: page(row(b"x"), row(b"y")), B: page(row(b"x", version=2))},
    )
    assert [(s.key, s.row) for s in merged.sightings] == [(b"x", None), (b"y", None)]


def test_only_the_homes_asked_about_a_partition_have_to_report_its_keys() -> None:
    asked = {A: SCOPES, B: SCOPES[:1], C: SCOPES[1:]}
    pages = {A: page(row(b"x"), row(b"y", partition=1)), B: page(row(b"x")), C: page(row(b"y", partition=1))}
    assert all(s.row is not None for s in merge(asked, pages).sightings)


def test_nothing_is_known_beyond_the_smallest_last_key_of_an_unfinished_page() -> None:
    merged = merge(
        {A: SCOPES, B: SCOPES},
        {A: page(row(b"a"), row(b"c"), complete=False), B: page(row(b"a"), row(b"b"), complete=False)},
    )
    assert [s.key for s in merged.sightings] == [b"a", b"b"]
    assert merged.last == b"b"


def electorate(partition: int, *voters: StoreId, needed: int = 2) -> Electorate:
    return Electorate(Scope(0, partition, 1), voters, needed)


def test_a_plan_asks_each_partition_at_enough_homes_and_few_stores() -> None:
    partitions = [electorate(at, A, B, C) for at in range(8)]
    asked = plan(partitions, frozenset())
    assert len(asked) == 2
    assert all(len(scopes) == 8 for scopes in asked.values())


def test_a_plan_leaves_out_who_failed_and_says_when_too_few_are_left() -> None:
    partitions = [electorate(0, A, B, C), electorate(1, B, C, D)]
    assert set(plan(partitions, frozenset({A}))) == {B, C}
    with pytest.raises(Unavailable):
        _ = plan(partitions, frozenset({A, B}))


@given(st.binary(max_size=40))
def test_a_token_leads_back_to_its_place(start: bytes) -> None:
    assert decode_token(QUERY, encode_token(QUERY, start)) == start


@given(st.binary(min_size=1, max_size=60))
def test_garbage_is_no_token(token: bytes) -> None:
    with pytest.raises(InvalidArgument):
        _ = decode_token(QUERY, token)


@pytest.mark.parametrize(
    "other",
    [replace(QUERY, prefix=b"p"), replace(QUERY, delimiter=b"/"), replace(QUERY, bucket=BucketId(b"c" * 16))],
)
def test_a_token_of_another_listing_is_refused(other: Query) -> None:
    with pytest.raises(InvalidArgument):
        _ = decode_token(other, encode_token(QUERY, b"k"))


@pytest.mark.parametrize("size", [0, -1, 1001])
def test_page_sizes_have_bounds(size: int) -> None:
    with pytest.raises(InvalidArgument):
        check_query(QUERY, size)


def test_the_successor_of_a_prefix_is_the_first_key_after_all_it_begins() -> None:
    assert successor(b"a/") == b"a0"
    assert successor(b"a\xff\xff") == b"b"
    assert successor(b"\xff") is None


def fill(keys: list[tuple[bytes, bool]], query: Query, size: int) -> tuple[list[bytes], list[bytes]]:
    """List everything page by page, as a caller would."""
    blobs: list[bytes] = []
    prefixes: list[bytes] = []
    start: bytes | None = query.prefix
    while start is not None:
        one = Page(query, size, start)
        for key, live in keys:
            if key.startswith(query.prefix) and one.wants(key):
                one.add(key, info_of_row(row(key)) if live else None)
        if not one.full:
            one.reached(None)
        blobs += [info.key for info in one.blobs]
        prefixes += one.prefixes
        start = one.position
    return blobs, prefixes


KEYS = st.dictionaries(st.text("ab/", min_size=1, max_size=6).map(str.encode), st.booleans(), max_size=30)


@given(KEYS, st.sampled_from([b"", b"a", b"a/"]), st.sampled_from([b"", b"/"]), st.integers(1, 4))
def test_pages_together_are_what_a_plain_listing_would_be(
    keys: dict[bytes, bool], prefix: bytes, delimiter: bytes, size: int
) -> None:
    ordered = sorted(keys.items())
    live = [key for key, alive in ordered if alive and key.startswith(prefix)]
    cut = {
        k: k[: k.index(delimiter, len(prefix)) + 1]
        for k in live
        if delimiter and delimiter in k[len(prefix) :]
    }
    blobs, prefixes = fill(ordered, Query(QUERY.bucket, prefix, delimiter), size)
    assert blobs == [key for key in live if key not in cut]
    assert prefixes == sorted(set(cut.values()))


def test_deleted_and_never_written_keys_are_not_shown() -> None:
    assert info_of_row(row(b"x", kind=HeadKind.TOMBSTONE)) is None
    assert info_of_row(row(b"x", kind=HeadKind.ABSENT)) is None


def test_what_was_accepted_since_a_move_opened_is_settled_also_where_the_old_homes_agree() -> None:
    since = replace(row(b"new"), ballot=Ballot(2, 1, A, 1, 1))
    pages = {A: page(row(b"before"), since), B: page(row(b"before"), since)}
    merged = merge({A: SCOPES, B: SCOPES}, pages, {0: 2})
    assert [(s.key, s.row is not None) for s in merged.sightings] == [(b"before", True), (b"new", False)]
    assert all(s.row is not None for s in merge({A: SCOPES, B: SCOPES}, pages, {1: 2}).sightings)
