"""Compares what the cluster claims with what its disks hold. Stops nothing, changes nothing, believes no node.

Run it while nobody writes. It lists, then reads every volume (`volumes.py`), and asks: is every listed version accepted
at a majority of its homes, is nothing else, do the shards that are really there give its bytes, and is no margin
claimed that a recount from the disks does not give? It knows the placement only from the map.
"""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Final

import xxhash
from pyeclib.ec_iface import ECDriver

import holdfast
from holdfast.admin import Admin
from holdfastpb.v1 import blob_pb2, records_pb2, types_pb2
from tests.thrash import volumes
from tests.thrash.volumes import Found, Store

BINDING: Final = struct.Struct(">16sIIIQ")
SHARD: Final = struct.Struct(">16sII")
CELL: Final = struct.Struct(">16sIII")
PARTITION: Final = struct.Struct(">II")
ID_BYTES: Final = 16
WRAPPING_BYTES: Final = 80
CELL_ALIGN_BYTES: Final = 16
EXPLAINED_MAX: Final = 150
NODE_TAG: Final = "node"
TRIES: Final = 3
SPARE_NAMED: Final = 1
"""`clusterctl risk list` is asked for what survives no more: in most clusters, for everything."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of the listing, as the cluster tells it."""

    bucket: str
    bucket_id: bytes
    key: bytes
    version: int
    size: int
    hash: str


@dataclass
class Audit:
    """`disagreements` empty: everything claimed is true of the disks."""

    disagreements: list[str] = field(default_factory=list[str])
    blobs: int = 0
    bytes: int = 0
    shards: int = 0
    registers: int = 0
    records: int = 0
    explained: int = 0
    passing: int = 0
    """Disagreements that a second look did not find again."""

    def __str__(self) -> str:
        return (
            f"{self.blobs} blobs ({self.bytes / 1024**2:.0f} MiB), {self.shards} shards, {self.registers} registers, "
            f"{self.records} records read, {self.explained} explained: {len(self.disagreements)} disagreements"
            + (f", {self.passing} that passed" if self.passing else "")
        )


def audit(admin: Admin, client: holdfast.Client, directories: Mapping[str, Path], *, seed: int = 0) -> Audit:
    """`directories`: node name -> its data directory. Volumes are read one after the other, while undo windows end and
    codes change: a head may be decided in between. What a second look does not find again was that."""

    def look() -> Audit:
        for _ in range(TRIES):
            with contextlib.suppress(FileNotFoundError):  # a volume was compacted away meanwhile
                return _audit(admin, client, directories, seed=seed)
        return _audit(admin, client, directories, seed=seed)

    first = look()
    if not first.disagreements:
        return first
    second = look()
    second.disagreements = [line for line in second.disagreements if line in first.disagreements]
    second.passing = len(first.disagreements) - len(second.disagreements)
    return second


def _audit(admin: Admin, client: holdfast.Client, directories: Mapping[str, Path], *, seed: int) -> Audit:
    found = Audit()
    listing = list(_listing(client))
    with ThreadPoolExecutor(max_workers=2) as pool:
        stores = list(pool.map(volumes.read_store, directories.values()))
    picture = Disks(admin.map(), {store.node: store for store in stores})
    found.disagreements += [line for store in stores for line in store.wrong]
    found.disagreements += picture.strangers()
    found.records = sum(store.records for store in stores)
    recounts: dict[tuple[bytes, bytes], dict[str, int]] = {}
    for line in listing:
        recounts[line.bucket_id, line.key] = _blob(picture, line, found)
    _nothing_else(picture, listing, found)
    chosen = random.Random(seed).sample(listing, min(EXPLAINED_MAX, len(listing)))
    for line in chosen:
        _explained(picture, admin, line, recounts[line.bucket_id, line.key], found)
    _claims(picture, admin, recounts, found)
    return found


def _listing(client: holdfast.Client) -> Iterable[Listed]:
    for bucket in list(client.buckets()):
        for info in client.bucket(bucket.name).list():
            yield Listed(bucket.name, bucket.id, info.key, info.version, info.size, info.hash)


