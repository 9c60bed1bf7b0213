"""Bugs planted on purpose: each undoes one rule of the log, and the crash states must notice.

A plant is a context in which one function is replaced, while recording and while recovering.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from holdfast_node.core import log_format
from holdfast_node.core.log_format import Mark, Position
from holdfast_node.core.records import Superblock
from holdfast_node.services import store as store_module
from holdfast_node.services.log import opening, replay
from holdfast_node.services.log.committer import Committer
from holdfast_node.services.log.indexer import Indexer
from tests.crashes.recording import RecordingDisk
from tests.faults.support.power_cut import Made, Sized, Synced, Wrote

Patch = tuple[object, str, object]
Commit = Callable[[RecordingDisk, str, int, Sequence[bytes]], Awaitable[None]]


@contextmanager
def patched(patches: Sequence[Patch]) -> Generator[None]:
    done: list[tuple[object, str, object]] = []
    try:
        for where, attribute, instead in patches:
            done.append((where, attribute, getattr(where, attribute)))
            setattr(where, attribute, instead)
        yield
    finally:
        for where, attribute, before in reversed(done):
            setattr(where, attribute, before)


def planted(name: str) -> AbstractContextManager[None]:
    """The product with the bug of this name; without any if it is empty."""
    return patched(PLANTS[name]() if name else ())


def _no_sync() -> Sequence[Patch]:
    async def commit(disk: RecordingDisk, name: str, offset: int, buffers: Sequence[bytes]) -> None:
        await disk.step(Wrote(disk.recording.directory.visible[name], offset, b"".join(buffers)))

    return [(RecordingDisk, "commit", commit)]


def _ack_before_commit() -> Sequence[Patch]:
    commit: Commit = RecordingDisk.commit
    late: set[asyncio.Task[None]] = set()

    async def commit_later(disk: RecordingDisk, name: str, offset: int, buffers: Sequence[bytes]) -> None:
        held = [bytes(buffer) for buffer in buffers]

        async def run() -> None:
            await commit(disk, name, offset, held)

        task = asyncio.get_running_loop().create_task(run())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        late.add(task)

    return [(RecordingDisk, "commit", commit_later)]


class _Trusting:
    """The log's format with a reader that believes every batch whose header is whole."""

    def __getattr__(self, name: str) -> Any:
        return getattr(log_format, name)

    def read_batch(
        self, data: memoryview, offset: int, header: log_format.BatchHeader
    ) -> tuple[list[log_format.Record], bool]:
        found, _ = log_format.read_batch(data, offset, header)
        return [record for record in found if record.whole], True


def _trust_torn_batches() -> Sequence[Patch]:
    return [(replay, "log_format", _Trusting())]


def _salvage_torn_batches() -> Sequence[Patch]:
    end_of_log: Callable[..., Awaitable[bool]] = getattr(replay.Replay, "_end_of_log")  # noqa: B009 - a plant

    async def salvage(self: Any, window: Any) -> bool:
        position = self._position
        torn = await end_of_log(self, window)
        if torn:
            data = await window.get(position.offset, window.size - position.offset)
            found = log_format.salvage(data, position.offset, position.life, lambda n: n >= position.sequence)
            self._sink([record for record in found if record.whole], position.volume, self._position)
        return torn

    return [(replay.Replay, "_end_of_log", salvage)]


def _leave_the_tail_as_it_is() -> Sequence[Patch]:
    async def nothing(*about: object) -> None:
        del about

    return [(opening, "_settle_tail", nothing)]


def _superblock_in_place() -> Sequence[Patch]:
    async def replace(disk: RecordingDisk, name: str, content: bytes) -> None:
        directory = disk.recording.directory
        if name not in directory.visible:
            await disk.step(Made(name, disk.recording.new_file()))
        await disk.step(Sized(directory.visible[name], 0))
        await disk.step(Wrote(directory.visible[name], 0, content))
        await disk.step(Synced(directory.visible[name]))

    return [(RecordingDisk, "replace", replace)]


def _rename_without_sync() -> Sequence[Patch]:
    async def replace(disk: RecordingDisk, name: str, content: bytes) -> None:
        file = disk.recording.new_file()
        await disk.step(Made(f"{name}.tmp", file))
        await disk.step(Wrote(file, 0, content))
        await disk.step(Made(name, file))

    return [(RecordingDisk, "replace", replace)]


def _index_before_the_tail() -> Sequence[Patch]:
    def at_once(self: Any, records: Sequence[log_format.Record], volume: int, position: Position) -> None:
        self._add([self._logged(record, volume) for record in records])
        self._write(position)

    return [(Indexer, "replay", at_once)]


def _boot_not_written() -> Sequence[Patch]:
    write = opening.write_superblock

    async def only_the_first(ports: opening.StorePorts, superblock: Superblock, mark: Mark) -> None:
        if superblock.boot == 1 or superblock.cluster_id:
            await write(ports, superblock, mark)

    return [(store_module, "write_superblock", only_the_first)]


def _join_not_written() -> Sequence[Patch]:
    async def join(store: store_module.Store, cluster_id: bytes) -> None:
        del store, cluster_id

    return [(store_module.Store, "join", join)]


def _groups_in_any_order() -> Sequence[Patch]:
    gather: Callable[[Any, int], list[Any]] = getattr(Committer, "_gather")  # noqa: B009 - a plant

    def backwards(self: Any, room: int) -> list[Any]:
        self._control.reverse()
        return gather(self, room)

    return [(Committer, "_gather", backwards)]


PLANTS: Final[dict[str, Callable[[], Sequence[Patch]]]] = {
    "no-sync": _no_sync,
    "ack-before-commit": _ack_before_commit,
    "trust-torn": _trust_torn_batches,
    "salvage-torn": _salvage_torn_batches,
    "tail-left": _leave_the_tail_as_it_is,
    "superblock-in-place": _superblock_in_place,
    "rename-without-sync": _rename_without_sync,
    "index-before-tail": _index_before_the_tail,
    "boot-not-written": _boot_not_written,
    "join-not-written": _join_not_written,
    "any-order": _groups_in_any_order,
}
