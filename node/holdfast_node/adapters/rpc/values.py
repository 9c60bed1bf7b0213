"""Messages of the public API to values of the core and back, with the limits on what may come in. No I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from holdfast_node.core import api
from holdfast_node.core.errors import InvalidArgument, TooLarge
from holdfast_node.core.ids import ID_BYTES, KEY_BYTES_MAX, METADATA_BYTES_MAX, RequestId
from holdfast_node.core.node_changes import (
    AddNode,
    CancelChange,
    CreatePool,
    DrainNodes,
    NodeChange,
    RecodePool,
    RemoveNodes,
)
from holdfast_node.core.operation import NO_VERSION
from holdfast_node.core.seed import Seed, SeedNode, SeedPool
from holdfastpb.v1 import admin_pb2, blob_pb2

CHUNK_BYTES_MAX: Final = 4 * 1024 * 1024
BUCKET_NAME_CHARS_MAX: Final = 255
"""More than any legal name: which names are legal is the bucket service's business."""
CONTENT_TYPE_CHARS_MAX: Final = 1024
PAGE_SIZE_MAX: Final = 1000
PAGE_TOKEN_BYTES_MAX: Final = 8 * 1024
SELECTORS_MAX: Final = 256


def bucket_name(name: str) -> str:
    if not name or len(name) > BUCKET_NAME_CHARS_MAX:
        raise InvalidArgument(f"a bucket's name has 1 to {BUCKET_NAME_CHARS_MAX} characters, not {len(name)}")
    return name


def key_of(key: bytes) -> bytes:
    if not 1 <= len(key) <= KEY_BYTES_MAX:
        raise InvalidArgument(f"a key has 1 to {KEY_BYTES_MAX} bytes, not {len(key)}")
    return key


def page_token_of(token: bytes) -> bytes:
    if len(token) > PAGE_TOKEN_BYTES_MAX:
        raise InvalidArgument("no page token is that long", hint="start the list again")
    return token


def call_of(call: blob_pb2.Call) -> api.Call:
    if len(call.request_id) not in (0, ID_BYTES):
        raise InvalidArgument(f"a request id has {ID_BYTES} bytes, not {len(call.request_id)}")
    if call.request_id and not call.stamp:
        raise InvalidArgument(
            "a request id comes with the era of its first attempt, or its retries could be applied twice",
            hint="send the `era` of any earlier answer (or of GetMap) as `stamp`, the same on every retry",
        )
    return api.Call(RequestId(call.request_id) if call.request_id else None, call.stamp)


def condition_of(condition: blob_pb2.Condition) -> api.Condition:
    match condition.WhichOneof("kind"):
        case "if_absent":
            return api.Condition(if_absent=condition.if_absent)
        case "if_version":
            return api.Condition(if_version=condition.if_version)
        case _:
            return api.Condition(if_version=NO_VERSION)


def put_options_of(header: blob_pb2.PutHeader) -> api.PutOptions:
    if header.size < -1:
        raise InvalidArgument(f"a blob cannot have {header.size} bytes", hint="-1 says that it is not known")
    if len(header.hash) not in (0, ID_BYTES):
        raise InvalidArgument(f"an xxh3-128 hash has {ID_BYTES} bytes, not {len(header.hash)}")
    if len(header.content_type) > CONTENT_TYPE_CHARS_MAX:
        raise TooLarge(f"a content type has at most {CONTENT_TYPE_CHARS_MAX} characters")
    metadata = tuple(sorted(header.metadata.items()))
    size = sum(len(name.encode()) + len(value.encode()) for name, value in metadata)
    if size > METADATA_BYTES_MAX:
        raise TooLarge(f"metadata takes {size} bytes, {METADATA_BYTES_MAX} at most")
    return api.PutOptions(
        size=header.size,
        hash=header.hash,
        content_type=header.content_type,
        metadata=metadata,
        condition=condition_of(header.condition),
        call=call_of(header.call),
    )


def range_of(request: blob_pb2.GetRequest) -> api.Range:
    if request.first < 0 or request.last < -1 or 0 <= request.last < request.first:
        raise InvalidArgument(
            f"bytes {request.first} to {request.last} are no range", hint="last is one past the end, or -1"
        )
    return api.Range(request.first, request.last)


