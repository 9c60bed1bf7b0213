"""The erasure codes: the only home of pyeclib. Cells go in and come out raw; their wrapping stays in here.

pyeclib believes whatever it is given: a flipped byte gives wrong bytes without an error. Callers verify
every cell before it gets here; this module knows no checksum, no blob and no store.
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from pyeclib.ec_iface import VALID_EC_TYPES, ECDriver, ECDriverError

from holdfast_node.core.codes import Code, parse_code
from holdfast_node.core.errors import InternalError
from holdfast_node.core.geometry import CELL_ALIGN_BYTES
from holdfast_node.ports import Buffer

BACKEND: Final = "isa_l_rs_cauchy"
"""Maximum distance separable for every k and m offered; `isa_l_rs_vand` is not (ADR 0040)."""
LOCAL_BACKEND: Final = "isa_l_rs_lrc"
"""Mends every loss that its parities could mend, for every code offered (ADR 0091)."""
_HEADER_BYTES: Final = 80
_HEADERS_KEPT_MAX: Final = 4096
"""Per (code, cell length): about n x 113 bytes each, so 4096 of rs:4+2 take under 3 MiB."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_ARENAS: Final = 2
"""One for the loop's thread and one for all of gRPC's: what is kept in an arena is of no use to another."""
_KEEP_UP_TO_BYTES: Final = 32 * 1024 * 1024


