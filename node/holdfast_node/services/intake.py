"""The caller's bytes, cut to the lengths asked for, counted and hashed on the way. Knows nothing of what follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from holdfast_node.core.checksums import BlobHasher
from holdfast_node.core.errors import ChecksumMismatch, InvalidArgument, TooLarge, UploadInterrupted
from holdfast_node.core.ids import Digest

CALLER_IDLE_S: Final = 60.0
"""A caller that sends nothing for this long loses its place in memory."""


class Intake:
    """`declared_size` -1 and `declared_hash` b"" are not checked. `limit` bounds what is taken in."""

    def __init__(
        self, chunks: AsyncIterator[bytes], *, declared_size: int, declared_hash: bytes, limit: int
    ) -> None:
        self._chunks: Final = chunks
        self._declared_size: Final = declared_size
        self._declared_hash: Final = declared_hash
        self._limit: Final = limit
        self._hasher: Final = BlobHasher()
        self._rest = memoryview(b"")
        self._ended = False
        self.size = 0
        """Bytes that came in so far, those not yet read included."""
        self.largest_chunk = 0

    async def read(self, count: int) -> bytes:
        """Exactly `count` bytes, or what is left before the end. Raises `InvalidArgument` for a wrong length."""
        views: list[memoryview] = []
        missing = count
        while missing and not await self.at_end():
            view, self._rest = self._rest[:missing], self._rest[missing:]
            views.append(view)
            missing -= len(view)
        if len(views) == 1 and isinstance(whole := views[0].obj, bytes) and len(whole) == len(views[0]):
            return whole
        return b"".join(views)

    async def at_end(self) -> bool:
        """Whether nothing is left. Waits for the caller to say."""
        while not self._rest and not self._ended:
            await self._pull()
        return not self._rest

    def finish(self) -> Digest:
        """The digest of everything. Raises `ChecksumMismatch` if the caller declared another one."""
        assert self._ended, "there is more to read"
        digest = self._hasher.digest()
        if self._declared_hash and self._declared_hash != digest:
            raise ChecksumMismatch(
                f"the bytes that came hash to {digest.hex()}, declared was {self._declared_hash.hex()}",
                hint="nothing was stored; send it again",
            )
        return digest

    async def _pull(self) -> None:
        try:
            async with asyncio.timeout(CALLER_IDLE_S):
                chunk = await anext(self._chunks, None)
        except TimeoutError as error:
            raise UploadInterrupted(f"the caller sent nothing for {CALLER_IDLE_S:.0f} s") from error
        if chunk is None:
            self._ended = True
            if self._declared_size >= 0 and self.size != self._declared_size:
                raise InvalidArgument(
                    f"the body ended after {self.size} bytes of the {self._declared_size} announced"
                )
            return
        self.size += len(chunk)
        self.largest_chunk = max(self.largest_chunk, len(chunk))
        if 0 <= self._declared_size < self.size:
            raise InvalidArgument(f"the body is longer than the {self._declared_size} bytes announced")
        if self.size > self._limit:
            raise TooLarge(
                f"more than {self._limit} bytes",
                hint="declare the size: larger blobs are cut into larger parts",
            )
        self._hasher.update(chunk)
        self._rest = memoryview(chunk)
