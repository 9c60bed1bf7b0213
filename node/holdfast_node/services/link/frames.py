"""The bytes of a frame: 48 of header, then context, body, payload. Sans-IO; knows lengths and checksums, not meanings.

    magic 4 | version 1 | flags 1 | type 2 | request id 8 | deadline ms 4 | epoch 8 | context length 2 | reserved 2
    | body length 4 | payload length 4 | checksum 8            all big endian; reserved is zero

The checksum is xxh3-64 of everything else. It finds rot and mistakes of framing, not attackers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final

import xxhash

from holdfast_node.core.messages import REPLY_TO, Reply, Request

MAGIC: Final = b"HFw1"
VERSION: Final = 1
MUST_UNDERSTAND: Final = 0x01
"""Whoever does not know the type answers UNIMPLEMENTED; without this flag it skips the frame."""

_HEAD: Final = Struct(">4sBBHQIQHHII")
_SUM: Final = Struct(">Q")
HEADER_BYTES: Final = _HEAD.size + _SUM.size
DEADLINE_MS_MAX: Final = 2**32 - 1


class FrameType(IntEnum):
    """Numbers are wire format (`peer.proto`, enum FrameType): never renumber."""

    HELLO = 1
    GOODBYE = 2
    ERROR = 3
    PING = 4
    PONG = 5

    READ_REGISTER = 16
    PREPARE = 17
    ACCEPT = 18
    READ_MANIFEST = 19
    COMMIT = 20
    LIST_REGISTERS = 21
    COPY_REGISTERS = 22
    READ_FLOORS = 23
    STAGE_WHOLE = 24
    STAGE_CELL = 25
    SEAL = 26
    READ_CELLS = 27
    DROP_SHARDS = 28
    LINK_SHARDS = 29
    FIND_SHARDS = 30
    READ_MAP = 31
    MAP_PREPARE = 32
    MAP_ACCEPT = 33
    MAP_DECIDED = 34
    INTRODUCE = 35
    CLOSE_BUCKET = 36
    READ_STATUS = 37
    NOTE_DEGRADED = 38
    READ_QUARANTINE = 39
    NAME_SEEDS = 40
    READ_SCRUB = 41
    READ_SUPERSEDED = 42
    READ_CHANGES = 43
    COPY_KEYS = 44
    READ_USAGE = 45
    FORGET_REGISTERS = 46

    REGISTER_VIEW = 144
    PREPARE_REPLY = 145
    ACCEPT_REPLY = 146
    MANIFEST_REPLY = 147
    COMMIT_REPLY = 148
    REGISTER_PAGE = 149
    REGISTER_COPIES = 150
    FLOORS_REPLY = 151
    STAGE_WHOLE_REPLY = 152
    STAGE_CELL_REPLY = 153
    SEAL_REPLY = 154
    READ_CELLS_REPLY = 155
    DROP_SHARDS_REPLY = 156
    HOLDINGS = 157
    MAP_REPLY = 158
    MAP_PREPARE_REPLY = 159
    MAP_ACCEPT_REPLY = 160
    MAP_DECIDED_REPLY = 161
    INTRODUCE_REPLY = 162
    CLOSE_BUCKET_REPLY = 163
    NODE_STATUS = 164
    NOTE_DEGRADED_REPLY = 165
    QUARANTINE_REPLY = 166
    SEED_NAMES = 167
    SCRUB_REPORT = 168
    SUPERSEDED_REPLY = 169
    CHANGES = 170
    USAGE = 171
    FORGET_REPLY = 172


def _type_of(cls: type) -> FrameType:
    return FrameType[re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).upper()]


REQUEST_TYPES: Final[dict[type[Request], FrameType]] = {cls: _type_of(cls) for cls in REPLY_TO}
REPLY_TYPES: Final[dict[type[Reply], FrameType]] = {cls: _type_of(cls) for cls in REPLY_TO.values()}
REQUESTS: Final[dict[int, type[Request]]] = {int(number): cls for cls, number in REQUEST_TYPES.items()}
REPLIES: Final[dict[int, type[Reply]]] = {int(number): cls for cls, number in REPLY_TYPES.items()}


class FrameError(Exception):
    """These bytes are no frame: nothing after them can be trusted, so the stream ends."""


@dataclass(frozen=True, slots=True)
class Frame:
    """`deadline_ms`: time left when it was sent (0: none). `type` may be one this build does not know."""

    type: int
    request_id: int = 0
    deadline_ms: int = 0
    epoch: int = 0
    context: bytes = b""
    body: bytes = b""
    payload: bytes = b""
    must_understand: bool = False

    @property
    def size(self) -> int:
        return HEADER_BYTES + len(self.context) + len(self.body) + len(self.payload)


def encode(frame: Frame) -> list[bytes]:
    """The frame as buffers, so that a payload is copied only once, by the carrier."""
    context, body, payload = frame.context, frame.body, frame.payload
    head = _HEAD.pack(
        MAGIC,
        VERSION,
        MUST_UNDERSTAND if frame.must_understand else 0,
        frame.type,
        frame.request_id,
        frame.deadline_ms,
        frame.epoch,
        len(context),
        0,
        len(body),
        len(payload),
    )
    small = context + body
    if not payload:
        return [head + _SUM.pack(xxhash.xxh3_64_intdigest(head + small)) + small]
    digest = xxhash.xxh3_64(head + small)
    digest.update(payload)
    return [head + _SUM.pack(digest.intdigest()) + small, payload]


def decode(message: bytes | memoryview, *, frame_bytes_max: int) -> Iterator[Frame]:
    """The frames of one message of the carrier, which ends with a whole frame. Raises `FrameError`."""
    view = memoryview(message)
    at, end = 0, len(view)
    while at < end:
        frame, at = _decode_one(view, at, frame_bytes_max)
        yield frame


def _decode_one(message: memoryview, start: int, frame_bytes_max: int) -> tuple[Frame, int]:
    if len(message) - start < HEADER_BYTES:
        raise FrameError(f"{len(message) - start} bytes are less than a header")
    magic, version, flags, kind, request_id, deadline_ms, epoch, context_n, reserved, body_n, payload_n = (
        _HEAD.unpack_from(message, start)
    )
    if magic != MAGIC:
        raise FrameError("wrong magic")
    if version != VERSION or reserved:
        raise FrameError(f"frame version {version} is not {VERSION}")
    context_at = start + HEADER_BYTES
    body_at = context_at + context_n
    payload_at = body_at + body_n
    end = payload_at + payload_n
    if end - start > frame_bytes_max:
        raise FrameError(f"a frame of {end - start} bytes, allowed are {frame_bytes_max}")
    if end > len(message):
        raise FrameError(f"a frame of {end - start} bytes, only {len(message) - start} came")
    digest = xxhash.xxh3_64(message[start : start + _HEAD.size])
    digest.update(message[context_at:end])
    if digest.intdigest() != _SUM.unpack_from(message, start + _HEAD.size)[0]:
        raise FrameError("wrong checksum")
    frame = Frame(
        type=kind,
        request_id=request_id,
        deadline_ms=deadline_ms,
        epoch=epoch,
        context=bytes(message[context_at:body_at]),
        body=bytes(message[body_at:payload_at]),
        payload=bytes(message[payload_at:end]),
        must_understand=bool(flags & MUST_UNDERSTAND),
    )
    return frame, end
