"""What callers do in a story: put, get, delete, list and the like, and how the answer reads."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final, cast

import xxhash

from holdfast_node.core.api import Call, Condition, GetResult, ListOptions, PutOptions, PutResult, Range
from holdfast_node.core.head import Head
from holdfast_node.core.ids import Era, RequestId
from holdfast_node.core.operation import Operation, OperationKind
from holdfast_node.services.node import Node
from tests.sim.history import content_bytes
from tests.stories.scene import BUCKET, Commands, Said, Scene, given
from tests.stories.wires import Act
from tests.stories.wording import margin_text

CHUNK_BYTES: Final = 3000


class Callers:
    """The commands that a node's front door would carry out."""

    def __init__(self, scene: Scene) -> None:
        self._scene: Final = scene
        self._contents: dict[bytes, str] = {}
        self.commands: Final[Commands] = {
            "put": self._put,
            "get": self._get,
            "delete": self._delete,
            "undelete": self._undelete,
            "list": self._list,
            "fence": self._fence,
            "expire": self._expire,
            "collect": self._collect,
            "buckets": self._buckets,
        }

    async def _put(self, words: list[str]) -> Said:
        node, key, size = words[0], words[1].encode(), int(words[2])
        options = given(words[3:])
        data = content_bytes(options["as"], size)
        self._contents[xxhash.xxh3_128_digest(data)] = options["as"]
        put = PutOptions(
            size=-1 if "declared" in options else size,
            condition=Condition("if-absent" in options, int(options.get("if-version", "-1"))),
            call=_call(options),
        )
        result = await self._scene.inside(
            node,
            Act(options["as"]),
            lambda node: node.coordinator.put(BUCKET, key, put, _chunks(data)),
        )
        return [_acked(result)]

    async def _get(self, words: list[str]) -> Said:
        node, key, options = words[0], words[1].encode(), given(words[2:])
        first, _, last = options.get("range", "0--1").partition("-")
        version, wanted = int(options.get("version", "0")), Range(int(first), int(last))

        async def read(node: Node) -> tuple[GetResult, bytes]:
            result = await node.coordinator.get(BUCKET, key, version=version, range=wanted)
            chunks = cast("AsyncGenerator[bytes, None]", result.chunks)
            return result, b"".join([chunk async for chunk in chunks])

        result, data = await self._scene.inside(node, Act(), read)
        content = self._contents[result.info.hash]
        expected = content_bytes(content, result.info.size)[result.first : result.last]
        right = "" if data == expected else ", BYTES NOBODY WROTE"
        return [f"v{result.info.version} = {content}, {len(data)} bytes{right}"]

    async def _delete(self, words: list[str]) -> Said:
        options = given(words[2:])
        condition = Condition(if_version=int(options.get("if-version", "-1")))
        version, _ = await self._scene.inside(
            words[0],
            Act(),
            lambda node: node.coordinator.delete(BUCKET, words[1].encode(), condition, _call(options)),
        )
        return [f"ack v{version}, deleted"]

    async def _undelete(self, words: list[str]) -> Said:
        options = given(words[3:])
        result = await self._scene.inside(
            words[0],
            Act(options["as"]),
            lambda node: node.coordinator.undelete(BUCKET, words[1].encode(), int(words[2]), _call(options)),
        )
        return [_acked(result)]

    async def _list(self, words: list[str]) -> Said:
        page = await self._scene.inside(
            words[0], Act(), lambda node: node.coordinator.list(BUCKET, ListOptions())
        )
        return [", ".join(f"{info.key.decode()} v{info.version}" for info in page.blobs) or "nothing"]

    async def _fence(self, words: list[str]) -> Said:
        """What a collector of old uploads does: no attempt begun so far may commit any more."""

        async def work(node: Node) -> Head:
            key = words[1].encode()
            base = node.registers.attempt(0, self._scene.bucket, key, 1).base
            fence = Operation(OperationKind.FENCE, RequestId(bytes(16)), Era(1), base=base)
            return (await node.registers.run(0, self._scene.bucket, key, fence)).head

        return [
            f"decided: {self._scene.cluster.wording.head(await self._scene.inside(words[0], Act(), work))}"
        ]

    async def _expire(self, words: list[str]) -> Said:
        """What a steward does once a majority of homes says that the window of versions below one is over."""

        async def work(node: Node) -> Head:
            return await node.registers.expire(0, self._scene.bucket, words[1].encode(), int(words[2]))

        return [
            f"decided: {self._scene.cluster.wording.head(await self._scene.inside(words[0], Act(), work))}"
        ]

    async def _collect(self, words: list[str]) -> Said:
        """A round of a node's collector through all its shards."""

        async def work(node: Node) -> int:
            start = await node.collection.shards_step(b"")
            while start:
                start = await node.collection.shards_step(start)
            return node.collection.dropped

        dropped = await self._scene.inside(words[0], Act(), work)
        return [f"{words[0]} has dropped {dropped} shards in all"]

    async def _buckets(self, words: list[str]) -> Said:
        self._scene.cluster.watch.buckets = True
        assert words[1] == "delete"
        await self._scene.inside(words[0], Act(), lambda node: node.buckets.delete(BUCKET))
        return ["ack, the bucket is gone"]


def _call(options: dict[str, str]) -> Call:
    name = options.get("request", "")
    return Call(RequestId(xxhash.xxh3_128_digest(name.encode()))) if name else Call()


def _acked(result: PutResult) -> str:
    return f"ack v{result.version}, {result.size} bytes, margin {margin_text(result.margin)}"


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]
