"""What is really in a data directory, read with code of its own from docs/on-disk-format.md.

It shares nothing with the node but the generated messages, so that a mistake of the node's own reader is not made
twice. It opens files to read them only, also under a running node, and knows neither the index nor any other node.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import xxhash

from holdfastpb.v1 import records_pb2

BLOCK: Final = 4096
HEADER: Final = 64
REGISTER, CELL, SEAL, DROP, PARTITION, KILL = 1, 2, 4, 6, 9, 13
KEPT: Final = frozenset({REGISTER, CELL, SEAL, DROP, PARTITION, KILL})
VOLUME_FIELDS: Final = struct.Struct(">8sHHQQQQQQ16s")
BATCH_FIELDS: Final = struct.Struct(">4sHHQQQIIQQQ")
RECORD_FIELDS: Final = struct.Struct(">4sBBHQQIIIIQ16s")
RECORD_SUMMED: Final = 40
"""Bytes of a record's header that its first checksum covers, with the key."""
SUPERBLOCK_FIELDS: Final = struct.Struct(">8sHHQQI")
DIGEST: Final = 16


class Found(NamedTuple):
    """One record: where it is, and what it holds if it is small. `payload_at` is in the file `path`."""

    kind: int
    key: bytes
    sequence: int
    flags: int
    life: int
    body: bytes
    path: Path
    payload_at: int
    payload_bytes: int


@dataclass
class Store:
    """The newest record of each key, and everything that looks wrong. Seal and drop compete for one key."""

    node: str = ""
    store: bytes = b""
    newest: dict[tuple[int, bytes], Found] = field(default_factory=dict[tuple[int, bytes], Found])
    wrong: list[str] = field(default_factory=list[str])
    records: int = 0
    bytes_read: int = 0

    def of(self, kind: int) -> Iterator[Found]:
        return (found for (slot, _), found in self.newest.items() if slot == kind)

    def sealed(self, key: bytes) -> Found | None:
        found = self.newest.get((SEAL, key))
        return found if found is not None and found.kind == SEAL else None

    def payload(self, key: bytes) -> bytes | None:
        """A cell's bytes as they are on the disk now."""
        found = self.newest.get((CELL, key))
        if found is None:
            return None
        with found.path.open("rb") as file:
            file.seek(found.payload_at)
            return file.read(found.payload_bytes)


def read_store(directory: Path) -> Store:
    """Everything a data directory holds. Damage is reported in `wrong`, never raised. A node that runs may remove a
    volume under the reader's hands: `FileNotFoundError`, read again."""
    store = Store(node=directory.name)
    _superblock(directory, store)
    killed: set[tuple[int, int]] = set()
    read: set[int] = set()
    for path in sorted(directory.glob("volume-*")):
        read.add(int(path.name.removeprefix("volume-")))
        for found in _volume(path, store):
            if found.kind == KILL and not found.flags:
                record = records_pb2.KillRecord.FromString(found.body)
                killed.add((record.volume_life, record.sequence))
            slot = (SEAL if found.kind == DROP else found.kind, found.key)
            held = store.newest.get(slot)
            if held is None or _age(found) >= _age(held):
                store.newest[slot] = found
    _check_holes(directory, store, read)
    if killed:
        alive = {
            slot: found for slot, found in store.newest.items() if (found.life, found.sequence) not in killed
        }
        store.newest = alive
    return store


def _age(found: Found) -> int:
    """What decides between two records of one key. A drop that was copied says what the original was about."""
    if found.kind == DROP:
        return records_pb2.DropRecord.FromString(found.body).before or found.sequence
    return found.sequence


def _check_holes(directory: Path, store: Store, read: set[int]) -> None:
    """Every volume was read or is said to be gone on purpose: by now, since one may have gone meanwhile."""
    block = _superblock(directory, store)
    missing = set(range(1, max(read, default=0))) - read
    if block is not None:
        for hole in block.holes:
            missing -= set(range(hole.first_volume, hole.next_volume))
    store.wrong += [f"{directory}: volume {number} is not there" for number in sorted(missing)]


def _superblock(directory: Path, store: Store) -> records_pb2.Superblock | None:
    try:
        content = (directory / "superblock").read_bytes()
    except OSError as error:
        store.wrong.append(f"{directory}: {error.strerror}")
        return None
    magic, written, _, _, _, length = SUPERBLOCK_FIELDS.unpack_from(content)
    end = SUPERBLOCK_FIELDS.size + length
    if magic != b"HFsuper\n" or written != 1 or xxhash.xxh3_128_digest(content[:end]) != content[end:]:
        store.wrong.append(f"{directory}: the superblock is broken")
        return None
    block = records_pb2.Superblock.FromString(content[SUPERBLOCK_FIELDS.size : end])
    store.node, store.store = block.node, block.store
    return block


