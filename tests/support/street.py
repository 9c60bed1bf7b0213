"""Two nodes on a virtual street, for tests of one link: a near one that asks and a far one behind a desk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import BlobId, BucketId, Digest, StoreId
from holdfast_node.core.messages import (
    DropShards,
    DropShardsReply,
    ReadCells,
    ReadCellsReply,
    Reply,
    Request,
    ShardName,
    StageCell,
    StageCellReply,
)
from holdfast_node.ports import Answer, Failed
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.link.limits import LinkTiming
from holdfast_node.services.link.outbox import Outbox
from tests.sim.loop import SimLoop
from tests.support.carriers import LinkNode, MemoryCarrier, Town

ID = bytes(range(16))


def drop(number: int) -> DropShards:
    return DropShards((ShardName(BlobId(ID), 0, number),))


def cell(size: int) -> StageCell:
    ballot = Ballot(1, 2, StoreId(ID), 3, 4)
    return StageCell(BucketId(ID), b"key", BlobId(ID), 0, 0, 0, Digest(ID), ballot, bytes(size))


class Desk:
    """Answers at once, or when the gate opens."""

    def __init__(self) -> None:
        self.gate: asyncio.Event | None = None
        self.working = 0
        self.working_max = 0
        self.handled = 0

    async def __call__(self, _: Caller, request: Request) -> Reply:
        self.handled += 1
        self.working += 1
        self.working_max = max(self.working, self.working_max)
        try:
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.working -= 1
        match request:
            case DropShards():
                return DropShardsReply(request.shards[0].index)
            case ReadCells():
                return ReadCellsReply((request.count,), bytes(request.count))
            case _:
                return StageCellReply()


class Street:
    """Two nodes, near and far, and whoever else connects."""

    def __init__(self, timing: LinkTiming | None = None) -> None:
        self.town = Town()
        self.desk = Desk()
        timing = timing or LinkTiming()
        self.near = LinkNode("near", Desk(), self.town.dial, timing=timing, window_bytes=8 << 20)
        self.far = LinkNode("far", self.desk, self.town.dial, timing=timing, window_bytes=8 << 20)
        self.town.servers["far"] = self.far.server
        self.near.links.learn({self.far.store: "far"})

    async def ask(self, request: Request, timeout_s: float = 5.0) -> Answer:
        return await self.near.ask(self.far.store, request, timeout_s)

    def serve(self, carrier: MemoryCarrier) -> None:
        """The far node serves this stream too."""
        _ = self.town.tasks.spawn(self.far.server.serve(carrier), "serve")

    def far_streams(self) -> list[Outbox]:
        """What the far node has queued for each of its streams."""
        streams = self.far.server._streams  # pyright: ignore[reportPrivateUsage]
        return [stream._outbox for stream in streams]  # pyright: ignore[reportPrivateUsage]

    def opinions(self) -> list[bool]:
        """As `up`; a list, because type checkers take a property for constant."""
        return [self.up]

    @property
    def up(self) -> bool:
        return self.near.links.is_up(self.far.store)

    async def close(self) -> None:
        await self.near.close()
        await self.far.close()
        await self.town.tasks.close()


def run(
    scenario: Callable[[Street], Coroutine[object, object, None]], timing: LinkTiming | None = None
) -> None:
    async def main() -> None:
        async with asyncio.timeout(3600):
            street = Street(timing)
            await scenario(street)
            await street.close()

    loop = SimLoop(11)
    loop.run(main())
    assert not loop.problems


async def after(seconds: float) -> None:
    passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(seconds, passed.set_result, None)
    await passed


def spawn(work: Coroutine[object, object, Answer]) -> asyncio.Task[Answer]:
    return asyncio.get_running_loop().create_task(work)


def error_of(answer: Answer) -> HoldfastError:
    assert isinstance(answer, Failed), answer
    return answer.error
