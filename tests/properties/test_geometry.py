"""Range arithmetic against the slowest possible reader: one that cuts the blob up and looks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_node.core.codes import Code, parse_code
from holdfast_node.core.errors import InvalidArgument
from holdfast_node.core.geometry import (
    BLOB_BYTES_MAX,
    MIB,
    PART_BYTES,
    PART_LIST_BYTES_MAX,
    STRIPE_BYTES,
    WIDE_FROM_BYTES,
    WIDE_STRIPE_BYTES,
    Layout,
    cell_bytes,
    code_for,
    part_bytes_for,
    parts_max,
    resolve_range,
    stripe_bytes_for,
    tiny_bytes_max,
)
from holdfast_node.services.get import RUN_BYTES, assemble, plan_runs

CODES = st.sampled_from(
    [Code("rs", 4, 2), Code("rs", 3, 2), Code("rs", 10, 6), Code("rs", 1, 1), Code("copy", 1, 5)]
)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    stripe = draw(st.integers(1, 70))
    part = stripe * draw(st.integers(1, 4))
    return Layout(draw(CODES), draw(st.integers(0, 400)), stripe, part)


def cut(layout: Layout, blob: bytes) -> dict[tuple[int, int], list[bytes]]:
    """(part, stripe) -> its data cells, the way a put makes them."""
    cells: dict[tuple[int, int], list[bytes]] = {}
    for part in range(layout.part_count):
        own = blob[part * layout.part_bytes : part * layout.part_bytes + layout.part_size(part)]
        for stripe in range(layout.stripe_count(part)):
            payload = own[stripe * layout.stripe_bytes : (stripe + 1) * layout.stripe_bytes]
            assert len(payload) == layout.stripe_size(part, stripe)
            length = layout.cell_size(part, stripe)
            padded = payload.ljust(layout.code.k * length, b"\0")
            cells[part, stripe] = [padded[i * length : (i + 1) * length] for i in range(layout.code.k)]
    return cells


@given(layouts(), st.data())
def test_the_cells_of_a_range_hold_exactly_its_bytes(layout: Layout, data: st.DataObject) -> None:
    blob = bytes(at % 251 for at in range(layout.size))
    first = data.draw(st.integers(0, layout.size))
    last = data.draw(st.integers(first, layout.size))
    cells = cut(layout, blob)
    found: list[bytes] = []
    for run in plan_runs(layout, first, last):
        assert all(span.cells == run.cells and span.part == run.part for span in run.spans)
        wanted = {i: [cells[run.part, stripe][i] for stripe in run.stripes] for i in run.cells}
        found.append(assemble(run, wanted))
    assert b"".join(found) == blob[first:last]


@given(layouts(), st.data())
def test_one_byte_touches_one_cell(layout: Layout, data: st.DataObject) -> None:
    if layout.size:
        at = data.draw(st.integers(0, layout.size - 1))
        spans = list(layout.spans(at, at + 1))
        assert len(spans) == 1
        assert len(spans[0].cells) == 1


@given(CODES, st.integers(1, 5 * MIB))
def test_cells_are_as_short_as_alignment_allows(code: Code, size: int) -> None:
    length = cell_bytes(code, size)
    assert length * code.k >= size
    if code.kind == "rs":
        assert length % 16 == 0
        assert (length - 16) * code.k < size
    else:
        assert length == size


def test_a_run_is_one_message_of_a_few_megabytes() -> None:
    narrow = Layout(Code("rs", 4, 2), 200 * MIB, STRIPE_BYTES)
    wide = Layout(Code("rs", 4, 2), 200 * MIB, WIDE_STRIPE_BYTES)
    for layout in (narrow, wide):
        runs = list(plan_runs(layout, 0, layout.size))
        assert {sum(span.last - span.first for span in run.spans) for run in runs} == {RUN_BYTES}


@given(st.integers(1, 10), st.integers(0, 6), st.integers(0, BLOB_BYTES_MAX))
def test_the_part_list_of_any_declared_blob_fits_its_head(k: int, m: int, size: int) -> None:
    code = Code("rs", k, m)
    part_bytes = part_bytes_for(code, size)
    assert part_bytes % PART_BYTES == 0
    assert -(-size // part_bytes) <= parts_max(code)
    assert parts_max(code) * (16 + 36 * code.n) <= PART_LIST_BYTES_MAX
    if size <= parts_max(code) * PART_BYTES:
        assert part_bytes == PART_BYTES


def test_stripes_widen_for_blobs_known_to_be_large() -> None:
    code = parse_code("rs:4+2")
    assert stripe_bytes_for(code, -1) == stripe_bytes_for(code, WIDE_FROM_BYTES - 1) == STRIPE_BYTES
    assert stripe_bytes_for(code, WIDE_FROM_BYTES) == WIDE_STRIPE_BYTES
    assert stripe_bytes_for(parse_code("rs:1+2"), WIDE_FROM_BYTES) == STRIPE_BYTES, (
        "a cell is half a frame at most"
    )


def test_tiny_blobs_are_copied_and_others_coded() -> None:
    code = parse_code("rs:4+2")
    assert tiny_bytes_max(code) == 4096
    assert str(code_for(code, 4096)) == "copy:6"
    assert str(code_for(code, 4097)) == "rs:4+2"


@pytest.mark.parametrize(
    "text", ["rs:4+2", "rs:1+0", "rs:10+6", "copy:1", "copy:16", "lrc:8+4/2", "lrc:9+5/3"]
)
def test_codes_are_written_as_they_are_read(text: str) -> None:
    assert str(parse_code(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "rs", "rs:", "rs:4", "rs:4+", "rs:0+2", "rs:11+2", "rs:4+7", "rs:04+2", "rs:4+2 ", "rs:4-2", "copy:0",
     "copy:17", "copy:-1", "rs:\u0664+2", "rs:4+2+1", "copy:99999999999", "lrc:8+4", "lrc:8+4/3", "lrc:8+5/2",
     "lrc:8+2/2", "lrc:2+4/2", "lrc:8+4/1", "lrc:8+4/02", "lrc:8+5/4", "rs:8+4/2"],
)  # fmt: skip
def test_other_codes_are_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_code(text)


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [
        (0, -1, (0, 10)),
        (0, 0, (0, 0)),
        (3, 7, (3, 7)),
        (3, 99, (3, 10)),
        (10, -1, (10, 10)),
        (10, 12, (10, 10)),
    ],
)
def test_ranges_are_cut_at_the_end(first: int, last: int, found: tuple[int, int]) -> None:
    assert resolve_range(10, first, last) == found


@pytest.mark.parametrize(("first", "last"), [(-1, 5), (11, -1), (11, 12), (5, 4), (0, -2)])
def test_ranges_that_are_none_are_refused(first: int, last: int) -> None:
    with pytest.raises(InvalidArgument):
        resolve_range(10, first, last)