class Disks:
    """All stores of the cluster, and what the map says of them."""

    def __init__(self, cluster_map: types_pb2.ClusterMap, by_node: Mapping[str, Store]) -> None:
        self.map = cluster_map
        self.pool = cluster_map.pools[0]
        self.nodes = {node.store: node for node in cluster_map.nodes}
        self.by_store = {store.store: store for store in by_node.values()}
        self.registers: dict[bytes, dict[bytes, records_pb2.RegisterRecord]] = {}
        for store in self.by_store.values():
            for row in store.of(volumes.REGISTER):
                record = records_pb2.RegisterRecord.FromString(row.body)
                self.registers.setdefault(row.key, {})[store.store] = record

    def strangers(self) -> list[str]:
        return [
            f"{node.name}: the map names store {node.store.hex()}, its directory holds another"
            for node in self.map.nodes
            if node.store not in self.by_store
        ]

    def partition(self, key: bytes, part: int = 0, seed: bytes = b"") -> int:
        """`key`: bucket id and key."""
        named = seed + part.to_bytes(4, "big") if part else key
        return xxhash.xxh3_64_intdigest(named) % len(self.pool.partitions)

    def homes(self, partition: int) -> list[bytes]:
        return list(self.pool.partitions[partition].homes)

    def votes(self, store: bytes, partition: int) -> bool:
        """By the map, and by what the store's own disk says of itself."""
        entry = self.pool.partitions[partition]
        node = self.nodes.get(store)
        if node is None or store in entry.learners or node.state == types_pb2.STORE_STATE_SUSPECT:
            return False
        held = self.by_store.get(store)
        row = held.newest.get((volumes.PARTITION, PARTITION.pack(0, partition))) if held else None
        return held is not None and not (
            row is not None and records_pb2.PartitionRecord.FromString(row.body).not_voting
        )

    def accepted(self, key: bytes) -> tuple[list[bytes], types_pb2.Head]:
        """The newest head that a majority of a key's homes hold, and where. What fewer accepted later is undecided, as
        after a write whose outcome nobody knows. The newest at all if no head has a majority."""
        homes = self.homes(self.partition(key))
        at: dict[bytes, list[bytes]] = {}
        newest: dict[bytes, tuple[int, int, bytes, int, int]] = {}
        for home in homes:
            record = self.registers.get(key, {}).get(home)
            if record is not None and record.head:
                at.setdefault(record.head, []).append(home)
                order = _order(record.accepted)
                newest[record.head] = max(newest.get(record.head, order), order)
        heads = sorted(at, key=lambda head: newest[head], reverse=True)
        decided = [head for head in heads if len(at[head]) >= _majority(len(homes))]
        if not heads:
            return [], types_pb2.Head()
        head = (decided or heads)[0]
        return at[head], types_pb2.Head.FromString(head)

    def domains(self, tag: str) -> dict[bytes, str]:
        return {
            store: node.name if tag == NODE_TAG else node.tags.get(tag, "unknown")
            for store, node in self.nodes.items()
        }

    def tags(self) -> list[str]:
        return [NODE_TAG, *sorted(self.pool.protected_tags)]

    def tell(self, bucket: bytes, key: bytes) -> str:
        """Where a blob is, for whoever must find out why it is not where it should be."""
        partition = self.partition(bucket + key)
        homes = self.homes(partition)
        at, head = self.accepted(bucket + key)
        shards = {
            f"{part}.{index}": [
                store.node for store in self.by_store.values() if store.sealed(name) is not None
            ]
            for part in range(len(head.manifest.parts))
            for index in range(len(head.manifest.parts[part].checksums))
            for name in [SHARD.pack(head.manifest.seed_id, part, index)]
        }
        voting = [store for store in homes if self.votes(store, partition)]
        return (
            f"{key!r} version {head.version} {head.manifest.code}: partition {partition} of epoch {self.map.epoch}, "
            f"voters {self.names(self.map.voters)}, homes {self.names(homes)}, voting {self.names(voting)}, newest "
            f"head at {self.names(at)}, shards {shards}, sealed at "
            f"{[self.names(part.holders) for part in head.manifest.parts]}"
        )

    def names(self, stores: Iterable[bytes]) -> str:
        return " ".join(self.name(store) for store in stores)

    def name(self, store: bytes) -> str:
        return self.nodes[store].name if store in self.nodes else store.hex()[:8]


def _order(ballot: types_pb2.Ballot) -> tuple[int, int, bytes, int, int]:
    return ballot.generation, ballot.counter, ballot.store, ballot.boot, ballot.attempt


def _majority(count: int) -> int:
    return count // 2 + 1


def _blob(disks: Disks, line: Listed, found: Audit) -> dict[str, int]:
    """One listed blob against the disks; returns its margin, recounted."""
    said, key = f"{line.bucket}/{line.key!r} version {line.version}", line.bucket_id + line.key
    at, head = disks.accepted(key)
    partition = disks.partition(key)
    voting = [home for home in at if disks.votes(home, partition)]
    found.registers += len(at)
    if len(voting) < _majority(len(disks.homes(partition))):
        found.disagreements.append(f"{said}: its newest head is at {len(voting)} voting homes, no majority")
    manifest = head.manifest
    digest = f"xxh3:{manifest.hash.hex()}"
    shown = (head.version, head.kind, manifest.size, digest)
    if shown != (line.version, types_pb2.HEAD_KIND_BLOB, line.size, line.hash):
        found.disagreements.append(f"{said}: listed as {line}, the disks say {shown}")
        return dict.fromkeys(disks.tags(), -1)
    holders = [_shards(disks, manifest, part, found, said) for part in range(len(manifest.parts))]
    _content(disks, manifest, holders, found, said)
    found.blobs += 1
    found.bytes += manifest.size
    return _margins(disks, manifest, partition, holders)


