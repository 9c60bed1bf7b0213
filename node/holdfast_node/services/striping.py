"""One stripe of payload to its n cells, and the proof that any loss the code allows gives it back.

Knows the codec and lengths; refuses to know where cells go and what blob they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast_node.core.checksums import cell_checksum
from holdfast_node.core.codes import Code, parity_proofs
from holdfast_node.core.errors import InternalError
from holdfast_node.core.geometry import cell_bytes
from holdfast_node.core.ids import BlobId, Digest
from holdfast_node.ports import Codec


@dataclass(frozen=True, slots=True)
class EncodedStripe:
    """`cells[i]` belongs to shard i, and `checksums[i]` is bound to where it will be."""

    cells: tuple[bytes, ...]
    checksums: tuple[Digest, ...]


def encode_stripe(
    codec: Codec, code: Code, payload: bytes, *, seed_id: BlobId, part: int, stripe: int
) -> EncodedStripe:
    """Cut, encode, check by decoding, hash. Raises `InternalError` if what was encoded would not decode."""
    cells = (payload,) * code.n if code.kind == "copy" else _coded(codec, code, payload)
    checksums = tuple(cell_checksum(seed_id, part, index, stripe, cell) for index, cell in enumerate(cells))
    return EncodedStripe(cells, checksums)


def _coded(codec: Codec, code: Code, payload: bytes) -> tuple[bytes, ...]:
    length = cell_bytes(code, len(payload))
    padded = payload.ljust(code.k * length, b"\0")
    data = [padded[at * length : (at + 1) * length] for at in range(code.k)]
    cells = (*data, *codec.encode(str(code), (padded,)))
    check_encoding(codec, code, cells)
    return cells


def check_encoding(codec: Codec, code: Code, cells: Sequence[bytes]) -> None:
    """Decode from subsets that together hold every parity cell: a wrong one cannot hide behind the others."""
    for held, missing in parity_proofs(code):
        subset = {index: cells[index] for index in held}
        for index, decoded in zip(missing, codec.decode(str(code), subset, missing), strict=True):
            if decoded != cells[index]:
                raise InternalError(
                    f"{code} cells {held} do not give cell {index} back",
                    hint="memory or the codec of this node is broken; nothing was stored",
                )


def rebuild_cells(
    codec: Codec, code: Code, cells: Mapping[int, bytes], wanted: Sequence[int]
) -> dict[int, bytes]:
    """The wanted cells of one stripe from verified ones that give them."""
    return dict(zip(wanted, codec.decode(str(code), cells, wanted), strict=True))
