"""Background workers: none ends for a mistake in one piece of its work."""

from __future__ import annotations

import asyncio

import pytest

from holdfast_node.core.errors import Unavailable
from holdfast_node.core.messages import WorkerStatus
from holdfast_node.services.worker import Work, run_forever
from tests.sim.entropy import SimEvents
from tests.sim.loop import SimLoop


class Failing:
    """Fails once, then works."""

    name = "worker"

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.worked = asyncio.Event()
        self.tries = 0

    async def work_once(self) -> Work:
        self.tries += 1
        if self.tries == 1:
            raise self.error
        self.worked.set()
        return Work.IDLE

    def status(self) -> WorkerStatus:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("error", "told"), [(Unavailable("nobody"), "worker_failed"), (KeyError("a mistake"), "task_failed")]
)
def test_a_worker_goes_on_after_any_error_and_says_so(error: Exception, told: str) -> None:
    async def story() -> None:
        worker, events = Failing(error), SimEvents()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(run_forever(worker, asyncio.Event(), 1.0, events=events))
            async with asyncio.timeout(10):
                await worker.worked.wait()
            running.cancel()
        assert events.count(told) == 1

    SimLoop(1).run(story())
