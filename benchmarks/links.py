"""What one link costs: two processes on loopback, a handler that does nothing, real gRPC.

    .venv/bin/python -m benchmarks.links [--seconds 3]

Prints requests per second and CPU per request of both sides for a small control request, and GB/s for staged cells
and cells read. Neither disk nor store is involved.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection

from holdfast_node.adapters.erasure import tune_allocator
from holdfast_node.core.errors import HoldfastError, Unimplemented
from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import BlobId, BucketId, Digest, StoreId
from holdfast_node.core.messages import (
    Prepare,
    PrepareReply,
    ReadCells,
    ReadCellsReply,
    Reply,
    Request,
    Scope,
    StageCell,
    StageCellReply,
)
from holdfast_node.ports import Answer, Failed
from holdfast_node.services.dispatcher import Caller
from tests.support.rpc_node import RpcNode

ID = bytes(range(16))
BALLOT = Ballot(1, 2, StoreId(ID), 3, 4)
PREPARE = Prepare(Scope(0, 3, 2), BucketId(ID), b"a key of some length", BALLOT, 3)
PROMISE = PrepareReply(True, None, BALLOT, Digest(ID), bytes(400), 0, None, 1)
CELL = bytes(1 << 20)


async def answer(_: Caller, request: Request) -> Reply:
    match request:
        case Prepare():
            return PROMISE
        case StageCell():
            return StageCellReply()
        case ReadCells():
            return ReadCellsReply((len(CELL),), CELL)
        case _:
            raise Unimplemented(type(request).__name__)


def serve(pipe: Connection) -> None:
    """The far process: says where it listens, then its CPU time whenever it is asked."""

    tune_allocator()

    async def main() -> None:
        node = await RpcNode("far", answer).start()
        pipe.send((node.address, node.store))
        while await asyncio.to_thread(pipe.recv):
            pipe.send(time.process_time())
        await node.stop()

    asyncio.run(main())


@dataclass
class Far:
    pipe: Connection

    def cpu_s(self) -> float:
        self.pipe.send(True)
        seconds: float = self.pipe.recv()
        return seconds


@dataclass
class Measured:
    per_s: float
    near_us: float
    far_us: float
    p50_ms: float
    p99_ms: float


async def measure(
    send: Callable[[], Awaitable[Answer]], far: Far, *, flights: int, seconds: float
) -> Measured:
    """So many requests in flight for so long."""
    delays: list[float] = []
    until = time.perf_counter() + seconds

    async def flight() -> None:
        while (began := time.perf_counter()) < until:
            reply = await send()
            if isinstance(reply, Failed):
                raise reply.error
            delays.append(time.perf_counter() - began)

    near_s, far_s, began = time.process_time(), far.cpu_s(), time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(flights):
            _ = group.create_task(flight())
    elapsed, count = time.perf_counter() - began, len(delays)
    near_s, far_s = time.process_time() - near_s, far.cpu_s() - far_s
    delays.sort()
    return Measured(
        per_s=count / elapsed,
        near_us=near_s / count * 1e6,
        far_us=far_s / count * 1e6,
        p50_ms=delays[count // 2] * 1e3,
        p99_ms=delays[min(count - 1, count * 99 // 100)] * 1e3,
    )


async def run(pipe: Connection, seconds: float) -> None:
    address, store = pipe.recv()
    far, near = Far(pipe), await RpcNode("near", answer).start()
    near.links.learn({store: address})
    cell = StageCell(BucketId(ID), b"key", BlobId(ID), 0, 0, 0, Digest(ID), BALLOT, CELL)
    cases: tuple[tuple[str, Request, tuple[int, ...], int], ...] = (
        ("prepare", PREPARE, (1, 16, 64, 256), 0),
        ("stage cell 1 MiB", cell, (1, 4, 16), len(CELL)),
        ("read cell 1 MiB", ReadCells(BlobId(ID), 0, 0, 0, 1), (1, 4, 16), len(CELL)),
    )
    print(
        f"{'request':18}{'flights':>8}{'per s':>10}{'GB/s':>8}{'near us':>9}{'far us':>9}{'p50 ms':>8}{'p99 ms':>8}"
    )
    for name, request, steps, size in cases:
        for flights in steps:
            send = partial(near.ask, store, request)
            got = await measure(send, far, flights=flights, seconds=seconds)
            speed = f"{got.per_s * size / 1e9:8.2f}" if size else " " * 8
            print(
                f"{name:18}{flights:8}{got.per_s:10.0f}{speed}{got.near_us:9.0f}{got.far_us:9.0f}"
                f"{got.p50_ms:8.2f}{got.p99_ms:8.2f}"
            )
    pipe.send(False)
    await near.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=3.0, help="per line")
    seconds: float = parser.parse_args().seconds
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=serve, args=(there,))
    process.start()
    tune_allocator()
    try:
        asyncio.run(run(here, seconds))
    except HoldfastError as error:
        print(f"stopped: {error}")
    finally:
        process.join(5)
        if process.is_alive():
            process.kill()


if __name__ == "__main__":
    main()
