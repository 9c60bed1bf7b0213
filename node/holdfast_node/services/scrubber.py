"""Scrub: read everything this store holds back from the disk, cycle after cycle, and have mended what is broken.

A cycle is the whole log, then the whole index. It is over well within the time promised, goes on where it was after a
restart, and yields to others: it rests after every step, for long while callers wait. What is found is the restorer's.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

from holdfast_node.core.errors import HoldfastError, StoreFull
from holdfast_node.core.ids import StoreId
from holdfast_node.core.log_format import Position, decode_position, encode_position
from holdfast_node.core.messages import ReadScrub, Reply, Request, ScrubReport, WorkerStatus
from holdfast_node.core.records import ScrubRecord
from holdfast_node.services.dispatcher import Caller, Handler, handler
from holdfast_node.services.foreground import Foreground
from holdfast_node.services.log.verifier import Suspect
from holdfast_node.services.places import Maps
from holdfast_node.services.restoring import Restorer
from holdfast_node.services.store import Entry, Store
from holdfast_node.services.worker import Work, run_forever

IDLE_S: Final = 1.0
HURRY: Final = 2
"""A cycle takes at most one part in so many of the time promised: the rest is for trouble, and for the next one."""
AT_ONCE: Final = 16
BUSY_AT_ONCE: Final = 1
"""Findings dealt with in one go; each may keep all homes of a key busy."""
BUSY_PAUSE_S: Final = 0.12
BUSY_STEP_BYTES: Final = 64 * 1024
"""So much of the log while callers wait: half a millisecond."""
REMEMBER_EVERY_S: Final = 60.0
"""Between notes of how far the cycle is."""
_NOTE: Final = b"scrub"


class Scrubber:
    """The scrub worker of one store."""

    name = "scrubber"

    def __init__(
        self,
        *,
        me: StoreId,
        store: Store,
        restorer: Restorer,
        maps: Maps,
        foreground: Foreground,
        cycle_s: float,
    ) -> None:
        self._me: Final = me
        self._store: Final = store
        self._restorer: Final = restorer
        self._maps: Final = maps
        self._foreground: Final = foreground
        self._cycle_s: Final = cycle_s
        self._record = store.scrubbed()
        self._position: Position | None = decode_position(self._record.cursor)
        self._goal = Position(0, 0, 0, 0, 0, 0)
        self._suspects: dict[int, Suspect] = {}
        self._survey_due = store.found_rot
        self._asked = False
        self._hurried = False
        self._state = Work.IDLE
        self._last_error = ""
        self._resumed_s = asyncio.get_running_loop().time()
        self._resumed_at = 0
        self._remembered_s = 0.0
        self._bytes = 0
        self.wake: Final = asyncio.Event()
        if self._running:
            self._go_on()

    def handlers(self) -> dict[type[Request], Handler]:
        return dict([handler(ReadScrub, self._serve)])

    async def run(self) -> None:
        await run_forever(self, self.wake, IDLE_S, events=self._store.verifier.events)

    # --- working --------------------------------------------------------------------------------------------

    async def work_once(self) -> Work:
        try:
            self._state = await self._work()
        except HoldfastError as error:
            self._state, self._last_error = Work.IDLE, str(error)
            raise
        return self._state

    async def _work(self) -> Work:
        topology = self._maps.topology
        if topology is None or self._me not in topology.active:
            return Work.IDLE
        busy = self._foreground.busy
        mended = await self._restorer.work(at_once=BUSY_AT_ONCE if busy else AT_ONCE)
        if mended and busy:
            await asyncio.sleep(BUSY_PAUSE_S)
        if self._survey_due:
            await self._survey()
        if self._asked or (not self._running and self._store.store_time_s >= self._next_s()):
            await self._begin()
        if not self._running or self._ahead():
            return Work.BUSY if mended else Work.IDLE
        began_s = asyncio.get_running_loop().time()
        await self._step()
        took_s = asyncio.get_running_loop().time() - began_s
        await asyncio.sleep(self._foreground.rest_s(took_s))
        return Work.BUSY

    @property
    def _running(self) -> bool:
        return self._record.cycle != self._record.completed

    def _next_s(self) -> float:
        return self._record.began_s + self._cycle_s / HURRY if self._record.cycle else 0.0

    def _ahead(self) -> bool:
        """Whether the cycle is further than it has to be by now."""
        if self._hurried:
            return False
        elapsed_s = asyncio.get_running_loop().time() - self._resumed_s
        left_s = self._record.began_s + self._cycle_s / HURRY - self._store.store_time_s + elapsed_s
        whole, at = self._store.verifier.place(self._goal), self._store.verifier.place(self._position)
        return left_s > 0 and at - self._resumed_at > (whole - self._resumed_at) * elapsed_s / left_s

    async def _begin(self) -> None:
        self._hurried, self._asked = self._asked, False
        if not await self._store.check_superblock():
            self._restorer.found += 1
            self._restorer.healed += 1
        record = self._record
        self._record = ScrubRecord(
            record.cycle + 1, record.completed, b"", self._store.store_time_s, record.proven_s
        )
        self._position = None
        self._suspects.clear()
        self._go_on()
        await self._write()

    def _go_on(self) -> None:
        self._goal = self._store.verifier.end
        self._resumed_s = asyncio.get_running_loop().time()
        self._resumed_at = self._store.verifier.place(self._position)

    async def _step(self) -> None:
        before = self._position
        step = await self._store.verifier.step(
            before, bytes_max=BUSY_STEP_BYTES if self._foreground.busy else None
        )
        self._position = step.position
        self._bytes += step.bytes
        self._suspects |= step.suspects
        over = step.at_end or step.position.batch >= self._goal.batch
        if over or (self._suspects and before is not None and before.volume != step.position.volume):
            await self._survey()
        if over:
            await self._end()
        elif not self._suspects and not len(self._restorer):
            self._remember()

    async def _survey(self) -> None:
        suspects, self._suspects = self._suspects, {}
        survey = await self._store.verifier.survey(suspects, rest_s=self._foreground.rest_s)
        self._survey_due = False
        self._restorer.add(survey)

    async def _end(self) -> None:
        self._record = replace(
            self._record, completed=self._record.cycle, cursor=b"", proven_s=self._record.began_s
        )
        self._position, self._hurried = None, False
        await self._write()
        self._store.verifier.events.emit(
            "scrub_cycle_ended",
            cycle=self._record.cycle,
            found=self._restorer.found,
            waiting=len(self._restorer),
        )

    async def _write(self) -> None:
        """At once, and behind what still waits to be written with something else. A full store reads itself back
        nevertheless, and notes that when it has room."""
        try:
            await self._store.append([Entry(self._record)])
        except StoreFull:
            self._store.piggyback(_NOTE, Entry(self._record))

    def _remember(self) -> None:
        """With whatever is written next: a restart goes on from here. Not past what is found and not healed."""
        now_s = asyncio.get_running_loop().time()
        if self._position is not None and now_s >= self._remembered_s + REMEMBER_EVERY_S:
            self._remembered_s = now_s
            self._record = replace(self._record, cursor=encode_position(self._position))
            self._store.piggyback(_NOTE, Entry(self._record))

    # --- telling --------------------------------------------------------------------------------------------

    async def _serve(self, caller: Caller, request: ReadScrub) -> Reply:
        del caller
        if request.now:
            self._asked = True
            self.wake.set()
        return self.report()

    def report(self) -> ScrubReport:
        record, verifier = self._record, self._store.verifier
        done, whole = verifier.place(self._position), verifier.place(self._goal)
        if not self._running:
            done = whole
        return ScrubReport(
            cycle=record.cycle + self._asked,
            completed=record.completed,
            hurried=self._hurried,
            bytes_done=done,
            bytes_total=whole,
            rate_bytes_s=self._rate(),
            eta_s=self._eta_s(whole - done),
            found=self._restorer.found,
            healed=self._restorer.healed,
            garbage=self._restorer.garbage,
            unproven_s=float(self._store.store_time_s - record.proven_s),
            promised_s=self._cycle_s,
            waiting=self._restorer.waiting(),
        )

    def warnings(self) -> tuple[str, ...]:
        """What keeps a node from being called healthy."""
        count = self._restorer.found - self._restorer.healed
        return (f"{count} broken records are not healed yet: `clusterctl scrub` names them",) if count else ()

    def status(self) -> WorkerStatus:
        report = self.report()
        return WorkerStatus(
            name=self.name,
            state=self._state.value,
            detail=self._detail(report),
            done=report.healed,
            total=report.healed + len(self._restorer),
            bytes_done=self._bytes,
            rate_bytes_s=report.rate_bytes_s,
            eta_s=report.eta_s,
        )

    def _rate(self) -> float:
        elapsed_s = asyncio.get_running_loop().time() - self._resumed_s
        at = self._store.verifier.place(self._position)
        return (at - self._resumed_at) / elapsed_s if self._running and elapsed_s else 0.0

    def _eta_s(self, left: int) -> float:
        """Unhurried, the schedule says when."""
        if not self._running:
            return 0.0
        if self._hurried:
            rate = self._rate()
            return left / rate if rate else 0.0
        return max(0.0, self._record.began_s + self._cycle_s / HURRY - self._store.store_time_s)

    def _detail(self, report: ScrubReport) -> str:
        told = [f"{len(self._restorer)} broken records are being healed" if len(self._restorer) else ""]
        told.append(
            "never read back"
            if not report.completed
            else f"all older than {report.unproven_s:.0f} s read back"
        )
        told.append(self._last_error if self._state is Work.IDLE else "")
        return "; ".join(each for each in told if each)
