"""Writes what this version writes: stores that were closed, torn, rotten and mended, every message, every frame.

Knows what it wrote, and refuses to keep a store from which anything else is read.
"""

from __future__ import annotations

import asyncio
import io
import json
import lzma
import tarfile
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from holdfast_node.core.acceptance import blank
from holdfast_node.core.head import Head, HeadKind
from holdfast_node.core.ids import BootId, BucketId, StoreId, Version
from holdfast_node.core.index_keys import record_key
from holdfast_node.core.records import (
    BucketRecord,
    DropRecord,
    FeedCursor,
    FollowedRecord,
    KillRecord,
    LinkRecord,
    ManifestRecord,
    MapRecord,
    MapVoteRecord,
    PeerRecord,
    ScrubRecord,
    StageRecord,
    StoreTimeRecord,
)
from holdfast_node.services.link import frames
from holdfast_node.services.store import Entry, Store, StoreSettings
from holdfastpb.v1 import admin_pb2, blob_pb2
from tests.corpus.reading import Json, message_types, plain, read_frame, read_message, read_store
from tests.crashes.facts import CLUSTER, Fact, Known, compare
from tests.sim.disk import Platter
from tests.support import stores
from tests.support.compacting import give_back
from tests.support.stores import BODIES, BUCKET, KIB

SETTINGS: Final = StoreSettings(volume_bytes=64 * KIB, batch_bytes_max=32 * KIB, reserve_volumes=1)
RECORD: Final = b"HFrc"
IN_HEADER: Final = 16
"""So far from a record's first byte its key cannot be believed any more."""
IN_BODY: Final = 120
PUBLIC: Final = tuple(
    f"{module.DESCRIPTOR.package}.{name}"
    for module in (admin_pb2, blob_pb2)
    for name in module.DESCRIPTOR.message_types_by_name
)
"""Some have names that messages between nodes have as well."""
BODY_OF_FRAME: Final = {"HELLO": "Hello", "GOODBYE": "ErrorDetail", "ERROR": "ErrorDetail"}

# --- stores ---------------------------------------------------------------------------------------------------


async def _fill(store: Store) -> dict[Fact, object]:
    """Every type of record, in several volumes; what has to be there afterwards."""
    facts: dict[Fact, object] = {}
    for version in range(1, 5):
        for number in range(3):
            key = b"key %d" % number
            record = stores.register(
                key,
                version * 10 + number,
                partition=number,
                retained=[(version - 1) * 10 + number] * (version > 1),
            )
            await store.append([Entry(record)])
            facts[Fact("register", key)] = record
            facts[Fact("manifest", key, version * 10 + number)] = stores.manifest(version * 10 + number)
    for key, record in (
        (b"promised", stores.promise(b"promised", 5)),
        (
            b"deleted",
            replace(stores.register(b"deleted", 6), head=BODIES.encode(Head(Version(6), HeadKind.TOMBSTONE))),
        ),
    ):
        await store.append([Entry(record)])
        facts[Fact("register", key)] = record
    forgotten = stores.register(b"forgotten", 6)
    await store.append([Entry(forgotten)])
    await store.append([Entry(blank(forgotten))])
    facts[Fact("register", b"forgotten")] = None
    learned = stores.manifest(99)
    await store.append([Entry(ManifestRecord(BUCKET, b"key 0", BODIES.encode(learned)))])
    facts[Fact("manifest", b"key 0", 99)] = learned
    return {**facts, **await _shards(store), **await _small_facts(store)}


async def _shards(store: Store) -> dict[Fact, object]:
    facts: dict[Fact, object] = {}
    for number in range(7, 11):
        seed = stores.blob_id(number)
        cells = [bytes([number, stripe]) * 4500 for stripe in range(3)]
        sealed = stores.seal(seed, cells)
        await store.append([Entry(StageRecord(BUCKET, b"key", seed, 0, 0, stores.ballot(1), 3))])
        for stripe, data in enumerate(cells):
            await store.append([stores.cell(seed, stripe, data)], bulk=True)
            facts[Fact("cell", seed, stripe)] = data
        facts[Fact("shard", seed)] = b"staged"
        if number > 7:
            await store.append([sealed])
            facts[Fact("shard", seed)] = b"sealed"
            facts[Fact("header", seed)] = cast("Any", sealed.body).header
    link = LinkRecord(stores.blob_id(10), stores.blob_id(77))
    await store.append([Entry(link)])
    facts[Fact("link", link.seed_id + link.blob_id)] = True
    dropped = stores.blob_id(8)
    await store.append([Entry(DropRecord(dropped, 0, 0))])
    gone = [fact for fact in facts if fact.name == dropped]
    return {**facts, **dict.fromkeys(gone)}


