"""The JSON documents of `holdfast`, listed in docs/sdk.md. Field names are never changed, only added.

Keys are text; bytes that are not UTF-8 appear as the lone surrogates \\udc80 to \\udcff, which the SDK turns back.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from holdfast.cli.shell import Json
from holdfast.values import BlobInfo, BucketInfo, Prefix, Receipt, VersionInfo

Document = dict[str, Json]


def bucket(info: BucketInfo) -> Document:
    usage = info.usage
    return {
        "name": info.name,
        "id": info.id.hex(),
        "pool": info.pool,
        "undo_s": info.undo_s,
        "created_ms": info.created_ms,
        "closing": info.closing,
        "quota": info.quota,
        "usage": {"blobs": usage.blobs, "bytes": usage.bytes, "whole": usage.whole} if usage else None,
    }


def receipt(bucket_name: str, key: str, given: Receipt) -> Document:
    return {
        "bucket": bucket_name,
        "key": key,
        "version": given.version,
        "hash": given.hash,
        "size": given.size,
        "margin": dict(given.margin),
        "full": given.margin.full,
    }


def blob(bucket_name: str, info: BlobInfo) -> Document:
    return {
        "bucket": bucket_name,
        "key": info.name,
        "version": info.version,
        "size": info.size,
        "hash": info.hash,
        "content_type": info.content_type,
        "metadata": dict(info.metadata),
        "created_ms": info.created_ms,
        "code": info.code,
    }


def entry(bucket_name: str, listed: BlobInfo | Prefix) -> Document:
    if isinstance(listed, Prefix):
        return {"bucket": bucket_name, "prefix": listed.name}
    return blob(bucket_name, listed)


def version(info: VersionInfo) -> Document:
    return {
        "version": info.version,
        "deleted": info.deleted,
        "size": info.size,
        "created_ms": info.created_ms,
        "current": info.current,
    }


def stream(name: str, items: Iterable[Document]) -> None:
    """One document with one list, written as it comes: a listing may be longer than memory."""
    sys.stdout.write(f'{{"{name}": [')
    separator = "\n"
    for item in items:
        sys.stdout.write(separator + json.dumps(item))
        separator = ",\n"
    sys.stdout.write("\n]}\n")


def plain(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value)
