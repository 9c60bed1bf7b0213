"""A checked load on a real cluster through the SDK: several callers, every ack and every error written down.

Contended keys hold small blobs; each caller's operations on them become a history for the linearizability checker.
Other keys belong to one caller each and hold blobs of 4 KiB to 64 MiB whose bytes follow from a name and a size, so
that everything acked can be read back and compared without having been kept.
"""

from __future__ import annotations

import io
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

import holdfast
from tests.sim.checker import FOREVER, Kind, Op, Result, linearizable, smallest_violation, tell

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

KIB: Final = 1024
MIB: Final = 1024 * KIB
BLOCK_BYTES: Final = 256 * KIB
BUCKET: Final = "load"
SHARED_KEYS: Final = 4
OWN_KEYS: Final = 6
SIZES: Final = (
    4 * KIB,
    4 * KIB,
    4 * KIB,
    64 * KIB,
    64 * KIB,
    300_000,
    MIB,
    MIB + 1,
    4 * MIB,
    17 * MIB,
    64 * MIB,
)


def content_blocks(content: str, size: int) -> Iterator[bytes]:
    """The bytes a name and a size stand for, in blocks, no two of them alike."""
    base = random.Random(content).randbytes(BLOCK_BYTES)
    for number in range(-(-size // BLOCK_BYTES)):
        block = number.to_bytes(8, "big") + base[8:]
        yield block[: size - number * BLOCK_BYTES]


LONG_EVERY: Final = 8
LONG_BYTES: Final = 6000
"""Too long for copies: such contents are coded."""


def shared_bytes(content: str) -> bytes:
    """The bytes of a content of a contended key: its name, and for some of them more, which follows from the name."""
    name = content.encode()
    return name if sum(name) % LONG_EVERY else name + b"|" + random.Random(content).randbytes(LONG_BYTES)


def shared_content(data: bytes) -> str:
    """The name of a contended key's content; what nobody wrote has a name that nobody gave."""
    content = data.partition(b"|")[0].decode(errors="replace")
    return content if shared_bytes(content) == data else f"{len(data)} bytes that nobody wrote: {data[:40]!r}"


class Content(io.RawIOBase):
    """The same bytes as a file that can be rewound, so that the SDK may send them again."""

    def __init__(self, content: str, size: int) -> None:
        self._base = random.Random(content).randbytes(BLOCK_BYTES)
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        into = memoryview(buffer)
        number, start = divmod(self._at, BLOCK_BYTES)
        block = (number.to_bytes(8, "big") + self._base[8:])[start : start + len(into)]
        block = block[: max(0, self._size - self._at)]
        into[: len(block)] = block
        self._at += len(block)
        return len(block)


@dataclass(frozen=True, slots=True)
class Acked:
    content: str
    size: int
    version: int


@dataclass(frozen=True, slots=True)
class Thin:
    """An ack without a margin in some tag, and when the put was on its way."""

    called: float
    returned: float
    margin: holdfast.Margin


@dataclass
class Record:
    """What all callers saw together."""

    acked: dict[str, Acked] = field(default_factory=dict[str, Acked])
    """Per key of one caller: the last put that was acked."""
    possible: dict[str, list[tuple[str, int]]] = field(default_factory=dict[str, list[tuple[str, int]]])
    """Per key: later puts whose outcome nobody knows."""
    history: dict[str, list[Op]] = field(default_factory=dict[str, list[Op]])
    deleted: dict[str, int] = field(default_factory=dict[str, int])
    """Per key of one caller that was deleted last: the version of the deletion."""
    thin: dict[str, list[Thin]] = field(default_factory=dict[str, list[Thin]])
    """Per key: acks that said that the next loss may cost them."""
    puts: int = 0
    gets: int = 0
    bytes_put: int = 0
    bytes_got: int = 0
    errors: Counter[str] = field(default_factory=Counter[str])
    """What the SDK could not hide from its callers."""
    slowest_s: float = 0.0
    wrong: list[str] = field(default_factory=list[str])
    lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self) -> str:
        errors = ", ".join(f"{name} {count}" for name, count in sorted(self.errors.items())) or "none"
        return (
            f"{self.puts} puts ({self.bytes_put / MIB:.0f} MiB), {self.gets} gets ({self.bytes_got / MIB:.0f} MiB), "
            f"slowest call {self.slowest_s:.1f} s, errors callers saw: {errors}"
        )

    def note_margin(self, key: str, called: float, margin: holdfast.Margin) -> None:
        """What an ack said that it is worth, if that is not much."""
        if min(margin.values(), default=0) < 1:
            self.thin.setdefault(key, []).append(Thin(called, time.monotonic(), margin))

    def judge(self) -> list[str]:
        found = list(self.wrong)
        for key, ops in sorted(self.history.items()):
            if not linearizable(ops):
                found.append(f"not linearizable: {key}\n{tell(smallest_violation(ops))}")
        return found


class Caller(threading.Thread):
    """One caller until `stop` is set."""

    def __init__(
        self, number: int, bucket: holdfast.Bucket, record: Record, stop: threading.Event, seed: str
    ) -> None:
        super().__init__(name=f"caller {number}", daemon=True)
        self._who = f"c{number}"
        self._bucket = bucket
        self._record = record
        self._stop_event = stop
        self._random = random.Random(f"{seed} {number}")
        self.sizes: tuple[int, ...] = SIZES
        self._written = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._stop_event.is_set():
                began = time.monotonic()
                self._once()
                with self._record.lock:
                    self._record.slowest_s = max(self._record.slowest_s, time.monotonic() - began)
        except BaseException as error:  # noqa: BLE001 - told by the test that joins this thread
            self.failure = error

    def _once(self) -> None:
        if self._random.random() < 0.5:
            key = f"shared/{self._random.randrange(SHARED_KEYS)}"
            roll = self._random.random()
            if roll < 0.45:
                self._shared_put(key)
            elif roll < 0.55:
                self._shared_delete(key)
            else:
                self.shared_get(key)
        elif self._random.random() < 0.5:
            self._own_put()
        else:
            self._own_get()

    def _new_content(self) -> str:
        self._written += 1
        return f"{self._who}.{self._written}"

    # --- contended keys

    def _bucket_of(self, key: str) -> holdfast.Bucket:
        """Where a contended key is; those of one caller are in the bucket that it was given."""
        del key
        return self._bucket

    def _shared_put(self, key: str, *, if_version: int | None = None) -> None:
        content, if_absent = self._new_content(), if_version is None and self._random.random() < 0.2
        version = -1 if if_version is None else if_version
        op = Op(Kind.PUT, time.monotonic(), 0, Result.DONE, 0, content, if_absent, version, who=self._who)
        try:
            receipt = self._bucket_of(key).put(
                key, shared_bytes(content), if_absent=if_absent, if_version=if_version
            )
        except (holdfast.AlreadyExists, holdfast.PreconditionFailed):
            self._note(key, op, Result.CONDITION_FAILED)
        except holdfast.Error as error:
            self._write_failed(key, op, error)
        else:
            self._note(key, op, Result.DONE, receipt.version)
            with self._record.lock:
                self._record.note_margin(key, op.called, receipt.margin)

    def _write_failed(self, key: str, op: Op, error: holdfast.Error) -> None:
        """Only where the SDK says that it cannot know may a failed write have happened; see docs/sdk.md."""
        self._failed(error)
        if isinstance(error, (holdfast.OutcomeUnknown, holdfast.IntegrityError)):
            self._note(key, op, Result.UNKNOWN)

    def _shared_delete(self, key: str) -> None:
        op = Op(Kind.DELETE, time.monotonic(), 0, Result.DONE, who=self._who)
        try:
            version = self._bucket_of(key).delete(key)
        except holdfast.BlobNotFound:
            self._note(key, op, Result.ABSENT)
        except holdfast.Error as error:
            self._write_failed(key, op, error)
        else:
            self._note(key, op, Result.DONE, version)

    def shared_get(self, key: str) -> None:
        op = Op(Kind.READ, time.monotonic(), 0, Result.DONE, who=self._who)
        try:
            blob = self._bucket_of(key).get(key)
            data = blob.read()
        except holdfast.BlobNotFound:
            self._note(key, op, Result.ABSENT)
        except holdfast.Error as error:
            self._failed(error)
        else:
            self._note(key, op, Result.DONE, blob.info.version, shared_content(data))

    def _note(self, key: str, op: Op, result: Result, version: int = 0, content: str | None = None) -> None:
        returned = FOREVER if result is Result.UNKNOWN else time.monotonic()
        seen = op.content if content is None else content
        done = Op(op.kind, op.called, returned, result, version, seen, op.if_absent, op.if_version, op.who)
        with self._record.lock:
            self._record.history.setdefault(key, []).append(done)

    def _failed(self, error: holdfast.Error) -> None:
        with self._record.lock:
            self._record.errors[type(error).__name__] += 1
            if isinstance(error, holdfast.IntegrityError):
                self._record.wrong.append(f"{self._who}: {error!r}")

    # --- keys of this caller alone

    def _own_key(self) -> str:
        return f"{self._who}/{self._random.randrange(OWN_KEYS)}"

    def _own_put(self) -> None:
        key, content, size = self._own_key(), self._new_content(), self._random.choice(self.sizes)
        record, called = self._record, time.monotonic()
        with record.lock:
            record.possible.setdefault(key, []).append((content, size))
        try:
            receipt = self._bucket.put(key, Content(content, size))
        except holdfast.Error as error:
            self._failed(error)
            if not isinstance(error, (holdfast.OutcomeUnknown, holdfast.IntegrityError)):
                with record.lock:
                    record.possible[key].remove((content, size))
            return
        with record.lock:
            record.note_margin(key, called, receipt.margin)
            record.deleted.pop(key, None)
            record.acked[key] = Acked(content, size, receipt.version)
            record.possible[key] = []
            record.puts += 1
            record.bytes_put += size
            if receipt.size != size:
                record.wrong.append(f"{key}: put {size} bytes, acked {receipt.size}")

    def own_delete(self, key: str) -> None:
        """A deletion of unknown outcome ends what is known of the key."""
        record = self._record
        try:
            version = self._bucket.delete(key)
        except holdfast.BlobNotFound:
            with record.lock:
                if (acked := record.acked.get(key)) is not None:
                    record.wrong.append(f"{key}: acked version {acked.version} is absent")
            return
        except holdfast.Error as error:
            self._failed(error)
            if isinstance(error, (holdfast.OutcomeUnknown, holdfast.IntegrityError)):
                with record.lock:
                    if (acked := record.acked.pop(key, None)) is not None:
                        record.possible[key].append((acked.content, acked.size))
            return
        with record.lock:
            record.acked.pop(key, None)
            record.possible[key] = []
            record.deleted[key] = version

    def _own_get(self) -> None:
        key = self._own_key()
        if (wrong := self.check(key)) is not None:
            with self._record.lock:
                self._record.wrong.append(wrong)

    def check(self, key: str) -> str | None:
        """Read a key of this caller and compare every byte. What is wrong, if anything."""
        try:
            return check_key(self._bucket, self._record, key)
        except holdfast.Error as error:
            self._failed(error)
            return None


def check_key(bucket: holdfast.Bucket, record: Record, key: str) -> str | None:
    """Compare a key with what was acked for it. Raises what the SDK raises when it cannot be read."""
    with record.lock:
        acked, possible = record.acked.get(key), list(record.possible.get(key, []))
        deleted = record.deleted.get(key)
    try:
        blob = bucket.get(key)
    except holdfast.BlobNotFound:
        return None if acked is None else f"{key}: acked version {acked.version} is absent"
    if deleted is not None and not possible:
        return f"{key}: deleted at version {deleted}, and back as version {blob.info.version}"
    allowed = [*possible, *([(acked.content, acked.size)] if acked is not None else [])]
    if acked is not None and blob.info.version < acked.version:
        return f"{key}: version {blob.info.version} read, {acked.version} acked"
    got = _compare(blob, allowed)
    with record.lock:
        record.gets += 1
        record.bytes_got += blob.info.size
    return None if got else f"{key}: version {blob.info.version} has bytes nobody wrote"


def _compare(blob: holdfast.Blob, allowed: list[tuple[str, int]]) -> bool:
    """Whether the bytes are those of one of these contents, without holding either."""
    candidates = {name: content_blocks(name, size) for name, size in allowed if size == blob.info.size}
    buffer = bytearray()
    for chunk in blob.iter():
        buffer += chunk
        while len(buffer) >= BLOCK_BYTES:
            candidates = _still(candidates, bytes(buffer[:BLOCK_BYTES]))
            del buffer[:BLOCK_BYTES]
    candidates = _still(candidates, bytes(buffer)) if buffer else candidates
    return bool(candidates)


def _still(candidates: dict[str, Iterator[bytes]], block: bytes) -> dict[str, Iterator[bytes]]:
    return {name: blocks for name, blocks in candidates.items() if next(blocks, None) == block}


class Load:
    """Callers at work, as a context. Afterwards `record` says what they saw."""

    def __init__(
        self,
        client: holdfast.Client,
        *,
        seed: int,
        callers: int = 4,
        largest: int = max(SIZES),
        pool: str = "main",
        undo: int | None = None,
    ) -> None:
        self.record = Record()
        self.bucket = client.create_bucket(f"{BUCKET}-{pool}", pool=pool, undo=undo, exist_ok=True)
        self._stop = threading.Event()
        self.callers = [
            Caller(number, self.bucket, self.record, self._stop, str(seed)) for number in range(callers)
        ]

        for caller in self.callers:
            caller.sizes = tuple(size for size in SIZES if size <= largest)

    def __enter__(self) -> Self:
        for caller in self.callers:
            caller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every caller finish what it is doing."""
        self._stop.set()
        for caller in self.callers:
            caller.join(180.0)
            assert not caller.is_alive(), f"{caller.name} hangs"
            if caller.failure is not None:
                raise caller.failure

    def done(self) -> int:
        """How many operations succeeded so far."""
        with self.record.lock:
            shared = sum(len(ops) for ops in self.record.history.values())
            return self.record.puts + self.record.gets + shared

    def read_everything_back(self) -> list[str]:
        """Every key of one caller, and a last read of each contended one; then the judgement."""
        found: list[str] = []
        for key in sorted(self.record.acked):
            try:
                wrong = check_key(self.bucket, self.record, key)
            except holdfast.Error as error:
                wrong = f"{key}: cannot be read: {error!r}"
            if wrong is not None:
                found.append(wrong)
        for number in range(SHARED_KEYS):
            self.callers[0].shared_get(f"shared/{number}")
        return found + self.record.judge()
