"""Where the bytes of a blob are: parts, stripes, cells, and which cells a range of bytes needs.

Arithmetic on lengths and indexes alone. It knows no store, no checksum and no buffer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from holdfast_node.core.codes import Code, parse_code, tiny_code
from holdfast_node.core.errors import InvalidArgument
from holdfast_node.core.head import Manifest

KIB: Final = 1024
MIB: Final = 1024 * KIB

PART_BYTES: Final = 64 * MIB
STRIPE_BYTES: Final = MIB
WIDE_STRIPE_BYTES: Final = 4 * MIB
WIDE_FROM_BYTES: Final = 16 * MIB
"""Blobs declared at least this large use wide stripes: fewer messages, and a window still fits the budget."""
TINY_TOTAL_BYTES: Final = 24 * KIB
"""What all n copies of a tiny blob may take together."""
PART_LIST_BYTES_MAX: Final = 32 * KIB
"""What the part list may take of a head's 64 KiB; the rest is for remembered requests and older versions."""
BLOB_BYTES_MAX: Final = 5 * 1024 * 1024 * MIB
CELL_ALIGN_BYTES: Final = 16
"""The codec returns data cells as plain slices of its input when every cell is a multiple of this."""


def tiny_bytes_max(code: Code) -> int:
    return TINY_TOTAL_BYTES // code.n


def code_for(code: Code, size: int) -> Code:
    """The code a blob of `size` bytes is stored with in a pool of `code`."""
    return tiny_code(code) if size <= tiny_bytes_max(code) else code


def stripe_bytes_for(code: Code, declared_size: int) -> int:
    """Payload per stripe. `declared_size` -1: unknown. One cell never passes 2 MiB, half a bulk frame."""
    return WIDE_STRIPE_BYTES if declared_size >= WIDE_FROM_BYTES and code.k > 1 else STRIPE_BYTES


def parts_max(code: Code) -> int:
    """How many parts a manifest can list: per shard a store id and a digest, 18 bytes each as encoded."""
    return PART_LIST_BYTES_MAX // (16 + 36 * code.n)


def part_bytes_for(code: Code, declared_size: int) -> int:
    """Payload per part: doubled until the part list of a blob of the declared size fits its head.

    A blob of unknown size (-1) has ordinary parts, and ends at `parts_max` of them.
    """
    part_bytes = PART_BYTES
    while -(-declared_size // part_bytes) > parts_max(code):
        part_bytes *= 2
    return part_bytes


def cell_bytes(code: Code, stripe_size: int) -> int:
    """Length of each cell of a stripe of `stripe_size` payload bytes; coded stripes are padded with zeros."""
    if code.kind == "copy":
        return stripe_size
    unaligned = -(-stripe_size // code.k)
    return -(-unaligned // CELL_ALIGN_BYTES) * CELL_ALIGN_BYTES


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes [first, last) of one stripe's payload, and where they are: data cells `cells`, in order."""

    part: int
    stripe: int
    stripe_size: int
    cell_size: int
    first: int
    last: int

    @property
    def cells(self) -> range:
        """The fewest data cells that hold the bytes."""
        return range(self.first // self.cell_size, -(-self.last // self.cell_size))

    def slice_of(self, cell: int) -> tuple[int, int]:
        """Which bytes [first, last) of data cell `cell` belong to the span."""
        start = cell * self.cell_size
        return max(self.first - start, 0), min(self.last - start, self.cell_size)


@dataclass(frozen=True, slots=True)
class Layout:
    """How `size` bytes are cut. Zero bytes have no parts."""

    code: Code
    size: int
    stripe_bytes: int
    part_bytes: int = PART_BYTES

    @property
    def part_count(self) -> int:
        return -(-self.size // self.part_bytes)

    def part_size(self, part: int) -> int:
        assert 0 <= part < self.part_count, (part, self)
        return min(self.part_bytes, self.size - part * self.part_bytes)

    def stripe_count(self, part: int) -> int:
        return stripes_in(self.part_size(part), self.stripe_bytes)

    def stripe_size(self, part: int, stripe: int) -> int:
        return stripe_size_in(self.part_size(part), self.stripe_bytes, stripe)

    def cell_size(self, part: int, stripe: int) -> int:
        return cell_bytes(self.code, self.stripe_size(part, stripe))

    def spans(self, first: int, last: int) -> Iterator[Span]:
        """The stripes that hold the bytes [first, last), in order, each with its share of them."""
        assert 0 <= first <= last <= self.size, (first, last, self.size)
        at = first
        while at < last:
            part, in_part = divmod(at, self.part_bytes)
            stripe, in_stripe = divmod(in_part, self.stripe_bytes)
            stripe_size = self.stripe_size(part, stripe)
            take = min(stripe_size - in_stripe, last - at)
            yield Span(
                part, stripe, stripe_size, cell_bytes(self.code, stripe_size), in_stripe, in_stripe + take
            )
            at += take


def layout_of(manifest: Manifest) -> Layout:
    """The layout a manifest describes. Raises `InvalidArgument` for a code this release does not know."""
    return Layout(parse_code(manifest.code), manifest.size, manifest.stripe_bytes, manifest.part_bytes)


def stripes_in(part_size: int, stripe_bytes: int) -> int:
    return -(-part_size // stripe_bytes)


def stripe_size_in(part_size: int, stripe_bytes: int, stripe: int) -> int:
    """Payload bytes in one stripe of a part: full, or what is left."""
    assert 0 <= stripe < stripes_in(part_size, stripe_bytes), (part_size, stripe_bytes, stripe)
    return min(stripe_bytes, part_size - stripe * stripe_bytes)


def resolve_range(size: int, first: int, last: int) -> tuple[int, int]:
    """The bytes [first, last) of a blob as asked for; `last` -1 is the end, beyond the end is cut.

    Raises `InvalidArgument` for a range that begins beyond the blob or ends before it begins.
    """
    end = size if last == -1 else last
    if first < 0 or end < first or first > size:
        raise InvalidArgument(
            f"bytes [{first}, {last}) are not a range of a blob of {size} bytes",
            hint="0 <= first <= size and first <= last; last = -1 means to the end",
        )
    return first, min(end, size)


def is_inlinable(manifest: Manifest, bytes_max: int, *, whole: bool) -> bool:
    """Whether a home's answer may bring its shard: one part of one stripe, small enough; a copy only if `whole`."""
    if not 0 < manifest.size <= manifest.stripe_bytes or len(manifest.parts) != 1:
        return False
    code = parse_code(manifest.code)
    if code.kind == "copy":
        return whole and manifest.size <= bytes_max
    return manifest.size <= bytes_max * code.k
