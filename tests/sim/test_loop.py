"""The loop is an asyncio loop, and a seed decides everything."""

from __future__ import annotations

import asyncio

import pytest

from tests.sim.loop import Deadlock, Life, Livelock, SimLoop


def test_an_hour_passes_at_once() -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert SimLoop(1).run(main()) == 3600


def test_timeouts_queues_and_groups_work_unmodified() -> None:
    async def main() -> list[int]:
        queue: asyncio.Queue[int] = asyncio.Queue(2)
        got: list[int] = []

        async def produce() -> None:
            for number in range(10):
                await queue.put(number)

        async def consume() -> None:
            while len(got) < 10:
                got.append(await queue.get())

        async with asyncio.TaskGroup() as group:
            produced = group.create_task(produce())
            consumed = group.create_task(consume())
        assert produced.done()
        assert consumed.done()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await queue.get()
        return got

    for seed in range(20):
        assert SimLoop(seed).run(main()) == list(range(10))


def _order(seed: int) -> list[int]:
    order: list[int] = []

    async def step(number: int) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            order.append(number)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            _ = [group.create_task(step(number)) for number in range(6)]

    SimLoop(seed).run(main())
    return order


def test_a_seed_decides_the_order_and_seeds_differ() -> None:
    assert _order(7) == _order(7)
    assert len({tuple(_order(seed)) for seed in range(10)}) == 10


def test_waiting_for_what_never_comes_is_loud() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock):
        SimLoop(1).run(main())


def test_spinning_without_time_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.sim.loop.STEPS_PER_INSTANT_MAX", 100)

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def again() -> None:
            loop.call_soon(again)

        again()
        await asyncio.sleep(1)

    with pytest.raises(Livelock):
        SimLoop(1).run(main())


def test_a_killed_life_does_nothing_more_not_even_its_finally() -> None:
    said: list[str] = []

    async def work() -> None:
        try:
            while True:
                await asyncio.sleep(1)
                said.append("tick")
        finally:
            said.append("finally")

    async def main(loop: SimLoop) -> int:
        life = Life("n1")
        task = loop.start(life, work())
        await asyncio.sleep(2.5)
        life.kill()
        before = len(said)
        await asyncio.sleep(10)
        assert not task.done()
        assert len(said) == before
        return before

    loop = SimLoop(3)
    assert loop.run(main(loop)) == 2


def test_a_paused_life_goes_on_where_it_stopped() -> None:
    said: list[float] = []

    async def work() -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            said.append(asyncio.get_running_loop().time())

    async def main(loop: SimLoop) -> None:
        life = Life("n1")
        task = loop.start(life, work())
        await asyncio.sleep(1.5)
        loop.pause(life)
        await asyncio.sleep(10)
        assert said == [1.0]
        loop.resume(life)
        await task

    loop = SimLoop(3)
    loop.run(main(loop))
    assert said == [1.0, 11.5, 12.5]
