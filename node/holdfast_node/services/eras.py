"""Raises the era when heads remember too many writes, or keys wait to be forgotten: old requests are refused then. R9.

A remembered write is forgotten once its stamp is refused at a majority, two eras later. Raising is rare and
never hurried: each raise makes the retries of two eras ago come back as unknown.
"""

from __future__ import annotations

import asyncio
from typing import Final

from holdfast_node.core.cluster_map import ClusterMap
from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.head import Head
from holdfast_node.core.map_changes import raise_era
from holdfast_node.core.register import RECENT_MAX, RECENT_SOFT, refused
from holdfast_node.services.events import Events
from holdfast_node.services.places import Maps, current_topology
from holdfast_node.services.tasks import Tasks

INTERVALS_S: Final = ((RECENT_MAX * 5 // 8, 0.25), (RECENT_MAX // 4, 3.0), (RECENT_SOFT, 10.0))
"""More than so many remembered writes: raise if the era is at least so old. Under the first, a writer would soon be
refused; under the last, nobody is in a hurry."""


class Eras:
    """Watches the heads that pass by; at most one raise at a time."""

    def __init__(self, *, maps: Maps, tasks: Tasks, events: Events) -> None:
        self._maps: Final = maps
        self._tasks: Final = tasks
        self._events: Final = events
        self._raising = False
        self._era_seen = 0
        self._seen_at = 0.0

    def note(self, head: Head) -> None:
        era, age_s = self._look()
        if len(head.recent) <= RECENT_SOFT or self._raising:
            return
        kept = sum(1 for applied in head.recent if not refused(applied.stamp, era))
        interval = next((wait for count, wait in INTERVALS_S if kept > count), None)
        if interval is not None and age_s >= interval:
            self._begin(era)

    def ask(self, rest_s: float) -> None:
        """Somebody waits for old requests to be refused. The era is raised once it has been the same for so long, as
        far as this process has seen."""
        era, age_s = self._look()
        if age_s >= rest_s and not self._raising:
            self._begin(era)

    def _look(self) -> tuple[int, float]:
        """The era, and since how long it has been that here."""
        era, now_s = current_topology(self._maps).map.era, asyncio.get_running_loop().time()
        if era != self._era_seen:
            self._era_seen, self._seen_at = era, now_s
        return era, now_s - self._seen_at

    def _begin(self, era: int) -> None:
        self._raising = True
        _ = self._tasks.spawn(self._raise(era), "raise the era")

    async def _raise(self, era: int) -> None:
        def change(current: ClusterMap) -> ClusterMap | None:
            return raise_era(current) if current.era == era else None

        try:
            await self._maps.change(change)
        except HoldfastError as error:
            self._events.emit("era_not_raised", error=str(error))
        finally:
            self._raising = False