Holders = dict[int, list[bytes]]


def _shards(disks: Disks, manifest: types_pb2.Manifest, part: int, found: Audit, said: str) -> Holders:
    """Shard index -> the stores on whose disks it is sealed and whole."""
    holders: Holders = {}
    for index in range(len(manifest.parts[part].checksums)):
        key = SHARD.pack(manifest.seed_id, part, index)
        for store in disks.by_store.values():
            seal = store.sealed(key)
            if seal is None:
                continue
            found.shards += 1
            if broken := _broken(store, seal, manifest, part, index):
                found.disagreements.append(f"{said}: shard {index} of part {part} at {store.node}: {broken}")
            else:
                holders.setdefault(index, []).append(store.store)
    return holders


def _broken(store: Store, seal: Found, manifest: types_pb2.Manifest, part: int, index: int) -> str:
    """What is wrong with a sealed shard on a disk; empty if every cell is right and it is the one the head names."""
    header = records_pb2.SealRecord.FromString(seal.body).header
    sums = list(header.cell_checksums)
    if xxhash.xxh3_128_digest(b"".join(sums)) != manifest.parts[part].checksums[index]:
        return "not the shard that the head names"
    for stripe, expected in enumerate(sums):
        cell = store.payload(CELL.pack(manifest.seed_id, part, index, stripe))
        if cell is None:
            return f"cell {stripe} is not there"
        if _cell_sum(manifest.seed_id, (part, index, stripe), cell) != expected:
            return f"cell {stripe} is broken"
    return ""


def _cell_sum(seed: bytes, place: tuple[int, int, int], cell: bytes) -> bytes:
    digest = xxhash.xxh3_128(BINDING.pack(seed, *place, len(cell)))
    digest.update(cell)
    return digest.digest()


