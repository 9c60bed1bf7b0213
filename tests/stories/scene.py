"""Where stories of whole clusters play: the cluster, its bucket, and how commands get at a node."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from holdfast_node.core.ids import BucketId
from holdfast_node.services.node import Node
from tests.sim.client import ConnectionLost
from tests.sim.cluster import Machine, Topology
from tests.sim.loop import SimLoop
from tests.stories.wires import Act, StoryCluster, acting

BUCKET: Final = "bucket"
PATIENCE_S: Final = 120.0

T = TypeVar("T")
Said = list[str]
Commands = dict[str, Callable[[list[str]], Awaitable[Said]]]


class Scene:
    """One story's cluster. Founded by the story's first command."""

    def __init__(self, loop: SimLoop) -> None:
        self.loop: Final = loop
        self.bucket = BucketId(b"")
        self._cluster: StoryCluster | None = None

    @property
    def cluster(self) -> StoryCluster:
        assert self._cluster is not None, "a story begins with `cluster`"
        return self._cluster

    def begin(self, topology: Topology) -> None:
        assert self._cluster is None, "one story, one cluster"
        self._cluster = StoryCluster(self.loop, topology)

    async def pass_by(self, seconds: float) -> None:
        """Let time go by: virtual, so that it takes none."""
        gone: asyncio.Future[None] = self.loop.create_future()
        self.loop.call_later(seconds, gone.set_result, None)
        await gone

    def machines(self, names: list[str]) -> list[Machine]:
        return [self.cluster.machines[name] for name in spread(names)]

    def first_running(self) -> str:
        return self.cluster.running()[0].name

    async def inside(self, name: str, act: Act | None, work: Callable[[Node], Awaitable[T]]) -> T:
        """What the process of that node makes of it; its messages are told if there is an act."""
        machine = self.cluster.machines[name]
        life, node = machine.life, machine.node
        if life is None or node is None:
            raise ConnectionLost

        async def there() -> T:
            with acting(act):
                return await work(node)

        return await self.cluster.run_in(life, there, timeout_s=PATIENCE_S)


def given(words: list[str]) -> dict[str, str]:
    """Options: `as A`, `via n1`, `if-absent`, `name=value`."""
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        found[name] = value if equals or name == "if-absent" else rest.pop(0)
    return found


def spread(words: list[str]) -> list[str]:
    """`n1..n3 n5` as names."""
    names: list[str] = []
    for word in words:
        first, dots, last = word.partition("..")
        names += [f"n{at}" for at in range(int(first[1:]), int(last[1:]) + 1)] if dots else [word]
    return names


def seconds(word: str) -> float:
    assert word.endswith("s"), f"{word} is no number of seconds"
    return float(word[:-1])
