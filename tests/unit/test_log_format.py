"""The bytes of the log: what was written is read, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_node.core import log_format
from holdfast_node.core.errors import IntegrityError, StoreRefused
from holdfast_node.core.log_format import BLOCK, BatchBuilder, Mark, Position, Record, VolumeHeader

START = Position(volume=1, life=0xABCDEF0123456789, offset=BLOCK, batch=5, sequence=100, previous=77)
HEADER = VolumeHeader(
    number=3, life=12345, size_bytes=1 << 20, first_batch=9, first_sequence=70, previous=4, store=b"s" * 16
)
records = st.lists(
    st.tuples(
        st.integers(1, 14),
        st.binary(max_size=64),
        st.binary(max_size=300),
        st.binary(max_size=9000),
        st.sampled_from((0, 1)),
    ),
    min_size=1,
    max_size=8,
)


def build(wanted: list[tuple[int, bytes, bytes, bytes, int]], start: Position = START) -> bytes:
    builder = BatchBuilder(start)
    for kind, key, body, payload, flags in wanted:
        _ = builder.add(kind, key, body, payload, flags)
    return b"".join(builder.finish().buffers)


def read(data: bytes, offset: int = START.offset) -> tuple[list[Record], bool]:
    header = log_format.decode_batch_header(data)
    assert header is not None
    return log_format.read_batch(memoryview(data), offset, header)


@given(records)
def test_a_batch_reads_as_it_was_written(wanted: list[tuple[int, bytes, bytes, bytes, int]]) -> None:
    data = build(wanted)
    assert len(data) % BLOCK == 0
    found, right = read(data)
    assert right
    assert [(r.kind, r.key, r.body, r.flags) for r in found] == [
        (k, key, body, f) for k, key, body, _, f in wanted
    ]
    assert [r.sequence for r in found] == [START.sequence + i for i in range(len(wanted))]
    for record, (_, _, _, payload, _) in zip(found, wanted, strict=True):
        at = record.extent.payload_offset - START.offset
        assert data[at : at + record.extent.payload_length] == payload


def test_headers_are_64_bytes_and_the_builder_knows_the_places() -> None:
    builder = BatchBuilder(START)
    first = builder.add(1, b"key", b"body", b"payload")
    second = builder.add(2, b"k", b"", b"x" * 5000)
    batch = builder.finish()
    assert first.offset == START.offset + log_format.BATCH_HEADER_BYTES
    assert first.payload_offset == first.offset + 64 + len(b"keybody")
    assert second.offset == first.offset + log_format.record_bytes(3, 4, 7)
    data = b"".join(batch.buffers)
    assert data[second.payload_offset - START.offset :][:5000] == b"x" * 5000
    after = log_format.after(START, batch)
    assert (after.batch, after.sequence, after.offset) == (6, 102, START.offset + batch.length)
    assert (after.previous, after.last) == (batch.checksum, START.offset)


def test_any_flipped_bit_of_the_content_is_seen() -> None:
    data = build([(1, b"key", b"some body", b"payload", 0), (3, b"other", b"", b"z" * 100, 0)])
    header = log_format.decode_batch_header(data)
    assert header is not None
    gap = range(64 + 64 + 19, 64 + log_format.record_bytes(3, 9, 7))
    for at in range(header.length):
        broken = bytearray(data)
        broken[at] ^= 0x10
        if log_format.decode_batch_header(broken) is None:
            continue
        _, right = read(bytes(broken))
        assert right == (at in gap or at >= 64 + log_format.record_bytes(3, 9, 7) + 64 + 105), at


def test_a_broken_body_still_names_its_key() -> None:
    data = bytearray(build([(1, b"the key", b"some body", b"", 0)]))
    data[64 + 64 + 7 + 2] ^= 1
    found, right = read(bytes(data))
    assert not right
    assert [(r.key, r.whole) for r in found] == [(b"the key", False)]


def test_a_broken_key_names_nothing() -> None:
    data = bytearray(build([(1, b"the key", b"some body", b"", 0), (1, b"next", b"", b"", 0)]))
    data[64 + 64 + 2] ^= 1
    found, right = read(bytes(data))
    assert not right
    assert not found
    saved = log_format.salvage(memoryview(data), START.offset, START.life, lambda _: True)
    assert [r.key for r in saved] == [b"next"]


def test_bytes_of_another_life_never_pass() -> None:
    data = build([(1, b"key", b"body", b"", 0)])
    other = START.life + 1
    assert log_format.decode_record(memoryview(data)[64:], START.offset + 64, START.life) is not None
    assert log_format.decode_record(memoryview(data)[64:], START.offset + 64, other) is None
    renamed = data[:8] + other.to_bytes(8, "big") + data[16:]
    assert log_format.decode_batch_header(renamed) is None


def test_salvage_takes_only_the_sequences_it_is_asked_for() -> None:
    """A payload may hold a copy of older log bytes: somebody stores a volume as a blob."""
    older = build([(1, b"old key", b"old", b"", 0)], replace(START, sequence=7))
    data = build([(2, b"cell key", b"", older, 0)])
    everything = log_format.salvage(memoryview(data)[64 + 64 :], 0, START.life, lambda _: True)
    assert [r.key for r in everything] == [b"old key"]
    assert not log_format.salvage(memoryview(data)[64 + 64 :], 0, START.life, range(100, 200).__contains__)


def test_batch_headers_are_found_on_the_block_grid_only() -> None:
    one = build([(1, b"a", b"", b"", 0)])
    two = build([(1, b"b", b"", b"", 0)], replace(START, batch=6))
    found = list(log_format.batch_headers(one + bytes(BLOCK) + two, 8 * BLOCK))
    assert [(at, header.number) for at, header in found] == [(8 * BLOCK, 5), (10 * BLOCK, 6)]
    assert not list(log_format.batch_headers(b"x" + one, 0))


def test_volume_headers() -> None:
    block = log_format.encode_volume_header(HEADER)
    assert len(block) == BLOCK
    assert log_format.decode_volume_header(block) == HEADER
    assert log_format.decode_volume_header(bytes(BLOCK)) is None
    for at in range(12, 80):
        assert log_format.decode_volume_header(block[:at] + bytes((block[at] ^ 1,)) + block[at + 1 :]) is None


def test_a_later_format_is_refused_and_not_taken_for_rot(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(log_format, "_FORMAT", 2)
        block = log_format.encode_volume_header(HEADER)
    with pytest.raises(StoreRefused, match="format 2"):
        _ = log_format.decode_volume_header(block)


@given(st.binary(max_size=500), st.integers(0, 2**63), st.integers(0, 2**63))
def test_superblocks(body: bytes, batch: int, sequence: int) -> None:
    content = log_format.encode_superblock(body, Mark(batch, sequence))
    assert log_format.decode_superblock(content) == (body, Mark(batch, sequence))


def test_every_flipped_bit_of_a_superblock_is_seen() -> None:
    content = log_format.encode_superblock(b"body", Mark(3, 4))
    for at in range(len(content)):
        with pytest.raises(IntegrityError):
            _ = log_format.decode_superblock(content[:at] + bytes((content[at] ^ 4,)) + content[at + 1 :])
    with pytest.raises(IntegrityError):
        _ = log_format.decode_superblock(b"")


def test_positions() -> None:
    position = replace(START, last=BLOCK)
    assert log_format.decode_position(log_format.encode_position(position)) == position
    assert log_format.decode_position(b"short") is None


def test_blank_blocks() -> None:
    assert log_format.is_blank(bytes(3 * BLOCK))
    assert not log_format.is_blank(bytes(BLOCK) + b"x")
