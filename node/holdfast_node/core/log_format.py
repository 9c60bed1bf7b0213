"""The bytes of the log: volumes, batches, records, and how to tell whole ones from broken ones.

Pure: bytes in, values out. Knows nothing of what a record means, of files, or of when anything is written;
keys and bodies are opaque here. `docs/on-disk-format.md` draws the layouts.

Two checksums per record: one over header and key, so that rot in a body still says *which* key is hurt, and
one over everything. Both are seeded with the volume's life, so bytes of an earlier life never pass. A batch's
checksum covers its header and all record headers (and through their checksums every byte), and each batch
names the one before it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from xxhash import xxh3_64_digest, xxh3_64_intdigest, xxh3_128, xxh3_128_digest

from holdfast_node.core.errors import IntegrityError, StoreRefused

Buffer = bytes | bytearray | memoryview

BLOCK: Final = 4096
"""Batches start and end on this grid: the unit of direct writes, and of the search behind a hole."""
RECORD_HEADER_BYTES: Final = 64
BATCH_HEADER_BYTES: Final = 64
ALIGNMENT: Final = 8
KEY_BYTES_MAX: Final = 2048
"""Bucket id, blob id and the longest blob key, with room."""
BODY_BYTES_MAX: Final = 4 * 1024 * 1024
PAYLOAD_BYTES_MAX: Final = 4 * 1024 * 1024
RECORD_BYTES_MAX: Final = RECORD_HEADER_BYTES + KEY_BYTES_MAX + BODY_BYTES_MAX + PAYLOAD_BYTES_MAX + ALIGNMENT
JOINED_BYTES_MAX: Final = 4096
"""Payloads up to this are joined with their header; larger ones stay buffers and are copied once."""

_FORMAT: Final = 1
_RECORD_MAGIC: Final = b"HFrc"
_BATCH_MAGIC: Final = b"HFbt"
_VOLUME_MAGIC: Final = b"HFvolume"
_SUPERBLOCK_MAGIC: Final = b"HFsuper\n"

# magic, format, type, flags, sequence, life, key bytes, body bytes, payload bytes, zero
_RECORD: Final = struct.Struct(">4sBBHQQIIII")
# magic, format, zero, life, number, first sequence, records, bytes, previous checksum
_BATCH: Final = struct.Struct(">4sHHQQQIIQ")
# magic, format, zero, number, life, size, first batch, first sequence, previous checksum, store
_VOLUME: Final = struct.Struct(">8sHHQQQQQQ16s")
# magic, format, zero, durable batch, durable sequence, body bytes
_SUPERBLOCK: Final = struct.Struct(">8sHHQQI")
_POSITION: Final = struct.Struct(">QQQQQQQ")
_DIGEST_64: Final = 8
_DIGEST_128: Final = 16
_PADDING: Final = tuple(bytes(count) for count in range(ALIGNMENT))

FLAG_ROT: Final = 1
"""On a KILL record: the sequence it names was found unreadable, and what follows is written down."""


def padded(length: int, unit: int = BLOCK) -> int:
    return -(-length // unit) * unit


# --- volumes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class VolumeHeader:
    """The first block of a volume. `life` is random for each use of the file; `previous` links the chain."""

    number: int
    life: int
    size_bytes: int
    first_batch: int
    first_sequence: int
    previous: int
    store: bytes


def encode_volume_header(header: VolumeHeader) -> bytes:
    fields = _VOLUME.pack(
        _VOLUME_MAGIC,
        _FORMAT,
        0,
        header.number,
        header.life,
        header.size_bytes,
        header.first_batch,
        header.first_sequence,
        header.previous,
        header.store,
    )
    return (fields + xxh3_128_digest(fields, header.life)).ljust(BLOCK, b"\0")


def decode_volume_header(block: Buffer) -> VolumeHeader | None:
    """None if these bytes are not a volume's first block, whole. Raises `StoreRefused` for a later format."""
    fields, digest = bytes(block[: _VOLUME.size]), bytes(block[_VOLUME.size : _VOLUME.size + _DIGEST_128])
    if len(digest) < _DIGEST_128:
        return None
    magic, written, _, number, life, size, first_batch, first_sequence, previous, store = _VOLUME.unpack(
        fields
    )
    if magic != _VOLUME_MAGIC or digest != xxh3_128_digest(fields, life):
        return None
    if written != _FORMAT:
        raise StoreRefused(f"volume {number} has format {written}, this program reads {_FORMAT}")
    return VolumeHeader(number, life, size, first_batch, first_sequence, previous, store)


@dataclass(frozen=True, slots=True)
class Position:
    """Where the next batch goes, and what it must carry to continue the chain.

    `last` is where the batch before it begins; 0 if that is not in this volume.
    """

    volume: int
    life: int
    offset: int
    batch: int
    sequence: int
    previous: int
    last: int = 0


def encode_position(position: Position) -> bytes:
    return _POSITION.pack(
        position.volume,
        position.life,
        position.offset,
        position.batch,
        position.sequence,
        position.previous,
        position.last,
    )


