"""What every background worker promises, so that operators see them all and the simulator can drive them.

A worker does one bounded piece of work at a time and says whether there is more; when to come back is the
runner's business. Knows nothing of what the work is.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Final, Protocol

from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.messages import WorkerStatus
from holdfast_node.services.events import Events

THROTTLED_S: Final = 0.1
"""A worker that yields to others, or waits for them, looks again after this long at the latest."""


class Work(Enum):
    BUSY = "busy"
    """Did something; there may be more."""
    THROTTLED = "throttled"
    """There is work, but not now: others go first, or somebody must come back."""
    IDLE = "idle"
    """Nothing to do now; look again in a while."""


class Worker(Protocol):
    @property
    def name(self) -> str: ...

    async def work_once(self) -> Work:
        """One bounded piece of work. May raise `HoldfastError`: it is reported and tried again."""
        ...

    def status(self) -> WorkerStatus: ...


async def run_forever(worker: Worker, wake: asyncio.Event, idle_s: float, *, events: Events) -> None:
    """Work until cancelled. `wake` cuts every wait short; after a failure the wait is that of an idle
    worker."""
    while True:
        wake.clear()
        try:
            work = await worker.work_once()
        except HoldfastError as error:
            events.emit("worker_failed", worker=worker.name, error=str(error))
            work = Work.IDLE
        except Exception as error:  # noqa: BLE001 - a mistake of ours, which a node outlives with all its workers
            events.emit("task_failed", task=worker.name, error=repr(error))
            work = Work.IDLE
        if work is Work.BUSY:
            await asyncio.sleep(0)
            continue
        wait_s = min(THROTTLED_S, idle_s) if work is Work.THROTTLED else idle_s
        try:
            async with asyncio.timeout(wait_s):
                await wake.wait()
        except TimeoutError:
            continue
