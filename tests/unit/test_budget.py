"""Memory is granted first come first served, given back once, and never lost by a caller that leaves."""

from __future__ import annotations

import asyncio

import pytest

from holdfast_node.core.errors import Overloaded
from holdfast_node.services.budget import Budget
from tests.sim.loop import SimLoop
from tests.support.small_clusters import pass_time


def test_a_large_request_is_not_overtaken_by_small_ones() -> None:
    async def main() -> None:
        budget = Budget("test", 100)
        first = await budget.take(60)
        order: list[str] = []

        async def take(name: str, count: int) -> None:
            async with budget.lease(count):
                order.append(name)

        async with asyncio.TaskGroup() as group:
            large = group.create_task(take("large", 80))
            await pass_time(0.1)
            small = group.create_task(take("small", 10))
            await pass_time(0.1)
            assert order == []
            assert budget.try_take(1) is None, "nobody passes those who wait"
            first.release()
        assert large.done()
        assert small.done()
        assert order == ["large", "small"]
        assert budget.used_bytes == 0

    SimLoop(1, orderly=True).run(main())


def test_more_than_everything_gets_everything() -> None:
    async def main() -> None:
        budget = Budget("test", 100)
        async with budget.lease(1000):
            assert budget.used_bytes == 100
        assert budget.used_bytes == 0

    SimLoop(1).run(main())


def test_a_grant_is_given_back_once() -> None:
    async def main() -> None:
        budget = Budget("test", 100)
        grant, other = await budget.take(10), await budget.take(20)
        grant.release()
        grant.release()
        assert budget.used_bytes == 20
        other.release()
        assert budget.used_bytes == 0

    SimLoop(1).run(main())


def test_the_queue_has_an_end() -> None:
    async def main() -> None:
        budget = Budget("test", 100, waiters_max=1)
        held = await budget.take(100)
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(budget.take(1))
            await pass_time(0.1)
            with pytest.raises(Overloaded) as refusal:
                await budget.take(1)
            assert refusal.value.retry_after_ms > 0
            held.release()
        waiting.result().release()
        assert budget.used_bytes == 0

    SimLoop(1).run(main())


@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_lost_when_waiters_leave(seed: int) -> None:
    async def main() -> None:
        budget = Budget("test", 100)
        held = await budget.take(100)

        async def use(count: int) -> None:
            async with budget.lease(count):
                await pass_time(0.01)

        tasks = [asyncio.get_running_loop().create_task(use(10 + 7 * at)) for at in range(10)]
        await pass_time(0.01)
        tasks[0].cancel()
        tasks[3].cancel()
        held.release()
        tasks[1].cancel()
        tasks[4].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert budget.used_bytes == 0
        assert sum(task.cancelled() for task in tasks) == 4

    SimLoop(seed).run(main())
