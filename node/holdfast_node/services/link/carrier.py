"""What carries frames: an ordered, reliable stream of byte messages both ways. gRPC is one, tests have another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol


class CarrierLost(Exception):
    """The stream broke, could not be opened, or was closed under a pending read or write."""


class Carrier(Protocol):
    """One reader and one writer at a time. `peer` names the far end for events and errors."""

    @property
    def peer(self) -> str: ...

    @property
    def loopback(self) -> bool:
        """The far end is on this machine."""
        ...

    async def write(self, buffers: Sequence[bytes]) -> None:
        """Send the buffers as one message; returns when the carrier wants more. Raises `CarrierLost`."""
        ...

    async def read(self) -> bytes | memoryview:
        """The next message, empty at the clean end. Raises `CarrierLost`."""
        ...

    def close(self) -> None:
        """End both directions now; pending reads and writes raise. May be called twice."""
        ...


Dial = Callable[[str, bool], Awaitable[Carrier]]
"""Opens a stream to an address; the flag says whether it is to carry bulk. Raises `CarrierLost`."""
