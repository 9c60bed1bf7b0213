"""How fast stripes are encoded, checked, decoded and hashed, by CPU time of one core, so that other work on
the machine does not count. `python -m benchmarks.codec`."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from holdfast_node.adapters.erasure import EclibCodec, tune_allocator
from holdfast_node.core.checksums import cell_checksum
from holdfast_node.core.codes import parse_code
from holdfast_node.core.geometry import KIB, MIB
from holdfast_node.core.ids import BlobId
from holdfast_node.services.striping import check_encoding, encode_stripe

SEED: Final = BlobId(bytes(16))
CODES: Final = ("rs:4+2", "rs:3+2", "rs:8+4", "rs:10+6")
STRIPES: Final = (64 * KIB, 256 * KIB, MIB, 4 * MIB)
CPU_SECONDS: Final = 0.2


def gigabytes_per_second(size: int, work: Callable[[], object]) -> float:
    work()
    done, began = 0, time.process_time()
    while (elapsed := time.process_time() - began) < CPU_SECONDS:
        work()
        done += 1
    return done * size / elapsed / 1e9


def measure(code_text: str, size: int) -> list[float]:
    """GB/s of payload: encode alone, check alone, all of a put's work, decode with m data cells lost, hash."""
    codec, code = EclibCodec(), parse_code(code_text)
    payload = random.Random(1).randbytes(size)  # noqa: S311 - any bytes will do
    stripe = encode_stripe(codec, code, payload, seed_id=SEED, part=0, stripe=0)
    padded = b"".join(stripe.cells[: code.k])
    lost = list(range(min(code.k, code.m)))
    left = {index: stripe.cells[index] for index in range(len(lost), code.k + len(lost))}
    return [
        gigabytes_per_second(size, lambda: codec.encode(code_text, (padded,))),
        gigabytes_per_second(size, lambda: check_encoding(codec, code, stripe.cells)),
        gigabytes_per_second(
            size, lambda: encode_stripe(codec, code, payload, seed_id=SEED, part=0, stripe=0)
        ),
        gigabytes_per_second(size, lambda: codec.decode(code_text, left, lost)),
        gigabytes_per_second(size, lambda: cell_checksum(SEED, 0, 0, 0, payload)),
    ]


def main() -> None:
    for tuned in (False, True):
        if tuned:
            assert tune_allocator()
        print(f"\nGB/s of payload, one core, {'with' if tuned else 'without'} a tuned allocator")
        print(
            f"{'code':8} {'stripe':>9} {'encode':>8} {'check':>8} {'put work':>9} {'rebuild':>8} {'xxh3':>8}"
        )
        for code in CODES:
            for size in STRIPES:
                figures = measure(code, size)
                cells = " ".join(
                    f"{figure:>{width}.2f}" for figure, width in zip(figures, (8, 8, 9, 8, 8), strict=True)
                )
                print(f"{code:8} {size // KIB:>5} KiB {cells}")


if __name__ == "__main__":
    main()
