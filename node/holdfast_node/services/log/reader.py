"""Reading single records where the index says they are, and what to do when the index is wrong.

Knows nothing of what records mean.
"""

from __future__ import annotations

from collections.abc import Iterator

from holdfast_node.core import log_format
from holdfast_node.core.errors import IntegrityError, StoreFailed
from holdfast_node.core.index_rows import Location
from holdfast_node.ports import Bodies, IndexBroken
from holdfast_node.services.log.committer import Committer
from holdfast_node.services.log.indexer import Indexer
from holdfast_node.services.log.opening import StorePorts
from holdfast_node.services.log.volume import volume_name


class LogReader:
    """Rows of the index and records of the log, for as long as the store lives."""

    def __init__(self, ports: StorePorts, indexer: Indexer, committer: Committer) -> None:
        self._ports = ports
        self._indexer = indexer
        self._committer = committer

    @property
    def bodies(self) -> Bodies:
        return self._ports.bodies

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
                self._indexer.write_rot()
                self._ports.events.emit("rot_found", what=f"register {record_key.hex()}")
        except IndexBroken as error:
            raise self.index_failed(error) from None

    def index_failed(self, error: IndexBroken) -> StoreFailed:
        """The next start rebuilds it; until then nothing can be answered."""
        self._committer.fail(f"the index is broken, a restart rebuilds it: {error}")
        try:
            self._ports.index.clear()
        except IndexBroken as again:
            self._ports.events.emit("index_not_cleared", reason=str(again))
        return StoreFailed(self._committer.failure)
