"""The `Disk` port on a real directory: direct writes, one sync per commit, a lock against a second process.

Knows nothing of what the files mean. Writes go past the page cache where the filesystem allows it (`direct` says so),
from one aligned buffer into which the buffers are copied once. A failed write or sync is final: the kernel may have
dropped the pages, and the next fsync would lie.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import mmap
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local
from typing import Final, ParamSpec, TypeVar

from holdfast_node.core.errors import (
    HoldfastError,
    IntegrityError,
    StoreFailed,
    StoreFull,
    StoreRefused,
    Unavailable,
)
from holdfast_node.ports import Buffer

P = ParamSpec("P")
T = TypeVar("T")

ALIGNMENT: Final = 4096
INLINE_READ_BYTES_MAX: Final = 64 * 1024
"""Smaller reads are done on the loop: a hop to a thread costs more than they usually take. Larger ones go past the
page cache (docs/adr/0010-direct-reads-of-large-cells.md)."""
READERS: Final = 4
"""Threads for large reads: enough to keep one disk busy."""
OPEN_FILES_MAX: Final = 256
"""Descriptors kept for reading; a volume of 1 GiB each, so 256 GiB before any is reopened."""
WRITE_FILES_MAX: Final = 4
"""Descriptors kept for writing: the volume in use, and the one before it."""
FILES_MAX: Final = 2 * OPEN_FILES_MAX + WRITE_FILES_MAX
"""Of all three kinds: for writing, and for reading with and without the page cache."""
STAGING_BYTES: Final = 8 * 1024 * 1024
"""First size of the aligned buffer: a batch and the record it may be over by. Grows if it must."""
SCRATCH_BYTES: Final = 1024 * 1024
"""Step in which a reading thread's buffer grows; no larger than the largest read asked for."""

LOST: Final = frozenset(
    (
        errno.EIO,
        errno.ENODATA,
        errno.EILSEQ,
        errno.EREMOTEIO,
        errno.EBADMSG,
        errno.EUCLEAN,
        errno.ENOENT,
    )
)
"""What a read says when the bytes are gone: the medium, its protection or the filesystem's checksums do not give them
back, or the file is not there. All else (no descriptors, no memory, no right, no device) says nothing of the bytes."""

_LOCK: Final = "lock"
_TEMPORARY: Final = ".tmp"


class _Files:
    """Open descriptors by name, the least used closed first, never one in use."""

    def __init__(self, directory: Path, flags: int, limit: int) -> None:
        self._directory = directory
        self._flags = flags
        self._limit = limit
        self._open: OrderedDict[str, int] = OrderedDict()
        self._users: dict[str, int] = {}

    def acquire(self, name: str) -> int:
        descriptor = self._open.get(name)
        if descriptor is None:
            descriptor = os.open(self._directory / name, self._flags | os.O_CLOEXEC)
            # What is read is read whole: without this the kernel reads ahead in small steps, at half the speed.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            self._open[name] = descriptor
        self._open.move_to_end(name)
        self._users[name] = self._users.get(name, 0) + 1
        return descriptor

    def release(self, name: str) -> None:
        left = self._users.pop(name) - 1
        if left:
            self._users[name] = left
        elif len(self._open) > self._limit:
            oldest = next((other for other in self._open if other not in self._users), None)
            if oldest is not None:
                os.close(self._open.pop(oldest))

    def forget(self, name: str) -> None:
        """The name will mean another file, or none."""
        if name not in self._users and (descriptor := self._open.pop(name, None)) is not None:
            os.close(descriptor)

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


