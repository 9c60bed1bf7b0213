"""Sizes at every boundary, ranges, and keys of every legal length and byte survive the round trip of a real cluster."""

from __future__ import annotations

import random
from collections.abc import Generator

import pytest

import holdfast
from holdfast.testing import LocalCluster
from holdfast_node.core import codes, geometry
from tests.faults.workload import MIB, Content, content_blocks

CODE = codes.parse_code("rs:4+2")
KEY_BYTES_MAX = 1024


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("big") / "cluster") as running:
        yield running


@pytest.fixture(scope="module")
def bucket(cluster: LocalCluster) -> holdfast.Bucket:
    return cluster.connect().create_bucket("big")


def _around(*boundaries: int) -> list[int]:
    return sorted({size + step for size in boundaries for step in (-1, 0, 1)} | {0, 1, 15, 16, 17})


SMALL_SIZES = _around(
    geometry.tiny_bytes_max(CODE),
    geometry.STRIPE_BYTES // 4,
    geometry.STRIPE_BYTES,
    2 * geometry.STRIPE_BYTES,
)
LARGE_SIZES = [
    geometry.WIDE_FROM_BYTES - 1,
    geometry.WIDE_FROM_BYTES + 1,
    geometry.WIDE_FROM_BYTES + geometry.WIDE_STRIPE_BYTES,
    geometry.PART_BYTES,
    geometry.PART_BYTES + 1,
]


def _round_trip(bucket: holdfast.Bucket, key: str, size: int) -> None:
    receipt = bucket.put(key, Content(key, size))
    assert receipt.size == size
    blob = bucket.get(key)
    assert blob.info.hash == receipt.hash
    expected = content_blocks(key, size)
    got = bytearray()
    for chunk in blob.iter():
        got += chunk
    assert bytes(got) == b"".join(expected)


@pytest.mark.parametrize("size", SMALL_SIZES)
def test_sizes_around_every_boundary_survive(bucket: holdfast.Bucket, size: int) -> None:
    _round_trip(bucket, f"size-{size}", size)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("size", LARGE_SIZES)
def test_wide_stripes_and_several_parts_survive(bucket: holdfast.Bucket, size: int) -> None:
    _round_trip(bucket, f"size-{size}", size)


@pytest.mark.timeout(120)
def test_ranges_give_exactly_their_bytes(bucket: holdfast.Bucket) -> None:
    size = 5 * MIB + 12_345
    bucket.put("ranges", Content("ranges", size))
    whole = b"".join(content_blocks("ranges", size))
    chooser = random.Random(1)
    edges = [0, 1, MIB // 4 - 1, MIB // 4, MIB - 1, MIB, MIB + 1, 4 * MIB, size - 1]
    ranges = [(first, min(size, first + length)) for first in edges for length in (1, 2, MIB // 4, MIB + 1)]
    ranges += [(min(pair), max(pair)) for pair in (chooser.sample(range(size), 2) for _ in range(20))]
    for first, last in ranges:
        assert bucket.get("ranges", range=(first, last)).read() == whole[first:last], (first, last)
    assert bucket.get("ranges", range=(size - 3, None)).read() == whole[-3:]


@pytest.mark.timeout(180)
def test_keys_of_every_length_and_byte_survive(cluster: LocalCluster) -> None:
    bucket = cluster.connect().create_bucket("keys")
    chooser = random.Random(2)
    keys = {bytes([byte]) for byte in range(256)} | {bytes([0, byte, 0]) for byte in range(0, 256, 16)}
    keys |= {chooser.randbytes(length) for length in (2, 3, 254, 255, 256, 257, 1023, KEY_BYTES_MAX)}
    keys |= {b"a/b", b"a//b", b"../x", b"%2F", b"\xff" * KEY_BYTES_MAX, "\u043a\u043b\u044e\u0447".encode()}
    wanted = sorted(keys)
    for stored in bucket.put_many((key, b"bytes of " + key) for key in wanted):
        stored.unwrap()
    assert [info.key for info in bucket.list()] == wanted
    for fetched in bucket.get_many(wanted):
        assert fetched.unwrap().data == b"bytes of " + fetched.key
    for length in range(1, KEY_BYTES_MAX, 97):
        key = b"l" * length
        bucket.put(key, b"1")
        assert bucket.head(key).key == key
        bucket.delete(key)


@pytest.mark.parametrize("key", [b"", b"x" * (KEY_BYTES_MAX + 1)])
def test_keys_of_other_lengths_are_refused(bucket: holdfast.Bucket, key: bytes) -> None:
    with pytest.raises(holdfast.InvalidArgument):
        bucket.put(key, b"x")
