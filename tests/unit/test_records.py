"""Every value of the core survives the wire and the disk, and no other bytes pass for one."""

from __future__ import annotations

import types
import typing
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from enum import IntEnum
from inspect import isclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_node.adapters.records import ProtobufBodies, message_of
from holdfast_node.core import (
    cluster_map,
    errors,
    head,
    ids,
    map_messages,
    messages,
    operation,
    records,
    register_messages,
    shard_messages,
)
from holdfast_node.core.errors import IntegrityError
from holdfast_node.core.head import Ballot, Head, HeadKind, Manifest, Part, Retained
from holdfast_node.core.ids import BlobId, Digest, StoreId, Version
from holdfast_node.core.messages import REPLY_TO, Scope, StageWhole, WorkerStatus
from holdfast_node.core.operation import Operation
from holdfast_node.core.records import PartitionRecord, RecordType, RegisterRecord
from holdfastpb.v1 import types_pb2

BODIES = ProtobufBodies()
ID = bytes(range(16))
U32, U64 = 2**32 - 1, 2**64 - 1
ID_TYPES: tuple[object, ...] = (
    ids.StoreId,
    ids.ClusterId,
    ids.BootId,
    ids.BucketId,
    ids.BlobId,
    ids.RequestId,
    ids.Digest,
)


def decode(cls: type[object], data: bytes) -> object:
    return BODIES.decode(cls, data)


def dataclasses_of(*modules: types.ModuleType) -> list[type]:
    return [
        value
        for module in modules
        for value in vars(module).values()
        if isclass(value) and is_dataclass(value) and value.__module__ == module.__name__
    ]


PEERS = (register_messages, shard_messages, map_messages)
CLASSES = dataclasses_of(head, cluster_map, *PEERS, operation, records)


def values_for(cls: type, name: str, hint: object) -> st.SearchStrategy[object]:
    """Anything a field may hold, by its type; integers within what its message can carry."""
    if hint in ID_TYPES:
        return st.one_of(st.just(b""), st.binary(min_size=16, max_size=16))
    if isinstance(hint, typing.NewType):
        return values_for(cls, name, hint.__supertype__)
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        if typing.get_origin(item) is tuple:
            second = st.integers(-9, 9) if typing.get_args(item)[1] is int else st.text(max_size=5)
            return st.dictionaries(st.text(max_size=5), second, max_size=3).map(
                lambda pairs: tuple(sorted(pairs.items()))
            )
        return st.lists(values_for(cls, name, item), max_size=3).map(tuple)
    if typing.get_origin(hint) is types.UnionType:
        return st.none() | values_for(cls, name, typing.get_args(hint)[0])
    if isclass(hint) and is_dataclass(hint):
        return instances(hint)
    if isclass(hint) and issubclass(hint, IntEnum):
        return st.sampled_from(list(hint))
    if hint is int:
        return integers(cls, name)
    plain: dict[object, st.SearchStrategy[object]] = {
        bool: st.booleans(),
        float: st.floats(allow_nan=False),
        str: st.text(max_size=20),
        bytes: st.binary(max_size=20),
    }
    return plain[hint]


def integers(cls: type, name: str) -> st.SearchStrategy[object]:
    from google.protobuf.descriptor import FieldDescriptor as F

    number = message_of(cls).DESCRIPTOR.fields_by_name[name].type
    bounds = {
        F.TYPE_UINT32: (0, U32),
        F.TYPE_UINT64: (0, U64),
        F.TYPE_FIXED64: (0, U64),
        F.TYPE_SINT32: (-(2**31), 2**31 - 1),
        F.TYPE_INT64: (-(2**63), 2**63 - 1),
    }
    low, high = bounds[number]
    return st.integers(low, high)


def instances(cls: type) -> st.SearchStrategy[object]:
    hints = typing.get_type_hints(cls)
    known = {f.name: values_for(cls, f.name, hints[f.name]) for f in fields(cls) if f.name != "payload"}
    if "payload" in hints:
        known["payload"] = st.just(b"")
    return st.builds(cls, **known)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_value_survives_encoding(cls: type) -> None:
    @settings(max_examples=25, deadline=None, database=None)
    @given(instances(cls))
    def check(value: object) -> None:
        data = BODIES.encode(value)
        assert decode(cls, data) == value
        assert BODIES.encode(value) == data

    check()


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_arbitrary_bytes_are_refused_or_are_a_value(cls: type) -> None:
    @settings(max_examples=25, deadline=None, database=None)
    @given(st.binary(max_size=64))
    def check(data: bytes) -> None:
        with suppress(IntegrityError):
            assert type(decode(cls, data)) is cls

    check()


def a_head() -> Head:
    part = Part(size=5, holders=(StoreId(ID),) * 6, checksums=(Digest(ID),) * 6)
    manifest = Manifest(BlobId(ID), BlobId(ID), 5, "rs:4+2", 1 << 20, 1 << 26, Digest(ID), (part,))
    return Head(Version(7), HeadKind.BLOB, manifest)


def test_a_flipped_or_cut_body_is_refused_or_another_value() -> None:
    value = a_head()
    data = BODIES.encode(value)
    for cut in range(1, len(data)):
        try:
            assert ProtobufBodies().decode(Head, data[:cut]) != value
        except IntegrityError:
            continue


def test_metadata_comes_back_sorted_and_encodes_alike_in_any_order() -> None:
    manifest = a_head().manifest
    assert manifest is not None
    one = replace(manifest, metadata=(("b", "2"), ("a", "1")))
    two = replace(manifest, metadata=(("a", "1"), ("b", "2")))
    assert BODIES.encode(one) == BODIES.encode(two)
    assert BODIES.decode(Manifest, BODIES.encode(one)) == two