def list_options_of(request: blob_pb2.ListRequest) -> api.ListOptions:
    if not 0 <= request.page_size <= PAGE_SIZE_MAX:
        raise InvalidArgument(f"a page has 1 to {PAGE_SIZE_MAX} rows, not {request.page_size}")
    if max(len(request.prefix), len(request.delimiter)) > KEY_BYTES_MAX:
        raise InvalidArgument(f"no key is longer than {KEY_BYTES_MAX} bytes, so no prefix or delimiter is")
    return api.ListOptions(
        prefix=request.prefix,
        delimiter=request.delimiter,
        page_size=request.page_size or PAGE_SIZE_MAX,
        page_token=page_token_of(request.page_token),
    )


def seed_of(request: admin_pb2.InitRequest) -> Seed:
    return Seed(
        nodes=tuple(
            SeedNode(node.name, node.address, tuple(sorted(node.tags.items())), node.weight or 1)
            for node in request.nodes
        ),
        pools=tuple(map(_pool_of, request.pools)),
        simulated_domains=request.simulated_domains,
    )


def _pool_of(pool: admin_pb2.SeedPool) -> SeedPool:
    described = SeedPool(pool.name, pool.code, pool.partitions, tuple(pool.protected_tags))
    return replace(described, ack_floor=pool.ack_floor) if pool.ack_floor else described


def node_change_of(request: admin_pb2.ChangeRequest) -> NodeChange:
    asked = request.WhichOneof("change")
    if asked == "add":
        node = request.add
        tags = tuple(sorted(node.tags.items()))
        return AddNode(SeedNode(node.name, node.address, tags, node.weight or 1))
    if asked == "create_pool":
        return CreatePool(_pool_of(request.create_pool))
    if asked == "recode":
        return RecodePool(request.recode.pool, request.recode.code)
    if asked == "drain" and request.drain:
        return DrainNodes(request.drain)
    if asked == "remove" and request.remove:
        return RemoveNodes(request.remove)
    if asked == "cancel" and request.cancel:
        return CancelChange()
    raise InvalidArgument("say what to change: a node to add, nodes to drain or remove, or cancel")


def margin_message(margin: api.Margin) -> blob_pb2.Margin:
    entries = [blob_pb2.Margin.Entry(tag=tag, survives=survives) for tag, survives in margin.entries]
    return blob_pb2.Margin(entries=entries, full=margin.full)


def put_reply(result: api.PutResult) -> blob_pb2.PutReply:
    return blob_pb2.PutReply(
        version=result.version,
        hash=result.hash,
        size=result.size,
        margin=margin_message(result.margin),
        era=result.era,
    )


def info_message(info: api.BlobInfo) -> blob_pb2.BlobInfo:
    return blob_pb2.BlobInfo(
        key=info.key,
        version=info.version,
        size=info.size,
        hash=info.hash,
        content_type=info.content_type,
        metadata=dict(info.metadata),
        created_ms=info.created_ms,
        code=info.code,
    )


def list_reply(result: api.ListResult) -> blob_pb2.ListReply:
    return blob_pb2.ListReply(
        blobs=[info_message(info) for info in result.blobs],
        prefixes=result.prefixes,
        next_page_token=result.next_page_token,
        era=result.era,
    )


def version_message(entry: api.VersionEntry) -> blob_pb2.VersionEntry:
    return blob_pb2.VersionEntry(
        version=entry.version,
        deleted=entry.deleted,
        size=entry.size,
        created_ms=entry.created_ms,
        current=entry.current,
    )


def bucket_settings_of(request: blob_pb2.SetBucketRequest) -> api.BucketSettings:
    settings = api.BucketSettings(
        undo_seconds=request.undo_seconds if request.HasField("undo_seconds") else None,
        quota_bytes=request.quota_bytes if request.HasField("quota_bytes") else None,
    )
    if settings == api.BucketSettings():
        raise InvalidArgument("nothing is to be set", hint="undo_seconds or quota_bytes")
    return settings


def bucket_message(bucket: api.Bucket, usage: api.BucketUsage | None = None) -> blob_pb2.Bucket:
    found = blob_pb2.Bucket(
        name=bucket.name,
        id=bucket.id,
        pool=bucket.pool,
        undo_seconds=bucket.undo_seconds,
        created_ms=bucket.created_ms,
        closing=bucket.closing,
        quota_bytes=bucket.quota_bytes,
    )
    if usage is not None:
        found.usage.CopyFrom(blob_pb2.BucketUsage(blobs=usage.blobs, bytes=usage.bytes, whole=usage.whole))
    return found
