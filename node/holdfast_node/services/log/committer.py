"""The one writer of the log: gathers what is queued into a batch, makes it durable, answers everybody in it.

Knows records as bytes. While a batch is on its way to the disk, whatever is queued becomes the next one; there is no
timer. Copies go first, so that whatever else the batch says about the same thing is younger; then control groups, then
bulk ones. After a failed write the store is dead: nothing is retried on a file whose state nobody knows.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from holdfast_node.core import log_format
from holdfast_node.core.errors import HoldfastError, Overloaded, StoreFailed, StoreFull, TooLarge
from holdfast_node.core.head import Head
from holdfast_node.core.index_keys import RecordBody
from holdfast_node.core.index_rows import Location, Logged
from holdfast_node.core.log_format import BATCH_HEADER_BYTES, BLOCK, BatchBuilder, Position, after
from holdfast_node.ports import NO_ROOM_FOR_INDEX, Buffer, Disk, IndexBroken, IndexFull
from holdfast_node.services.events import Events
from holdfast_node.services.log.volume import Volumes, volume_name
from holdfast_node.services.tasks import Tasks

QUEUE_BYTES_MAX: Final = 128 * 1024 * 1024
"""Bulk records waiting, in bytes: twice the keep budget, so that it is the budget that says no first."""
CONTROL_QUEUE_BYTES_MAX: Final = 32 * 1024 * 1024
"""Control records waiting: 500 of the largest heads, or 100 000 ordinary ones."""
COPIES_BYTES_MAX: Final = 256 * 1024
"""Copies in one batch, while others wait for it: a fraction of a millisecond of a disk."""
SPARE_AT: Final = 0.5
"""How full a volume is when the next one is preallocated."""
RETRY_AFTER_MS: Final = 50
INDEX_RETRY_S: Final = 1.0
"""How often an index without room is asked to take what is durable."""


class Pending(NamedTuple):
    """A record that has no place yet."""

    kind: int
    key: bytes
    body: RecordBody
    encoded: bytes
    payload: Buffer
    head: Head | None
    flags: int


@dataclass(slots=True, eq=False)
class Group:
    """Records that become durable together or not at all; or that are left out, if they are not wanted any more at the
    moment they are about to be written."""

    records: Sequence[Pending]
    length: int
    done: asyncio.Future[None]
    wanted: Callable[[], bool] = lambda: True
    vital: bool = False


LOW_SHARE: Final = 8
MENDING_SHARE: Final = 3
"""Of the reserve, one part in so many is for shards that are made whole again; the rest is not for bulk at all."""


@dataclass(frozen=True, slots=True)
class CommitterSettings:
    batch_bytes_max: int
    reserve_bytes: int
    capacity_bytes: int
    """0: what the disk has."""
    index_room_bytes: int
    """Of the disk, not for the log: without room for its index a store cannot even give back what is garbage."""


Applied = Callable[[list[Logged], Position], None]
"""Makes a durable batch visible. Raises `IndexFull`, and is called again with the same batch then."""


class Committer:
    """Owns the tail of the log from `start` to `close`."""

    def __init__(
        self, *, disk: Disk, volumes: Volumes, position: Position, events: Events, settings: CommitterSettings
    ) -> None:
        self._disk = disk
        self._volumes = volumes
        self._events = events
        self._settings = settings
        self._copies: deque[Group] = deque()
        self._control: deque[Group] = deque()
        self._bulk: deque[Group] = deque()
        self._control_bytes = self._bulk_bytes = 0
        self._wake = asyncio.Event()
        self._tasks = Tasks(events)
        self._closing = False
        self._apply: Applied = lambda _records, _position: None
        self._volume_full: Callable[[], None] = lambda: None
        self._running: asyncio.Task[None] | None = None
        self._spare_asked = position.volume
        self._last_volume = False
        """The last volume there is room for is in use: nobody but compaction may fill it up."""
        self._index_full = False
        """A batch is durable that the index has no room for: nothing is taken until it can be seen."""
        self.waits_for_room = False
        """Whether the index is waited for then; else the store fails, as whoever starts or stops it wants to know."""
        self.position = position
        self.failure = ""
        self.failed: Final = asyncio.Event()
        self.bulk_room_bytes = 0
        self.measure()

    def start(self, apply: Applied, volume_full: Callable[[], None]) -> None:
        """`apply` is called with each durable batch before its groups are answered."""
        self._apply, self._volume_full = apply, volume_full
        self._running = self._tasks.spawn(self._run(), "log committer")

    def serve(self) -> None:
        """All that had to be written down before anybody may use the store is durable: from now on room is waited for,
        and the last volume is kept, also if an earlier run has begun it."""
        self.waits_for_room = self._last_volume = True
        self.measure()

    @property
    def durable_sequence(self) -> int:
        return self.position.sequence - 1

    @property
    def written_bytes(self) -> int:
        """Where the log ends, counted from its very beginning: only ever more."""
        return self.position.volume * self._volumes.volume_bytes + self.position.offset

    @property
    def is_short(self) -> bool:
        """Whether there is no room above the reserve, but perhaps for something small, as the disk says now."""
        self.measure()
        return self._index_full or self.bulk_room_bytes < self._settings.batch_bytes_max

    @property
    def is_low(self) -> bool:
        """Whether the room above the reserve is a small part of the whole, as the disk says now."""
        self.measure()
        return self.bulk_room_bytes < self.capacity_bytes // LOW_SHARE

    @property
    def used_bytes(self) -> int:
        """Volumes written, the current one up to its tail."""
        return self._volumes.made_bytes - self._volumes.unused_bytes(self.position)

    @property
    def capacity_bytes(self) -> int:
        """What the log has and could have, the reserve included."""
        return self._volumes.made_bytes + self._free_bytes()

    @property
    def copy_room_bytes(self) -> int:
        """What compaction may still write: all that is left, in whole volumes."""
        volume_bytes = self._volumes.volume_bytes
        whole_bytes = self._free_bytes() // volume_bytes * volume_bytes
        return self._volumes.unused_bytes(self.position) + whole_bytes

    def group_bytes_max(self) -> int:
        return self._volumes.volume_bytes - 2 * BLOCK

    def append(
        self, records: Sequence[Pending], *, bulk: bool, reserve: bool = False, vital: bool = False
    ) -> asyncio.Future[None]:
        """Queue one group; with `reserve` a bulk group may take what is kept for mending, and a `vital` one some of the
        last volume. Raises `StoreFailed`, `StoreFull`, `Overloaded` or `TooLarge` at once."""
        if self.failure or self._closing:
            raise StoreFailed(self.failure or "the store is closing")
        if self._index_full:
            raise _no_room_for_index()
        length = sum(map(_record_bytes, records))
        if length > self.group_bytes_max():
            raise TooLarge(f"{length} bytes do not fit into one volume")
        if bulk:
            self._admit_bulk(length, self._settings.reserve_bytes // MENDING_SHARE if reserve else 0)
        elif self._control_bytes and self._control_bytes + length > CONTROL_QUEUE_BYTES_MAX:
            raise Overloaded("the log cannot keep up", retry_after_ms=RETRY_AFTER_MS)
        elif self._is_last_volume() and not (vital and self._half_is_left()):
            raise _only_for_compaction()
        group = Group(records, length, asyncio.get_running_loop().create_future(), vital=vital)
        if bulk:
            self._bulk.append(group)
            self._bulk_bytes += length
        else:
            self._control.append(group)
            self._control_bytes += length
        self._wake.set()
        return group.done

    def copy(self, record: Pending, wanted: Callable[[], bool]) -> asyncio.Future[None]:
        """Queue a copy of a record that is in the log already. `wanted` is asked when everything older is durable and
        applied, and nothing younger is: a copy that is not wanted then is left out. Raises `StoreFailed`."""
        if self.failure or self._closing:
            raise StoreFailed(self.failure or "the store is closing")
        done = asyncio.get_running_loop().create_future()
        self._copies.append(Group((record,), _record_bytes(record), done, wanted))
        self._wake.set()
        return done

    async def close(self) -> None:
        """Write what is queued, then stop."""
        self._closing = True
        self.waits_for_room = False
        self._wake.set()
        if self._running is not None:
            await asyncio.wait((self._running,))
        await self._tasks.close()

    async def abandon(self) -> None:
        """Stop at once; what is queued or on its way is not answered."""
        self._closing = True
        await self._tasks.close()

    def fail(self, reason: str) -> None:
        """The store is dead from now on; everybody waiting hears of it."""
        if not self.failure:
            self.failure = reason
            self.failed.set()
            self._events.emit("store_failed", reason=reason)
        self._reject_all(StoreFailed(self.failure))

    def _reject_all(self, error: HoldfastError) -> None:
        """Whatever is queued: none of it was written."""
        for group in (*self._copies, *self._control, *self._bulk):
            _reject(group, error)
        self._copies.clear()
        self._control.clear()
        self._bulk.clear()
        self._control_bytes = self._bulk_bytes = 0

    def measure(self) -> None:
        """Ask the disk how much is left above the reserve, in volumes that exist or can be made whole."""
        volume_bytes = self._volumes.volume_bytes
        whole_volumes = self._free_bytes() // volume_bytes
        room = whole_volumes * volume_bytes + self._volumes.unused_bytes(self.position)
        self.bulk_room_bytes = room - self._settings.reserve_bytes - self._bulk_bytes
        self._volumes_left = whole_volumes + self._volumes.spares(self.position)
        self._last_volume = self._last_volume and not self._volumes_left

    def _is_last_volume(self) -> bool:
        """Asked again before anybody is refused: room comes back without a word."""
        if self._last_volume:
            self.measure()
        return self._last_volume

    def _half_is_left(self) -> bool:
        """Of the last volume: the other half is for copies."""
        return self._volumes.unused_bytes(self.position) > self._volumes.volume_bytes // 2

    def _free_bytes(self) -> int:
        free = max(0, self._disk.free_bytes() - self._settings.index_room_bytes)
        limit = self._settings.capacity_bytes
        return min(free, max(0, limit - self._volumes.made_bytes)) if limit else free

    def _admit_bulk(self, length: int, extra_bytes: int) -> None:
        if self._bulk_bytes and self._bulk_bytes + length > QUEUE_BYTES_MAX:
            raise Overloaded("the log cannot keep up", retry_after_ms=RETRY_AFTER_MS)
        if self.bulk_room_bytes + extra_bytes < length:
            self.measure()
        if self.bulk_room_bytes + extra_bytes < length:
            raise StoreFull(
                "only the reserve is left on this store", hint="delete blobs, add nodes or enlarge the disk"
            )
        self.bulk_room_bytes -= length

    async def _run(self) -> None:
        while not self.failure:
            if not self._copies and not self._control and not self._bulk:
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._write_next()

    async def _write_next(self) -> None:
        room = self._volumes.size_bytes - self.position.offset - BATCH_HEADER_BYTES
        groups: list[Group] = []
        try:
            groups = self._gather(room)
            if groups:
                await self._write(groups)
            elif self._copies or self._control or self._bulk:
                await self._roll()
        except StoreFull as error:
            for group in groups or self._next_in_line():
                _reject(group, error)
        except (HoldfastError, IndexBroken, OSError) as error:
            self._fail_with(groups, str(error))
        except BaseException as error:
            self._fail_with(groups, f"the log's writer stopped: {error!r}")
            raise

    def _fail_with(self, groups: list[Group], reason: str) -> None:
        self.fail(reason)
        for group in groups:
            _reject(group, StoreFailed(self.failure))

    async def _roll(self) -> None:
        self.measure()
        vital = any(group.vital for group in self._control)
        if self._volumes_left == 1 and not self._copies and not vital:
            raise _only_for_compaction()
        self.position = await self._volumes.begin(self.position)
        self.measure()
        self._last_volume = not self._volumes_left
        self._volume_full()

    async def _write(self, groups: list[Group]) -> None:
        position = self.position
        builder = BatchBuilder(position)
        logged: list[Logged] = []
        sequence, volume = position.sequence, position.volume
        for group in groups:
            for kind, key, body, encoded, payload, head, flags in group.records:
                offset, length, payload_offset, payload_length = builder.add(
                    kind, key, encoded, payload, flags
                )
                location = Location(volume, offset, length)
                logged.append(
                    Logged(
                        sequence, flags, key, body, encoded, location, payload_offset, payload_length, head
                    )
                )
                sequence += 1
        batch = builder.finish()
        await self._disk.commit(volume_name(volume), position.offset, batch.buffers)
        if self.failure:  # the index broke meanwhile, and what it has is not worth adding to
            raise StoreFailed(self.failure)
        position = after(position, batch)
        await self._make_visible(logged, position)
        self.position = position  # not before: up to here, others are told, everything can be seen
        for group in groups:
            if not group.done.done():
                group.done.set_result(None)
        self.measure()
        self._ask_for_spare()

    async def _make_visible(self, logged: list[Logged], position: Position) -> None:
        """However long it takes: nobody is answered before, and nothing younger is written."""
        while True:
            try:
                self._apply(logged, position)
                break
            except IndexFull as error:
                if not self._index_full:
                    self._index_full = True
                    self._events.emit("index_full", reason=str(error))
                    self._reject_all(_no_room_for_index())
            if not self.waits_for_room or self.failure:
                raise StoreFailed(self.failure or NO_ROOM_FOR_INDEX)
            await asyncio.sleep(INDEX_RETRY_S)
        if self._index_full:
            self._index_full = False
            self._events.emit("index_has_room")

    def _gather(self, room: int) -> list[Group]:
        """The next groups in order, as many as a batch and the volume take; none if the first does not fit."""
        taken, length = self._gather_copies(room)
        limit = self._settings.batch_bytes_max
        if self._copies and not taken:
            return taken  # the next volume is for them, too
        for queue in (self._control, self._bulk):
            while queue and (length < limit) and length + queue[0].length <= room:
                group = queue.popleft()
                taken.append(group)
                length += group.length
                if queue is self._control:
                    self._control_bytes -= group.length
                else:
                    self._bulk_bytes -= group.length
            if queue and queue is self._control:
                break  # what does not fit now goes first next time
        return taken

    def _next_in_line(self) -> list[Group]:
        """Those for which there is no volume."""
        if self._copies:
            waiting, self._copies = list(self._copies), deque()
            return waiting
        return self._gather(self.group_bytes_max())

    def _gather_copies(self, room: int) -> tuple[list[Group], int]:
        """They leave the queue once all were asked: if the index breaks on that, they hear of it like all others."""
        taken, unwanted, length = list[Group](), list[Group](), 0
        others = self._control or self._bulk
        limit = COPIES_BYTES_MAX if others else self._settings.batch_bytes_max
        for group in self._copies:
            if length >= limit or length + group.length > room:
                break
            if group.wanted():
                taken.append(group)
                length += group.length
            else:
                unwanted.append(group)
        for _ in range(len(taken) + len(unwanted)):
            _ = self._copies.popleft()
        for group in unwanted:
            if not group.done.done():
                group.done.set_result(None)
        return taken, length

    def _ask_for_spare(self) -> None:
        position = self.position
        if position.volume > self._spare_asked and position.offset > SPARE_AT * self._volumes.size_bytes:
            self._spare_asked = position.volume
            _ = self._tasks.spawn(self._make_spare(position.volume + 1), "spare volume")

    async def _make_spare(self, number: int) -> None:
        try:
            await self._volumes.make_spare(number)
        except StoreFull:
            self._events.emit("spare_volume_refused", volume=number)
        except StoreFailed as error:
            self.fail(str(error))


def _record_bytes(record: Pending) -> int:
    return log_format.record_bytes(len(record.key), len(record.encoded), len(record.payload))


def _only_for_compaction() -> StoreFull:
    return StoreFull(
        "the room left on this store is only enough to compact it", hint="add nodes or enlarge the disk"
    )


def _no_room_for_index() -> StoreFull:
    return StoreFull(NO_ROOM_FOR_INDEX, hint="make some: the store goes on by itself then")


def _reject(group: Group, error: HoldfastError) -> None:
    if not group.done.done():
        group.done.set_exception(error)
        group.done.exception()  # heard here already; nobody has to wait for it
