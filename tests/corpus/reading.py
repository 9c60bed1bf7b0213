"""What this version reads from the bytes of any: a data directory, a message, a frame. As JSON, to be compared.

Knows nothing of how the bytes came about, nor of what should be in them.
"""

from __future__ import annotations

import asyncio
import lzma
import tarfile
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any, Final, cast

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from holdfast_node.adapters.disk import FileDisk
from holdfast_node.adapters.rocks import RocksIndex
from holdfast_node.core import log_format
from holdfast_node.core.errors import NotVoting
from holdfast_node.services.link import frames
from holdfast_node.services.store import Store
from holdfastpb.v1 import admin_pb2, blob_pb2, peer_pb2, records_pb2, types_pb2
from tests.crashes.facts import Fact, read_fact
from tests.support import stores

Json = dict[str, Any]
HERE: Final = Path(__file__).parent
MODULES: Final = (types_pb2, records_pb2, peer_pb2, blob_pb2, admin_pb2)
FRAME_BYTES_MAX: Final = 1 << 20
PARTITIONS: Final = 4
SHOWN_BYTES_MAX: Final = 4096


def message_types() -> dict[str, type[Message]]:
    """Every message of the protocol by its full name."""
    found: dict[str, type[Message]] = {}
    for module in MODULES:
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Message):
                found[str(cast("Any", value).DESCRIPTOR.full_name)] = value
    return found


def read_message(name: str, data: bytes) -> tuple[Json, bytes]:
    """The fields, and the bytes that this version writes for them."""
    message = message_types()[name]()
    message.ParseFromString(data)
    shown: Json = MessageToDict(message, preserving_proto_field_name=True)
    return shown, message.SerializeToString(deterministic=True)


def read_frame(data: bytes) -> tuple[Json, bytes]:
    (frame,) = frames.decode(data, frame_bytes_max=FRAME_BYTES_MAX)
    return {**plain(frame), "name": frames.FrameType(frame.type).name}, b"".join(frames.encode(frame))


def plain(value: object) -> Any:
    """A value of the core as JSON: bytes as hexadecimal digits, a class as an object of its fields."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, bytes) and len(value) > SHOWN_BYTES_MAX:
        return f"{len(value)} bytes of SHA-256 {sha256(value).hexdigest()}"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in cast("Sequence[object]", value)]
    return value


def differences(wanted: Any, seen: Any, where: str = "") -> list[str]:
    """Where `seen` is not what was wanted. A field that was added later is none."""
    if isinstance(wanted, dict) and isinstance(seen, dict):
        known, there = cast("Json", wanted), cast("Json", seen)
        return [
            text
            for name, value in known.items()
            for text in differences(value, there.get(name, "missing"), f"{where}.{name}")
        ]
    if isinstance(wanted, list) and isinstance(seen, list):
        pairs, others = cast("Sequence[Any]", wanted), cast("Sequence[Any]", seen)
        if len(pairs) == len(others):
            return [
                text
                for number, (one, two) in enumerate(zip(pairs, others, strict=True))
                for text in differences(one, two, f"{where}[{number}]")
            ]
    return [] if wanted == seen else [f"{where}: {wanted!r} was written, {seen!r} is read"]


def unpack(archive: Path, directory: Path) -> None:
    with tarfile.open(fileobj=BytesIO(lzma.decompress(archive.read_bytes()))) as files:
        files.extractall(directory, filter="data")


def _read_volumes(directory: Path) -> Json:
    """Types of whole records, and batches that are right. A store saves the records of one that is not, and if none is
    lost it has nothing to report."""
    types: set[int] = set()
    right: list[int] = []
    for volume in sorted(directory.glob("volume-*")):
        content = memoryview(volume.read_bytes())
        for at, header in log_format.batch_headers(content, 0):
            records, whole = log_format.read_batch(content[at:], at, header)
            types.update(record.kind for record in records if record.whole)
            right += [header.number] * whole
    return {"record_types": sorted(types), "whole_batches": right}


def read_store(directory: Path, facts: Sequence[Fact]) -> Json:
    """Open the directory, with no index, and tell what is in it."""
    return asyncio.run(_read_store(directory, facts))


async def _read_store(directory: Path, facts: Sequence[Fact]) -> Json:
    volumes = _read_volumes(directory)
    disk, index = FileDisk(directory), RocksIndex(directory / "index")
    try:
        store = await stores.open_store(disk, index, settings=stores.SMALL)
        try:
            return {**volumes, **await _tell(store, facts)}
        finally:
            await store.close()
    finally:
        index.close()
        disk.close()


async def _is(store: Store, fact: Fact) -> Any:
    """Of an error only what it is: its words may change."""
    seen = await read_fact(store, fact)
    return seen.partition(":")[0] if isinstance(seen, str) else plain(seen)


def _partition(store: Store, number: int) -> Json:
    record = store.partition(0, number)
    told: Json = plain(record)
    return {**told, "not_voting": bool(record.not_voting)}


async def _tell(store: Store, facts: Sequence[Fact]) -> Json:
    private: Any = store
    partitions = frozenset((0, number) for number in range(PARTITIONS))
    try:
        rows = plain(store.register_rows(partitions, stores.BUCKET, b"", b"", 100).rows)
    except NotVoting as error:
        rows = type(error).__name__
    return {
        "cluster_id": store.superblock.cluster_id.hex(),
        "node": store.superblock.node,
        "store": store.superblock.store.hex(),
        "boot": store.superblock.boot,
        "store_time_s": private._time._at_start_s,
        "sequence": store.recovered_sequence,
        "rotten": bool(store.rotten()),
        "rotten_keys": plain(store.rotten_keys()),
        "lost_from": sorted(private._indexer.tables.lost_sequences()),
        "partitions": [_partition(store, number) for number in range(PARTITIONS)],
        "counts": [list(store.count(0, number)) for number in range(PARTITIONS)],
        "rows": rows,
        "facts": [{"fact": plain(fact), "is": await _is(store, fact)} for fact in facts],
    }
