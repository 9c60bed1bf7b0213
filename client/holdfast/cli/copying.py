"""`cp`: one blob or a tree, up, down or from bucket to bucket. It decides what goes where; the SDK moves the bytes.

A tree keeps its shape: `cp -r photos hf://b/2026` stores photos/cat.jpg as 2026/cat.jpg, and `cp -r hf://b/2026 photos`
writes it back. A key that would leave the target directory, or is no file name, is refused by name; the rest is copied.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli.bars import bar
from holdfast.cli.places import Place, is_remote, place
from holdfast.cli.shell import Output, Usage
from holdfast.errors import Error, Evidence, InvalidArgument

if TYPE_CHECKING:
    from holdfast import Client


@dataclass(slots=True)
class Tally:
    """What a copy came to."""

    blobs: int = 0
    bytes: int = 0
    failed: list[Evidence] | None = None

    def fail(self, who: str, error: Error | OSError) -> None:
        self.failed = [*(self.failed or []), Evidence(who, str(error))]


def copy(client: Client, output: Output, source: str, target: str, *, recursive: bool) -> Tally:
    if not is_remote(source) and not is_remote(target):
        raise Usage("neither side is in the cluster; write hf://BUCKET/KEY for the one that is")
    if is_remote(source) and is_remote(target):
        return _across(client, output, place(source, key=not recursive), place(target, key=False), recursive)
    if is_remote(target):
        return _up(client, output, Path(source), place(target, key=False), recursive)
    return _down(client, output, place(source, key=not recursive), Path(target), recursive)


def _up(client: Client, output: Output, source: Path, target: Place, recursive: bool) -> Tally:
    if source.is_dir() and not recursive:
        raise Usage(f"{source} is a directory; -r copies it")
    bucket = client.bucket(target.bucket)
    tally = Tally()
    if not source.is_dir():
        key = target.key or source.name
        key += source.name if key.endswith("/") else ""
        with bar(output, source.name) as progress:
            tally.bytes += bucket.put(key, source, progress=progress).size
        tally.blobs = 1
        return tally
    with bar(output, str(source)) as progress:
        for path in _files(source, unreadable=lambda error: tally.fail(str(error.filename), error)):
            relative = path.relative_to(source).as_posix()
            try:
                tally.bytes += bucket.put(_join(target.key, relative), path).size
                tally.blobs += 1
                progress(tally.bytes, None)
            except (Error, OSError) as error:
                _stop_if_lost(error)
                tally.fail(str(path), error)
    return tally


def _down(client: Client, output: Output, source: Place, target: Path, recursive: bool) -> Tally:
    bucket = client.bucket(source.bucket)
    tally = Tally()
    if not recursive:
        path = target / Path(source.key).name if target.is_dir() else target
        blob = bucket.get(source.key)
        with bar(output, path.name) as progress:
            blob.save(path, progress=progress)
        return Tally(1, blob.length)
    target.mkdir(parents=True, exist_ok=True)
    root = target.resolve()
    with bar(output, str(source)) as progress:
        for info in bucket.list(prefix=_folder(source.key)):
            relative = info.name[len(_folder(source.key)) :]
            try:
                path = _inside(root, relative)
                path.parent.mkdir(parents=True, exist_ok=True)
                bucket.get(info.key, version=info.version).save(path)
                tally.blobs, tally.bytes = tally.blobs + 1, tally.bytes + info.size
                progress(tally.bytes, None)
            except (Error, OSError) as error:
                _stop_if_lost(error)
                tally.fail(info.name, error)
    return tally


def _across(client: Client, output: Output, source: Place, target: Place, recursive: bool) -> Tally:
    bucket = client.bucket(source.bucket)
    if not recursive:
        key = target.key or source.key
        key += source.key.rsplit("/", 1)[-1] if key.endswith("/") else ""
        if (source.bucket, source.key) == (target.bucket, key):
            raise Usage(f"{source} is source and target")
        return Tally(1, bucket.copy(source.key, key, bucket=target.bucket).size)
    if source.bucket == target.bucket and _folder(target.key).startswith(_folder(source.key)):
        raise Usage(f"{target} is inside {source}: it would copy its own copies, over and over")
    tally = Tally()
    with bar(output, str(source)) as progress:
        for info in bucket.list(prefix=_folder(source.key)):
            relative = info.name[len(_folder(source.key)) :]
            try:
                bucket.copy(info.key, _join(target.key, relative), bucket=target.bucket, version=info.version)
                tally.blobs, tally.bytes = tally.blobs + 1, tally.bytes + info.size
                progress(tally.bytes, None)
            except Error as error:
                _stop_if_lost(error)
                tally.fail(info.name, error)
    return tally


def _stop_if_lost(error: Error | OSError) -> None:
    """One bad file does not spoil the others; a cluster that is gone does."""
    from holdfast.errors import BucketNotFound, Unreachable

    if isinstance(error, (BucketNotFound, Unreachable)):
        raise error


def _files(root: Path, *, unreadable: Callable[[OSError], None]) -> Iterator[Path]:
    """Regular files, in a stable order; links are followed for files and not for directories. Directories that are
    `unreadable` are told of."""
    for folder, folders, names in os.walk(root, onerror=unreadable):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file():
                yield path


def _folder(prefix: str) -> str:
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def _join(prefix: str, relative: str) -> str:
    return _folder(prefix) + relative


def _inside(root: Path, relative: str) -> Path:
    """Where a key is written under a directory; raises InvalidArgument for one that would land elsewhere."""
    parts = relative.split("/")
    if any(part in {"", ".", ".."} or "\x00" in part for part in parts):
        raise InvalidArgument(
            "this key is no path inside a directory", hint="`holdfast get` writes it under a name you give"
        )
    path = root.joinpath(*parts)
    if not path.parent.resolve().is_relative_to(root):
        raise InvalidArgument("a symbolic link leads out of the target directory")
    return path
