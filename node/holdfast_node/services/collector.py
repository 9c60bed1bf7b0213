"""The collector of one store, as a worker: ends undo windows, gives up what no head names, forgets deleted keys.

One round goes through the registers this store is steward of, then through all its shards, then through its
manifests, and then through the registers again. Says when and how fast; what may go is decided elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.messages import WorkerStatus
from holdfast_node.services.collection import Collection
from holdfast_node.services.compaction import Compaction
from holdfast_node.services.datapath import DataPath
from holdfast_node.services.expiry import Expiry
from holdfast_node.services.forgetting import Forgetter
from holdfast_node.services.store import Store
from holdfast_node.services.worker import Work, run_forever

IDLE_S: Final = 1.0
ROUND_MIN_S: Final = 60.0
"""From the end of one round to the beginning of the next, at least."""
ROUND_SHARE: Final = 20
"""Rounds take at most one part in so many of the time, but for the limit that follows."""
ROUND_MAX_S: Final = 3600.0
"""A round is due after so long, even if little was written: windows end by themselves. And however long the last one
took: waiting for the silent is not work."""
ROUND_GROWTH: Final = 16
"""And before that, once the log has grown by one part in so many."""
DOUBT_EVERY: Final = 16
"""One round in so many, the first after a start among them, asks about everything: a home that missed what was decided
has old heads, which name what nobody needs."""
REST_MAX_S: Final = 1.0
"""After a step: one that took longer than a tenth of it has waited for somebody."""

Step = Callable[[bytes], Awaitable[bytes]]


class Collector:
    """Runs for as long as the node does. Numbers count since the process started."""

    name = "collector"

    def __init__(
        self,
        *,
        path: DataPath,
        store: Store,
        expiry: Expiry,
        collection: Collection,
        forgetter: Forgetter,
        compaction: Compaction,
    ) -> None:
        self._path: Final = path
        self._store: Final = store
        self._expiry: Final = expiry
        self._collection: Final = collection
        self._forgetter: Final = forgetter
        self._compaction: Final = compaction
        self._steps: Final[tuple[Step, ...]] = (
            expiry.step,
            collection.shards_step,
            collection.manifests_step,
            forgetter.step,
        )
        self._left: list[Step] = []
        self._start = b""
        self._began_s = 0.0
        self._ended_s = asyncio.get_running_loop().time()
        self._next_s = self._ended_s + ROUND_MIN_S
        self._grown_from = store.written_bytes
        self._rounds = 0
        self._dropped_before = 0
        self._state = Work.IDLE
        self._last_error = ""
        self.wake: Final = asyncio.Event()

    async def run(self) -> None:
        await run_forever(self, self.wake, IDLE_S, events=self._path.events)

    async def work_once(self) -> Work:
        try:
            self._state = await self._work()
            self._last_error = ""
        except HoldfastError as error:
            self._state, self._last_error = Work.IDLE, str(error)
            raise
        return self._state

    async def _work(self) -> Work:
        topology = self._path.maps.topology
        if topology is None or self._path.me not in topology.active:
            return Work.IDLE
        clock = asyncio.get_running_loop().time
        if not self._left:
            if not self._is_due(clock()):
                return Work.IDLE
            self._begin(clock())
        began_s = clock()
        self._start = await self._left[0](self._start)
        if not self._start:
            del self._left[0]
            if not self._left:
                self._end(clock())
        await asyncio.sleep(min(self._compaction.foreground.rest_s(clock() - began_s), REST_MAX_S))
        return Work.BUSY

    def _is_due(self, now_s: float) -> bool:
        if now_s < self._next_s:
            return False
        if self._collection.quarantined or now_s >= self._ended_s + ROUND_MAX_S or self._store.is_short:
            return True
        grown = self._store.written_bytes - self._grown_from
        return grown * ROUND_GROWTH >= self._store.used_bytes

    def _begin(self, now_s: float) -> None:
        self._left, self._start = list(self._steps), b""
        self._began_s = now_s
        self._grown_from = self._store.written_bytes
        doubting = self._rounds % DOUBT_EVERY == 0
        self._collection.begin(doubting=doubting)
        self._forgetter.begin(doubting=doubting)

    def _end(self, now_s: float) -> None:
        self._rounds += 1
        if self._collection.dropped > self._dropped_before:
            self._compaction.look_again()
        self._dropped_before = self._collection.dropped
        self._ended_s = now_s
        earned_s = ROUND_SHARE * (now_s - self._began_s)
        self._next_s = now_s + min(max(ROUND_MIN_S, earned_s), ROUND_MAX_S)

    # --- telling --------------------------------------------------------------------------------------------

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            name=self.name,
            state=self._state.value,
            detail=self._detail(),
            done=self._collection.dropped,
            total=self._collection.dropped,
            bytes_done=0,
            rate_bytes_s=0.0,
            eta_s=0.0,
        )

    def _detail(self) -> str:
        told = [f"undo ended for {self._expiry.expired} keys" if self._expiry.expired else ""]
        gone = self._forgetter.forgotten
        told.append(f"{gone} deleted keys forgotten" if gone else "")
        waiting = self._collection.quarantined
        told.append(f"{waiting} blobs that nobody names wait to be dropped" if waiting else "")
        told.append(f"{self._rounds} rounds" if self._rounds else "")
        told.append(self._last_error)
        return "; ".join(each for each in told if each)
