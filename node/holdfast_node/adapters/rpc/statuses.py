"""One table between our error codes and gRPC's statuses, both ways, and the detail that travels beside the status."""

from __future__ import annotations

from typing import Final

from grpc import StatusCode

from holdfast_node.core.errors import ErrorCode, HoldfastError
from holdfastpb.v1 import types_pb2

DETAIL_KEY: Final = "holdfast-error-bin"
DETAIL_BYTES_MAX: Final = 4096
"""Half of the 8 KiB of trailing metadata that any client takes."""
_TEXT_CHARS_MAX: Final = 512

STATUS_OF: Final[dict[ErrorCode, StatusCode]] = {
    ErrorCode.UNSPECIFIED: StatusCode.UNKNOWN,
    ErrorCode.INVALID_ARGUMENT: StatusCode.INVALID_ARGUMENT,
    ErrorCode.BUCKET_NOT_FOUND: StatusCode.NOT_FOUND,
    ErrorCode.BLOB_NOT_FOUND: StatusCode.NOT_FOUND,
    ErrorCode.VERSION_NOT_FOUND: StatusCode.NOT_FOUND,
    ErrorCode.ALREADY_EXISTS: StatusCode.ALREADY_EXISTS,
    ErrorCode.PRECONDITION_FAILED: StatusCode.FAILED_PRECONDITION,
    ErrorCode.BUCKET_NOT_EMPTY: StatusCode.FAILED_PRECONDITION,
    ErrorCode.TOO_LARGE: StatusCode.OUT_OF_RANGE,
    ErrorCode.CHECKSUM_MISMATCH: StatusCode.INVALID_ARGUMENT,
    ErrorCode.REFUSED: StatusCode.FAILED_PRECONDITION,
    ErrorCode.UNAUTHORIZED: StatusCode.PERMISSION_DENIED,
    ErrorCode.UNIMPLEMENTED: StatusCode.UNIMPLEMENTED,
    ErrorCode.BUCKET_CLOSING: StatusCode.FAILED_PRECONDITION,
    ErrorCode.QUOTA_EXCEEDED: StatusCode.FAILED_PRECONDITION,
    ErrorCode.UNAVAILABLE: StatusCode.UNAVAILABLE,
    ErrorCode.OVERLOADED: StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.OUTCOME_UNKNOWN: StatusCode.UNKNOWN,
    ErrorCode.UPLOAD_EXPIRED: StatusCode.ABORTED,
    ErrorCode.UPLOAD_INTERRUPTED: StatusCode.ABORTED,
    ErrorCode.STORE_FULL: StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.NOT_INITIALISED: StatusCode.FAILED_PRECONDITION,
    ErrorCode.STALE_ERA: StatusCode.ABORTED,
    ErrorCode.STALE_GENERATION: StatusCode.ABORTED,
    ErrorCode.NOT_VOTING: StatusCode.UNAVAILABLE,
    ErrorCode.STORE_FAILED: StatusCode.UNAVAILABLE,
    ErrorCode.DEADLINE_EXCEEDED: StatusCode.DEADLINE_EXCEEDED,
    ErrorCode.PEER_UNREACHABLE: StatusCode.UNAVAILABLE,
    ErrorCode.MAP_CONFLICT: StatusCode.ABORTED,
    ErrorCode.SHARD_MISSING: StatusCode.UNAVAILABLE,
    ErrorCode.CORRUPT: StatusCode.DATA_LOSS,
    ErrorCode.INTERNAL: StatusCode.INTERNAL,
}

CODE_OF: Final[dict[StatusCode, ErrorCode]] = {
    StatusCode.CANCELLED: ErrorCode.UNAVAILABLE,
    StatusCode.UNKNOWN: ErrorCode.INTERNAL,
    StatusCode.INVALID_ARGUMENT: ErrorCode.INVALID_ARGUMENT,
    StatusCode.DEADLINE_EXCEEDED: ErrorCode.DEADLINE_EXCEEDED,
    StatusCode.NOT_FOUND: ErrorCode.BLOB_NOT_FOUND,
    StatusCode.ALREADY_EXISTS: ErrorCode.ALREADY_EXISTS,
    StatusCode.PERMISSION_DENIED: ErrorCode.UNAUTHORIZED,
    StatusCode.UNAUTHENTICATED: ErrorCode.UNAUTHORIZED,
    StatusCode.RESOURCE_EXHAUSTED: ErrorCode.OVERLOADED,
    StatusCode.FAILED_PRECONDITION: ErrorCode.PRECONDITION_FAILED,
    StatusCode.ABORTED: ErrorCode.UNAVAILABLE,
    StatusCode.OUT_OF_RANGE: ErrorCode.TOO_LARGE,
    StatusCode.UNIMPLEMENTED: ErrorCode.UNIMPLEMENTED,
    StatusCode.INTERNAL: ErrorCode.INTERNAL,
    StatusCode.UNAVAILABLE: ErrorCode.PEER_UNREACHABLE,
    StatusCode.DATA_LOSS: ErrorCode.CORRUPT,
}
"""What a bare status means when no detail came with it: said by gRPC itself, or by something in between."""


def status_of(error: HoldfastError) -> StatusCode:
    return STATUS_OF.get(error.code, StatusCode.INTERNAL)


def encode_detail(error: HoldfastError) -> bytes:
    """At most `DETAIL_BYTES_MAX`: the message first, evidence as far as there is room."""
    detail = types_pb2.ErrorDetail(
        code=types_pb2.ErrorCode.ValueType(int(error.code)),
        message=_clip(error.message),
        hint=_clip(error.hint),
        retry_after_ms=max(0, min(error.retry_after_ms, 2**31)),
    )
    for evidence in error.evidence:
        detail.evidence.add(who=_clip(evidence.who), said=_clip(evidence.said))
        if detail.ByteSize() > DETAIL_BYTES_MAX:
            del detail.evidence[-1]
            break
    return detail.SerializeToString()


def one_line(error: HoldfastError) -> str:
    """The status message: for people, bounded, without control bytes."""
    text = _clip(str(error))
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _clip(text: str) -> str:
    return text[:_TEXT_CHARS_MAX].encode("utf-8", "replace").decode("utf-8")