async def _small_facts(store: Store) -> dict[Fact, object]:
    vote = MapVoteRecord(3, stores.ballot(2), stores.ballot(1), b"map proposed")
    partition = stores.partition(1, version_floor=4)
    bucket = BucketId(b"closing".ljust(16))
    peer = PeerRecord(StoreId(b"peer".ljust(16)), 3, BootId(b"q" * 16), 12)
    kill = KillRecord(7, 12)
    followed = FollowedRecord(peer.store, (FeedCursor(0, 1, 3, 12), FeedCursor(0, 2, 0, 9)))
    for body in (
        MapRecord(b"map 2"), vote, partition, BucketRecord(bucket, closing=True), peer, kill, StoreTimeRecord(1234),
        ScrubRecord(3, 2, b"cursor", 1200, 600), followed,
    ):  # fmt: skip
        await store.append([Entry(body)])
    return {
        Fact("map"): b"map 2",
        Fact("vote", number=3): vote,
        Fact("partition", number=1): partition,
        Fact("closing", bucket): True,
        Fact("peer", peer.store): peer,
        Fact("kill", record_key(kill)): True,
        Fact("followed", peer.store): followed,
    }


async def _stores() -> tuple[dict[str, Platter], list[Fact]]:
    """`closed` well, and `compacted`; `torn` while it wrote; two `rotten`, one of them `mended` by a start and a clean
    stop."""
    bench = stores.Bench()
    async with bench.store(settings=SETTINGS) as store:
        await store.join(CLUSTER)
        facts = await _fill(store)
        wrong, _ = await compare(store, Known(settled=facts, clusters=(CLUSTER,)))
        assert not wrong, wrong
    closed = bench.platter.twin()
    compacted = await _compacted(closed)
    async with bench.store(settings=SETTINGS, clean=False) as store:
        await store.append([Entry(stores.register(b"key 0", 50))])
        facts[Fact("register", b"key 0")] = (
            None  # its value is for the reader to say: it differs between the stores
        )
        await store.append([Entry(StoreTimeRecord(1234))])
        await store.append([Entry(stores.register(b"torn", 60))])
        facts[Fact("register", b"torn")] = None
    torn = _cut_off(bench.platter, b"torn", IN_BODY)
    bench.platter = _flipped(closed, b"map proposed", IN_HEADER)
    rotten = bench.platter.twin()
    bench.forget_index()
    async with bench.store(settings=SETTINGS):
        pass
    return {
        "closed": closed,
        "compacted": compacted,
        "torn": torn,
        "rotten_register": _flipped(closed, BUCKET + b"key 1", IN_BODY),
        "rotten_vote": rotten,
        "mended": bench.platter,
    }, sorted(facts)


async def _compacted(platter: Platter) -> Platter:
    """A copy whose log has a hole."""
    bench = stores.Bench()
    bench.platter = platter.twin()
    async with bench.store(settings=SETTINGS) as store:
        assert await give_back(store, lambda usage: [usage[1].number])
    return bench.platter


def _flipped(platter: Platter, text: bytes, distance: int) -> Platter:
    """A copy with a byte wrong in the last record that has this text, so far from the record's first."""
    other = platter.twin()
    name, at = _record_of(other, text)
    other.flip(name, at + distance)
    return other


def _cut_off(platter: Platter, text: bytes, distance: int) -> Platter:
    """A copy with nothing but zeros from there on, as if the power had gone during the last write."""
    other = platter.twin()
    name, at = _record_of(other, text)
    content = other.files[name].durable
    content[at + distance :] = bytes(len(content) - at - distance)
    return other


