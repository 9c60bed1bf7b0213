"""How a story looks at a cluster: status, map, where a key's shards are, what is durable. Changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.head import Head
from holdfast_node.core.ids import StoreId
from holdfast_node.services.node import Node
from tests.stories.scene import BUCKET, PATIENCE_S, Commands, Said, Scene, given, seconds
from tests.stories.wording import margin_text, places, together


class Looks:
    """The commands of an observer, who also waits."""

    def __init__(self, scene: Scene) -> None:
        self._scene: Final = scene
        self.commands: Final[Commands] = {
            "advance": self._advance,
            "wait": self._wait,
            "status": self._status,
            "explain": self._explain,
            "show": self._show,
            "map": self._map,
        }

    async def _advance(self, words: list[str]) -> Said:
        await self._scene.pass_by(seconds(words[0]))
        return []

    async def _wait(self, words: list[str]) -> Said:
        assert words == ["healthy"]
        deadline = self._scene.loop.time() + PATIENCE_S
        while True:
            problems = await self._problems()
            if not problems:
                return ["healthy"]
            if self._scene.loop.time() > deadline:
                return [f"NOT HEALTHY: {problem}" for problem in problems]
            await self._scene.pass_by(0.5)

    async def _problems(self) -> tuple[str, ...]:
        try:
            name = self._scene.first_running()
            return (await self._scene.inside(name, None, lambda node: node.admin.status())).problems
        except HoldfastError as error:
            return (error.message,)

    async def _status(self, words: list[str]) -> Said:
        name = words[0] if words else self._scene.first_running()
        status = await self._scene.inside(name, None, lambda node: node.admin.status())
        standing: dict[str, list[str]] = {}
        for node in status.nodes:
            vote = "voting" if node.voting else f"not voting: {node.not_voting_reason or 'unknown'}"
            store = self._scene.cluster.names.store(StoreId(node.store))
            standing.setdefault(f"{node.state}, {vote}, shards {node.shards}", []).append(store)
        return [
            "healthy" if status.healthy else "not healthy: " + "; ".join(status.problems),
            *(f"{together(names)}: {text}" for text, names in standing.items()),
            f"least margin: {margin_text(status.least_margin)}",
        ]

    async def _explain(self, words: list[str]) -> Said:
        name = given(words[1:]).get("via", self._scene.first_running())
        reply = await self._scene.inside(
            name, None, lambda node: node.admin.explain(BUCKET, words[0].encode())
        )
        rows = [(shard.index, at, shard.part) for shard in reply.shards for at in shard.found_at]
        away = [
            f"{shard.index} (home {shard.home})" for shard in reply.shards if shard.home not in shard.found_at
        ]
        return [
            f"v{reply.info.version}, register at {together(reply.register_copies)}, margin {margin_text(reply.margin)}",
            *(
                f"part {part}: {places((index, at) for index, at, of in rows if of == part)}"
                for part in sorted({part for _, _, part in rows})
            ),
            *([f"not at home: {', '.join(away)}"] if away else []),
            *([f"not heard: {together(reply.unreachable)}"] if reply.unreachable else []),
        ]

    async def _show(self, words: list[str]) -> Said:
        """What every running node has durably of a key."""
        key, rows = words[0].encode(), dict[str, list[str]]()
        for machine in self._scene.cluster.machines.values():
            text = (
                "is down"
                if machine.node is None
                else await self._scene.inside(machine.name, None, self._kept(key))
            )
            rows.setdefault(text, []).append(self._scene.cluster.names.latest(machine.name))
        return [f"{together(names)} {text}" for text, names in rows.items()]

    def _kept(self, key: bytes) -> Callable[[Node], Awaitable[str]]:
        async def kept(node: Node) -> str:
            wording = self._scene.cluster.wording
            try:
                record = await node.store.register(self._scene.bucket, key)
            except HoldfastError as error:
                return wording.error(error)
            if record is None:
                return "has nothing of it"
            head = (
                self._scene.cluster.bodies.decode(Head, record.head) if record.accepted is not None else None
            )
            at = f" at {wording.ballot(record.accepted)}" if head is not None else ""
            return f"promised {wording.ballot(record.promised)}, accepted {wording.head(head)}{at}"

        return kept

    async def _map(self, words: list[str]) -> Said:
        name = words[0] if words else self._scene.first_running()

        async def read(node: Node) -> Said:
            topology = node.cartographer.require()
            said = [f"epoch {topology.map.epoch}, voters {together(map(topology.name, topology.map.voters))}"]
            for scope in topology.scopes(0):
                entry = topology.entry(0, scope.partition)
                learning = together(self._scene.cluster.names.store(store) for store in entry.learners)
                homes = places(
                    (at, self._scene.cluster.names.store(store)) for at, store in enumerate(entry.homes)
                )
                said.append(
                    f"partition {scope.partition}: generation {scope.generation}, homes {homes}"
                    + (f", learning {learning}" if learning else "")
                )
            return said

        return await self._scene.inside(name, None, read)