def _content(
    disks: Disks, manifest: types_pb2.Manifest, holders: Sequence[Holders], found: Audit, said: str
) -> None:
    """Do the shards on the disks give the bytes that the head promises, whichever k of them are taken?"""
    whole = xxhash.xxh3_128()
    k, parity = _code(manifest.code)
    for part, held in enumerate(holders):
        if len(held) < k:
            found.disagreements.append(
                f"{said}: part {part} has {len(held)} whole shards on disk, {k} are needed"
            )
            return
        left = manifest.parts[part].size
        for stripe in range(-(-left // manifest.stripe_bytes)):
            size = min(manifest.stripe_bytes, left)
            cells = {
                index: disks.by_store[stores[0]].payload(CELL.pack(manifest.seed_id, part, index, stripe))
                or b""
                for index, stores in held.items()
            }
            if (data := _stripe(cells, k, parity)) is None:
                found.disagreements.append(f"{said}: part {part} stripe {stripe}: parity and data do not fit")
                return
            whole.update(data[:size])
            left -= size
    if whole.digest() != manifest.hash:
        found.disagreements.append(f"{said}: what the disks give does not have the hash of the head")


def _code(text: str) -> tuple[int, int]:
    """How many shards decode, and how many more there are; `copy:N` needs one."""
    kind, _, numbers = text.partition(":")
    if kind == "copy":
        return 1, int(numbers) - 1
    k, _, m = numbers.partition("+")
    return int(k), int(m)


def _stripe(cells: Mapping[int, bytes], k: int, parity: int) -> bytes | None:
    """The payload of one stripe; None if the cells contradict each other. All cells are compared, so any k give it."""
    if k == 1:
        return next(iter(cells.values())) if len(set(cells.values())) == 1 else None
    driver = ECDriver(k=k, m=parity, ec_type="isa_l_rs_cauchy")
    length = len(next(iter(cells.values())))
    headers = [bytes(each[:WRAPPING_BYTES]) for each in driver.encode(bytes(k * length))]
    if all(index in cells for index in range(k)):
        data = b"".join(cells[index] for index in range(k))
    else:
        data = driver.decode([headers[index] + cells[index] for index in sorted(cells)[:k]])
    again = [bytes(each[WRAPPING_BYTES:]) for each in driver.encode(data)]
    return data if all(again[index] == cell for index, cell in cells.items()) else None


def _margins(
    disks: Disks, manifest: types_pb2.Manifest, partition: int, holders: Sequence[Holders]
) -> dict[str, int]:
    """Per tag, by trying every set of domains: how many may go. -1: it cannot be read now."""
    k, _ = _code(manifest.code)
    voting = [home for home in disks.homes(partition) if disks.votes(home, partition)]
    voters = list(disks.map.voters)
    voters_here = [store for store in voters if store in disks.by_store]
    found: dict[str, int] = {}
    for tag in disks.tags():
        domains = disks.domains(tag)
        needs: list[tuple[list[list[bytes]], int]] = [
            ([[home] for home in voting], _majority(len(disks.homes(partition)))),
            ([[store] for store in voters_here], _majority(len(voters))),
            *((list(held.values()), k) for held in holders),
        ]
        found[tag] = min(_survives(places, needed, domains) for places, needed in needs)
    return found


def _survives(places: Sequence[Sequence[bytes]], needed: int, domains: Mapping[bytes, str]) -> int:
    """Each item is at one or more stores; the most domains of which any may go and `needed` items are left."""
    where = [{domains[store] for store in stores if store in domains} for stores in places]
    names = sorted(set(domains.values()))
    for gone in range(len(names) + 1):
        for lost in combinations(names, gone):
            if sum(bool(spread - set(lost)) for spread in where) < needed:
                return gone - 1
    return len(names)


def _nothing_else(disks: Disks, listing: Sequence[Listed], found: Audit) -> None:
    """A blob that a majority accepted and that no listing shows: hidden, or deleted and back."""
    listed = {line.bucket_id + line.key for line in listing}
    buckets = {line.bucket_id for line in listing}
    for key in disks.registers:
        if key in listed or key[:ID_BYTES] not in buckets:
            continue
        at, head = disks.accepted(key)
        if head.kind == types_pb2.HEAD_KIND_BLOB and len(at) >= _majority(
            len(disks.homes(disks.partition(key)))
        ):
            found.disagreements.append(
                f"{key[ID_BYTES:]!r} version {head.version} is on the disks, not in the listing"
            )


def _explained(disks: Disks, admin: Admin, line: Listed, recount: Mapping[str, int], found: Audit) -> None:
    """What `clusterctl explain` says of one blob."""
    said = f"explain {line.bucket} {line.key!r}"
    told = admin.explain(line.bucket, line.key)
    at, head = disks.accepted(line.bucket_id + line.key)
    names = {disks.name(store) for store in at}
    if extra := set(told.register_copies) - names:
        found.disagreements.append(
            f"{said}: register copies at {sorted(extra)}, whose disks do not have this head"
        )
    for shard in told.shards:
        key = SHARD.pack(head.manifest.seed_id, shard.part, shard.index)
        real = {store.node for store in disks.by_store.values() if store.sealed(key) is not None}
        if extra := set(shard.found_at) - real:
            found.disagreements.append(
                f"{said}: shard {shard.index} claimed at {sorted(extra)}, not on their disks"
            )
    _margin_claim(said, told.margin, recount, found)
    found.explained += 1


def _margin_claim(said: str, claim: blob_pb2.Margin, recount: Mapping[str, int], found: Audit) -> None:
    """A claim may be smaller than what is there, never larger."""
    for entry in claim.entries:
        counted = recount.get(entry.tag, -1)
        if entry.survives > counted:
            found.disagreements.append(
                f"{said}: claims to survive the loss of {entry.survives} {entry.tag}; the disks give {counted}"
            )


def _claims(
    disks: Disks, admin: Admin, recounts: Mapping[tuple[bytes, bytes], Mapping[str, int]], found: Audit
) -> None:
    """What `clusterctl status` and `clusterctl prove` say of all blobs together."""
    if not recounts:
        return
    before = len(found.disagreements)
    least = {tag: min(recount[tag] for recount in recounts.values()) for tag in disks.tags()}
    status = admin.status()
    _margin_claim("status", status.least_margin, least, found)
    for reply in admin.prove():
        if reply.finished:
            _margin_claim("prove", reply.least_margin, least, found)
            if reply.blobs != len(recounts):
                found.disagreements.append(f"prove examined {reply.blobs} blobs, {len(recounts)} are listed")
    _named(admin, recounts, found)
    if len(found.disagreements) > before:
        thinnest = min(recounts, key=lambda name: sum(recounts[name].values()))
        found.disagreements.append(f"the thinnest: {disks.tell(*thinnest)}: {recounts[thinnest]}")


def _named(admin: Admin, recounts: Mapping[tuple[bytes, bytes], Mapping[str, int]], found: Audit) -> None:
    """What `clusterctl risk list` names: everything that the disks give so little margin, and with no more."""
    for reply in admin.risk(SPARE_NAMED):
        if not reply.finished or reply.total > len(reply.at_risk):
            continue
        named = {blob.key: blob for blob in reply.at_risk}
        for (_, key), recount in recounts.items():
            if key in named:
                _margin_claim(f"risk list {key!r}", named[key].margin, recount, found)
            elif min(recount.values()) <= SPARE_NAMED:
                found.disagreements.append(f"risk list leaves out {key!r}; the disks give {dict(recount)}")
