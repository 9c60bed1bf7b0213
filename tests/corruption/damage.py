"""Ways for stored bytes to go wrong: flipped, zeroed, overwritten, cut off, swapped, doubled, or older than they were.

Knows platters, and where in a volume records and batches lie; not what they mean.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from holdfast_node.core import log_format
from holdfast_node.core.log_format import BLOCK
from holdfast_node.services.log.opening import SUPERBLOCK
from tests.sim.disk import Platter

IN_PLACE: Final = ("flip", "flip", "flip", "zero", "noise", "swap", "double", "stale")
KINDS: Final = (*IN_PLACE, "truncate", "superblock")
PLACES_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Extent:
    """Some bytes of a volume: a block, a record, a part of a record."""

    name: str
    offset: int
    length: int


def extents(platter: Platter) -> list[Extent]:
    """Everything written: the head of each volume, each batch's header, each record, each block."""
    found: list[Extent] = []
    for name in sorted(platter.files):
        if not name.startswith("volume"):
            continue
        content = memoryview(bytes(platter.files[name].durable))
        if log_format.decode_volume_header(content[:BLOCK]) is None:
            continue
        found.append(Extent(name, 0, 100))
        for at, header in log_format.batch_headers(content, 0):
            found.append(Extent(name, at, log_format.BATCH_HEADER_BYTES))
            records, _ = log_format.read_batch(content[at:], at, header)
            found += [Extent(name, record.extent.offset, record.extent.length) for record in records]
            ends = range(at, at + log_format.padded(header.length), BLOCK)
            found += [Extent(name, block, BLOCK) for block in ends]
    return found


class Vandal:
    """Damages one platter. `older` is the same directory some time before."""

    def __init__(self, platter: Platter, older: Platter, places: Sequence[Extent], seed: str) -> None:
        self._platter = platter
        self._older = older
        self._places = places
        self._chooser = random.Random(seed)

    def strike(self, kinds: Sequence[str] = KINDS) -> str:
        """One kind of damage, at one place or a few. Returns what was done; nothing if it changed nothing."""
        kind = self._chooser.choice(kinds)
        if kind == "superblock":
            return self._superblock()
        if kind == "truncate":
            return self._truncate()
        places = [self._chooser.choice(self._places) for _ in range(self._chooser.randint(1, PLACES_MAX))]
        return "; ".join(f"{kind} {place}" for place in places if self._damage(kind, place))

    def _damage(self, kind: str, place: Extent) -> bool:
        before = self._bytes(place)
        if len(before) < place.length:
            return False  # the file ends earlier by now
        match kind:
            case "flip":
                at = self._chooser.randrange(len(before))
                data = bytearray(before)
                data[at] ^= 1 << self._chooser.randrange(8)
                self._put(place, data)
            case "zero":
                self._put(place, bytes(len(before)))
            case "noise":
                start = self._chooser.randrange(len(before))
                self._put(place, before[:start] + self._chooser.randbytes(len(before) - start))
            case "swap":
                other = self._another(place)
                theirs = self._bytes(other)
                length = min(len(before), len(theirs))
                self._put(place, theirs[:length])
                self._put(other, before[:length])
            case "double":
                self._put(place, self._bytes(self._another(place))[: len(before)])
            case _:
                file = self._older.files.get(place.name)
                old = bytes(file.durable[place.offset :][: place.length]) if file else b""
                self._put(place, old.ljust(place.length, b"\0"))
        return self._bytes(place) != before

    def _another(self, place: Extent) -> Extent:
        """Mostly of the same length, so that what comes looks right."""
        alike = [other for other in self._places if other.length == place.length and other != place]
        return self._chooser.choice(alike if alike and self._chooser.random() < 0.8 else self._places)

    def _truncate(self) -> str:
        place = self._chooser.choice(self._places)
        length = place.offset + self._chooser.randrange(place.length)
        del self._platter.files[place.name].durable[length:]
        return f"truncate {place.name} to {length}"

    def _superblock(self) -> str:
        content = self._platter.files[SUPERBLOCK].durable
        at = self._chooser.randrange(len(content))
        if self._chooser.random() < 0.2:
            del content[at:]
            return f"superblock cut at {at}"
        content[at] ^= 1 << self._chooser.randrange(8)
        return f"superblock flipped at {at}"

    def _bytes(self, place: Extent) -> bytes:
        return bytes(self._platter.files[place.name].durable[place.offset : place.offset + place.length])

    def _put(self, place: Extent, data: bytes | bytearray) -> None:
        self._platter.files[place.name].durable[place.offset : place.offset + len(data)] = data
