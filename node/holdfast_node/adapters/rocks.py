"""The index on RocksDB: the only home of rocksdict.

No write-ahead log: the store's log is the truth, and an index that lost its latest batches is brought up to date from
there. Whatever RocksDB complains about becomes `IndexBroken`, but for want of room; a database that does not open is
thrown away.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    RdictIter,
    WriteBatch,
    WriteOptions,
)

from holdfast_node.core.errors import StoreRefused
from holdfast_node.ports import IndexBroken, IndexFull

MEMTABLE_BYTES: Final = 8 * 1024 * 1024
MEMTABLES_MAX: Final = 3
"""One being filled, two being flushed: with the cache, the index stays under 48 MiB."""
CACHE_BYTES: Final = 16 * 1024 * 1024
OPEN_FILES_MAX: Final = 128
BLOOM_BITS: Final = 10
NO_ROOM: Final = "No space left"
"""In the text of RocksDB's error; rocksdict gives nothing else of it."""


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(MEMTABLE_BYTES)
    options.set_max_write_buffer_number(MEMTABLES_MAX)
    options.set_max_open_files(OPEN_FILES_MAX)
    options.set_keep_log_file_num(2)
    options.set_max_background_jobs(2)
    options.set_paranoid_checks(True)
    options.set_compression_type(DBCompressionType.lz4())
    table = BlockBasedOptions()
    table.set_block_cache(Cache(CACHE_BYTES))
    table.set_bloom_filter(BLOOM_BITS, block_based=False)
    options.set_block_based_table_factory(table)
    return options


class RocksIndex:
    """Rows in one directory of their own. Not durable until `flush`; then a prefix of the batches written."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._unlogged = WriteOptions()
        # A property; rocksdict's stub calls it a method.
        self._unlogged.disable_wal = True  # type: ignore[method-assign, assignment]  # pyright: ignore[reportAttributeAccessIssue]
        try:
            self._db = self._open_or_begin_anew()
        except (IndexBroken, IndexFull) as error:
            raise StoreRefused(
                f"the index in {directory} cannot be opened: {error}",
                hint="see to the disk, then start the node again",
            ) from error

    def get(self, key: bytes) -> bytes | None:
        try:
            return self._db.get(key)
        except Exception as error:
            raise IndexBroken(str(error)) from error

    def write(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes] = ()) -> None:
        try:
            batch = WriteBatch(raw_mode=True)
            for key, value in puts:
                batch.put(key, value)
            for key in deletes:
                batch.delete(key)
            self._db.write(batch, self._unlogged)
        except Exception as error:
            raise _trouble(error) from error

    def scan(self, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Without rocksdict's bound, which points to bytes it does not own, and its `items`, which end without a word
        where a block cannot be read (ADR 0090)."""
        try:
            rows = self._db.iter()
            rows.seek(start)
        except Exception as error:
            raise IndexBroken(str(error)) from error
        return self._rows(rows, end)

    def _rows(self, rows: RdictIter, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        try:
            while rows.valid():
                key, value = rows.key(), rows.value()
                assert isinstance(key, bytes)
                assert isinstance(value, bytes)
                if key >= end:
                    return
                yield key, value
                rows.next()
            rows.status()
        except Exception as error:
            # The traceback keeps this frame, and an iterator keeps the database open that is to be cleared.
            del rows
            raise IndexBroken(str(error)) from error

    async def flush(self) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._db.flush, True)
        except Exception as error:
            raise _trouble(error) from error

    def clear(self) -> None:
        with contextlib.suppress(Exception):  # it goes away in any case
            self._db.close()
        self._remove()
        self._db = self._open()

    def close(self) -> None:
        with contextlib.suppress(Exception):  # no room for a last flush: the log has it all
            self._db.close()

    def _open_or_begin_anew(self) -> Rdict:
        try:
            return self._open()
        except IndexBroken:
            self._remove()
            return self._open()

    def _open(self) -> Rdict:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return Rdict(str(self._directory), _options())
        except Exception as error:
            raise _trouble(error) from error

    def _remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


def _trouble(error: Exception) -> IndexBroken | IndexFull:
    """RocksDB keeps what it could not flush in memory, refuses writes meanwhile, and looks for room every five seconds
    by itself: https://github.com/facebook/rocksdb/wiki/Background-Error-Handling"""
    return (IndexFull if NO_ROOM in str(error) else IndexBroken)(str(error))
