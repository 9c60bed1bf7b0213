"""Where the bytes of a put come from. A source says whether it can be read again from the start, and reads.

Blocking reads (files, ordinary iterators) happen on threads of their own, one at a time per source. The loop's workers
are waited for when a program ends, and a pipe on which nobody says anything would keep it for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, Final, Protocol, Self, TypeAlias, TypeVar, cast

from holdfast.core.transfer import Buffer
from holdfast.errors import InvalidArgument

READ_BYTES: Final = 4 * 1024 * 1024
COLLECT_BYTES_MAX: Final = 8 * 1024 * 1024
"""An iterator is read up to here before anything is sent: most end sooner."""

Result = TypeVar("Result")
Data: TypeAlias = Buffer | os.PathLike[str] | BinaryIO | Iterable[Buffer] | AsyncIterable[Buffer]
"""What `put` takes: bytes, a path, a binary file (from where it stands), an iterator of bytes."""


class Source(Protocol):
    @property
    def size(self) -> int:
        """Bytes that will come, -1 if not known."""
        ...

    @property
    def rewindable(self) -> bool:
        """Whether `chunks` can be called again and gives the same bytes."""
        ...

    def chunks(self) -> AsyncGenerator[Buffer, None]: ...


class BytesSource:
    rewindable = True

    def __init__(self, data: Buffer) -> None:
        self.data = data
        self.size = memoryview(data).nbytes

    async def chunks(self) -> AsyncGenerator[Buffer, None]:
        yield self.data


class PathSource:
    """A pipe under a path, such as `/dev/stdin`, cannot be read again: what is opened then is the rest of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.rewindable = path.is_file()
            self.size = path.stat().st_size if self.rewindable else -1
        except OSError as error:
            raise InvalidArgument(f"{path} cannot be read: {error.strerror}") from error
        if path.is_dir():
            raise InvalidArgument(f"{path} is a directory", hint="`holdfast cp -r` copies directories")

    async def chunks(self) -> AsyncGenerator[Buffer, None]:
        with _Aside() as aside:
            try:
                file = await aside(lambda: self._path.open("rb"))
            except OSError as error:
                raise InvalidArgument(f"{self._path} cannot be read: {error.strerror}") from error
            try:
                while chunk := await aside(lambda: file.read(READ_BYTES)):
                    yield chunk
            finally:
                aside.leave(file.close)


class FileSource:
    """An open binary file, from where it stands now. Left open, as it belongs to the caller."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.rewindable = file.seekable()
        self.size = -1
        if self.rewindable:
            self._start = file.tell()
            self.size = max(0, file.seek(0, os.SEEK_END) - self._start)
            file.seek(self._start)

    async def chunks(self) -> AsyncGenerator[Buffer, None]:
        if self.rewindable:
            self._file.seek(self._start)
        with _Aside() as aside:
            while (chunk := await aside(self._read)) != b"":
                if chunk is None:
                    raise InvalidArgument(
                        "the file is open without blocking, and has nothing to read now: that is not its end",
                        hint="os.set_blocking(file.fileno(), True)",
                    )
                if isinstance(chunk, str):
                    raise InvalidArgument("the file is open as text", hint="open it with mode 'rb'")
                yield chunk

    def _read(self) -> bytes | str | None:
        """What files give that are open otherwise than their type says is told, not taken for the end."""
        return self._file.read(READ_BYTES)


class IteratorSource:
    """An iterator can be read once. What it gives first was collected by `source_of`; once it has gone on from
    there, it cannot be read again."""

    size = -1

    def __init__(self, first: bytes, rest: AsyncIterator[Buffer]) -> None:
        self._first = first
        self._rest = rest
        self.rewindable = True

    async def chunks(self) -> AsyncGenerator[Buffer, None]:
        assert self.rewindable
        yield self._first
        self.rewindable = False
        async for chunk in self._rest:
            yield _checked(chunk)


async def _collected(chunks: AsyncIterator[Buffer]) -> Source:
    """The whole of a short iterator, which then is as good as bytes: declared, verified, retried. Otherwise its
    beginning and the rest."""
    first = bytearray()
    async for chunk in chunks:
        first += _checked(chunk)
        if len(first) >= COLLECT_BYTES_MAX:
            return IteratorSource(bytes(first), chunks)
    return BytesSource(bytes(first))


def _checked(chunk: Buffer) -> Buffer:
    if not isinstance(chunk, (bytes, bytearray, memoryview)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidArgument(f"the iterator gave {type(chunk).__name__}, not bytes")
    return chunk


class _Aside:
    """A thread for what may block for ever. Given up, it is left to itself: it ends with the process."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="holdfast source", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._work.put(None)

    async def __call__(self, work: Callable[[], Result]) -> Result:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def settle(tell: Callable[[], None]) -> None:
            if not future.done():
                tell()

        def run() -> None:
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001  # it is the caller's, whatever it is
                tell = functools.partial(future.set_exception, _bearable(error))
            else:
                tell = functools.partial(future.set_result, result)
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, tell)

        self._work.put(run)
        return await future

    def leave(self, work: Callable[[], object]) -> None:
        """To be done after what is under way, for which nobody waits."""
        self._work.put(work)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            with contextlib.suppress(Exception):  # of what was left, which nobody waits for
                _ = work()


def _bearable(error: BaseException) -> Exception:
    """What a future takes, and a loop that others use survives: neither the end of an iterator, nor of a task, nor of
    the program."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    told = RuntimeError(f"the source raised {error!r}")
    told.__cause__ = error
    return told


async def _stepped(chunks: Iterator[Buffer]) -> AsyncIterator[Buffer]:
    """An ordinary iterator, advanced aside so that it may block."""
    end = object()
    with _Aside() as aside:
        while (chunk := await aside(lambda: next(chunks, end))) is not end:
            yield cast("Buffer", chunk)


async def source_of(data: Data) -> Source:
    """The source of what a caller gave to `put`; raises InvalidArgument for what cannot be one."""
    if isinstance(data, (bytes, bytearray)):
        return BytesSource(data)
    if isinstance(data, memoryview):
        return BytesSource(data.cast("B"))
    if isinstance(data, str):
        raise InvalidArgument(
            "text is no data: it could be content or a path", hint='give b"..." or pathlib.Path(...)'
        )
    if isinstance(data, os.PathLike):
        return PathSource(Path(data))
    if hasattr(data, "read"):
        return FileSource(cast("BinaryIO", data))
    if isinstance(data, AsyncIterable):
        return await _collected(aiter(data))
    if isinstance(data, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        return await _collected(_stepped(iter(data)))
    raise InvalidArgument(
        f"{type(data).__name__} is no data", hint="bytes, a path, a binary file or an iterator of bytes"
    )