def tune_allocator() -> bool:
    """Have glibc keep freed buffers instead of returning them to the kernel: 1 MiB encodes twice as fast.

    Called once at process start. False where the C library has no `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_M_MMAP_THRESHOLD, _KEEP_UP_TO_BYTES), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_ARENA_MAX, _ARENAS))
    done = [int(mallopt(option, value)) == 1 for option, value in wanted]
    return all(done)


class EclibCodec:
    """`ports.Codec` over pyeclib and ISA-L. Holds the GIL while it computes: 1 MiB takes about 0.25 ms.

    pyeclib's fragments are a header and the bytes. The header depends on code, index and length alone, so
    headers are kept per length and put before raw cells on the way in.
    """

    def __init__(self) -> None:
        if lacking := {BACKEND, LOCAL_BACKEND}.difference(VALID_EC_TYPES):
            raise InternalError(
                f"this pyeclib has no {' and no '.join(sorted(lacking))}",
                hint="install the pyeclib wheel, which carries ISA-L; other back ends write other parity",
            )
        self._codes: dict[str, Code] = {}
        self._drivers: dict[Code, ECDriver] = {}
        self._headers: OrderedDict[tuple[Code, int], tuple[bytes, ...]] = OrderedDict()

    def encode(self, code: str, data: Sequence[Buffer]) -> list[bytes]:
        """Parity cells in index order. `data`: k cells of equal length, or one buffer of them end to end."""
        spec = self._code(code)
        stripe = data[0] if len(data) == 1 and isinstance(data[0], bytes) else b"".join(data)
        assert len(data) in (1, spec.k), f"{len(data)} cells for {code}"
        if spec.kind == "copy":
            return [bytes(stripe)] * spec.m
        if spec.m == 0 or not stripe:
            return [b""] * spec.m
        assert len(stripe) % (spec.k * CELL_ALIGN_BYTES) == 0, (
            f"{len(stripe)} bytes are not {spec.k} aligned cells"
        )
        fragments = self._encode(spec, stripe)
        return [fragment[_HEADER_BYTES:] for fragment in fragments[spec.k :]]

    def decode(self, code: str, cells: Mapping[int, Buffer], wanted: Sequence[int]) -> list[bytes]:
        """The cells at `wanted` from cells that give them, each verified by the caller."""
        spec = self._code(code)
        assert spec.gives(cells, wanted), f"cells {sorted(cells)} of {code} do not give {list(wanted)}"
        lengths = {len(cell) for cell in cells.values()}
        assert len(lengths) == 1, f"cells of one stripe have one length, not {sorted(lengths)}"
        length = lengths.pop()
        if spec.kind == "copy" or not length:
            cell = bytes(next(iter(cells.values())))
            return [cell for _ in wanted]
        if all(index in cells for index in wanted):
            return [bytes(cells[index]) for index in wanted]
        if spec.groups:
            return self._mended(spec, cells, wanted, length=length)
        stripe = self._data(spec, cells, length)
        parity: list[bytes] = []
        if any(index >= spec.k for index in wanted):
            parity = self.encode(code, (stripe,))
        return [
            stripe[index * length : (index + 1) * length] if index < spec.k else parity[index - spec.k]
            for index in wanted
        ]

    def _mended(
        self, code: Code, cells: Mapping[int, Buffer], wanted: Sequence[int], *, length: int
    ) -> list[bytes]:
        """Of a code with groups: each missing cell from its group if that is whole, the others from everything."""
        found = {index: bytes(cells[index]) for index in wanted if index in cells}
        far: list[int] = []
        for index in wanted:
            if index in found:
                continue
            group = code.group_of(index)
            if group and group.issubset(cells):
                found |= self._reconstruct(code, {at: cells[at] for at in group}, [index], length)
            else:
                far.append(index)
        if far:
            found |= self._reconstruct(code, cells, far, length)
        return [found[index] for index in wanted]

    def _reconstruct(
        self, code: Code, cells: Mapping[int, Buffer], wanted: list[int], length: int
    ) -> dict[int, bytes]:
        headers = self._headers_of(code, length)
        fragments = [b"".join((headers[index], cells[index])) for index in sorted(cells)]
        try:
            made = self._driver(code).reconstruct(fragments, wanted)
        except ECDriverError as error:
            raise InternalError(
                f"{code} does not give {wanted} from cells {sorted(cells)}: {error}"
            ) from error
        if [len(each) for each in made] != [_HEADER_BYTES + length] * len(wanted):
            raise InternalError(f"{code} made {[len(each) for each in made]} bytes, not cells of {length}")
        return {index: each[_HEADER_BYTES:] for index, each in zip(wanted, made, strict=True)}

    def _data(self, code: Code, cells: Mapping[int, Buffer], length: int) -> bytes:
        """All data cells end to end."""
        if all(index in cells for index in range(code.k)):
            return b"".join(cells[index] for index in range(code.k))
        headers = self._headers_of(code, length)
        fragments = [b"".join((headers[index], cells[index])) for index in sorted(cells)[: code.k]]
        try:
            stripe = self._driver(code).decode(fragments)
        except ECDriverError as error:
            raise InternalError(f"{code} cannot be decoded from cells {sorted(cells)}: {error}") from error
        if len(stripe) != code.k * length:
            raise InternalError(f"{code} decoded {len(stripe)} bytes, not {code.k} cells of {length}")
        return stripe

    def _encode(self, code: Code, stripe: bytes) -> list[bytes]:
        try:
            fragments = self._driver(code).encode(stripe)
        except ECDriverError as error:
            raise InternalError(f"{code} cannot encode {len(stripe)} bytes: {error}") from error
        length = len(stripe) // code.k
        if len(fragments) != code.n or any(len(each) != _HEADER_BYTES + length for each in fragments):
            raise InternalError(f"{code} made {[len(each) for each in fragments]} bytes of {len(stripe)}")
        key = (code, length)
        if key not in self._headers:
            self._headers[key] = tuple(each[:_HEADER_BYTES] for each in fragments)
            if len(self._headers) > _HEADERS_KEPT_MAX:
                self._headers.popitem(last=False)
        return fragments

    def _headers_of(self, code: Code, length: int) -> tuple[bytes, ...]:
        key = (code, length)
        if key not in self._headers:
            self._encode(code, bytes(code.k * length))
        self._headers.move_to_end(key)
        return self._headers[key]

    def _driver(self, code: Code) -> ECDriver:
        driver = self._drivers.get(code)
        if driver is None:
            backend = LOCAL_BACKEND if code.groups else BACKEND
            driver = ECDriver(k=code.k, m=code.m, ec_type=backend, local_parity=code.groups)
            self._drivers[code] = driver
        return driver

    def _code(self, text: str) -> Code:
        code = self._codes.get(text)
        if code is None:
            code = self._codes[text] = parse_code(text)
        return code
