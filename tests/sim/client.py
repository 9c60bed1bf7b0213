"""A caller as the SDK is one: any node, retries under one request id, and an honest record of every outcome.

It talks to coordinators as the front door does, through values of `core.api`. What a crashed or silent node did is
unknown; what a node refused before it sent any accept certainly did not happen.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar, cast

import xxhash

from holdfast_node.core.api import (
    Call,
    Condition,
    GetResult,
    ListOptions,
    ListResult,
    Margin,
    PutOptions,
    PutResult,
    Range,
)
from holdfast_node.core.errors import (
    AlreadyExists,
    BlobNotFound,
    BucketClosing,
    BucketNotFound,
    CallerError,
    HoldfastError,
    IntegrityError,
    OutcomeUnknown,
    PreconditionFailed,
    VersionNotFound,
)
from holdfast_node.core.ids import Digest, RequestId
from tests.sim.checker import NOTHING, Kind, Op, Result
from tests.sim.history import UNKNOWN_END, Ack, History, absent_op, content_bytes, read_op

T = TypeVar("T")

ATTEMPTS_MAX: Final = 4
ATTEMPT_TIMEOUT_S: Final = 20.0
PAUSE_S: Final = (0.01, 0.4)
CHUNK_BYTES: Final = 3000


class Coordinator(Protocol):
    """What the front door of a node asks of it."""

    async def put(
        self, bucket: str, key: bytes, options: PutOptions, chunks: AsyncIterator[bytes]
    ) -> PutResult: ...

    async def get(self, bucket: str, key: bytes, *, version: int = 0, range: Range = ...) -> GetResult: ...  # noqa: A002

    async def delete(self, bucket: str, key: bytes, condition: Condition, call: Call) -> tuple[int, int]: ...

    async def undelete(self, bucket: str, key: bytes, version: int, call: Call) -> PutResult: ...

    async def list(self, bucket: str, options: ListOptions) -> ListResult: ...


Work = Callable[[Coordinator], Awaitable[T]]


class ConnectionLost(Exception):
    """The node went away, or did not answer in time: it may have done anything."""


class Door(Protocol):
    """How a client gets at nodes."""

    def choices(self) -> list[str]: ...

    async def run(self, node: str, work: Work[T], timeout_s: float) -> T:
        """Raises what the work raises, or `ConnectionLost`."""
        ...


@dataclass
class _Effort:
    """One logical call: the attempts so far and whether any of them may have had an effect."""

    request_id: RequestId
    stamp: int = 0
    uncertain: bool = False


class SimClient:
    """One caller. Every method is one logical operation, recorded when it ends."""

    def __init__(
        self, name: str, door: Door, history: History, *, chooser: random.Random, bucket: str
    ) -> None:
        self.name = name
        self._door = door
        self._history = history
        self._chooser = chooser
        self._bucket = bucket
        self._node = ""
        self._era = 1
        """Every cluster's first, until a node says more. Never none: a write without a stamp must not be retried."""
        self._written = 0
        self.busy = ""
        """What it is doing now, for a person who looks at a world that hangs."""

    # --- writes

    async def put(self, key: bytes, size: int, condition: Condition, *, linger_s: float = 0.0) -> Ack | None:
        """`linger_s`: how long the source takes between two of its chunks."""
        self._written += 1
        content = f"{self.name}.{self._written}"
        data = content_bytes(content, size)
        self._history.offer(content, key, data, _digest(data))
        declared = size if self._chooser.random() < 0.7 else -1
        options = PutOptions(size=declared, condition=condition)

        async def work(node: Coordinator, call: Call) -> PutResult:
            return await node.put(self._bucket, key, replace(options, call=call), chunked(data, linger_s))

        op = Op(Kind.PUT, 0, 0, Result.DONE, 0, content, condition.if_absent, condition.if_version, self.name)
        result = await self._write(key, op, work)
        if result is None:
            return None
        if bytes(result.hash) != _digest(data) or result.size != size:
            self._history.violations.append(f"WRONG ACK: {key!r} {content}: {result}")
        ack = Ack(key, content, result.version, result.margin)
        self._history.acks.append(ack)
        return ack

    async def delete(self, key: bytes, condition: Condition) -> None:
        async def work(node: Coordinator, call: Call) -> PutResult:
            version, era = await node.delete(self._bucket, key, condition, call)
            return PutResult(version, _NO_DIGEST, 0, _NO_MARGIN, era)

        op = Op(Kind.DELETE, 0, 0, Result.DONE, if_version=condition.if_version, who=self.name)
        await self._write(key, op, work)

    async def undelete(self, key: bytes, version: int, content: str) -> None:
        async def work(node: Coordinator, call: Call) -> PutResult:
            return await node.undelete(self._bucket, key, version, call)

        op = Op(Kind.PUT, 0, 0, Result.DONE, 0, content, who=self.name)
        await self._write(key, op, work)

    async def _write(
        self, key: bytes, op: Op, work: Callable[[Coordinator, Call], Awaitable[PutResult]]
    ) -> PutResult | None:
        effort = _Effort(RequestId(self._chooser.randbytes(16)), stamp=self._era)
        called = self._history.moment()
        op = replace(op, called=called)
        self.busy = f"{op.kind.value} {key!r}"

        async def once(node: Coordinator) -> PutResult:
            return await work(node, Call(effort.request_id, effort.stamp))

        self._history.writing[self.name] = (key, op.content)
        try:
            return await self._persist(key, op, effort, once)
        finally:
            del self._history.writing[self.name]

    async def _persist(
        self, key: bytes, op: Op, effort: _Effort, once: Callable[[Coordinator], Awaitable[PutResult]]
    ) -> PutResult | None:
        for attempt in range(ATTEMPTS_MAX):
            self._history.attempts += bool(attempt)
            try:
                result = await self._attempt(once)
            except ConnectionLost:
                effort.uncertain = True
            except (AlreadyExists, PreconditionFailed, BlobNotFound) as error:
                self._refused(key, op, effort, error)
                return None
            except (VersionNotFound, BucketNotFound, BucketClosing):
                break
            except CallerError as error:
                self._history.violations.append(f"REFUSED: {op.kind.value} {key!r}: {error!r}")
                break
            except HoldfastError as error:
                effort.uncertain |= isinstance(error, OutcomeUnknown)
                self._history.errors[type(error).__name__] += 1
            else:
                self._era = max(self._era, result.era)
                done = replace(op, returned=self._history.moment(), version=result.version)
                self._history.add(key, done)
                return result
            await asyncio.sleep(self._chooser.uniform(*PAUSE_S))
        if effort.uncertain:
            self._history.add(key, replace(op, returned=UNKNOWN_END, result=Result.UNKNOWN))
        return None

    def _refused(self, key: bytes, op: Op, effort: _Effort, error: HoldfastError) -> None:
        """The condition failed. Final for the whole call, unless an earlier attempt may still be running somewhere. An
        undelete that finds nothing says nothing about the key."""
        result = Result.ABSENT if isinstance(error, BlobNotFound) else Result.CONDITION_FAILED
        if effort.uncertain:
            self._history.add(key, replace(op, returned=UNKNOWN_END, result=Result.UNKNOWN))
        elif op.kind is Kind.DELETE or result is Result.CONDITION_FAILED:
            self._history.add(key, replace(op, returned=self._history.moment(), result=result))

    # --- reads

    async def get(self, key: bytes, *, patience: int = 2) -> tuple[int, str] | None:
        """The version and content read, ("" if absent), or None if no node could tell."""
        called = self._history.moment()
        self.busy = f"get {key!r}"

        async def work(node: Coordinator) -> tuple[int, bytes]:
            result = await node.get(self._bucket, key)
            data = await _drain(result)
            if len(data) != result.info.size:
                self._history.violations.append(f"SHORT READ: {key!r} {len(data)} of {result.info.size}")
            return result.info.version, data

        try:
            read = await self._insist(work, patience)
        except BlobNotFound:
            self._history.add(key, absent_op(called, self._history.moment(), self.name))
            return 0, NOTHING
        if read is None:
            return None
        version, data = read
        content = self._history.identify(key, data)
        if content is None:
            return None
        self._history.add(key, read_op(called, self._history.moment(), content, version, self.name))
        return version, content

    async def get_range(self, key: bytes, first: int, length: int) -> None:
        """A range is checked against the whole: its bytes must be those of some content offered for the key."""
        self.busy = f"range {key!r}"

        async def work(node: Coordinator) -> tuple[int, bytes, int, int, bytes]:
            whole = await node.get(self._bucket, key)
            await cast("AsyncGenerator[bytes, None]", whole.chunks).aclose()
            last = min(first + length, whole.info.size)
            if first >= last:
                return 0, b"", 0, 0, b""
            version = whole.info.version
            result = await node.get(self._bucket, key, version=version, range=Range(first, last))
            data = await _drain(result)
            return version, data, result.first, result.last, bytes(result.info.hash)

        try:
            read = await self._insist(work, 1)
        except (BlobNotFound, VersionNotFound):
            return
        if read is None or not read[0]:
            return
        version, data, start, end, digest = read
        content = self._history.identify_hash(key, digest)
        if content is None:
            return
        expected = content_bytes(content, self._history.size_of(content))[start:end]
        if (start, end) != (first, first + len(data)) or data != expected:
            self._history.violations.append(
                f"WRONG RANGE: {key!r} v{version} [{first}, {first + length}) gave [{start}, {end})"
            )

    async def get_version(self, key: bytes, version: int, content: str) -> bool | None:
        """An older version: its own bytes, or a typed error. None: nobody could tell."""
        self.busy = f"get {key!r} v{version}"

        async def work(node: Coordinator) -> bytes:
            return await _drain(await node.get(self._bucket, key, version=version))

        try:
            data = await self._insist(work, 1)
        except (BlobNotFound, VersionNotFound):
            return False
        if data is None:
            return None
        if self._history.identify(key, data) not in {content, None}:
            self._history.violations.append(f"WRONG VERSION: {key!r} v{version} is not {content}")
        return True

    async def list(self, keys: list[bytes], page_size: int) -> bool:
        """The whole listing: every key of `keys` is read by it, present or absent. False: nobody could tell."""
        called = self._history.moment()
        self.busy = "list"

        async def work(node: Coordinator) -> list[tuple[bytes, int, bytes]]:
            found: list[tuple[bytes, int, bytes]] = []
            token = b""
            while True:
                page = await node.list(self._bucket, ListOptions(page_size=page_size, page_token=token))
                found += [(info.key, info.version, bytes(info.hash)) for info in page.blobs]
                token = page.next_page_token
                if not token:
                    return found

        listed = await self._insist(work, 2)
        if listed is None:
            return False
        returned = self._history.moment()
        seen = [key for key, _, _ in listed]
        if seen != sorted(set(seen)):
            self._history.violations.append(f"LIST out of order or twice: {seen}")
        for key, version, digest in listed:
            content = self._history.identify_hash(key, digest)
            if content is not None:
                self._history.add(key, read_op(called, returned, content, version, self.name + " list"))
        for key in keys:
            if key not in seen:
                self._history.add(key, absent_op(called, returned, self.name + " list"))
        return True

    # --- getting through

    async def _insist(self, work: Work[T], attempts: int) -> T | None:
        """A read, on as many nodes as it takes. None when all failed. Absence is the caller's to interpret."""
        for _ in range(attempts):
            try:
                return await self._attempt(work)
            except CallerError:
                raise
            except IntegrityError as error:
                self._history.errors[type(error).__name__] += 1
                self._history.corrupt_reads.append(f"{self.busy}: {error!r}")
            except (HoldfastError, ConnectionLost) as error:
                self._history.errors[type(error).__name__] += 1
                self._history.last_errors[self.name] = f"{self.busy}: {error!r}"
            await asyncio.sleep(self._chooser.uniform(*PAUSE_S))
        return None

    async def _attempt(self, work: Work[T]) -> T:
        """On the node that worked last, or another one."""
        choices = self._door.choices()
        if not choices:
            raise ConnectionLost
        if self._node not in choices or self._chooser.random() < 0.15:
            self._node = self._chooser.choice(choices)
        try:
            return await self._door.run(self._node, work, ATTEMPT_TIMEOUT_S)
        except CallerError:
            raise
        except (HoldfastError, ConnectionLost):
            self._node = ""
            raise


_NO_DIGEST: Final = Digest(b"")
_NO_MARGIN: Final = Margin((), full=False)


def _digest(data: bytes) -> bytes:
    return xxhash.xxh3_128_digest(data)


async def chunked(data: bytes, linger_s: float = 0.0) -> AsyncIterator[bytes]:
    for start in range(0, len(data), CHUNK_BYTES):
        if start and linger_s:
            await asyncio.sleep(linger_s)
        yield data[start : start + CHUNK_BYTES]


async def _drain(result: GetResult) -> bytes:
    return b"".join([chunk async for chunk in result.chunks])
