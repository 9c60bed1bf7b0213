"""The Holdfast SDK: put, get, list and delete blobs. It knows the wire and nothing of the node.

```python
with holdfast.connect("127.0.0.1:7101,127.0.0.1:7102") as client:
    photos = client.create_bucket("photos", exist_ok=True)
    receipt = photos.put("cat.jpg", b"...")
    assert photos.get("cat.jpg").read() == b"..."
```

`holdfast.aio.connect` is the asynchronous twin. Everything that talks to the network is imported on first use.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from holdfast.errors import (
    AlreadyExists,
    BlobNotFound,
    BucketClosing,
    BucketNotEmpty,
    BucketNotFound,
    CallerError,
    ChecksumMismatch,
    ClusterError,
    Corrupt,
    DeadlineExceeded,
    Error,
    Evidence,
    IntegrityError,
    InternalError,
    InvalidArgument,
    NotInitialised,
    OutcomeUnknown,
    Overloaded,
    PreconditionFailed,
    QuotaExceeded,
    Refused,
    StoreFull,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unimplemented,
    Unreachable,
    UploadExpired,
    UploadInterrupted,
    VersionNotFound,
)
from holdfast.values import (
    BlobInfo,
    BucketInfo,
    BucketUsage,
    Fetched,
    Key,
    Limits,
    Margin,
    Outcome,
    Prefix,
    Receipt,
    Retries,
    Timeout,
    VersionInfo,
)

if TYPE_CHECKING:
    from holdfast import aio
    from holdfast.sync.client import Blob, Bucket, Client, Data

__all__ = [
    "AlreadyExists",
    "Blob",
    "BlobInfo",
    "BlobNotFound",
    "Bucket",
    "BucketClosing",
    "BucketInfo",
    "BucketNotEmpty",
    "BucketNotFound",
    "BucketUsage",
    "CallerError",
    "ChecksumMismatch",
    "Client",
    "ClusterError",
    "Corrupt",
    "Data",
    "DeadlineExceeded",
    "Error",
    "Evidence",
    "Fetched",
    "IntegrityError",
    "InternalError",
    "InvalidArgument",
    "Key",
    "Limits",
    "Margin",
    "NotInitialised",
    "Outcome",
    "OutcomeUnknown",
    "Overloaded",
    "PreconditionFailed",
    "Prefix",
    "QuotaExceeded",
    "Receipt",
    "Refused",
    "Retries",
    "StoreFull",
    "Timeout",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "Unimplemented",
    "Unreachable",
    "UploadExpired",
    "UploadInterrupted",
    "VersionInfo",
    "VersionNotFound",
    "aio",
    "connect",
]

# Before gRPC is loaded: its own fork handlers can crash a forked child and hang its parent while calls are in flight.
# `holdfast.sync.portal` does what a fork needs; an application that sets the variable itself keeps its choice.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

_LATER = {"Blob", "Bucket", "Client", "Data"}


def connect(
    endpoints: str | Iterable[str] | None = None,
    *,
    timeout: Timeout | float | None = None,
    limits: Limits | None = None,
    retries: Retries | None = None,
) -> Client:
    """A client of the cluster behind `"host:port,host:port"`; None: the environment's HOLDFAST_ENDPOINTS.

    Any node serves any request: name a few, so that one that is down does not matter. Nothing is sent before the
    first call. `timeout` as a number is `Timeout(total=number)`: seconds in which nothing moves before a call,
    retries included, is given up.
    """
    from holdfast.sync.client import connect as connect_sync

    return connect_sync(endpoints, timeout=timeout, limits=limits, retries=retries)


def __getattr__(name: str) -> object:
    """`holdfast.aio` and the client's classes, loaded when they are first named."""
    import importlib

    if name == "aio":
        return importlib.import_module("holdfast.aio")
    if name in _LATER:
        found: object = getattr(importlib.import_module("holdfast.sync.client"), name)
        return found
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
