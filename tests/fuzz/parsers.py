"""Every parser of bytes from disk or wire: what it is given, what it may raise, what a value of it must do.

`corpus` are whole inputs; an input of the fuzzer is random bytes, or one of these after a few mutations, so that it
gets past magics and lengths. Where a format has checksums, `mend` makes those of a mutated input right again: what is
behind them must hold too. Knows no fuzzer.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import xxhash

from holdfast_node.adapters.rpc.carrier import unwrap, wrap
from holdfast_node.config.loading import load
from holdfast_node.config.mistakes import ConfigError
from holdfast_node.core import cluster_map, codes, index_rows, index_updates, listing, log_format, records
from holdfast_node.core.acceptance import blank
from holdfast_node.core.api import Bucket
from holdfast_node.core.errors import IntegrityError, InvalidArgument, StoreRefused
from holdfast_node.core.head import Head, Manifest
from holdfast_node.core.ids import BootId, BucketId, ClusterId, StoreId
from holdfast_node.core.index_keys import CLASS_OF, record_key
from holdfast_node.core.index_overlay import Rows
from holdfast_node.core.listing import Query
from holdfast_node.core.log_format import BLOCK, BatchBuilder, Mark, Position, VolumeHeader
from holdfast_node.core.messages import REPLY_TO
from holdfast_node.core.operation import Operation
from holdfast_node.services import buckets
from holdfast_node.services.link import frames
from holdfast_node.services.link.frames import Frame, FrameError
from holdfast_node.services.link.hello import Context, ErrorDetail, Hello
from tests.support import maps, stores
from tests.support.stores import BODIES, BUCKET

LIFE: Final = 7
FRAME_BYTES_MAX: Final = 1 << 16
MUTATIONS_MAX: Final = 4
ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class Parser:
    """`parse` gives a value or raises one of `errors`. `again` encodes a value for which that must give the value."""

    name: str
    parse: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    corpus: Sequence[bytes]
    again: Callable[[Any], bytes] | None = None
    mend: Callable[[bytearray], None] | None = None


def mutated(corpus: Sequence[bytes], chooser: random.Random) -> bytearray:
    """One of the corpus after a few changes that fuzzers are known for."""
    data = bytearray(chooser.choice(corpus))
    for _ in range(chooser.randint(1, MUTATIONS_MAX)):
        at = chooser.randrange(len(data) + 1)
        match chooser.randrange(8):
            case 0 if data:
                data[min(at, len(data) - 1)] ^= 1 << chooser.randrange(8)
            case 1:
                data[at:at] = chooser.randbytes(chooser.randint(1, 9))
            case 2:
                del data[at : at + chooser.randint(1, 9)]
            case 3:
                del data[at:]
            case 4:
                edge = chooser.choice(
                    (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**64 - 1)
                )
                width = chooser.choice((1, 2, 4, 8))
                data[at : at + width] = (edge % (1 << 8 * width)).to_bytes(width, "big")
            case 5:
                other = chooser.choice(corpus)
                start = chooser.randrange(len(other) + 1)
                data[at:] = other[start:]
            case 6:
                data[at:at] = data[at : at + chooser.randint(1, 40)]
            case _:
                data[at:at] = bytes((chooser.randrange(256),)) * chooser.choice((1, 50, 3000))
    return data


# --- the log ----------------------------------------------------------------------------------------------


def _mend_128(prefix: int, seeded_at: int | None) -> Callable[[bytearray], None]:
    """The xxh3-128 right behind the first `prefix` bytes, seeded with the life at `seeded_at`."""

    def mend(data: bytearray) -> None:
        if len(data) < prefix + 16:
            return
        seed = int.from_bytes(data[seeded_at : seeded_at + 8], "big") if seeded_at is not None else 0
        data[prefix : prefix + 16] = xxhash.xxh3_128_digest(bytes(data[:prefix]), seed)

    return mend


def _mend_superblock(data: bytearray) -> None:
    if len(data) > 16:
        data[-16:] = xxhash.xxh3_128_digest(bytes(data[:-16]))


def _mend_record(data: bytearray) -> None:
    if len(data) < log_format.RECORD_HEADER_BYTES:
        return
    key, body, payload = struct.unpack_from(">III", data, 24)
    fields = bytes(data[:40])
    data[40:48] = xxhash.xxh3_64_digest(fields + bytes(data[64 : 64 + key]), LIFE)
    end = 64 + key + body + payload
    data[48:64] = xxhash.xxh3_128_digest(bytes(data[:48]) + bytes(data[64:end]), LIFE)


def _mend_batch_header(data: bytearray) -> None:
    if len(data) >= log_format.BATCH_HEADER_BYTES:
        (life,) = struct.unpack_from(">Q", data, 8)
        data[48:56] = xxhash.xxh3_64_digest(bytes(data[:48]), life)


def _batch() -> bytes:
    builder = BatchBuilder(Position(1, LIFE, BLOCK, 3, 9, 5))
    for kind, key, body, payload in (
        (1, b"B" * 16 + b"key", BODIES.encode(stores.register(b"key", 1)), b""),
        (2, bytes(28), b"body", b"cell" * 20),
        (7, b"", b"map", b""),
    ):
        builder.add(kind, key, body, payload)
    return b"".join(builder.finish().buffers)


def _parse_batch(data: bytes) -> object:
    header = log_format.decode_batch_header(data)
    if header is None:
        return None
    found, right = log_format.read_batch(memoryview(data), BLOCK, header)
    assert len(found) <= len(data) // log_format.RECORD_HEADER_BYTES
    return found, right


def _parse_record(data: bytes) -> object:
    record = log_format.decode_record(memoryview(data), 0, LIFE)
    if record is None or not record.whole:
        return record
    cls = CLASS_OF.get(record.kind)
    return record if cls is None else BODIES.decode(cls, record.body)


def _salvage(data: bytes) -> object:
    found = log_format.salvage(memoryview(data), 0, LIFE, lambda _: True)
    assert all(record.extent.offset + log_format.RECORD_HEADER_BYTES <= len(data) for record in found)
    return found, list(log_format.batch_headers(data, 0)), log_format.is_blank(data)


def _volume_header() -> bytes:
    return log_format.encode_volume_header(VolumeHeader(3, LIFE, 1 << 20, 7, 9, 11, b"S" * 16))[:200]


def _superblock() -> records.Superblock:
    return records.Superblock(ClusterId(b"C" * 16), "n1", StoreId(b"S" * 16), 4, BootId(b"b" * 16))


def _log_parsers() -> list[Parser]:
    superblock = log_format.encode_superblock(BODIES.encode(_superblock()), Mark(5, 6))
    batch = _batch()
    return [
        Parser(
            "volume header",
            log_format.decode_volume_header,
            (StoreRefused,),
            [_volume_header()],
            mend=_mend_128(76, 20),
        ),
        Parser("batch header", log_format.decode_batch_header, (), [batch[:64]], mend=_mend_batch_header),
        Parser("batch", _parse_batch, (), [batch], mend=_mend_batch_header),
        Parser("record", _parse_record, (IntegrityError,), [batch[64:600]], mend=_mend_record),
        Parser("located record", lambda data: log_format.decode_located(data, 0), (), [batch[64:600]]),
        Parser("salvage", _salvage, (), [batch]),
        Parser(
            "superblock", log_format.decode_superblock, (IntegrityError,), [superblock], mend=_mend_superblock
        ),
        Parser(
            "position",
            log_format.decode_position,
            (),
            [log_format.encode_position(Position(1, 2, 3, 4, 5, 6))],
            again=lambda value: b"" if value is None else log_format.encode_position(value),
        ),
    ]


# --- rows of the index ------------------------------------------------------------------------------------


def _row_parsers() -> list[Parser]:
    rows = Rows(lambda _: None, lambda _start, _end: ())
    logged = _logged()
    for entry in logged:
        index_updates.apply(rows, entry, newest=True)
    by_letter = {key[:1]: value for key, value in rows.puts.items()}
    errors = (IntegrityError,)
    return [
        Parser("register row", index_rows.decode_register_entry, errors, [by_letter[b"k"]]),
        Parser("scope of a row", index_rows.scope_of, errors, [by_letter[b"k"]]),
        Parser(
            "register summary",
            lambda data: index_rows.decode_register_row(b"k", data),
            errors,
            [by_letter[b"k"]],
        ),
        Parser("manifest row", index_rows.decode_manifest_row, errors, [by_letter[b"m"]]),
        Parser(
            "shard row",
            index_rows.decode_shard,
            errors,
            [by_letter[b"s"]],
            again=index_rows.encode_shard,
        ),
        Parser("blank row", index_rows.decode_blank, errors, [by_letter[b"q"]]),
        Parser("cell row", index_rows.decode_cell, errors, [by_letter[b"c"]]),
        Parser("count row", index_rows.decode_count, errors, [by_letter[b"n"]]),
        Parser("small row", index_rows.decode_small, errors, [by_letter[b"g"]]),
    ]


def _logged() -> list[index_rows.Logged]:
    seed, found = stores.blob_id(1), list[index_rows.Logged]()
    register = stores.register(b"key", 3)
    gone = blank(stores.register(b"gone", 1))
    bodies = [register, gone, stores.cell(seed, 0, b"data").body, stores.seal(seed, [b"data"]).body]
    for number, body in enumerate([*bodies, records.MapRecord(b"map")], 1):
        head = stores.head(3) if body is register else None
        key = record_key(body)
        location = index_rows.Location(1, 4096 * number, 500)
        encoded = BODIES.encode(body)
        found.append(index_rows.Logged(number, 0, key, body, encoded, location, 4200, 4, head))
    return found


# --- values, frames, texts --------------------------------------------------------------------------------


def _reader_of(cls: type[object]) -> Callable[[bytes], object]:
    return lambda data: BODIES.decode(cls, data)


def _body_parsers() -> list[Parser]:
    classes: set[type] = {
        *CLASS_OF.values(),
        *REPLY_TO,
        *REPLY_TO.values(),
        cluster_map.ClusterMap,
        Context,
        ErrorDetail,
        Head,
        Hello,
        Manifest,
        Operation,
        records.Superblock,
    }
    corpus = [BODIES.encode(entry.body) for entry in _logged()]
    corpus += [BODIES.encode(stores.head(3, [1, 2])), BODIES.encode(maps.cluster(maps.nodes(6, 3))), b""]
    return [
        Parser(
            f"body of {cls.__name__}",
            _reader_of(cls),
            (IntegrityError,),
            corpus,
            again=BODIES.encode,
        )
        for cls in sorted(classes, key=lambda cls: cls.__name__)
    ]


def _mend_frames(data: bytearray) -> None:
    """The checksum of the first frame, as far as its lengths say where it ends."""
    if len(data) < frames.HEADER_BYTES:
        return
    context, _, body, payload = struct.unpack_from(">HHII", data, 28)
    end = frames.HEADER_BYTES + context + body + payload
    data[40:48] = xxhash.xxh3_64_digest(bytes(data[:40]) + bytes(data[48:end]))


def _join(many: Sequence[Frame]) -> bytes:
    return b"".join(buffer for frame in many for buffer in frames.encode(frame))


def _text_parsers() -> list[Parser]:
    query = Query(BUCKET, b"a", b"/")
    example = (ROOT / "cluster.example.toml").read_bytes()
    bucket = Bucket("bucket", BucketId(b"B" * 16), "main", 60, 5, closing=False)
    record = buckets.encode_record(bucket)
    message = _join([Frame(16, 1, 2, 3, b"c", b"body", b"payload"), Frame(4)])
    return [
        Parser(
            "frames",
            lambda data: list(frames.decode(data, frame_bytes_max=FRAME_BYTES_MAX)),
            (FrameError,),
            [message],
            again=_join,
            mend=_mend_frames,
        ),
        Parser("wrapping", lambda data: bytes(unwrap(data)), (FrameError,), [wrap([message])]),
        Parser(
            "page token",
            lambda data: listing.decode_token(query, data),
            (InvalidArgument,),
            [listing.encode_token(query, b"abc"), b""],
        ),
        Parser(
            "bucket record",
            buckets.decode_record,
            (IntegrityError,),
            [record, record.replace(b"60", b"Infinity"), b"[" * 100_000],
            again=buckets.encode_record,
        ),
        Parser(
            "code",
            lambda data: codes.parse_code(data.decode("latin-1")),
            (InvalidArgument,),
            [b"rs:4+2", b"copy:3"],
            again=lambda code: str(code).encode(),
        ),
        Parser("config", _load, (ConfigError,), [example, b"a = " + b"[" * 3000, b"a = " + b"9" * 5000]),
    ]


def _load(data: bytes) -> object:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "cluster.toml"
        path.write_bytes(data)
        return load(path)


def all_parsers() -> list[Parser]:
    return [*_log_parsers(), *_row_parsers(), *_body_parsers(), *_text_parsers()]


# --- one input --------------------------------------------------------------------------------------------


def check(parser: Parser, data: bytes) -> object | None:
    """Give these bytes to the parser; anything but a value or a typed error is raised as it is."""
    try:
        value = parser.parse(data)
    except parser.errors:
        return None
    if parser.again is not None and value is not None:
        assert parser.parse(parser.again(value)) == value, f"{parser.name}: {value!r} does not come back"
    return value


def input_of(parser: Parser, chooser: random.Random) -> bytes:
    """Random bytes now and then; mostly something that looks right for a while."""
    if chooser.random() < 0.1:
        return chooser.randbytes(chooser.randrange(200))
    data = mutated(parser.corpus, chooser)
    if parser.mend is not None and chooser.random() < 0.7:
        parser.mend(data)
    return bytes(data)
