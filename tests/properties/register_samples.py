"""Requests, heads, ballots and stores of small registers, as models and tests use them."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from holdfast_node.core.head import Applied, Ballot, Head, HeadKind, Manifest
from holdfast_node.core.ids import BlobId, BucketId, Digest, Era, RequestId, StoreId, Version
from holdfast_node.core.messages import Scope
from holdfast_node.core.operation import Operation, OperationKind

SCOPE = Scope(0, 0, 1)
BUCKET = BucketId(b"b" * 16)
KEY = b"key"
ERA = Era(1)
OLD = Era(-1)
"""Refused by everybody."""
R = TypeVar("R")


class MemoCodec:
    """An exact codec that is quick: text out, and back by memory. Equal values give equal bytes."""

    def __init__(self) -> None:
        self._values: dict[bytes, object] = {}

    def encode(self, value: object) -> bytes:
        data = repr(value).encode()
        self._values[data] = value
        return data

    def decode(self, cls: type[R], data: bytes) -> R:
        value = self._values[data]
        assert isinstance(value, cls)
        return value


CODEC = MemoCodec()


_STORES = tuple(StoreId(bytes([at]) * 16) for at in range(8))


def store(at: int) -> StoreId:
    return _STORES[at]


def request(name: str) -> RequestId:
    return RequestId(name.encode().ljust(16, b"."))


def manifest(name: str) -> Manifest:
    blob = BlobId(name.encode().ljust(16, b"."))
    return Manifest(blob, blob, 1, "copy:3", 1, 1, Digest(b"d" * 16), ())


def ballot(counter: int, proposer: int) -> Ballot:
    return Ballot(1, counter, StoreId(b"proposer%d......." % proposer), 1, counter)


def put(name: str, blob: str = "", *, if_absent: bool = False, if_version: int = -1) -> Operation:
    return Operation(
        OperationKind.PUT,
        request(name),
        ERA,
        manifest=manifest(blob or name),
        base=ballot(1, 9),
        if_absent=if_absent,
        if_version=if_version,
    )


def undelete(name: str, source: str) -> Operation:
    """Its links are durable: what is left is a put of a new blob over the shards of an old one."""
    again = replace(manifest(name), seed_id=manifest(source).seed_id)
    return replace(put(name), manifest=again, base=ballot(2, 9))


def expire(below: int) -> Operation:
    return Operation(OperationKind.EXPIRE, request("nobody"), ERA, below=below)


def collect() -> Operation:
    """What a collector has decided before it drops shards that were staged under the first base."""
    return Operation(OperationKind.FENCE, request("nobody"), ERA, base=ballot(1, 9))


def delete(name: str) -> Operation:
    return Operation(OperationKind.DELETE, request(name), ERA)


def deleted(stamp: Era = OLD, *, fence: Ballot | None = None) -> Head:
    """What is left of a key: request u0 wrote version 1, d0 deleted it, and nothing is kept."""
    recent = (Applied(request("u0"), Version(1), stamp), Applied(request("d0"), Version(2), stamp))
    return Head(Version(2), HeadKind.TOMBSTONE, recent=recent, fence=fence)
