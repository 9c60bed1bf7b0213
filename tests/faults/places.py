"""Single bytes of a store's directory: which there are, by what they mean, and how to flip them and flip them back.

Aims with the log's own format. Knows files and offsets; not nodes, and not what an answer should be.
"""

from __future__ import annotations

import mmap
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from holdfast_node.core import log_format
from holdfast_node.core.log_format import ALIGNMENT, BATCH_HEADER_BYTES, BLOCK, RECORD_HEADER_BYTES, Record
from holdfast_node.core.records import RecordType
from holdfast_node.services.log.opening import SUPERBLOCK

VOLUME_HEADER_BYTES: Final = 92
"""Fields and checksum; the rest of the first block is padding."""
KINDS: Final = (
    "volume header",
    "batch header",
    "record header",
    "key",
    "body",
    "payload",
    "padding",
    "blank",
)
AROUND_BYTES: Final = 16
BIGGEST_FLIP: Final = 255


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes of one meaning. `record`: the record's type, if they are a record's. `tail`: of the log's last batch."""

    path: Path
    kind: str
    record: str
    offset: int
    length: int
    tail: bool = False


@dataclass(frozen=True, slots=True)
class Flip:
    """One byte that was changed. `around` is what lay there afterwards, from `start` on."""

    place: Place
    offset: int
    before: int
    start: int
    around: bytes


def places(directory: Path) -> list[Place]:
    """Every byte of every volume that has begun, in order."""
    found: list[Place] = []
    for path in sorted(directory.glob("volume-*")):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            content = bytes(mapped)
        if log_format.decode_volume_header(content[:BLOCK]) is not None:
            found += _of_volume(path, memoryview(content))
    last = max((place.path for place in found), default=None)
    tail = max(
        (place.offset for place in found if place.path == last and place.kind == "batch header"), default=0
    )
    return [_tail(place) if place.path == last and place.offset >= tail > 0 else place for place in found]


def _tail(place: Place) -> Place:
    return Place(place.path, place.kind, place.record, place.offset, place.length, tail=True)


def _of_volume(path: Path, content: memoryview) -> Iterator[Place]:
    yield Place(path, "volume header", "", 0, VOLUME_HEADER_BYTES)
    yield Place(path, "padding", "", VOLUME_HEADER_BYTES, BLOCK - VOLUME_HEADER_BYTES)
    end = BLOCK
    for at, header in log_format.batch_headers(content, 0):
        yield Place(path, "batch header", "", at, BATCH_HEADER_BYTES)
        for record in log_format.read_batch(content[at:], at, header)[0]:
            yield from _of_record(path, record)
        end = at + log_format.padded(header.length)
        if header.length < end - at:
            yield Place(path, "padding", "", at + header.length, end - at - header.length)
    if end < len(content):
        yield Place(path, "blank", "", end, len(content) - end)


def _of_record(path: Path, record: Record) -> Iterator[Place]:
    extent, name = record.extent, RecordType(record.kind).name.lower()
    key = extent.offset + RECORD_HEADER_BYTES
    body = key + len(record.key)
    end = extent.offset + extent.length
    parts = (
        ("record header", extent.offset, key),
        ("key", key, body),
        ("body", body, extent.payload_offset),
        ("payload", extent.payload_offset, end),
        ("padding", end, extent.offset + log_format.padded(extent.length, ALIGNMENT)),
    )
    for kind, start, stop in parts:
        if start < stop:
            yield Place(path, kind, name, start, stop - start)


def superblock(directory: Path) -> Place:
    path = directory / SUPERBLOCK
    return Place(path, SUPERBLOCK, "", 0, path.stat().st_size)


def choose(found: Iterable[Place], kinds: Sequence[str], count: int, chooser: random.Random) -> list[Place]:
    """Each kind as likely as the others, and of a kind each type of record, however few bytes are of it."""
    by_kind: Mapping[str, Mapping[str, list[Place]]] = defaultdict(lambda: defaultdict(list))
    for place in found:
        if place.kind in kinds:
            by_kind[place.kind][place.record].append(place)
    chosen: list[Place] = []
    for _ in range(count):
        of_kind = by_kind[chooser.choice(sorted(by_kind))]
        chosen.append(chooser.choice(of_kind[chooser.choice(sorted(of_kind))]))
    return chosen


def flip(chosen: Iterable[Place], chooser: random.Random) -> list[Flip]:
    """One byte in each place, durably; a place that comes twice is hit at two bytes, as far as it has them."""
    done: dict[tuple[Path, int], tuple[Place, int]] = {}
    for place in chosen:
        offset = place.offset + chooser.randrange(place.length)
        if (place.path, offset) not in done:
            done[place.path, offset] = (place, _read(place.path, offset, 1)[0])
            _write(place.path, offset, done[place.path, offset][1] ^ chooser.randint(1, BIGGEST_FLIP))
    return [_remember(place, offset, before) for (_, offset), (place, before) in done.items()]


def _remember(place: Place, offset: int, before: int) -> Flip:
    start = max(0, offset - AROUND_BYTES)
    return Flip(place, offset, before, start, _read(place.path, start, 2 * AROUND_BYTES))


def put_back(flips: Iterable[Flip]) -> int:
    """Where everything around still is as it was left. What the store has written over or thrown away since is its
    own by now, and one byte changed in it would be new damage. Returns how many bytes were put back."""
    left = [flip for flip in flips if _read(flip.place.path, flip.start, len(flip.around)) == flip.around]
    for flip in left:
        _write(flip.place.path, flip.offset, flip.before)
    return len(left)


def _read(path: Path, offset: int, length: int) -> bytes:
    """Nothing if the file is gone."""
    try:
        with path.open("rb") as file:
            return os.pread(file.fileno(), length, offset)
    except FileNotFoundError:
        return b""


def _write(path: Path, offset: int, byte: int) -> None:
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), bytes([byte]), offset)
        os.fsync(file.fileno())