def decode_position(data: bytes) -> Position | None:
    return Position(*_POSITION.unpack(data)) if len(data) == _POSITION.size else None


# --- the superblock of the directory ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the log was durable when the superblock was written: damage before that is never a torn tail."""

    batch: int = 0
    sequence: int = 0


def encode_superblock(body: bytes, mark: Mark) -> bytes:
    content = _SUPERBLOCK.pack(_SUPERBLOCK_MAGIC, _FORMAT, 0, mark.batch, mark.sequence, len(body)) + body
    return content + xxh3_128_digest(content)


def decode_superblock(content: bytes) -> tuple[bytes, Mark]:
    """The body and the mark; raises `IntegrityError`."""
    if len(content) < _SUPERBLOCK.size + _DIGEST_128 or not content.startswith(_SUPERBLOCK_MAGIC):
        raise IntegrityError("the superblock is not one")
    magic, written, _, batch, sequence, length = _SUPERBLOCK.unpack_from(content)
    assert magic == _SUPERBLOCK_MAGIC
    end = _SUPERBLOCK.size + length
    if content[end:] != xxh3_128_digest(content[:end]):
        raise IntegrityError("the superblock's checksum is wrong")
    if written != _FORMAT:
        raise IntegrityError(f"the superblock has format {written}, this program reads {_FORMAT}")
    return content[_SUPERBLOCK.size : end], Mark(batch, sequence)


# --- writing ----------------------------------------------------------------------------------------------


class Extent(NamedTuple):
    """Where a record lies in its volume."""

    offset: int
    length: int
    payload_offset: int
    payload_length: int


class Batch(NamedTuple):
    """A finished batch: its bytes in order, a multiple of `BLOCK` in total."""

    buffers: list[Buffer]
    length: int
    records: int
    checksum: int


def record_bytes(key: int, body: int, payload: int) -> int:
    """What a record with parts of these lengths takes in a batch."""
    return padded(RECORD_HEADER_BYTES + key + body + payload, ALIGNMENT)


class BatchBuilder:
    """Collects records for one batch at a known place. Used once."""

    def __init__(self, position: Position) -> None:
        self._position = position
        self._buffers: list[Buffer] = [b""]
        self._headers: list[bytes] = [b""]
        self._sequence = position.sequence
        self._length = BATCH_HEADER_BYTES

    def add(self, kind: int, key: bytes, body: bytes, payload: Buffer = b"", flags: int = 0) -> Extent:
        """Append one record; it gets the next sequence number. Its payload must not change until written."""
        life = self._position.life
        size = len(payload)
        fields = _RECORD.pack(
            _RECORD_MAGIC, _FORMAT, kind, flags, self._sequence, life, len(key), len(body), size, 0
        )
        fields += xxh3_64_digest(fields + key, life)
        head = key + body
        if size <= JOINED_BYTES_MAX:
            content = head + payload if size else head
            header = fields + xxh3_128_digest(fields + content, life)
            padding = -len(content) % ALIGNMENT
            self._buffers.append(header + content + _PADDING[padding])
        else:
            hasher = xxh3_128(fields + head, life)
            hasher.update(payload)
            header = fields + hasher.digest()
            padding = -(len(head) + size) % ALIGNMENT
            self._buffers += (header + head, payload, _PADDING[padding])
        self._headers.append(header)
        self._sequence += 1
        offset = self._position.offset + self._length
        payload_offset = offset + RECORD_HEADER_BYTES + len(head)
        length = RECORD_HEADER_BYTES + len(head) + size
        self._length += length + padding
        return Extent(offset, length, payload_offset, size)

    def finish(self) -> Batch:
        position, count = self._position, len(self._headers) - 1
        fields = _BATCH.pack(
            _BATCH_MAGIC,
            _FORMAT,
            0,
            position.life,
            position.batch,
            position.sequence,
            count,
            self._length,
            position.previous,
        )
        fields += xxh3_64_digest(fields, position.life)
        self._headers[0] = fields
        checksum = xxh3_64_intdigest(b"".join(self._headers), position.life)
        self._buffers[0] = fields + checksum.to_bytes(_DIGEST_64, "big")
        total = padded(self._length)
        self._buffers.append(bytes(total - self._length))
        return Batch(self._buffers, total, count, checksum)


def after(position: Position, batch: Batch) -> Position:
    """Where the batch after this one goes."""
    return Position(
        volume=position.volume,
        life=position.life,
        offset=position.offset + batch.length,
        batch=position.batch + 1,
        sequence=position.sequence + batch.records,
        previous=batch.checksum,
        last=position.offset,
    )


# --- reading ----------------------------------------------------------------------------------------------


class BatchHeader(NamedTuple):
    """`length` counts header and records, not the padding. `checksum` is what the batch claims."""

    life: int
    number: int
    first_sequence: int
    records: int
    length: int
    previous: int
    checksum: int


