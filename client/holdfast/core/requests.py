"""Checks what a caller asks for and builds the messages of it. Every refusal here costs no round trip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from holdfast.errors import InvalidArgument, TooLarge
from holdfast.values import Key
from holdfastpb.v1 import blob_pb2

KEY_BYTES_MAX: Final = 1024
METADATA_BYTES_MAX: Final = 8 * 1024
CHUNK_BYTES_MAX: Final = 4 * 1024 * 1024
PAGE_MAX: Final = 1000
DEFAULT_UNDO: Final = -1
HASH_PREFIX: Final = "xxh3:"
HASH_BYTES: Final = 16
NUMBER_MAX: Final = 2**63 - 1
"""Of versions, bytes and seconds."""


def key_bytes(key: Key) -> bytes:
    """The bytes of a key; a str is UTF-8, with surrogates for what is not (see `BlobInfo.name`)."""
    if isinstance(key, str):
        try:
            raw = key.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"a key of characters that UTF-8 has not: {error.reason}") from error
    elif isinstance(key, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]
        raw = key
    else:
        raise InvalidArgument(f"a key is str or bytes, not {type(key).__name__}")
    if not 1 <= len(raw) <= KEY_BYTES_MAX:
        raise InvalidArgument(f"a key is 1 to {KEY_BYTES_MAX} bytes long, not {len(raw)}")
    return raw


def utf8(text: str, what: str) -> str:
    """Only keys may be other bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} {text!r} is not UTF-8") from None
    return text


def prefix_bytes(prefix: Key, what: str = "prefix") -> bytes:
    """Like a key, but may be empty."""
    raw = key_bytes(prefix) if prefix else b""
    assert len(raw) <= KEY_BYTES_MAX, what
    return raw


def bucket_name(name: str) -> str:
    if not name:
        raise InvalidArgument("a bucket has a name")
    if "/" in name or not name.isprintable():
        raise InvalidArgument(f"{name!r} cannot name a bucket", hint="no slash and no control characters")
    return name


def undo_seconds(undo: float) -> int:
    """A window in whole seconds, no shorter than what was asked for."""
    if not 0 <= undo < math.inf:
        raise InvalidArgument(f"undo is {undo}", hint="seconds; 0 for none")
    if undo > NUMBER_MAX:
        raise InvalidArgument(f"undo is {undo}: more than {NUMBER_MAX} seconds")
    return math.ceil(undo)


def quota_bytes(quota: int) -> int:
    if not 0 <= quota <= NUMBER_MAX:
        raise InvalidArgument(f"quota is {quota}", hint=f"bytes, at most {NUMBER_MAX}; 0 for none")
    return quota


def parse_hash(text: str) -> bytes:
    """`xxh3:` and 32 hex digits -> 16 bytes; empty -> empty."""
    if not text:
        return b""
    try:
        raw = bytes.fromhex(text.removeprefix(HASH_PREFIX))
    except ValueError:
        raw = b""
    if len(raw) != HASH_BYTES or not text.startswith(HASH_PREFIX):
        raise InvalidArgument(
            f"{text!r} is not a checksum", hint="write xxh3: and the 32 hex digits of xxh3-128"
        )
    return raw


def show_hash(raw: bytes) -> str:
    return f"{HASH_PREFIX}{raw.hex()}" if raw else ""


def byte_range(wanted: tuple[int, int | None] | None) -> tuple[int, int]:
    """`(start, end)`, end excluded, None or -1: to the end of the blob -> (first, last) of the wire."""
    if wanted is None:
        return 0, -1
    start, end = wanted
    if start < 0 or (end is not None and end != -1 and end < start):
        raise InvalidArgument(
            f"bytes {start} to {end} are not a range",
            hint="(start, end) with 0 <= start <= end; end is excluded",
        )
    if max(start, end or 0) > NUMBER_MAX:
        raise InvalidArgument(f"no blob has {max(start, end or 0)} bytes; {NUMBER_MAX} would be the most")
    return start, -1 if end is None else end


def version_number(version: int | None) -> int:
    """0 on the wire is the current version."""
    if version is None:
        return 0
    if not 1 <= version <= NUMBER_MAX:
        raise InvalidArgument(f"{version} is not a version; they count from 1 to {NUMBER_MAX}")
    return version


def condition(*, if_absent: bool = False, if_version: int | None = None) -> blob_pb2.Condition | None:
    if if_absent and if_version is not None:
        raise InvalidArgument("if_absent and if_version exclude each other")
    if if_absent:
        return blob_pb2.Condition(if_absent=True)
    if if_version is not None:
        return blob_pb2.Condition(if_version=version_number(if_version))
    return None


def check_metadata(metadata: Mapping[str, str]) -> Mapping[str, str]:
    texts = [utf8(text, "the metadata") for item in metadata.items() for text in item]
    size = sum(len(text.encode()) for text in texts)
    if size > METADATA_BYTES_MAX:
        raise TooLarge(f"{size} bytes of metadata are more than {METADATA_BYTES_MAX}")
    return metadata


@dataclass(frozen=True, slots=True)
class PutWanted:
    """What a put says about its blob, checked. `hash` and `size` as on the wire: empty and -1 for unknown."""

    bucket: str
    key: bytes
    size: int
    hash: bytes = b""
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    condition: blob_pb2.Condition | None = None

    def message(self, call: blob_pb2.Call) -> blob_pb2.PutRequest:
        """The first message of the stream."""
        header = blob_pb2.PutHeader(
            bucket=self.bucket,
            key=self.key,
            call=call,
            condition=self.condition,
            size=self.size,
            hash=self.hash,
            content_type=self.content_type,
            metadata=self.metadata,
        )
        return blob_pb2.PutRequest(header=header)


@dataclass(frozen=True, slots=True)
class ListWanted:
    """One listing; `page` builds the request of its next page."""

    bucket: str
    prefix: bytes = b""
    delimiter: bytes = b""
    page_size: int = PAGE_MAX

    def page(self, token: bytes) -> blob_pb2.ListRequest:
        return blob_pb2.ListRequest(
            bucket=self.bucket,
            prefix=self.prefix,
            delimiter=self.delimiter,
            page_size=self.page_size,
            page_token=token,
        )
