"""Two places where nodes talk over links: memory under virtual time, and real gRPC on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Protocol

from holdfast_node.services.link.limits import LinkTiming
from tests.sim.loop import SimLoop
from tests.support.carriers import LinkNode, Serve, Town
from tests.support.rpc_node import RpcNode

QUICK = LinkTiming(connect_s=2.0, retry_s_min=0.01, retry_s_max=0.05, monitor_s=0.02)


class World(Protocol):
    """Where a scenario happens."""

    def run(self, scenario: Callable[[], Coroutine[object, object, None]]) -> None: ...

    async def node(self, name: str, serve: Serve, *, window_bytes: int = 8 << 20) -> LinkNode:
        """A node that is listening."""
        ...

    def address(self, node: LinkNode) -> str: ...

    async def stop(self, node: LinkNode) -> None:
        """It listens no more, and its streams are gone."""
        ...

    async def replace(self, node: LinkNode, name: str, serve: Serve) -> LinkNode:
        """Another node listens where that one did."""
        ...

    async def break_streams(self, node: LinkNode) -> None:
        """What others have open to this node breaks; it goes on listening."""
        ...


class MemoryWorld:
    """Time is virtual, so a second costs nothing and order is repeatable."""

    def __init__(self) -> None:
        self._town: Town | None = None
        self._nodes: list[LinkNode] = []

    @property
    def town(self) -> Town:
        if self._town is None:
            self._town = Town()
        return self._town

    def run(self, scenario: Callable[[], Coroutine[object, object, None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(600):
                await scenario()
            for node in self._nodes:
                await node.close()
            await self.town.tasks.close()

        loop = SimLoop(7)
        loop.run(main())
        assert not loop.problems

    async def node(self, name: str, serve: Serve, *, window_bytes: int = 8 << 20) -> LinkNode:
        node = LinkNode(name, serve, self.town.dial, timing=QUICK, window_bytes=window_bytes)
        self._nodes.append(node)
        self.town.servers[name] = node.server
        return node

    def address(self, node: LinkNode) -> str:
        return node.name

    async def stop(self, node: LinkNode) -> None:
        self.town.servers.pop(node.name, None)
        await self.break_streams(node)

    async def replace(self, node: LinkNode, name: str, serve: Serve) -> LinkNode:
        await self.stop(node)
        other = await self.node(name, serve)
        self.town.servers[node.name] = other.server
        return other

    async def break_streams(self, node: LinkNode) -> None:
        for carrier in list(self.town.carriers):
            await carrier.cut()


class GrpcWorld:
    def __init__(self) -> None:
        self._nodes: list[RpcNode] = []

    def run(self, scenario: Callable[[], Coroutine[object, object, None]]) -> None:
        async def main() -> None:
            try:
                async with asyncio.timeout(30):
                    await scenario()
            finally:
                for node in self._nodes:
                    await node.stop(0.0)

        asyncio.run(main())

    async def node(self, name: str, serve: Serve, *, window_bytes: int = 8 << 20) -> LinkNode:
        node = RpcNode(name, serve, timing=QUICK, window_bytes=window_bytes)
        self._nodes.append(node)
        return await node.start()

    def address(self, node: LinkNode) -> str:
        assert isinstance(node, RpcNode)
        return node.address

    async def stop(self, node: LinkNode) -> None:
        assert isinstance(node, RpcNode)
        if node in self._nodes:
            self._nodes.remove(node)
            await node.stop(0.0)

    async def replace(self, node: LinkNode, name: str, serve: Serve) -> LinkNode:
        assert isinstance(node, RpcNode)
        await self.stop(node)
        other = RpcNode(name, serve, timing=QUICK, address=node.address)
        self._nodes.append(other)
        return await other.start()

    async def break_streams(self, node: LinkNode) -> None:
        for stream in list(node.server._streams):  # pyright: ignore[reportPrivateUsage]
            stream._carrier.close()  # pyright: ignore[reportPrivateUsage]
