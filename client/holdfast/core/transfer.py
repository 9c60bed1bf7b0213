"""The bookkeeping of streams: cutting uploads into messages, following and verifying downloads. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

import xxhash

from holdfast.core.requests import parse_hash, show_hash
from holdfast.core.wire import blob_info, short_read
from holdfast.errors import ChecksumMismatch, Corrupt, Error, Evidence, InternalError
from holdfast.values import BlobInfo, Receipt
from holdfastpb.v1 import blob_pb2

Buffer: TypeAlias = bytes | bytearray | memoryview
LARGE_BYTES: Final = 16 * 1024 * 1024
"""From this size on, messages are as large as a node takes them: fewer of them cost less."""


class Digest:
    """xxh3-128 of what was fed to it, and how much that was."""

    def __init__(self) -> None:
        self._hasher = xxhash.xxh3_128()
        self.size = 0

    def update(self, data: Buffer) -> None:
        self._hasher.update(data)
        self.size += len(data)

    def digest(self) -> bytes:
        return self._hasher.digest()


def digest_of(data: Buffer) -> bytes:
    return xxhash.xxh3_128_digest(data)


class Cutter:
    """Cuts and joins buffers of any size into messages of `size` bytes; the last may be shorter."""

    def __init__(self, size: int) -> None:
        assert size > 0
        self._size = size
        self._held = bytearray()

    def feed(self, data: Buffer) -> Iterator[bytes]:
        view = memoryview(data).cast("B")
        if self._held:
            taken = view[: self._size - len(self._held)]
            self._held += taken
            view = view[len(taken) :]
            if len(self._held) < self._size:
                return
            yield bytes(self._held)
            self._held.clear()
        whole = len(view) - len(view) % self._size
        for start in range(0, whole, self._size):
            yield bytes(view[start : start + self._size])
        self._held += view[whole:]

    def rest(self) -> Iterator[bytes]:
        if self._held:
            yield bytes(self._held)
            self._held.clear()


def check_receipt(sent: Digest, answered: Receipt, endpoint: str) -> Receipt:
    """The node must have stored what was sent; raises Corrupt naming both sides if it did not."""
    ours = show_hash(sent.digest())
    if answered.hash == ours and answered.size == sent.size:
        return answered
    raise Corrupt(
        f"version {answered.version} was stored, but not as it was sent",
        hint="write it again, or undelete the version before it; memory or a network device between may be faulty",
        evidence=[
            Evidence("client", f"sent {sent.size} bytes, {ours}"),
            Evidence(endpoint, f"stored {answered.size} bytes, {answered.hash}"),
        ],
    )


class Download:
    """One read of [first, last) of one version: where it stands, what to ask next, whether what came is right.

    Once a header has come the version is fixed, so that a read resumed elsewhere cannot mix two versions.
    """

    def __init__(self, bucket: str, key: bytes, *, version: int, first: int, last: int) -> None:
        self.bucket = bucket
        self.key = key
        self._version = version
        self._first = first
        self._last = last
        self.offset = first
        self.info: BlobInfo | None = None
        self._digest = Digest()

    @property
    def last(self) -> int:
        """One past the last byte that will come; -1 until the header has said."""
        return self._last

    @property
    def whole(self) -> bool:
        """Whether all bytes of the blob are asked for, so that its hash can be verified."""
        return self.info is not None and self._first == 0 and self._last == self.info.size

    def request(self) -> blob_pb2.GetRequest:
        return blob_pb2.GetRequest(
            bucket=self.bucket, key=self.key, version=self._version, first=self.offset, last=self._last
        )

    def opened(self, header: blob_pb2.GetHeader, endpoint: str) -> BlobInfo:
        info = blob_info(header.info)
        if self.info is not None and (info.version, info.hash, info.size) != (
            self.info.version,
            self.info.hash,
            self.info.size,
        ):
            raise InternalError(
                f"version {self._version} changed while it was read",
                evidence=[Evidence(endpoint, "sent another")],
            )
        if self.info is None:
            self._first = self.offset = header.first
            self._last = header.last
            self._version = info.version
            self.info = info
        elif (header.first, header.last) != (self.offset, self._last):
            raise InternalError(
                f"bytes {self.offset} to {self._last} were asked for",
                evidence=[Evidence(endpoint, f"sends {header.first} to {header.last}")],
            )
        return self.info

    def received(self, chunk: bytes, endpoint: str) -> None:
        self.offset += len(chunk)
        if self.offset > self._last:
            raise InternalError(
                f"more than {self._last - self._first} bytes came",
                evidence=[Evidence(endpoint, "sent too much")],
            )
        self._digest.update(chunk)

    @property
    def done(self) -> bool:
        return self.info is not None and self.offset == self._last

    def ended_short(self, endpoint: str) -> Error:
        return short_read(endpoint, self.offset - self._first, self._last - self._first)

    def verify(self, endpoint: str) -> None:
        """After the last byte; raises Corrupt if a whole blob does not hash to what it should."""
        assert self.info is not None
        assert self.done
        if self.whole and self.info.hash and self._digest.digest() != parse_hash(self.info.hash):
            raise Corrupt(
                f"the bytes of version {self.info.version} do not hash to {self.info.hash}",
                hint="read it again; if it stays, memory or a network device between may be faulty",
                evidence=[Evidence(endpoint, f"sent {show_hash(self._digest.digest())}")],
            )

    def restart(self) -> None:
        """From the first byte again, the same version: for a whole read whose hash did not match."""
        self.offset = self._first
        self._digest = Digest()


def checksum_of_caller(declared: str, data: Buffer | None) -> bytes:
    """What to declare to the node: the caller's checksum, else our own where the bytes are at hand."""
    if not declared:
        return b"" if data is None else digest_of(data)
    raw = parse_hash(declared)
    if data is not None and digest_of(data) != raw:
        raise ChecksumMismatch(
            f"the bytes do not hash to {declared}", evidence=[Evidence("client", "hashed them")]
        )
    return raw
