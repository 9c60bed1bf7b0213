"""Values of the core as protobuf bytes and back: bodies of log records and of frames.

One converter is compiled per dataclass from its type hints and the message of the same name; a class and a message
that do not agree field for field are refused when the first value passes. Encoding is deterministic. It knows types
and lengths, not meanings, and never sees payload: a field `payload` has no place in any message and is left out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from enum import IntEnum
from operator import attrgetter
from types import ModuleType, NoneType, UnionType
from typing import Final, NewType, TypeVar, cast, get_args, get_origin, get_type_hints

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
        return cast("Manifest | None", _parsed(Head, head, _READ_MANIFEST))

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
    """How one dataclass lies in one message type."""

    def __init__(self, cls: type, new: type[Message], descriptor: Descriptor) -> None:
        self.new = new
        self._cls = cls
        self._fills: list[Fill] = []
        self._reads: list[Read] = []
        hints = get_type_hints(cls)
        mirrored: set[str] = set()
        for field in fields(cls):
            in_message = descriptor.fields_by_name.get(field.name)
            if in_message is None:
                if field.name != "payload":
                    raise TypeError(f"{descriptor.full_name} lacks {field.name} of {cls.__name__}")
                self._reads.append(_no_payload)
                continue
            mirrored.add(field.name)
            fill, read = _field(hints[field.name], in_message)
            if in_message.has_presence and in_message.message_type is None:
                if field.default is MISSING:
                    raise TypeError(
                        f"{cls.__name__}.{field.name} needs a default: its message may leave it out"
                    )
                read = _or_default(field.name, read, field.default)
            self._fills.append(fill)
            self._reads.append(read)
        if extra := set(descriptor.fields_by_name) - mirrored:
            raise TypeError(f"{cls.__name__} lacks {sorted(extra)} of {descriptor.full_name}")

    def fill(self, value: object, message: Message) -> None:
        for fill in self._fills:
            fill(value, message)

    def read(self, message: Message) -> object:
        value: object = self._cls(*[read(message) for read in self._reads])
        return value


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


def _field(hint: object, field: FieldDescriptor) -> tuple[Fill, Read]:
    """How one field is written and read, by its type hint."""
    name = field.name
    if get_origin(hint) is tuple:
        return _repeated(name, get_args(hint), field)
    if get_origin(hint) is UnionType:
        inner, none = get_args(hint)
        assert none is NoneType, f"{name}: only `X | None` has a form in protobuf"
        if is_dataclass(inner):
            return _optional_message(name, _nested(cast("type", inner), _inner(field)))
        return _optional_id(name, inner)
    if hint in _ID_TYPES:
        return _id(name)
    while isinstance(hint, NewType):
        hint = hint.__supertype__
    if is_dataclass(hint):
        return _message(name, _nested(cast("type", hint), _inner(field)))
    if isinstance(hint, type) and issubclass(hint, IntEnum):
        return _enum(name, hint)
    if field.message_type is not None or field.is_repeated:
        raise TypeError(f"{name}: {hint} against {field.full_name}")
    get = attrgetter(name)
    return (lambda value, message: setattr(message, name, get(value))), get


def _inner(field: FieldDescriptor) -> Descriptor:
    if field.message_type is None:
        raise TypeError(f"{field.full_name} is no message")
    return field.message_type


def _repeated(name: str, inner: tuple[object, ...], field: FieldDescriptor) -> tuple[Fill, Read]:
    item = inner[0]
    assert inner[1:] == (Ellipsis,), f"{name}: only tuples of one type and any length have a form in protobuf"
    if get_origin(item) is tuple:
        if _inner(field).GetOptions().map_entry:
            return _map(name)
        first, second = (inside.name for inside in _inner(field).fields)
        return _pairs(name, first, second)
    if is_dataclass(item):
        return _messages(name, _nested(cast("type", item), _inner(field)))
    get = attrgetter(name)
    if item in _ID_TYPES:
        return _ids(name)

    def fill(value: object, message: Message) -> None:
        get(message).extend(get(value))

    return fill, lambda message: tuple(get(message))


def _check_id(name: str, value: bytes) -> None:
    if len(value) not in _ID_LENGTHS:
        raise _Malformed(f"{name} has {len(value)} bytes, not {ids.ID_BYTES}")


def _must_be_id(name: str, value: bytes) -> bytes:
    if len(value) not in _ID_LENGTHS:
        raise ValueError(f"{name} has {len(value)} bytes, not {ids.ID_BYTES}")
    return value


def _id(name: str) -> tuple[Fill, Read]:
    get = attrgetter(name)

    def fill(value: object, message: Message) -> None:
        setattr(message, name, _must_be_id(name, get(value)))

    def read(message: Message) -> object:
        value: bytes = get(message)
        _check_id(name, value)
        return value

    return fill, read


def _optional_id(name: str, hint: object) -> tuple[Fill, Read]:
    assert hint in _ID_TYPES, f"{name}: only ids and messages may be None"
    get = attrgetter(name)

    def fill(value: object, message: Message) -> None:
        setattr(message, name, _must_be_id(name, get(value) or b""))

    def read(message: Message) -> object:
        value: bytes = get(message)
        _check_id(name, value)
        return value or None

    return fill, read


def _ids(name: str) -> tuple[Fill, Read]:
    get = attrgetter(name)

    def fill(value: object, message: Message) -> None:
        items: tuple[bytes, ...] = get(value)
        for item in items:
            _must_be_id(name, item)
        get(message).extend(items)

    def read(message: Message) -> object:
        items: tuple[bytes, ...] = tuple(get(message))
        for item in items:
            _check_id(name, item)
        return items

    return fill, read


def _enum(name: str, enum: type[IntEnum]) -> tuple[Fill, Read]:
    get = attrgetter(name)
    members = {int(member): member for member in enum}

    def fill(value: object, message: Message) -> None:
        setattr(message, name, get(value))

    def read(message: Message) -> object:
        number: int = get(message)
        try:
            return members[number]
        except KeyError:
            raise _Malformed(f"{name} is {number}, no {enum.__name__}") from None

    return fill, read


def _message(name: str, shape: _Shape) -> tuple[Fill, Read]:
    get = attrgetter(name)

    def fill(value: object, message: Message) -> None:
        inner: Message = get(message)
        inner.SetInParent()
        shape.fill(get(value), inner)

    def read(message: Message) -> object:
        if not message.HasField(name):
            raise _Malformed(f"{name} is missing")
        return shape.read(get(message))

    return fill, read


def _optional_message(name: str, shape: _Shape) -> tuple[Fill, Read]:
    get = attrgetter(name)

    def fill(value: object, message: Message) -> None:
        inside = get(value)
        if inside is not None:
            inner: Message = get(message)
            inner.SetInParent()
            shape.fill(inside, inner)

    def read(message: Message) -> object:
        return shape.read(get(message)) if message.HasField(name) else None

    return fill, read


def _messages(name: str, shape: _Shape) -> tuple[Fill, Read]:
    get = attrgetter(name)

    def fill(value: object, message: Message) -> None:
        add: Callable[[], Message] = get(message).add
        for item in get(value):
            shape.fill(item, add())

    return fill, lambda message: tuple([shape.read(item) for item in get(message)])


def _map(name: str) -> tuple[Fill, Read]:
    """Pairs of strings, sorted by key: the order in which they come back, whatever order they were given in."""
    get = attrgetter(name)

    def fill(value: object, message: Message) -> None:
        pairs: tuple[tuple[str, str], ...] = get(value)
        if pairs:
            unique = dict(pairs)
            if len(unique) != len(pairs):
                raise ValueError(f"{name} names a key twice")
            get(message).update(unique)

    return fill, lambda message: tuple(sorted(get(message).items()))


def _pairs(name: str, first: str, second: str) -> tuple[Fill, Read]:
    get, get_first, get_second = attrgetter(name), attrgetter(first), attrgetter(second)

    def fill(value: object, message: Message) -> None:
        add: Callable[[], Message] = get(message).add
        for one, two in get(value):
            item = add()
            setattr(item, first, one)
            setattr(item, second, two)

    return fill, lambda message: tuple([(get_first(item), get_second(item)) for item in get(message)])


def _or_default(name: str, read: Read, default: object) -> Read:
    return lambda message: read(message) if message.HasField(name) else default


def _no_payload(_message: Message) -> object:
    return b""


_READ_MANIFEST: Final = _optional_message("manifest", _nested(Manifest, types_pb2.Manifest.DESCRIPTOR))[1]