class _Scratch(local):
    """One aligned buffer per reading thread: fresh pages for every read would cost more than the read."""

    def __init__(self) -> None:
        self._view = memoryview(b"")

    def of(self, size: int) -> memoryview:
        if len(self._view) < size:
            self._view = memoryview(mmap.mmap(-1, -(-size // SCRATCH_BYTES) * SCRATCH_BYTES))
        return self._view[:size]


_scratch: Final = _Scratch()


class FileDisk:
    """Files of one directory, which is created if missing and locked until `close`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._failed = ""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
            self._lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreRefused(
                f"cannot use {directory}: {error.strerror}", hint="check the path and its owner"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StoreRefused(
                f"another process uses {directory}",
                hint="stop it first, or give this node a directory of its own",
            ) from None
        self.direct = _supports_direct(directory)
        direct = os.O_DIRECT if self.direct else 0
        self._writes = _Files(directory, os.O_WRONLY | direct, WRITE_FILES_MAX)
        self._reads = _Files(directory, os.O_RDONLY, OPEN_FILES_MAX)
        self._direct_reads = _Files(directory, os.O_RDONLY | direct, OPEN_FILES_MAX)
        self._staging: memoryview | None = None
        self._known: set[str] = set()
        self._writing = asyncio.Lock()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="disk-write")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="disk-read")

    async def create(self, name: str, size_bytes: int) -> None:
        """A file that a crash left half-made is completed."""
        await self._call(self._writer, _create, self._directory, name, size_bytes)

    async def commit(self, name: str, offset: int, buffers: Sequence[Buffer]) -> None:
        self._check()
        async with self._writing:
            self._check()
            staged = self._stage(buffers)
            assert offset % ALIGNMENT == 0, f"offset {offset} is not on the block grid"
            assert len(staged) % ALIGNMENT == 0, f"{len(staged)} bytes are not whole blocks"
            try:
                descriptor = self._writes.acquire(name)
            except OSError as error:
                raise self._fail(f"cannot open {name}", error) from None
            # A file that an earlier process made: it may have died before the directory was synced.
            directory = None if name in self._known else self._directory
            self._known.add(name)
            call = asyncio.get_running_loop().run_in_executor(
                self._writer, _write, descriptor, staged, offset, directory
            )
            try:
                await asyncio.shield(call)
            except asyncio.CancelledError:
                self._staging = None  # the thread still reads from it
                raise
            except OSError as error:
                raise self._fail(f"cannot write {name}", error) from None
            finally:
                if call.done():
                    self._writes.release(name)

    async def read(self, name: str, offset: int, length: int, *, fresh: bool = False) -> bytes:
        self._check()
        large = length >= INLINE_READ_BYTES_MAX
        direct = self.direct and (fresh or large)
        files = self._direct_reads if direct else self._reads
        read = _read_direct if direct else _read_dropped if fresh else _read
        try:
            descriptor = files.acquire(name)
            try:
                if not fresh and not large:
                    return read(descriptor, offset, length)
                call = asyncio.get_running_loop().run_in_executor(
                    self._readers, read, descriptor, offset, length
                )
                return await _uncancelled(call)
            finally:
                files.release(name)
        except OSError as error:
            kind = IntegrityError if error.errno in LOST else Unavailable
            raise kind(f"cannot read {name} at {offset}: {error.strerror}") from None

    async def replace(self, name: str, content: bytes) -> None:
        await self._call(self._writer, _replace, self._directory, name, content)
        self._reads.forget(name)
        self._direct_reads.forget(name)

    async def remove(self, name: str) -> None:
        for files in (self._writes, self._reads, self._direct_reads):
            files.forget(name)
        self._known.discard(name)
        # Not by the thread that writes: a commit would wait until a gigabyte is given back.
        await self._call(self._readers, _remove, self._directory, name)

    def names(self) -> list[str]:
        return sorted(
            entry.name
            for entry in self._directory.iterdir()
            if entry.is_file() and entry.name != _LOCK and not entry.name.endswith(_TEMPORARY)
        )

    def free_bytes(self) -> int:
        stat = os.statvfs(self._directory)
        return stat.f_bavail * stat.f_frsize

    def close(self) -> None:
        """Let go of threads, files and the lock. Nothing works afterwards."""
        self._failed = self._failed or "the disk was closed"
        self._writer.shutdown()
        self._readers.shutdown()
        for files in (self._writes, self._reads, self._direct_reads):
            files.close()
        os.close(self._lock)

    async def _call(
        self, threads: ThreadPoolExecutor, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        self._check()
        assert not kwargs
        try:
            await asyncio.get_running_loop().run_in_executor(threads, lambda: work(*args, **kwargs))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFull(f"no room in {self._directory}") from None
            raise self._fail(f"cannot {work.__name__.strip('_')} a file", error) from None

    def _stage(self, buffers: Sequence[Buffer]) -> memoryview:
        total = sum(map(len, buffers))
        if self._staging is None or len(self._staging) < total:
            size = -(-max(total, STAGING_BYTES) // STAGING_BYTES) * STAGING_BYTES
            self._staging = memoryview(mmap.mmap(-1, size))
        view, at = self._staging, 0
        for piece in buffers:
            end = at + len(piece)
            view[at:end] = piece
            at = end
        return view[:total]

    def _check(self) -> None:
        if self._failed:
            raise StoreFailed(self._failed)

    def _fail(self, what: str, error: OSError) -> HoldfastError:
        self._failed = self._failed or f"{what} in {self._directory}: {error.strerror}"
        return StoreFailed(self._failed)


async def _uncancelled(call: asyncio.Future[T]) -> T:
    """The thread's result; a caller that is cancelled still waits, because the thread uses the descriptor."""
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait((call,))
        if not call.cancelled():
            call.exception()
        raise


def _supports_direct(directory: Path) -> bool:
    """Try it: some filesystems take the flag and refuse the write."""
    probe = directory / f"probe{_TEMPORARY}"
    try:
        descriptor = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_CLOEXEC, 0o600)
        try:
            with mmap.mmap(-1, ALIGNMENT) as block:
                os.pwrite(descriptor, block, 0)
        finally:
            os.close(descriptor)
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True


def _write(descriptor: int, data: memoryview, offset: int, directory: Path | None) -> None:
    if directory is not None:
        _sync_directory(directory)
    while data:
        written = os.pwritev(descriptor, (data,), offset)
        data, offset = data[written:], offset + written
    os.fdatasync(descriptor)


def _read(descriptor: int, offset: int, length: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    while len(data) < length and (more := os.pread(descriptor, length - len(data), offset + len(data))):
        data += more
    return data


def _read_direct(descriptor: int, offset: int, length: int) -> bytes:
    start = offset // ALIGNMENT * ALIGNMENT
    size = -(-(offset + length - start) // ALIGNMENT) * ALIGNMENT
    view = _scratch.of(size)
    done = 0
    while done < size:
        count = os.preadv(descriptor, (view[done:],), start + done)
        done += count
        if count % ALIGNMENT or not count:
            break
    return bytes(view[offset - start : min(offset - start + length, done)])


def _read_dropped(descriptor: int, offset: int, length: int) -> bytes:
    # The kernel keeps a page that the range covers in part.
    start = offset // mmap.PAGESIZE * mmap.PAGESIZE
    end = -(-(offset + length) // mmap.PAGESIZE) * mmap.PAGESIZE
    os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)
    return _read(descriptor, offset, length)


def _create(directory: Path, name: str, size_bytes: int) -> None:
    path = directory / name
    existed = path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    before = os.fstat(descriptor).st_size
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
        os.fsync(descriptor)
    except OSError:
        # It may have taken all there was: nobody else may be left without room for a file that is not to be.
        os.ftruncate(descriptor, before)
        if not existed:
            path.unlink()
        raise
    finally:
        os.close(descriptor)
    _sync_directory(directory)


def _replace(directory: Path, name: str, content: bytes) -> None:
    temporary = directory / f"{name}{_TEMPORARY}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, directory / name)  # noqa: PTH105 - all calls that change the disk go through `os`
    _sync_directory(directory)


def _remove(directory: Path, name: str) -> None:
    os.unlink(directory / name)  # noqa: PTH108 - as above
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
