"""The synchronous client: the same names as `holdfast.aio`, safe to share between threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Self, TypeAlias, TypeVar, cast, overload

from holdfast import aio
from holdfast.aio.batches import outcome
from holdfast.aio.downloads import Stream
from holdfast.aio.files import Writer
from holdfast.aio.uploads import Progress
from holdfast.core import requests
from holdfast.core.transfer import Buffer
from holdfast.errors import Corrupt, Unavailable
from holdfast.sync.feed import Feed
from holdfast.sync.portal import Portal
from holdfast.values import (
    BlobInfo,
    BucketInfo,
    Fetched,
    Key,
    Limits,
    Outcome,
    Outcomes,
    Page,
    Prefix,
    Receipt,
    Retries,
    Timeout,
    VersionInfo,
)

Data: TypeAlias = Buffer | os.PathLike[str] | BinaryIO | Iterable[Buffer]
"""What `put` takes: bytes, a path, a binary file (from where it stands), an iterator of bytes."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Client:
    """Speaks to a cluster through any of its nodes. Share it: threads may use it at once, and a forked child opens
    its own connections. Made by `connect`."""

    def __init__(self, portal: Portal, limits: Limits) -> None:
        self._portal = portal
        self._limits = limits

    def bucket(self, name: str) -> Bucket:
        """A bucket by name, without asking whether it exists."""
        return Bucket(self._portal, self._limits, requests.bucket_name(name))

    def create_bucket(
        self, name: str, *, exist_ok: bool = False, pool: str = "", undo: float | None = None
    ) -> Bucket:
        """`pool` empty: the cluster's first. `undo`: for how many seconds what is overwritten or deleted can be
        brought back; None: 24 hours. Raises AlreadyExists unless `exist_ok`."""
        self._portal.run(lambda client: client.create_bucket(name, exist_ok=exist_ok, pool=pool, undo=undo))
        return self.bucket(name)

    def buckets(self) -> Iterator[BucketInfo]:
        """All buckets, in the order of their names."""

        async def all_of(client: aio.Client) -> list[BucketInfo]:
            return [info async for info in client.buckets()]

        yield from self._portal.run(all_of)

    def delete_bucket(self, name: str) -> None:
        """Raises BucketNotEmpty while a blob is in it."""
        self._portal.run(lambda client: client.delete_bucket(name))

    def close(self) -> None:
        self._portal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Bucket:
    """A namespace of blobs. Cheap: it holds a name and the client's connections."""

    def __init__(self, portal: Portal, limits: Limits, name: str) -> None:
        self._portal = portal
        self._limits = limits
        self.name = name

    def __repr__(self) -> str:
        return f"<Bucket {self.name}>"

    def info(self) -> BucketInfo:
        return self._run(lambda bucket: bucket.info())

    def set(self, *, undo: float | None = None, quota: int | None = None) -> BucketInfo:
        """What is not given is left as it is; all nodes go by it some ten seconds later. `undo`: for how many seconds
        what is overwritten or deleted can be brought back, from now on and of what is kept already; 0: not at all.
        `quota`: how many bytes the current blobs may have together, beyond which a put raises QuotaExceeded; 0: no
        limit. Raises BucketNotFound."""
        return self._run(lambda bucket: bucket.set(undo=undo, quota=quota))

    def put(
        self,
        key: Key,
        data: Data,
        *,
        if_absent: bool = False,
        if_version: int | None = None,
        metadata: Mapping[str, str] | None = None,
        content_type: str = "",
        checksum: str = "",
        progress: Progress | None = None,
    ) -> Receipt:
        """Stores a new version; returns when it is durable at the margin the receipt states.

        `checksum`: `xxh3:` and 32 hex digits that the bytes must have. Raises PreconditionFailed (nothing written),
        UploadInterrupted (nothing written), OutcomeUnknown (may have been written), and Unavailable.
        """

        def putting(bucket: aio.Bucket, data: aio.Data) -> Coroutine[None, None, Receipt]:
            return bucket.put(
                key,
                data,
                if_absent=if_absent,
                if_version=if_version,
                metadata=metadata,
                content_type=content_type,
                checksum=checksum,
                progress=progress,
            )

        if not _is_iterator(data):
            return self._run(lambda bucket: putting(bucket, data))
        feed = Feed()
        upload = self._start(lambda bucket: putting(bucket, feed))
        upload.add_done_callback(lambda _: self._portal.call_soon(feed.abandon))
        try:
            feed.fill(self._portal, cast("Iterable[Buffer]", data))
        except BaseException as error:
            if not (isinstance(error, Unavailable) and self._portal.closed):
                upload.cancel()
                raise
        # It knows best what came of it, also if the client was closed meanwhile.
        return self._portal.wait(upload)

    def get(
        self,
        key: Key,
        *,
        version: int | None = None,
        range: tuple[int, int | None] | None = None,  # noqa: A002  # the word of the interface
    ) -> Blob:
        """The blob, its bytes not read yet. `range`: (start, end), end excluded, None: to the end. Raises
        BlobNotFound, VersionNotFound."""
        return Blob(self._portal, self._run(lambda bucket: bucket.get(key, version=version, range=range)))

    def head(self, key: Key, *, version: int | None = None) -> BlobInfo:
        return self._run(lambda bucket: bucket.head(key, version=version))

    def delete(self, key: Key, *, if_version: int | None = None) -> int:
        """Hides the blob; returns the version of the deletion. `undelete` brings it back within the bucket's undo
        window. Raises BlobNotFound, PreconditionFailed."""
        return self._run(lambda bucket: bucket.delete(key, if_version=if_version))

    def undelete(self, key: Key, *, version: int | None = None) -> Receipt:
        """Makes a retained version current again, as a new version. None: the newest that holds a blob."""
        return self._run(lambda bucket: bucket.undelete(key, version=version))

    def versions(self, key: Key) -> tuple[VersionInfo, ...]:
        """What of the key is kept, newest first; deletions are versions, too."""
        return self._run(lambda bucket: bucket.versions(key))

    def copy(
        self,
        key: Key,
        to: Key,
        *,
        bucket: str | None = None,
        version: int | None = None,
        if_absent: bool = False,
        if_version: int | None = None,
    ) -> Receipt:
        """Copies a blob, its metadata included, to another key (and bucket). The bytes pass through this client."""
        return self._run(
            lambda source: source.copy(
                key, to, bucket=bucket, version=version, if_absent=if_absent, if_version=if_version
            )
        )

    @overload
    def list(self, *, prefix: Key = ..., delimiter: Literal["", b""] = ...) -> Iterator[BlobInfo]: ...

    @overload
    def list(self, *, prefix: Key = ..., delimiter: Key) -> Iterator[BlobInfo | Prefix]: ...

    def list(self, *, prefix: Key = "", delimiter: Key = "") -> Iterator[BlobInfo | Prefix]:
        """Blobs in the order of their keys, page after page as they are asked for. With a delimiter, keys that go on
        after it are given once, as a `Prefix`."""
        wanted = requests.ListWanted(
            self.name, requests.prefix_bytes(prefix), requests.prefix_bytes(delimiter, "delimiter")
        )
        return self._pages(wanted)

    def _pages(self, wanted: requests.ListWanted) -> Iterator[BlobInfo | Prefix]:
        token = b""
        while True:
            entries, token = self._page(wanted, token)
            yield from entries
            if not token:
                return

    def _page(self, wanted: requests.ListWanted, token: bytes) -> tuple[Page, bytes]:
        return self._run(lambda bucket: bucket.page(wanted, token))

    def put_many(
        self, items: Iterable[tuple[Key, Data]], *, concurrency: int | None = None
    ) -> Outcomes[Receipt]:
        """Puts all, a bounded number at once; one outcome each, in order. Errors are in the outcomes."""
        found = self._outcomes(
            items,
            lambda item: requests.key_bytes(item[0]),
            lambda bucket, item: bucket.put(item[0], item[1]),
            concurrency,
        )
        return [*found]

    def delete_many(self, keys: Iterable[Key], *, concurrency: int | None = None) -> Outcomes[int]:
        """Deletes all, a bounded number at once; one outcome each, in order."""
        return [
            *self._outcomes(keys, requests.key_bytes, lambda bucket, key: bucket.delete(key), concurrency)
        ]

    def get_many(self, keys: Iterable[Key], *, concurrency: int | None = None) -> Iterator[Outcome[Fetched]]:
        """Reads blobs whole, in order, at most `concurrency` ahead of what was taken."""
        return self._outcomes(keys, requests.key_bytes, lambda bucket, key: bucket.fetch(key), concurrency)

    def _outcomes(
        self,
        items: Iterable[Item],
        key_of: Callable[[Item], bytes],
        work: Callable[[aio.Bucket, Item], Coroutine[None, None, Result]],
        concurrency: int | None,
    ) -> Iterator[Outcome[Result]]:
        """The items are taken on the caller's thread."""
        running: deque[Future[Outcome[Result]]] = deque()
        try:
            for item in items:
                running.append(self._start(_one(item, key_of, work)))
                if len(running) >= max(1, concurrency or self._limits.concurrency):
                    yield self._portal.wait(running.popleft())
            while running:
                yield self._portal.wait(running.popleft())
        finally:
            for future in running:
                future.cancel()

    def _start(self, work: Callable[[aio.Bucket], Coroutine[None, None, Result]]) -> Future[Result]:
        return self._portal.start(lambda client: work(client.bucket(self.name)))

    def _run(self, work: Callable[[aio.Bucket], Coroutine[None, None, Result]]) -> Result:
        return self._portal.wait(self._start(work))


