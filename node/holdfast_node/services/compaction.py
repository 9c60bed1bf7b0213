"""The compaction worker of one store: which volumes are worth it, when, and how fast.

A pass over the index says what is garbage. It is made when the log has grown by a good part, or when room is short;
then the volumes with the most garbage are copied, one after the other, and the next pass proves that they may go. What
moves the bytes is the log's compactor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from holdfast_node.core.errors import HoldfastError, StoreFull
from holdfast_node.core.log_format import Position
from holdfast_node.core.messages import WorkerStatus
from holdfast_node.services.foreground import Foreground
from holdfast_node.services.log.compactor import Usage
from holdfast_node.services.store import Store
from holdfast_node.services.worker import Work, run_forever

IDLE_S: Final = 1.0
GARBAGE_MIN: Final = 0.5
"""A volume is compacted once this share of it is garbage: a byte is given back for each that is copied, at least."""
LOW_GARBAGE_MIN: Final = 0.25
"""The same when room becomes short."""
SHORT_GARBAGE_MIN: Final = 0.1
"""The same while only the reserve is left."""
SURVEY_GROWTH: Final = 16
"""A survey is due when the log has grown by one volume in so many: its cost is a fixed part of that of writing."""
LOW_SURVEY_S: Final = 10.0
"""Between surveys when room becomes short, at least."""
LOW_SURVEY_SHARE: Final = 20
"""They take at most one part in so many of the time then; as much as all other work while only the reserve is left."""
AT_ONCE_MAX: Final = 8
"""Volumes copied for one survey, which proves all of them."""
DROPS_SHARE: Final = 16
"""If records that only keep the dropped from coming back are more than one part in so many of what is live, the oldest
volume is compacted: they are needed only as long as something older is there."""


class Compaction:
    """Runs for as long as the node does. Numbers count since the process started."""

    name = "compactor"

    def __init__(self, *, store: Store, foreground: Foreground) -> None:
        self._store: Final = store
        self._compactor: Final = store.compactor
        self.foreground: Final = foreground
        self._usage: tuple[Usage, ...] = ()
        self._victims: list[int] = []
        self._copied: list[int] = []
        self._began_at: Position | None = None
        self._surveyed_volume = 0
        self._surveyed_sequence = 0
        self._surveyed_s = 0.0
        self._survey_took_s = 0.0
        self._asked = False
        self._state = Work.IDLE
        self._last_error = ""
        self._removed = 0
        self._given_back_bytes = 0
        self.wake: Final = asyncio.Event()

    async def run(self) -> None:
        await run_forever(self, self.wake, IDLE_S, events=self._store.verifier.events)

    def look_again(self) -> None:
        """Much has become garbage at once."""
        self._asked = True
        self.wake.set()

    async def work_once(self) -> Work:
        try:
            self._state = await self._work()
            self._last_error = ""
        except HoldfastError as error:
            self._state, self._last_error = Work.IDLE, str(error)
            self._victims, self._copied = [], []
            raise
        return self._state

    async def _work(self) -> Work:
        if self._victims:
            await self._copy(self._victims.pop(0))
            return Work.BUSY
        if not self._copied and not self._is_due():
            return Work.IDLE
        whole = not self._began_at or await self._compactor.are_whole(self._began_at, rest_s=self._rest_s)
        self._began_at = None
        await self._survey()
        copied, self._copied = self._copied, []
        removed = [number for number in copied if whole and await self._remove(number)]
        self._victims = _chosen(self._usage, room_bytes=self._compactor.room_bytes, least=self._garbage_min)
        if copied and not removed:  # something keeps them; scrub finds out what
            self._victims = []
        return Work.BUSY if self._victims else Work.IDLE

    def _is_due(self) -> bool:
        end = self._compactor.end
        grown = end.volume - self._surveyed_volume
        if self._asked:
            return True
        if end.volume > 1 and grown >= max(1, len(self._usage) // SURVEY_GROWTH):
            return True
        now_s = asyncio.get_running_loop().time()
        share = 1 if self._store.is_short else LOW_SURVEY_SHARE
        rested = now_s >= self._surveyed_s + max(LOW_SURVEY_S, share * self._survey_took_s)
        return self._store.is_low and rested and end.sequence > self._surveyed_sequence

    @property
    def _garbage_min(self) -> float:
        if self._store.is_short:
            return SHORT_GARBAGE_MIN
        return LOW_GARBAGE_MIN if self._store.is_low else GARBAGE_MIN

    def _rest_s(self, took_s: float) -> float:
        """No rest while writers are refused for want of room."""
        return 0.0 if self._store.is_short else self.foreground.rest_s(took_s)

    async def _survey(self) -> None:
        end, self._asked = self._compactor.end, False
        self._surveyed_volume, self._surveyed_sequence = end.volume, end.sequence
        clock = asyncio.get_running_loop().time
        began_s = clock()
        self._usage = await self._compactor.survey(rest_s=self._rest_s)
        self._surveyed_s = clock()
        self._survey_took_s = self._surveyed_s - began_s

    async def _copy(self, number: int) -> None:
        """No room after all, because others were quicker: those that were copied before may go, and make some."""
        if self._began_at is None:
            self._began_at = self._compactor.end
        try:
            records = await self._compactor.copy(number, rest_s=self._rest_s)
        except StoreFull as error:
            self._victims = []
            self._store.verifier.events.emit("volume_not_copied", volume=number, error=str(error))
            return
        self._copied.append(number)
        self._store.verifier.events.emit("volume_copied", volume=number, records=records)

    async def _remove(self, number: int) -> bool:
        usage = next((each for each in self._usage if each.number == number), None)
        if usage is None or usage.needed:
            return False
        await self._compactor.remove(number)
        self._usage = tuple(each for each in self._usage if each is not usage)
        self._removed += 1
        self._given_back_bytes += usage.size_bytes
        self._store.verifier.events.emit("volume_removed", volume=number)
        return True

    # --- telling --------------------------------------------------------------------------------------------

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            name=self.name,
            state=self._state.value,
            detail=self._detail(),
            done=self._removed,
            total=self._removed + len(self._copied) + len(self._victims),
            bytes_done=self._given_back_bytes,
            rate_bytes_s=0.0,
            eta_s=0.0,
        )

    def _detail(self) -> str:
        size = sum(each.size_bytes for each in self._usage)
        garbage = 1 - sum(each.live_bytes for each in self._usage) / size if size else 0.0
        told = [f"{max(0.0, garbage):.0%} of {len(self._usage)} full volumes is garbage" if size else ""]
        told.append(self._last_error)
        return "; ".join(each for each in told if each)


def _chosen(usage: Sequence[Usage], *, room_bytes: int, least: float) -> list[int]:
    """Those with the most garbage, as many as there is room for what is live in them."""
    worth = sorted(
        (each for each in usage if each.garbage >= least), key=lambda each: each.garbage, reverse=True
    )
    live = sum(each.live_bytes for each in usage)
    if usage and usage[0] not in worth and sum(each.drop_bytes for each in usage) * DROPS_SHARE > live:
        worth.append(usage[0])
    chosen: list[int] = []
    for each in worth[:AT_ONCE_MAX]:
        if each.live_bytes > room_bytes:
            break
        room_bytes -= each.live_bytes
        chosen.append(each.number)
    return chosen