def _record_of(platter: Platter, text: bytes) -> tuple[str, int]:
    for file in platter.files.values():
        file.sync()
    name = max(name for name, file in platter.files.items() if name[:6] == "volume" and text in file.durable)
    content = platter.files[name].durable
    return name, content.rindex(RECORD, 0, content.rindex(text))


def _archive(platter: Platter) -> bytes:
    """A compressed tar with neither times nor owners: the zeros of preallocated volumes cost nothing."""
    plainly = io.BytesIO()
    with tarfile.open(fileobj=plainly, mode="w") as files:
        for name in sorted(platter.files):
            entry = tarfile.TarInfo(name)
            entry.size = len(platter.files[name].durable)
            files.addfile(entry, io.BytesIO(bytes(platter.files[name].durable)))
    return lzma.compress(plainly.getvalue(), preset=9)


# --- messages -------------------------------------------------------------------------------------------------


def _fill_message(message: Message, descriptor: Descriptor, choice: int) -> None:
    """Every field gets a value of its own; of a oneof, the member at `choice`."""
    for field in descriptor.fields:
        group = field.containing_oneof
        if group is not None and group.fields[choice % len(group.fields)] is not field:
            continue
        target: Any = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            target["a"], target["b"] = "one", "two"
        elif field.message_type is not None:
            for number in range(2 if field.is_repeated else 1):
                inner = target.add() if field.is_repeated else target
                inner.SetInParent()
                _fill_message(inner, field.message_type, choice + number)
        elif field.is_repeated:
            target.extend([_value(field, 0), _value(field, 1)])
        else:
            setattr(message, field.name, _value(field, choice))


def _value(field: FieldDescriptor, more: int) -> object:
    number = 1 + field.number * 3 + more
    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            return True
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return number + 0.5
        case FieldDescriptor.CPPTYPE_STRING:
            text = f"{field.name} {more}"
            return text if field.type == FieldDescriptor.TYPE_STRING else text[:16].ljust(16).encode()
        case _:
            return number


def _messages() -> list[Json]:
    found: list[Json] = []
    for name, cls in message_types().items():
        descriptor: Any = cls.DESCRIPTOR
        variants = max((len(group.fields) for group in descriptor.oneofs), default=1)
        for choice in range(variants):
            message = cls()
            _fill_message(message, descriptor, choice)
            data = message.SerializeToString(deterministic=True)
            found.append({"message": name, "bytes": data.hex(), "fields": read_message(name, data)[0]})
    return found


def _frames(messages: list[Json]) -> list[Json]:
    ours = [one for one in messages if one["message"] not in PUBLIC]
    bodies = {one["message"].rpartition(".")[2]: bytes.fromhex(one["bytes"]) for one in ours}
    found: list[Json] = []
    for kind in frames.FrameType:
        cls = frames.REQUESTS.get(kind) or frames.REPLIES.get(kind)
        name = cls.__name__ if cls else BODY_OF_FRAME.get(kind.name, "")
        frame = frames.Frame(
            kind,
            100 + kind,
            2000,
            5,
            bodies["Context"],
            bodies.get(name, b""),
            b"payload " * (kind % 3),
            kind < 144,
        )
        data = b"".join(frames.encode(frame))
        found.append({"bytes": data.hex(), "fields": plain(read_frame(data)[0])})
    return found


# --- a generation ---------------------------------------------------------------------------------------------


def add(directory: Path) -> None:
    """Write a generation. Raises `FileExistsError` rather than touch one that is there."""
    directory.mkdir()
    platters, facts = asyncio.run(_stores())
    told: Json = {}
    for name, platter in platters.items():
        (directory / f"{name}.tar.xz").write_bytes(_archive(platter))
        with TemporaryDirectory() as place:
            for file, content in platter.files.items():
                (Path(place) / file).write_bytes(content.durable)
            told[name] = read_store(Path(place), facts)
    messages = _messages()
    _write(directory / "stores.json", told)
    _write(directory / "messages.json", {"messages": messages, "frames": _frames(messages)})


def _write(path: Path, content: Json) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