def _volume(path: Path, store: Store) -> Iterator[Found]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        first = data[:BLOCK]
        if not first.strip(b"\0"):
            return  # a spare, made ahead of its use
        magic, written, _, number, life, _, batch, sequence, previous, owner = VOLUME_FIELDS.unpack_from(
            first
        )
        summed = first[VOLUME_FIELDS.size : VOLUME_FIELDS.size + DIGEST]
        right = summed == xxhash.xxh3_128_digest(first[: VOLUME_FIELDS.size], life)
        if magic != b"HFvolume" or written != 1 or not right or path.name != f"volume-{number:010d}":
            store.wrong.append(f"{path}: the first block is broken")
            return
        if owner != store.store:
            store.wrong.append(f"{path}: belongs to store {owner.hex()}, not {store.store.hex()}")
        yield from _batches(_Volume(path, data, life, store), batch, sequence, previous)


class _Volume(NamedTuple):
    path: Path
    data: mmap.mmap
    life: int
    store: Store

    def wrong(self, at: int, what: str) -> None:
        self.store.wrong.append(f"{self.path}: at {at}: {what}")


def _batches(volume: _Volume, number: int, sequence: int, previous: int) -> Iterator[Found]:
    """The chain of batches from the second block to where it ends; nothing of this life may follow behind."""
    at, size = BLOCK, len(volume.data)
    while at + HEADER <= size and (batch := _batch_at(volume, at)) is not None:
        if (batch.number, batch.first, batch.previous) != (number, sequence, previous):
            volume.wrong(at, f"batch {batch.number} where {number} was to follow")
            return
        yield from _records(volume, at, batch)
        volume.store.bytes_read += batch.length
        number, sequence, previous = number + 1, sequence + batch.records, batch.checksum
        at += -(-batch.length // BLOCK) * BLOCK
    for later in range(at, size, BLOCK):
        if volume.data[later : later + 4] == b"HFbt" and (batch := _batch_at(volume, later)) is not None:
            if batch.number > number:
                volume.wrong(at, f"the chain ends before batch {number}, yet batch {batch.number} follows")
            return


class _Batch(NamedTuple):
    number: int
    first: int
    records: int
    length: int
    previous: int
    checksum: int


def _batch_at(volume: _Volume, at: int) -> _Batch | None:
    header = volume.data[at : at + HEADER]
    fields = BATCH_FIELDS.unpack(header)
    magic, written, _, life, number, first, records, length, previous, summed, checksum = fields
    if magic != b"HFbt" or written != 1 or life != volume.life:
        return None
    return (
        _Batch(number, first, records, length, previous, checksum)
        if summed == xxhash.xxh3_64_intdigest(header[:48], life)
        else None
    )


def _records(volume: _Volume, start: int, batch: _Batch) -> Iterator[Found]:
    headers = [volume.data[start : start + 56]]
    at = start + HEADER
    for count in range(batch.records):
        header = volume.data[at : at + HEADER]
        fields = RECORD_FIELDS.unpack(header)
        (
            magic,
            written,
            kind,
            flags,
            sequence,
            life,
            key_bytes,
            body_bytes,
            payload_bytes,
            _,
            summed,
            whole,
        ) = fields
        body_at = at + HEADER + key_bytes
        payload_at = body_at + body_bytes
        end = payload_at + payload_bytes
        if magic != b"HFrc" or written != 1 or life != volume.life or sequence != batch.first + count:
            volume.wrong(at, f"record {count} of batch {batch.number} is not one")
            return
        key = volume.data[at + HEADER : body_at]
        if summed != xxhash.xxh3_64_intdigest(header[:RECORD_SUMMED] + key, life):
            volume.wrong(at, f"record {count} of batch {batch.number} has a broken header")
            return
        digest = xxhash.xxh3_128(header[: RECORD_SUMMED + 8], life)
        digest.update(volume.data[at + HEADER : end])
        headers.append(header)
        volume.store.records += 1
        if digest.digest() != whole:
            volume.wrong(at, f"record {sequence} (type {kind}, key {key.hex()}) is broken")
        elif kind in KEPT:
            body = volume.data[body_at:payload_at]
            yield Found(kind, key, sequence, flags, life, body, volume.path, payload_at, payload_bytes)
        at += -(-(end - at) // 8) * 8
    if xxhash.xxh3_64_intdigest(b"".join(headers), volume.life) != batch.checksum:
        volume.wrong(start, f"batch {batch.number} does not match its checksum")
