"""Values with a syntax of their own: sizes, durations, addresses, codes. What cannot be read is a ValueError."""

from __future__ import annotations

import ipaddress
import re
from typing import Final, cast

from holdfast_node.core import codes
from holdfast_node.core.errors import InvalidArgument

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
TIB: Final = 1024 * GIB

_SIZE_UNITS: Final = {"": 1, "B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
_TIME_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE: Final = re.compile(r"(\d+)\s*([A-Za-z]*)")
_DURATION: Final = re.compile(r"(?:\d+[smhd])+")


def as_table(raw: object) -> dict[str, object] | None:
    """The value if it is a TOML table, whose keys are always texts."""
    return cast("dict[str, object]", raw) if isinstance(raw, dict) else None


def as_array(raw: object) -> list[object] | None:
    """The value if it is a TOML array."""
    return cast("list[object]", raw) if isinstance(raw, list) else None


def size_bytes(raw: object) -> int:
    """Bytes from a whole number or a text such as `"64 MiB"`. Decimal units are refused: nobody agrees on them."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if not isinstance(raw, str) or not (found := _SIZE.fullmatch(raw.strip())):
        raise ValueError("is not a size")
    number, unit = found.groups()
    if unit not in _SIZE_UNITS:
        raise ValueError(f'has the unknown unit "{unit}": units are B, KiB, MiB, GiB and TiB')
    return int(number) * _SIZE_UNITS[unit]


def size_text(size: int) -> str:
    """A size as a person writes it: the largest unit that divides it."""
    for unit, factor in reversed(_SIZE_UNITS.items()):
        if unit and size >= factor and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} B"


def duration_s(raw: object) -> int:
    """Seconds from a whole number of them or a text such as `"24h"` or `"1h30m"`."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if not isinstance(raw, str) or not _DURATION.fullmatch(raw.strip()):
        raise ValueError("is not a duration")
    return sum(int(number) * _TIME_UNITS[unit] for number, unit in re.findall(r"(\d+)([smhd])", raw))


def duration_text(seconds: int) -> str:
    """A duration as a person writes it: the largest unit that divides it."""
    for unit, factor in reversed(_TIME_UNITS.items()):
        if seconds >= factor and seconds % factor == 0:
            return f"{seconds // factor}{unit}"
    return f"{seconds}s"


def address(raw: object) -> str:
    """A canonical `host:port`. An IPv6 address stands in brackets."""
    host, port = split_address(raw) if isinstance(raw, str) else ("", 0)
    if not host:
        raise ValueError('is not an address "host:port"')
    if not 1 <= port <= 65535:
        raise ValueError("has no port from 1 to 65535")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(text: str) -> tuple[str, int]:
    """Host (without brackets) and port; `("", 0)` if the text is no address, port 0 if the port is no number."""
    host, colon, port = text.strip().rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return "", 0
    if not colon or not host or any(character.isspace() or character in "/@[]" for character in host):
        return "", 0
    return host, int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it. A name other than `localhost` may resolve to anything, so it is not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def code(raw: object) -> str:
    """An erasure code such as `"rs:4+2"`: 4 data shards, 2 parity shards. One without parity survives nothing."""
    try:
        found = codes.parse_code(raw) if isinstance(raw, str) else None
    except InvalidArgument:
        found = None
    if found is None or found.kind == "copy" or not found.m:
        raise ValueError(f"is not a code that is offered: {codes.OFFERED}")
    return str(found)
