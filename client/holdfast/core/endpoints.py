"""Where the nodes are, and which one to ask. It opens no connection."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from holdfast.errors import InvalidArgument

_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")


def parse_endpoints(text: str | Iterable[str]) -> tuple[str, ...]:
    """`"host:port,host:port"`, in order and without repeats; raises InvalidArgument naming the bad one."""
    parts = text.split(",") if isinstance(text, str) else list(text)
    found = dict.fromkeys(part.strip() for part in parts if part.strip())
    if not found:
        raise InvalidArgument(
            "no endpoint to connect to",
            hint='give "host:port,host:port" or set HOLDFAST_ENDPOINTS; `clusterctl local status` lists a local one',
        )
    for address in found:
        match = _ADDRESS.fullmatch(address)
        if match is None or not 0 < int(match[2]) < 65536:
            raise InvalidArgument(
                f"{address!r} is not an endpoint", hint="write host:port, for example 127.0.0.1:7101"
            )
    return tuple(found)


class Rota:
    """Stays with one endpoint until it fails: small writes of one client then share a coordinator's batches.

    A failure only moves the others' turn if the endpoint that failed is still the one in use, so that many calls
    failing together move on by one, not by many.
    """

    def __init__(self, endpoints: Sequence[str], *, start: int = 0) -> None:
        assert endpoints
        self.endpoints = tuple(endpoints)
        self._index = start % len(self.endpoints)

    @property
    def current(self) -> str:
        return self.endpoints[self._index]

    def failed(self, endpoint: str) -> None:
        if endpoint == self.current:
            self._index = (self._index + 1) % len(self.endpoints)
