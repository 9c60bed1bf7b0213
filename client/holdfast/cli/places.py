"""How blobs are named on the command line: `bucket/key`, with `hf://` before it where a local path could be meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from holdfast.cli.shell import Usage

SCHEME: Final = "hf://"


@dataclass(frozen=True, slots=True)
class Place:
    """`key` empty: the bucket itself, or all of it. The bytes of an argument that is not UTF-8 are kept as Python
    keeps them (surrogates), which the SDK turns back."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"


def is_remote(text: str) -> bool:
    return text.startswith(SCHEME)


def place(text: str, *, key: bool = True) -> Place:
    """`bucket/key`; the key may hold slashes. With `key` False it may be missing."""
    bucket, _, rest = text.removeprefix(SCHEME).partition("/")
    if not bucket:
        raise Usage(f"{text!r} names no bucket; write BUCKET/KEY or {SCHEME}BUCKET/KEY")
    if key and not rest:
        raise Usage(f"{text!r} names no blob; write BUCKET/KEY")
    return Place(bucket, rest)