def _is_iterator(data: Data) -> bool:
    """Whether the data is to be taken piece by piece on the caller's thread. What is no data at all is for the
    asynchronous twin to refuse."""
    plain = isinstance(data, (bytes, bytearray, memoryview, str, os.PathLike)) or hasattr(data, "read")
    return isinstance(data, Iterable) and not plain


def _one(
    item: Item,
    key_of: Callable[[Item], bytes],
    work: Callable[[aio.Bucket, Item], Coroutine[None, None, Result]],
) -> Callable[[aio.Bucket], Coroutine[None, None, Outcome[Result]]]:
    return lambda bucket: outcome(item, key_of, lambda item: work(bucket, item))


class Blob:
    """A version of a blob, or a range of it, whose bytes are read when asked for: `read`, `iter` or `save`.

    It stays on the version it was opened on: reading twice gives the same bytes. Use it as a context manager, or
    read it to its end, to give the connection's stream back early.
    """

    def __init__(self, portal: Portal, blob: aio.Blob) -> None:
        self._portal = portal
        self._blob = blob
        self._stream: Stream | None = blob.stream()
        portal.track(self._stream)

    @property
    def info(self) -> BlobInfo:
        """Version, size, hash, metadata of the whole blob, also when only a range is read."""
        return self._blob.info

    @property
    def length(self) -> int:
        """How many bytes reading gives: the size, or what of the range lies in the blob."""
        return self._blob.length

    def iter(self, *, progress: Progress | None = None) -> Iterator[bytes]:
        """The bytes in chunks of the stream's size. The hash of a whole blob is checked after the last one: an error
        there means that what was yielded before must not be used."""
        stream, self._stream = self._stream, None
        if stream is None:
            stream = self._blob.stream()
            self._portal.track(stream)
        done = 0
        try:
            while chunk := self._portal.run(_Next(stream)):
                yield chunk
                done += len(chunk)
                if progress is not None:
                    progress(done, self.length)
        finally:
            self._portal.drop(stream)

    def read(self, *, progress: Progress | None = None) -> bytes:
        """All bytes, verified."""
        try:
            return b"".join(self.iter(progress=progress))
        except Corrupt:
            return b"".join(self.iter(progress=progress))

    def save(self, path: str | os.PathLike[str], *, progress: Progress | None = None) -> Path:
        """Writes the bytes to a file: whole and verified, or not at all. An existing file is replaced."""
        with Writer(Path(path)) as writer:
            writer.open()
            for chunk in self.iter(progress=progress):
                writer.write(chunk)
            return writer.publish()

    def close(self) -> None:
        """Ends the stream if it is open. The blob can still be read again."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self._portal.drop(stream)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            self.close()

    def __repr__(self) -> str:
        return repr(self._blob)


class _Next:
    """One step of a stream, over the connections that are open now."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def __call__(self, client: aio.Client) -> bytes:
        self._stream.adopt(client.transport)
        return await self._stream.next()


def connect(
    endpoints: str | Iterable[str] | None = None,
    *,
    timeout: Timeout | float | None = None,
    limits: Limits | None = None,
    retries: Retries | None = None,
) -> Client:
    """See `holdfast.connect`."""
    chosen = limits or Limits()
    settings = aio.settings_of(endpoints, timeout=timeout, limits=chosen, retries=retries)
    return Client(Portal(lambda: aio.Client(settings.transport())), chosen)
