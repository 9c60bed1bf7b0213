"""The auditor agrees with a cluster that is well, and notices what is planted on its disks behind the nodes' backs."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import holdfast
from holdfast.testing import LocalCluster
from holdfastpb.v1 import records_pb2, types_pb2
from tests.thrash import volumes
from tests.thrash.auditor import Audit, Disks, audit
from tests.thrash.volumes import Found, Store, read_store

CORPUS: Final = Path(__file__).parents[1] / "corpus"


@pytest.fixture(name="cluster", scope="module")
def a_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("audited") / "cluster", nodes=6, sans=3) as cluster:
        bucket = cluster.connect().create_bucket("audited")
        for number in range(4):
            bucket.put(f"tiny{number}", b"%d" % number * 100)
        bucket.put("coded", bytes(range(256)) * 100)
        bucket.put("striped", bytes(range(256)) * 12_000)
        bucket.put("empty", b"")
        bucket.put("twice", b"first")
        bucket.put("twice", b"second" * 2000)
        bucket.put("gone", b"x" * 9000)
        bucket.delete("gone")
        bucket.put("back", b"y" * 9000)
        bucket.delete("back")
        bucket.undelete("back")
        cluster.wait_healthy()
        yield cluster


def _directories(cluster: LocalCluster) -> dict[str, Path]:
    return {node.name: node.data_dir for node in cluster.layout.nodes}


def _audit(cluster: LocalCluster) -> Audit:
    with cluster.admin() as admin, holdfast.connect(cluster.endpoints) as client:
        return audit(admin, client, _directories(cluster))


def _flip(found: Found, at: int) -> None:
    with found.path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes((byte ^ 1,)))


def _a_cell(store: Store, *, larger_than: int) -> Found:
    return next(found for found in store.of(volumes.CELL) if found.payload_bytes > larger_than)


def _key(seal: Found) -> bytes:
    return records_pb2.SealRecord.FromString(seal.body).header.key


def test_a_cluster_that_is_well_has_nothing_to_hide(cluster: LocalCluster) -> None:
    found = _audit(cluster)
    assert not found.disagreements, found.disagreements
    assert found.blobs == 9
    assert found.explained == 9
    assert found.shards >= 7 * 6
    assert found.registers >= 9 * 4


def test_a_flipped_bit_in_a_sealed_shard_is_noticed(cluster: LocalCluster) -> None:
    cell = _a_cell(read_store(_directories(cluster)["n2"]), larger_than=100_000)
    _flip(cell, cell.payload_at + 5)
    try:
        told = "\n".join(_audit(cluster).disagreements)
    finally:
        _flip(cell, cell.payload_at + 5)
    assert "at n2: cell" in told
    assert "claims to survive" in told, "a margin that counts the broken shard is too large"
    assert not _audit(cluster).disagreements


def test_a_shard_that_is_gone_is_noticed(cluster: LocalCluster) -> None:
    store = read_store(_directories(cluster)["n3"])
    seal = next(found for found in store.of(volumes.SEAL) if _key(found) == b"coded")
    _flip(seal, seal.payload_at - 1)
    try:
        told = "\n".join(_audit(cluster).disagreements)
    finally:
        _flip(seal, seal.payload_at - 1)
    assert "is broken" in told
    assert "claimed at ['n3'], not on their disks" in told


def test_a_head_that_most_homes_have_lost_is_noticed(cluster: LocalCluster) -> None:
    directories = _directories(cluster)
    lost = [
        found
        for name in ("n1", "n2", "n3")
        for found in read_store(directories[name]).of(volumes.REGISTER)
        if found.key.endswith(b"coded")
    ]
    assert len(lost) == 3
    for found in lost:
        _flip(found, found.payload_at - 1)
    try:
        told = "\n".join(_audit(cluster).disagreements)
    finally:
        for found in lost:
            _flip(found, found.payload_at - 1)
    assert "no majority" in told


def test_a_volume_that_is_gone_is_noticed_unless_the_superblock_says_so(tmp_path: Path) -> None:
    """Also, of what was dropped and compacted nothing is back."""
    with tarfile.open(CORPUS / "v2" / "compacted.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    superblock = next(tmp_path.rglob("superblock"))
    volumes_left = sorted(superblock.parent.glob("volume-*"))
    store = read_store(superblock.parent)
    assert not store.wrong, "a hole is no damage"
    assert volumes_left[-1].name > f"volume-{len(volumes_left):010d}", "there is a hole"
    volumes_left[0].unlink()
    assert any("volume 1 is not there" in wrong for wrong in read_store(superblock.parent).wrong)


@pytest.mark.parametrize(("newer", "version", "held"), [(1, 19, 5), (2, 19, 4), (3, 20, 3), (4, 20, 4)])
def test_what_a_minority_accepted_is_undecided(newer: int, version: int, held: int) -> None:
    """A write that was cut off had reached one home of six; the auditor took it for the head, and all else for lost."""
    homes = [bytes([number]) * 16 for number in range(6)]
    pool = types_pb2.Pool(partitions=[types_pb2.PartitionEntry(homes=homes)])
    picture = Disks(types_pb2.ClusterMap(pools=[pool]), {})
    key = bytes(16) + b"k"
    for number, home in enumerate(homes):
        written = 20 if number < newer else 19
        picture.registers.setdefault(key, {})[home] = records_pb2.RegisterRecord(
            accepted=types_pb2.Ballot(counter=written),
            head=types_pb2.Head(version=written).SerializeToString(),
        )
    at, head = picture.accepted(key)
    assert (head.version, len(at)) == (version, held)
