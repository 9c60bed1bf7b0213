"""The SDK, both shells, against real node processes."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncGenerator, Generator, Iterator
from pathlib import Path

import pytest

import holdfast
import holdfast.aio
from holdfast.testing import LocalCluster

MIB = 1024 * 1024
STRIPE = MIB

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[LocalCluster, None, None]:
    with LocalCluster(tmp_path_factory.mktemp("sdk") / "cluster") as found:
        yield found


@pytest.fixture(scope="module")
def client(cluster: LocalCluster) -> Iterator[holdfast.Client]:
    with holdfast.connect(cluster.endpoints) as found:
        yield found


@pytest.fixture
def bucket(client: holdfast.Client, request: pytest.FixtureRequest) -> holdfast.Bucket:
    return client.create_bucket(f"t-{abs(hash(request.node.nodeid)):x}"[:60], exist_ok=True)


@pytest.mark.parametrize(
    "size", [0, 1, 4096, 4097, STRIPE - 1, STRIPE, STRIPE + 1, 4 * STRIPE + 1, 17 * MIB + 3]
)
def test_blobs_of_every_kind_of_size(bucket: holdfast.Bucket, size: int) -> None:
    data = os.urandom(size)
    receipt = bucket.put("k", data)
    assert (receipt.size, receipt.margin.full) == (size, True)
    assert receipt.margin["san"] == 1
    blob = bucket.get("k")
    assert blob.info.hash == receipt.hash
    assert blob.read() == data
    if size > 10:
        assert bucket.get("k", range=(size - 7, None)).read() == data[-7:]
        assert bucket.get("k", range=(3, 5)).read() == data[3:5]


def test_sources(bucket: holdfast.Bucket, tmp_path: Path) -> None:
    data = os.urandom(3 * MIB + 17)
    path = tmp_path / "f"
    path.write_bytes(data)
    with path.open("rb") as file:
        for source in (data, memoryview(data), path, file, io.BytesIO(data), iter([data[:5], data[5:]])):
            bucket.put("k", source)
            assert bucket.get("k").read() == data
    long = [os.urandom(MIB) for _ in range(20)]
    bucket.put("k", iter(long))
    assert bucket.get("k").save(tmp_path / "g").read_bytes() == b"".join(long)


def test_conditions(bucket: holdfast.Bucket) -> None:
    first = bucket.put("lock", b"a", if_absent=True)
    with pytest.raises(holdfast.PreconditionFailed):
        bucket.put("lock", b"b", if_absent=True)
    second = bucket.put("lock", b"b", if_version=first.version)
    assert second.version > first.version
    with pytest.raises(holdfast.PreconditionFailed):
        bucket.put("lock", b"c", if_version=first.version)
    with pytest.raises(holdfast.PreconditionFailed):
        bucket.delete("lock", if_version=first.version)
    bucket.delete("lock", if_version=second.version)
    assert bucket.put("lock", b"d", if_absent=True).version > second.version


def test_delete_and_undelete(bucket: holdfast.Bucket) -> None:
    data = os.urandom(100_000)
    first = bucket.put("k", data)
    bucket.put("k", b"second")
    assert bucket.get("k", version=first.version).read() == data
    bucket.delete("k")
    with pytest.raises(holdfast.BlobNotFound):
        bucket.get("k")
    with pytest.raises(holdfast.BlobNotFound):
        bucket.head("k")
    bucket.undelete("k", version=first.version)
    assert bucket.get("k").read() == data
    with pytest.raises(holdfast.VersionNotFound):
        bucket.get("k", version=999)
    assert [info.deleted for info in bucket.versions("k")] == [False, True, False, False]


def test_keys_of_every_length_and_byte(bucket: holdfast.Bucket) -> None:
    keys = [bytes([byte]) for byte in range(256)] + [b"x" * length for length in (2, 255, 256, 1023, 1024)]
    keys += ["ü/日本".encode(), b"a\nb", b"../..", b"\xff" * 1024]
    assert all(outcome.ok for outcome in bucket.put_many((key, key) for key in keys))
    assert [info.key for info in bucket.list()] == sorted(keys)
    assert {outcome.unwrap().data for outcome in bucket.get_many(keys)} == set(keys)
    assert all(outcome.ok for outcome in bucket.delete_many(keys))
    assert list(bucket.list()) == []


def test_listing_with_a_delimiter(bucket: holdfast.Bucket) -> None:
    keys = [f"{folder}/{i}" for folder in "abc" for i in range(5)] + ["top"]
    bucket.put_many((key, b"x") for key in keys)
    found = [entry.name for entry in bucket.list(delimiter="/")]
    assert found == ["a/", "b/", "c/", "top"]
    assert [entry.name for entry in bucket.list(prefix="b/", delimiter="/")] == keys[5:10]


def test_buckets(client: holdfast.Client) -> None:
    bucket = client.create_bucket("bucket-life", undo=3600)
    with pytest.raises(holdfast.AlreadyExists):
        client.create_bucket("bucket-life")
    assert bucket.info().undo_s == 3600
    assert bucket.set(undo=60).undo_s == 60
    assert bucket.info().undo_s == 60
    with pytest.raises(holdfast.InvalidArgument):
        bucket.set(undo=-0.5)
    with pytest.raises(holdfast.BucketNotFound):
        client.bucket("nobodys").set(undo=60)
    assert "bucket-life" in [info.name for info in client.buckets()]
    bucket.put("k", b"x")
    with pytest.raises(holdfast.BucketNotEmpty):
        client.delete_bucket("bucket-life")
    bucket.delete("k")
    client.delete_bucket("bucket-life")
    with pytest.raises(holdfast.BucketNotFound):
        bucket.put("k", b"x")


def test_bad_input_has_a_clear_error(bucket: holdfast.Bucket) -> None:
    bucket.put("k", b"0123456789")
    with pytest.raises(holdfast.InvalidArgument):
        bucket.get("k", range=(11, None))
    with pytest.raises(holdfast.ChecksumMismatch):
        bucket.put("k", b"x", checksum="xxh3:" + "00" * 16)
    with pytest.raises(holdfast.ChecksumMismatch):
        bucket.put("k", io.BytesIO(b"x" * 100_000), checksum="xxh3:" + "00" * 16)
    with pytest.raises(holdfast.InvalidArgument):
        bucket.put("", b"x")
    assert bucket.get("k").read() == b"0123456789"


def test_an_iterator_that_raises_stores_nothing(bucket: holdfast.Bucket) -> None:
    def broken() -> Iterator[bytes]:
        for _ in range(12):
            yield bytes(MIB)
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        bucket.put("k", broken())
    with pytest.raises(holdfast.BlobNotFound):
        bucket.get("k")


def test_copy_and_metadata(client: holdfast.Client, bucket: holdfast.Bucket) -> None:
    data = os.urandom(2 * MIB)
    bucket.put("k", data, metadata={"a": "ü"}, content_type="image/png")
    other = client.create_bucket("copy-target", exist_ok=True)
    bucket.copy("k", "copy", bucket="copy-target")
    assert other.get("copy").read() == data
    assert (other.head("copy").metadata, other.head("copy").content_type) == ({"a": "ü"}, "image/png")


def test_the_asynchronous_twin(cluster: LocalCluster) -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        for number in range(12):
            yield bytes([number]) * MIB

    async def work() -> None:
        async with holdfast.aio.connect(cluster.endpoints) as client:
            bucket = await client.create_bucket("async", exist_ok=True)
            await bucket.put("k", chunks())
            async with await bucket.get("k") as blob:
                assert blob.length == 12 * MIB
                assert (await anext(blob.iter()))[:1] == b"\0"
            assert (await (await bucket.get("k", range=(MIB, MIB + 2))).read()) == b"\x01\x01"
            await asyncio.gather(*(bucket.put(f"many/{i}", bytes([i])) for i in range(40)))
            assert len([info async for info in bucket.list(prefix="many/")]) == 40
            assert all(outcome.ok for outcome in await bucket.delete_many([f"many/{i}" for i in range(40)]))
            with pytest.raises(holdfast.BlobNotFound):
                await bucket.get("absent")

    asyncio.run(work())


def test_a_writer_does_not_notice_that_its_node_dies(cluster: LocalCluster, bucket: holdfast.Bucket) -> None:
    data = os.urandom(8 * MIB)
    with holdfast.connect(cluster.endpoints) as client:
        mine = client.bucket(bucket.name)
        for name in ("n1", "n4"):
            mine.put("before", data)
            blob = mine.get("before")
            steps = blob.iter()
            first = next(steps)
            cluster.kill(name)
            assert first + b"".join(steps) == data
            receipt = mine.put(f"after-{name}", data)
            assert receipt.margin["node"] >= 1
            assert mine.get(f"after-{name}").read() == data
            cluster.start(name)
            cluster.wait_healthy()
