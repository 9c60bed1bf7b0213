"""Values of the core as protobuf bytes and back: bodies of log records and of frames.

Two functions are compiled per dataclass from its type hints and the message of the same name; a class and a message
that do not agree field for field are refused when the first value passes. Encoding is deterministic. It knows types
and lengths, not meanings, and never sees payload: a field `payload` has no place in any message and is left out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import IntEnum
from types import ModuleType, NoneType, UnionType
from typing import Final, NewType, NoReturn, TypeVar, cast, get_args, get_origin, get_type_hints

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from holdfast_node.core import ids
from holdfast_node.core.errors import IntegrityError
from holdfast_node.core.head import Head, Manifest
from holdfastpb.v1 import admin_pb2, blob_pb2, peer_pb2, records_pb2, types_pb2

R = TypeVar("R")
Fill = Callable[[object, Message], None]
Read = Callable[[Message], object]

_ID_TYPES: Final[frozenset[object]] = frozenset(
    {ids.StoreId, ids.ClusterId, ids.BootId, ids.BucketId, ids.BlobId, ids.RequestId, ids.Digest}
)
_ID_LENGTHS: Final = frozenset({0, ids.ID_BYTES})
"""Empty says "none" where a class has no None for it, for example the cluster id of a store that has not joined."""

_SHARED: Final = (types_pb2, records_pb2, blob_pb2, admin_pb2)
_PEER_FIRST: Final = (peer_pb2, *_SHARED)

HEAD_MEMO_ENTRIES: Final = 256
HEAD_MEMO_BYTES_MAX: Final = 16 * 1024
"""Heads larger than this are decoded each time: at most 4 MiB are remembered. One with all the versions and retries
that it may keep at an ordinary rate of writes fits."""


class ProtobufBodies:
    """Implements `ports.Bodies` for every dataclass that has a message of its name."""

    def __init__(self) -> None:
        self._heads: OrderedDict[bytes, Head] = OrderedDict()

    def encode(self, value: object) -> bytes:
        """Equal values give equal bytes. Raises `ValueError` or `TypeError` for what no message can hold."""
        shape = _shape(type(value))
        message = shape.new()
        shape.fill(value, message)
        return message.SerializeToString(deterministic=True)

    def decode(self, cls: type[R], data: bytes) -> R:
        """A `cls`, its `payload` empty if it has one. Raises `IntegrityError` on bytes that are not a `cls`."""
        if cls is Head:
            return cast("R", self._decode_head(data))
        return _decode(cls, data)

    def manifest_of(self, head: bytes) -> Manifest | None:
        """Of an old head only the manifest matters; the many versions and retries in it would cost far more."""
        return cast("Manifest | None", _parsed(Head, head, _read_manifest))

    def _decode_head(self, data: bytes) -> Head:
        """The same few heads come again with every read: each is a value, so all may share one."""
        head = self._heads.get(data)
        if head is not None:
            self._heads.move_to_end(data)
            return head
        head = _decode(Head, data)
        if len(data) <= HEAD_MEMO_BYTES_MAX:
            self._heads[bytes(data)] = head
            if len(self._heads) > HEAD_MEMO_ENTRIES:
                self._heads.popitem(last=False)
        return head


_PEER_MODULES: Final = tuple(f"holdfast_node.core.{of}_messages" for of in ("register", "shard", "map"))


def message_of(cls: type) -> type[Message]:
    """The generated message that mirrors `cls`."""
    owner = cls.__module__
    peers = owner in _PEER_MODULES or owner.startswith("holdfast_node.services.link.")
    modules: tuple[ModuleType, ...] = _PEER_FIRST if peers else _SHARED
    for module in modules:
        found: type[Message] | None = getattr(module, cls.__name__, None)
        if found is not None:
            return found
    raise TypeError(f"no message mirrors {cls.__name__}")


class _Malformed(Exception):
    """Well-formed protobuf that is not a value of the class."""


class _Shape:
    """How one dataclass lies in one message type, as two functions compiled from its fields. A call for each field,
    which a list of converters would need, took twice as long."""

    def __init__(self, cls: type, new: type[Message], descriptor: Descriptor) -> None:
        self.new = new
        source = _Source(cls)
        hints = get_type_hints(cls)
        mirrored: set[str] = set()
        for field in fields(cls):
            in_message = descriptor.fields_by_name.get(field.name)
            if in_message is None:
                if field.name != "payload":
                    raise TypeError(f"{descriptor.full_name} lacks {field.name} of {cls.__name__}")
                source.reads.append('b""')
                continue
            mirrored.add(field.name)
            _add_field(source, hints[field.name], in_message)
            if in_message.has_presence and in_message.message_type is None:
                if field.default is MISSING:
                    raise TypeError(
                        f"{cls.__name__}.{field.name} needs a default: its message may leave it out"
                    )
                source.default(field.name, field.default)
        if extra := set(descriptor.fields_by_name) - mirrored:
            raise TypeError(f"{cls.__name__} lacks {sorted(extra)} of {descriptor.full_name}")
        self.fill, self.read = source.compiled()


class _Source:
    """The text of a class's `fill(v, m)` and `read(m)`, and what it names. `v` is a value, `m` its message."""

    def __init__(self, cls: type) -> None:
        self._cls = cls
        self.fills: list[str] = []
        self.reads: list[str] = []
        """Expressions, one for each field of the class."""
        self._names: dict[str, object] = {
            "new": cls,
            "lengths": _ID_LENGTHS,
            "no_id": _no_id,
            "malformed_id": _malformed_id,
            "missing": _missing,
        }

    def named(self, value: object) -> str:
        """A name for `value` in the text."""
        name = f"x{len(self._names)}"
        self._names[name] = value
        return name

    def add(self, fill: str, read: str) -> None:
        self.fills.append(fill)
        self.reads.append(read)

    def default(self, name: str, value: object) -> None:
        """What the last field is where its message leaves it out."""
        self.reads[-1] = f"({self.reads[-1]}) if m.HasField({name!r}) else {self.named(value)}"

    def compiled(self) -> tuple[Fill, Read]:
        fill = "\n    ".join(["def fill(v, m):", *(self.fills or ["pass"])])
        read = f"def read(m):\n    return new({', '.join(self.reads)})"
        code = compile(f"{fill}\n{read}\n", f"<protobuf of {self._cls.__name__}>", "exec")
        exec(code, self._names)  # noqa: S102 - the text is made of our own field names, as in `dataclasses`
        return cast("Fill", self._names["fill"]), cast("Read", self._names["read"])


