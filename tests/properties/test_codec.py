"""Every loss a code says it survives gives back the same bytes: all patterns of all codes offered."""

from __future__ import annotations

import itertools
import random

import pytest
from pyeclib.ec_iface import ECDriver, ECDriverError

from holdfast_node.adapters.erasure import LOCAL_BACKEND, EclibCodec, tune_allocator
from holdfast_node.core.codes import (
    DATA_CELLS_MAX,
    GLOBAL_CELLS_MAX,
    GROUPS_MAX,
    PARITY_CELLS_MAX,
    Code,
    parse_code,
)
from holdfast_node.core.errors import InternalError
from holdfast_node.core.ids import BlobId
from holdfast_node.services.striping import check_encoding, encode_stripe

CODEC = EclibCodec()
SEED = BlobId(b"s" * 16)
LENGTH = 32
CODES = [Code("rs", k, m) for k in range(1, DATA_CELLS_MAX + 1) for m in range(1, PARITY_CELLS_MAX + 1)]
GROUPED = [
    Code("lrc", k, groups + far, groups)
    for groups in range(2, GROUPS_MAX + 1)
    for k in range(2 * groups, DATA_CELLS_MAX + 1, groups)
    for far in range(1, GLOBAL_CELLS_MAX + 1)
]


def encoded(code: Code, length: int = LENGTH) -> list[bytes]:
    chooser = random.Random(f"{code} {length}")
    data = [chooser.randbytes(length) for _ in range(code.k)]
    return [*data, *CODEC.encode(str(code), data)]


@pytest.mark.parametrize("code", CODES, ids=str)
def test_any_k_cells_give_all_others_back(code: Code) -> None:
    cells = encoded(code)
    for left in itertools.combinations(range(code.n), code.k):
        lost = [index for index in range(code.n) if index not in left]
        found = CODEC.decode(str(code), {index: cells[index] for index in left}, lost)
        assert found == [cells[index] for index in lost], f"{code} with {left} left"


@pytest.mark.parametrize("code", GROUPED, ids=str)
def test_a_code_with_groups_survives_exactly_the_losses_it_says(code: Code) -> None:
    """What it says of more losses than parities is arithmetic: fewer than k cells are left."""
    assert parse_code(str(code)) == code
    cells = encoded(code)
    driver = ECDriver(k=code.k, m=code.m, ec_type=LOCAL_BACKEND, local_parity=code.groups)
    fragments = driver.encode(b"".join(cells[: code.k]))
    for count in range(1, code.m + 1):
        for lost in itertools.combinations(range(code.n), count):
            left = [index for index in range(code.n) if index not in lost]
            if code.decodes(left):
                found = CODEC.decode(str(code), {index: cells[index] for index in left}, lost)
                assert found == [cells[index] for index in lost], f"{code} without {lost}"
            else:
                assert count > code.losses_survived
                with pytest.raises(ECDriverError):
                    _ = driver.decode([fragments[index] for index in left])


@pytest.mark.parametrize("code", GROUPED, ids=str)
def test_a_lost_cell_is_made_from_its_group_alone(code: Code) -> None:
    cells = encoded(code)
    for index in (*range(code.k), *range(code.n - code.groups, code.n)):
        group = code.group_of(index)
        assert len(group) == code.k // code.groups
        assert code.gives(group, [index])
        assert CODEC.decode(str(code), {at: cells[at] for at in group}, [index]) == [cells[index]]
        assert set(code.helpers([index])[: len(group)]) == group
        for absent in group:
            assert not code.gives(group - {absent}, [index])


@pytest.mark.parametrize("length", [16, 48, 4096, 65536, 65552])
def test_cells_are_raw_whatever_their_length(length: int) -> None:
    code = Code("rs", 4, 2)
    cells = encoded(code, length)
    assert {len(cell) for cell in cells} == {length}
    fresh = EclibCodec()  # no header of this length is known yet
    assert fresh.decode(str(code), dict(list(enumerate(cells))[2:]), [0, 1]) == cells[:2]


def test_one_buffer_encodes_like_its_cells() -> None:
    cells = encoded(Code("rs", 4, 2))
    assert CODEC.encode("rs:4+2", (b"".join(cells[:4]),)) == cells[4:]
    assert CODEC.encode("rs:4+2", [memoryview(cell) for cell in cells[:4]]) == cells[4:]


def test_copies_and_codes_without_parity_need_no_codec() -> None:
    assert CODEC.encode("copy:3", (b"tiny",)) == [b"tiny", b"tiny"]
    assert CODEC.decode("copy:3", {2: b"tiny"}, [0]) == [b"tiny"]
    assert CODEC.encode("rs:4+0", [bytes(16)] * 4) == []
    assert CODEC.decode("rs:2+0", {0: b"a" * 16, 1: b"b" * 16}, [1]) == [b"b" * 16]


@pytest.mark.parametrize(
    "code", [Code("rs", 4, 2), Code("rs", 2, 5), Code("rs", 1, 3), Code("rs", 10, 6), *GROUPED], ids=str
)
def test_a_flip_in_any_cell_is_caught_before_the_ack(code: Code) -> None:
    cells = encoded(code)
    check_encoding(CODEC, code, cells)
    for index in range(code.n):
        bad = list(cells)
        bad[index] = bytes([bad[index][0] ^ 1]) + bad[index][1:]
        with pytest.raises(InternalError):
            check_encoding(CODEC, code, bad)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 63, 64, 65, 1000])
def test_a_short_stripe_is_padded_and_nothing_else(size: int) -> None:
    payload = random.Random(size).randbytes(size)
    stripe = encode_stripe(CODEC, Code("rs", 4, 2), payload, seed_id=SEED, part=0, stripe=0)
    assert b"".join(stripe.cells[:4]).rstrip(b"\0") == payload.rstrip(b"\0")
    assert len(set(stripe.checksums)) == 6, "a digest is bound to its shard"


def test_the_allocator_can_be_tuned() -> None:
    assert tune_allocator()
