"""What answers mean: messages to values, failures to errors. It knows the wire's names and no transport."""

from __future__ import annotations

from typing import Final

from google.protobuf.message import DecodeError

from holdfast.core.requests import show_hash
from holdfast.errors import (
    DeadlineExceeded,
    Error,
    Evidence,
    InternalError,
    Overloaded,
    PeerUnreachable,
    TooLarge,
    Unauthorized,
    Unimplemented,
    error_from_code,
)
from holdfast.values import BlobInfo, BucketInfo, BucketUsage, Margin, Page, Prefix, Receipt, VersionInfo
from holdfastpb.v1 import blob_pb2, types_pb2

ERROR_TRAILER: Final = "holdfast-error-bin"
CLUSTER_CODES: Final = 32
"""From here on it matters which node said it; below, the request itself is at fault."""

_BY_STATUS: Final[dict[str, type[Error]]] = {
    "UNAVAILABLE": PeerUnreachable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "RESOURCE_EXHAUSTED": Overloaded,
    "UNIMPLEMENTED": Unimplemented,
    "UNAUTHENTICATED": Unauthorized,
    "PERMISSION_DENIED": Unauthorized,
    "OUT_OF_RANGE": TooLarge,
}
"""For a failure no node described: the connection's own, or another program's at that address. Anything else is how
gRPC reports a broken stream (CANCELLED, UNKNOWN, INTERNAL), and counts as a peer that went away."""


def described(detail: bytes, endpoint: str) -> Error | None:
    """The error a node described in its trailer; None if there is none to read."""
    try:
        message = types_pb2.ErrorDetail.FromString(detail)
    except DecodeError:
        return None
    if not message.code:
        return None
    evidence = [Evidence(item.who, item.said) for item in message.evidence]
    if not evidence and message.code >= CLUSTER_CODES:
        evidence = [Evidence(endpoint, message.message)]
    return error_from_code(
        message.code,
        message.message,
        hint=message.hint,
        evidence=evidence,
        retry_after_s=message.retry_after_ms / 1000,
    )


def undescribed(status: str, details: str, endpoint: str) -> Error:
    """The error of a call that failed without a description."""
    cls = _BY_STATUS.get(status, PeerUnreachable)
    said = f"{status.lower().replace('_', ' ')}: {details}" if details else status.lower()
    return cls("the call failed on its way", evidence=[Evidence(endpoint, said)])


def short_read(endpoint: str, got: int, wanted: int) -> Error:
    """A stream that ended well but short is a node breaking its rule."""
    return InternalError(
        f"the stream ended after {got} of {wanted} bytes", evidence=[Evidence(endpoint, "ended it")]
    )


def margin(message: blob_pb2.Margin) -> Margin:
    return Margin({entry.tag: entry.survives for entry in message.entries}, full=message.full)


def receipt(message: blob_pb2.PutReply) -> Receipt:
    return Receipt(message.version, show_hash(message.hash), message.size, margin(message.margin))


def blob_info(message: blob_pb2.BlobInfo) -> BlobInfo:
    return BlobInfo(
        key=message.key,
        version=message.version,
        size=message.size,
        hash=show_hash(message.hash),
        content_type=message.content_type,
        metadata=dict(message.metadata),
        created_ms=message.created_ms,
        code=message.code,
    )


def page(message: blob_pb2.ListReply) -> Page:
    """Blobs and common prefixes, merged in the order of their keys."""
    entries: Page = [blob_info(blob) for blob in message.blobs]
    entries += [Prefix(key) for key in message.prefixes]
    return sorted(entries, key=lambda entry: entry.key)


def version_info(message: blob_pb2.VersionEntry) -> VersionInfo:
    return VersionInfo(message.version, message.deleted, message.size, message.created_ms, message.current)


def bucket_info(message: blob_pb2.Bucket) -> BucketInfo:
    return BucketInfo(
        name=message.name,
        id=message.id,
        pool=message.pool,
        undo_s=message.undo_seconds,
        created_ms=message.created_ms,
        closing=message.closing,
        quota=message.quota_bytes,
        usage=_usage(message.usage) if message.HasField("usage") else None,
    )


def _usage(message: blob_pb2.BucketUsage) -> BucketUsage:
    return BucketUsage(message.blobs, message.bytes, message.whole)
