"""The one place that starts background tasks: each has a name and an owner, and none fails unheard.

Knows nothing of what the tasks do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from holdfast_node.services.events import Events


class Tasks:
    """Owns tasks until `close`, which cancels and awaits them. A task's unexpected error becomes an event."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def spawn(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        """Run `work` in the background. After `close` nothing starts any more: the coroutine is closed unrun."""
        if self._closed:
            work.close()
            raise RuntimeError(f"cannot start {name}: shutting down")
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._events.emit("task_failed", task=task.get_name(), error=repr(error))

    async def close(self) -> None:
        self._closed = True
        while self._tasks:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._tasks.difference_update(tasks)