_SHAPES: Final[dict[type, _Shape]] = {}
_NESTED: Final[dict[tuple[type, str], _Shape]] = {}


def _shape(cls: type) -> _Shape:
    shape = _SHAPES.get(cls)
    if shape is None:
        message = message_of(cls)
        shape = _SHAPES[cls] = _Shape(cls, message, cast("Descriptor", message.DESCRIPTOR))
    return shape


def _nested(cls: type, descriptor: Descriptor) -> _Shape:
    """A nested class may have another name than its message; what counts is what the outer message says."""
    shape = _NESTED.get((cls, descriptor.full_name))
    if shape is None:
        shape = _NESTED[cls, descriptor.full_name] = _Shape(cls, Message, descriptor)
    return shape


def _decode(cls: type[R], data: bytes) -> R:
    return cast("R", _parsed(cls, data, _shape(cls).read))


def _parsed(cls: type, data: bytes, read: Read) -> object:
    message = _shape(cls).new()
    try:
        message.ParseFromString(data)
        return read(message)
    except (DecodeError, _Malformed) as error:
        raise IntegrityError(f"{len(data)} bytes are not a {cls.__name__}: {error}") from error


def _add_field(source: _Source, hint: object, field: FieldDescriptor) -> None:
    """How one field is written and read, by its type hint."""
    name = field.name
    while isinstance(hint, NewType) and hint not in _ID_TYPES:
        hint = hint.__supertype__
    if get_origin(hint) is tuple:
        _add_repeated(source, get_args(hint), field)
    elif get_origin(hint) is UnionType:
        inner, none = get_args(hint)
        assert none is NoneType, f"{name}: only `X | None` has a form in protobuf"
        if is_dataclass(inner):
            _add_message(source, field, cast("type", inner), optional=True)
        else:
            assert inner in _ID_TYPES, f"{name}: only ids and messages may be None"
            _add_id(source, name, optional=True)
    elif hint in _ID_TYPES:
        _add_id(source, name, optional=False)
    elif is_dataclass(hint):
        _add_message(source, field, cast("type", hint), optional=False)
    elif isinstance(hint, type) and issubclass(hint, IntEnum):
        members = source.named(_Members(name, hint))
        source.add(f"m.{name} = v.{name}", f"{members}[m.{name}]")
    elif field.message_type is not None or field.is_repeated:
        raise TypeError(f"{name}: {hint} against {field.full_name}")
    else:
        source.add(f"m.{name} = v.{name}", f"m.{name}")


