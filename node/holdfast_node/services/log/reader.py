"""Reading single records where the index says they are, and what to do when the index is wrong.

Knows nothing of what records mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Final, ParamSpec, TypeVar

from holdfast_node.core import index_keys, log_format
from holdfast_node.core.errors import IntegrityError, StoreFailed, StoreFull
from holdfast_node.core.index_rows import Location
from holdfast_node.ports import NO_ROOM_FOR_INDEX, Bodies, IndexBroken, IndexFull
from holdfast_node.services.log.committer import Committer
from holdfast_node.services.log.indexer import Indexer
from holdfast_node.services.log.opening import StorePorts
from holdfast_node.services.log.volume import volume_name

P = ParamSpec("P")
R = TypeVar("R")

ROWS_AT_ONCE: Final = 256


class LogReader:
    """Rows of the index and records of the log, for as long as the store lives."""

    def __init__(self, ports: StorePorts, indexer: Indexer, committer: Committer) -> None:
        self._ports = ports
        self._indexer = indexer
        self._committer = committer
        self._readers: set[asyncio.Future[None]] = set()
        self.index_gone: Final = asyncio.Event()
        """Set once the index was thrown away: the store has failed, and its log is whole."""

    @property
    def bodies(self) -> Bodies:
        return self._ports.bodies

    @property
    def durable_sequence(self) -> int:
        """Every record up to it is in the index."""
        return self._committer.durable_sequence

    def check(self) -> None:
        if self._committer.failure:
            raise StoreFailed(self._committer.failure)

    def get(self, key: bytes) -> bytes | None:
        try:
            return self._ports.index.get(key)
        except IndexBroken as error:
            raise self.index_failed(error) from None

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            yield from self._ports.index.scan(start, end)
        except IndexBroken as error:
            raise self.index_failed(error) from None

    def forget(self, rows: Sequence[bytes]) -> None:
        """Delete rows that nobody asks for any more; without room to do it they stay until they are met again."""
        try:
            with suppress(IndexFull):
                self._ports.index.write([], rows)
        except IndexBroken as error:
            raise self.index_failed(error) from None

    async def flush(self) -> None:
        """Make the index durable as it is. Raises `StoreFull` if there is no room for that, or `StoreFailed`."""
        try:
            await self._ports.index.flush()
        except IndexFull as error:
            raise StoreFull(f"{NO_ROOM_FOR_INDEX}: {error}", hint="make some") from error
        except IndexBroken as error:
            raise self.index_failed(error) from None

    async def walk(
        self, letter: bytes, rest_s: Callable[[float], float]
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """All rows of a kind, some at a time and with a rest in between: others want the loop too."""
        clock = asyncio.get_running_loop().time
        start, end = letter, index_keys.prefix_end(letter)
        while True:
            began_s = clock()
            rows = list(islice(self.scan(start, end), ROWS_AT_ONCE))
            for row in rows:
                yield row
            if len(rows) < ROWS_AT_ONCE:
                return
            start = rows[-1][0] + b"\0"
            await asyncio.sleep(rest_s(clock() - began_s))

    @contextmanager
    def reading(self) -> Generator[None]:
        """Around a look at a row and the reads of what it points to: no volume goes meanwhile."""
        token = asyncio.get_running_loop().create_future()
        self._readers.add(token)
        try:
            yield
        finally:
            self._readers.discard(token)
            token.set_result(None)

    async def readers_gone(self) -> None:
        """Wait for those who are reading now. Whoever begins later sees the rows as they are by then."""
        if self._readers:
            await asyncio.wait(set(self._readers))

    async def bytes_at(self, volume: int, offset: int, length: int, *, fresh: bool = False) -> bytes:
        """Unverified. Raises `IntegrityError` if the disk cannot read there."""
        return await self._ports.disk.read(volume_name(volume), offset, length, fresh=fresh)

    async def body(
        self, location: Location, record_key: bytes, sequence: int, *, fresh: bool = False
    ) -> bytes | None:
        """The body of the record there; None if it is broken, or if a misdirected write brought another one there.
        Raises `StoreFailed` if it has the sequence and is about something else: then the index lies."""
        try:
            data = await self.bytes_at(*location, fresh=fresh)
        except IntegrityError:
            return None
        record = log_format.decode_located(data, location.offset)
        if record is None or not record.whole or record.sequence != sequence:
            return None
        if record.key != record_key:
            raise self.index_failed(IndexBroken(f"it points at another record in volume {location.volume}"))
        return record.body

    def mark_rotten(self, record_key: bytes, sequence: int) -> None:
        """Remember in the index that the register's record with this sequence is broken."""
        try:
            if self._indexer.mark_rotten(record_key, sequence):
                with suppress(IndexFull):  # it is written with what comes next
                    self._indexer.write()
                self._ports.events.emit("rot_found", what=f"register {record_key.hex()}")
        except IndexBroken as error:
            raise self.index_failed(error) from None

    def checked(self, decode: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """A row that cannot be read is an index that cannot be trusted: raises `StoreFailed`."""
        try:
            return decode(*args, **kwargs)
        except IntegrityError as error:
            raise self.index_failed(IndexBroken(str(error))) from None

    def index_failed(self, error: IndexBroken) -> StoreFailed:
        """The next start rebuilds it; until then nothing can be answered."""
        self._committer.fail(f"the index is broken, the next start rebuilds it: {error}")
        self.index_gone.set()
        try:
            self._ports.index.clear()
        except (IndexBroken, IndexFull) as again:
            self._ports.events.emit("index_not_cleared", reason=str(again))
        return StoreFailed(self._committer.failure)