class Record(NamedTuple):
    """One record as found. `key` can be trusted; body and payload only if `whole`."""

    kind: int
    flags: int
    sequence: int
    key: bytes
    body: bytes
    extent: Extent
    whole: bool


def decode_batch_header(data: Buffer) -> BatchHeader | None:
    """None if no whole batch header starts here."""
    header = bytes(data[:BATCH_HEADER_BYTES])
    if len(header) < BATCH_HEADER_BYTES or not header.startswith(_BATCH_MAGIC):
        return None
    _, written, _, life, number, first, records, length, previous = _BATCH.unpack_from(header)
    end = _BATCH.size + _DIGEST_64
    if written != _FORMAT or header[_BATCH.size : end] != xxh3_64_digest(header[: _BATCH.size], life):
        return None
    return BatchHeader(life, number, first, records, length, previous, int.from_bytes(header[end:], "big"))


def decode_record(data: memoryview, offset: int, life: int) -> Record | None:
    """The record at the start of `data`, at `offset` of its volume. None if its header or key is broken."""
    if len(data) < RECORD_HEADER_BYTES:
        return None
    header = bytes(data[:RECORD_HEADER_BYTES])
    magic, written, kind, flags, sequence, wrote, key_bytes, body_bytes, size, _ = _RECORD.unpack_from(header)
    if magic != _RECORD_MAGIC or written != _FORMAT or wrote != life or key_bytes > KEY_BYTES_MAX:
        return None
    body_at = RECORD_HEADER_BYTES + key_bytes
    payload_at = body_at + body_bytes
    end = payload_at + size
    key = bytes(data[RECORD_HEADER_BYTES:body_at])
    fields = header[: _RECORD.size]
    fields_end = _RECORD.size + _DIGEST_64
    if header[_RECORD.size : fields_end] != xxh3_64_digest(fields + key, life):
        return None
    if len(data) < end:
        return Record(
            kind, flags, sequence, key, b"", Extent(offset, end, offset + payload_at, size), whole=False
        )
    hasher = xxh3_128(header[:fields_end], life)
    hasher.update(data[RECORD_HEADER_BYTES:end])
    whole = hasher.digest() == header[fields_end:]
    body = bytes(data[body_at:payload_at])
    return Record(kind, flags, sequence, key, body, Extent(offset, end, offset + payload_at, size), whole)


def decode_located(data: Buffer, offset: int) -> Record | None:
    """A record that the index points at. Its life is taken from its own header: the caller knows its key."""
    if len(data) < RECORD_HEADER_BYTES:
        return None
    life = _RECORD.unpack_from(data)[5]
    return decode_record(memoryview(data), offset, life)


def read_batch(data: memoryview, offset: int, header: BatchHeader) -> tuple[list[Record], bool]:
    """The records of the batch whose bytes start at `offset` of the volume, and whether all of it is right.

    Records are found one behind the other; the list ends at the first whose length cannot be trusted.
    """
    found: list[Record] = []
    headers = [bytes(data[: _BATCH.size + _DIGEST_64])]
    at, end = BATCH_HEADER_BYTES, min(header.length, len(data))
    while at < end:
        record = decode_record(data[at:end], offset + at, header.life)
        if record is None:
            break
        found.append(record)
        headers.append(bytes(data[at : at + RECORD_HEADER_BYTES]))
        at += padded(record.extent.length, ALIGNMENT)
    right = (
        len(found) == header.records
        and at == header.length
        and all(record.whole for record in found)
        and all(record.sequence == header.first_sequence + i for i, record in enumerate(found))
        and xxh3_64_intdigest(b"".join(headers), header.life) == header.checksum
    )
    return found, right


def salvage(data: memoryview, offset: int, life: int, wanted: Callable[[int], bool]) -> list[Record]:
    """Records of this life in a damaged region whose sequences are `wanted`, by magic on the 8-byte grid.

    A copy of older log bytes inside a payload is kept out by its sequence.
    """
    raw, found, at = bytes(data), list[Record](), 0
    while (at := raw.find(_RECORD_MAGIC, at)) >= 0:
        record = decode_record(data[at:], offset + at, life) if at % ALIGNMENT == 0 else None
        if record is None or not wanted(record.sequence):
            at += 1
            continue
        found.append(record)
        at += padded(record.extent.length, ALIGNMENT) if record.whole else RECORD_HEADER_BYTES
    return found


def batch_headers(data: Buffer, offset: int) -> Iterator[tuple[int, BatchHeader]]:
    """Every whole batch header on the block grid of `data`, with its place in the volume."""
    for at in range(0, len(data), BLOCK):
        if data[at : at + 4] == _BATCH_MAGIC and (
            header := decode_batch_header(data[at : at + BATCH_HEADER_BYTES])
        ):
            yield offset + at, header


def is_blank(data: Buffer) -> bool:
    """Whether nothing was ever written here."""
    return not any(bytes(data[at : at + BLOCK]).strip(b"\0") for at in range(0, len(data), BLOCK))