def _inner(field: FieldDescriptor) -> Descriptor:
    if field.message_type is None:
        raise TypeError(f"{field.full_name} is no message")
    return field.message_type


def _add_id(source: _Source, name: str, *, optional: bool) -> None:
    given = f'v.{name} or b""' if optional else f"v.{name}"
    found = "(x or None)" if optional else "x"
    source.add(
        f"m.{name} = x if len(x := {given}) in lengths else no_id({name!r}, x)",
        f"{found} if len(x := m.{name}) in lengths else malformed_id({name!r}, x)",
    )


def _add_message(source: _Source, field: FieldDescriptor, cls: type, *, optional: bool) -> None:
    """Present even when all its fields are zero: None is something else."""
    name, shape = field.name, _nested(cls, _inner(field))
    fill, read = source.named(shape.fill), source.named(shape.read)
    there = f"x = m.{name}; x.SetInParent(); {fill}(v.{name}, x)"
    absent = "None" if optional else f"missing({name!r})"
    source.add(
        f"if v.{name} is not None: {there}" if optional else there,
        f"{read}(m.{name}) if m.HasField({name!r}) else {absent}",
    )


def _add_repeated(source: _Source, inner: tuple[object, ...], field: FieldDescriptor) -> None:
    item, name = inner[0], field.name
    assert inner[1:] == (Ellipsis,), f"{name}: only tuples of one type and any length have a form in protobuf"
    if get_origin(item) is tuple:
        if _inner(field).GetOptions().map_entry:
            _add_map(source, name)
        else:
            first, second = (inside.name for inside in _inner(field).fields)
            source.add(
                f"for one, two in v.{name}: m.{name}.add(**{{{first!r}: one, {second!r}: two}})",
                f"tuple([(x.{first}, x.{second}) for x in m.{name}])",
            )
    elif is_dataclass(item):
        shape = _nested(cast("type", item), _inner(field))
        fill, read = source.named(shape.fill), source.named(shape.read)
        source.add(f"for x in v.{name}: {fill}(x, m.{name}.add())", f"tuple([{read}(x) for x in m.{name}])")
    elif item in _ID_TYPES:
        source.add(
            f"m.{name}.extend([x if len(x) in lengths else no_id({name!r}, x) for x in v.{name}])",
            f"tuple([x if len(x) in lengths else malformed_id({name!r}, x) for x in m.{name}])",
        )
    else:
        source.add(f"m.{name}.extend(v.{name})", f"tuple(m.{name})")


def _add_map(source: _Source, name: str) -> None:
    """Pairs of strings, sorted by key: the order in which they come back, whatever order they were given in."""

    def unique(pairs: tuple[tuple[str, str], ...]) -> dict[str, str]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError(f"{name} names a key twice")
        return found

    source.add(
        f"if v.{name}: m.{name}.update({source.named(unique)}(v.{name}))", f"tuple(sorted(m.{name}.items()))"
    )


class _Members(dict[int, IntEnum]):
    """The members of an enum by number."""

    def __init__(self, name: str, enum: type[IntEnum]) -> None:
        super().__init__({int(member): member for member in enum})
        self._name = name
        self._enum = enum

    def __missing__(self, number: int) -> IntEnum:
        raise _Malformed(f"{self._name} is {number}, no {self._enum.__name__}")


def _no_id(name: str, value: bytes) -> NoReturn:
    raise ValueError(f"{name} has {len(value)} bytes, not {ids.ID_BYTES}")


def _malformed_id(name: str, value: bytes) -> NoReturn:
    raise _Malformed(f"{name} has {len(value)} bytes, not {ids.ID_BYTES}")


def _missing(name: str) -> NoReturn:
    raise _Malformed(f"{name} is missing")


_MANIFEST: Final = _nested(Manifest, types_pb2.Manifest.DESCRIPTOR)


def _read_manifest(head: Message) -> object:
    return _MANIFEST.read(cast("types_pb2.Head", head).manifest) if head.HasField("manifest") else None