def test_metadata_that_names_a_key_twice_is_our_mistake() -> None:
    manifest = a_head().manifest
    assert manifest is not None
    with pytest.raises(ValueError, match="twice"):
        BODIES.encode(replace(manifest, metadata=(("a", "1"), ("a", "2"))))


def test_an_id_of_another_length_is_not_written() -> None:
    with pytest.raises(ValueError, match="15 bytes"):
        BODIES.encode(Ballot(1, 1, StoreId(bytes(15)), 1, 1))


def test_an_id_of_another_length_is_not_read() -> None:
    broken = types_pb2.Ballot(generation=1, store=bytes(15)).SerializeToString()
    with pytest.raises(IntegrityError, match="15 bytes"):
        BODIES.decode(Ballot, broken)


def test_an_unknown_enum_value_is_not_read() -> None:
    broken = types_pb2.Retained()
    broken.ParseFromString(b"\x10\x63")  # kind = 99
    with pytest.raises(IntegrityError, match="99"):
        BODIES.decode(Retained, broken.SerializeToString())


def test_a_missing_part_of_a_message_is_not_made_up() -> None:
    with pytest.raises(IntegrityError, match="scope is missing"):
        BODIES.decode(messages.Prepare, b"")


def test_a_number_that_does_not_fit_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="range"):
        BODIES.encode(Scope(pool=-1, partition=0, generation=0))


def test_fields_with_a_default_other_than_zero_keep_it_when_left_out() -> None:
    assert BODIES.decode(Operation, b"") == Operation(
        operation.OperationKind.SETTLE, ids.RequestId(b""), ids.Era(0)
    )


def test_payload_stays_out_of_the_body() -> None:
    base = Ballot(1, 1, StoreId(ID), 1, 1)
    where = (ids.ClusterId(ID), ids.BucketId(ID), b"k", BlobId(ID))
    shard = messages.ShardHeader(*where, 0, 1, "rs:4+2", 5, 1 << 20, (Digest(ID),), base)
    whole = StageWhole(shard, None, b"the bytes of the cell")
    data = BODIES.encode(whole)
    assert b"the bytes" not in data
    assert BODIES.decode(StageWhole, data) == replace(whole, payload=b"")


def test_a_remembered_head_is_the_same_value_and_memory_is_bounded() -> None:
    bodies = ProtobufBodies()
    for version in range(3000):
        value = replace(a_head(), version=Version(version))
        assert bodies.decode(Head, bodies.encode(value)) == value
        assert bodies.decode(Head, bodies.encode(value)) == value
    assert len(bodies._heads) == 256  # pyright: ignore[reportPrivateUsage]


def test_the_manifest_of_a_head_is_read_alone() -> None:
    older = tuple(Retained(Version(n), HeadKind.BLOB, BlobId(ID), 5, 0) for n in range(3))
    for value in (replace(a_head(), retained=older), Head(Version(8), HeadKind.TOMBSTONE, retained=older)):
        assert BODIES.manifest_of(BODIES.encode(value)) == value.manifest
    with pytest.raises(IntegrityError):
        BODIES.manifest_of(BODIES.encode(a_head())[:-1])


def test_a_class_and_a_message_that_disagree_are_refused() -> None:
    from dataclasses import make_dataclass

    for wrong in (
        make_dataclass("Scope", [("pool", int), ("partition", int)]),
        make_dataclass("Scope", [("pool", int), ("partition", int), ("generation", int), ("extra", int)]),
        make_dataclass("NoSuchMessage", []),
    ):
        wrong.__module__ = register_messages.__name__
        with pytest.raises(TypeError):
            BODIES.encode(wrong(*range(len(fields(wrong)))))


@pytest.mark.parametrize(
    ("mine", "theirs", "prefix"),
    [
        (errors.ErrorCode, types_pb2.ErrorCode, "ERROR_CODE_"),
        (HeadKind, types_pb2.HeadKind, "HEAD_KIND_"),
        (cluster_map.StoreState, types_pb2.StoreState, "STORE_STATE_"),
    ],
)
def test_enums_agree_with_their_messages(mine: type[IntEnum], theirs: typing.Any, prefix: str) -> None:
    assert {prefix + member.name: int(member) for member in mine} == dict(theirs.items())


def test_every_record_type_has_a_body() -> None:
    special = {"STORE_TIME": "StoreTimeRecord"}
    named = {cls.__name__ for cls in CLASSES}
    for member in RecordType:
        name = special.get(
            member.name, "".join(word.capitalize() for word in member.name.split("_")) + "Record"
        )
        assert name in named


def test_every_request_and_reply_has_a_message_of_the_peer_protocol() -> None:
    for cls in {*REPLY_TO, *REPLY_TO.values()}:
        assert message_of(cls).DESCRIPTOR.full_name == f"holdfastpb.v1.peer.{cls.__name__}"


def test_records_and_statuses_keep_wide_numbers() -> None:
    record = PartitionRecord(U32, U32, U64, None, U64, "", U64)
    assert BODIES.decode(PartitionRecord, BODIES.encode(record)) == record
    worker = WorkerStatus("w", "idle", "", 0, 0, 0, 1.5, 2.5)
    assert BODIES.decode(WorkerStatus, BODIES.encode(worker)) == worker
    register = RegisterRecord(ids.BucketId(ID), b"k", 0, 0, None, None, b"")
    assert BODIES.decode(RegisterRecord, BODIES.encode(register)) == register
