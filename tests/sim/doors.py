"""A bucket that is deleted while somebody writes to it: a blob that was acked is never in a bucket that is gone.

One bucket per story, under a name of its own, so that either the write was first and the bucket stays, or the bucket
was gone first and the write is refused.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast_node.core.api import PutOptions, PutResult
from holdfast_node.core.errors import HoldfastError
from tests.sim.client import ConnectionLost, Coordinator, chunked
from tests.sim.cluster import Cluster
from tests.sim.history import History

TIMEOUT_S: Final = 30.0
CONTENT: Final = b"in a bucket of its own"


async def race_for_a_door(cluster: Cluster, history: History, chooser: random.Random, name: str) -> None:
    """Make a bucket, then write to it and delete it at the same time, through any nodes."""
    if not await _done(cluster.create_bucket(name)):
        return
    moments = [chooser.uniform(0.0, 0.05) for _ in range(2)]
    nodes = cluster.choices()
    if not nodes:
        return
    node = chooser.choice(nodes)
    putting = asyncio.create_task(_done(_after(moments[0], lambda: _put(cluster, node, name))))
    deleting = asyncio.create_task(_done(_after(moments[1], lambda: cluster.delete_bucket(name))))
    acked, deleted = await putting, await deleting
    if acked:
        cluster.coverage.saw("a write won the race for a door")
    if deleted:
        cluster.coverage.saw("a bucket was deleted under a writer")
    if acked and deleted:
        history.violations.append(
            f"LOST BEHIND A DOOR: a blob was acked in bucket {name}, and the bucket deleted"
        )


async def _put(cluster: Cluster, node: str, name: str) -> None:
    async def work(coordinator: Coordinator) -> PutResult:
        return await coordinator.put(name, b"k", PutOptions(), chunked(CONTENT))

    await cluster.run(node, work, TIMEOUT_S)


async def _after(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(seconds)
    await work()


async def _done(work: Awaitable[None]) -> bool:
    """Whether it was done for certain."""
    try:
        await work
    except (HoldfastError, ConnectionLost):
        return False
    return True
