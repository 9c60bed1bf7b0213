"""Frames show their sender's map epoch; whoever is behind takes the newer map before it answers.

Asks each peer once at a time. Knows the number, not the map.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from holdfast_node.core.ids import StoreId
from holdfast_node.services.events import Events
from holdfast_node.services.link.limits import EPOCH_WAIT_S
from holdfast_node.services.tasks import Tasks

OnEpoch = Callable[[StoreId, int], Awaitable[None]]


class Epochs:
    """`mine` is the epoch of this node's map; `on_epoch` takes a newer one from the store that showed it."""

    def __init__(self, *, mine: Callable[[], int], on_epoch: OnEpoch, tasks: Tasks, events: Events) -> None:
        self.mine = mine
        self._on_epoch = on_epoch
        self._tasks = tasks
        self._events = events
        self._catching: dict[StoreId, asyncio.Task[None]] = {}

    def saw(self, store: StoreId, epoch: int) -> None:
        """Catch up in the background."""
        if epoch > self.mine():
            self._start(store, epoch)

    async def caught_up(self, store: StoreId, epoch: int) -> None:
        """Wait for it, within bounds. Being still behind refuses nothing: rules about generations do that."""
        if epoch > self.mine() and (task := self._start(store, epoch)) is not None:
            await asyncio.wait((task,), timeout=EPOCH_WAIT_S)

    def _start(self, store: StoreId, epoch: int) -> asyncio.Task[None] | None:
        task = self._catching.get(store)
        if task is None:
            try:
                task = self._tasks.spawn(self._catch_up(store, epoch), f"catch up to epoch {epoch}")
            except RuntimeError:  # shutting down
                return None
            self._catching[store] = task
        return task

    async def _catch_up(self, store: StoreId, epoch: int) -> None:
        try:
            await self._on_epoch(store, epoch)
        except Exception as error:  # noqa: BLE001 - a hook of another service; a request must not fail by it
            self._events.emit("catch_up_failed", epoch=epoch, error=repr(error))
        finally:
            del self._catching[store]
