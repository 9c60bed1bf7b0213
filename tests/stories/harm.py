"""What happens to nodes, disks and messages in a story."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from holdfast_node.core.messages import ShardName
from holdfast_node.core.report import ReplaceLostReply
from holdfast_node.services.node import Node
from tests.sim.cluster import Machine
from tests.sim.disk import Platter
from tests.stories.scene import Commands, Said, Scene, seconds, spread
from tests.stories.wires import Act, Rule


class Harm:
    """The commands that hurt, and those that mend."""

    def __init__(self, scene: Scene) -> None:
        self._scene: Final = scene
        self._snapshots: dict[str, Platter] = {}
        self.commands: Final[Commands] = {
            "replace": self._replace,
            "start": self._start,
            "stop": self._stop,
            "kill": self._hurt(lambda machine: scene.cluster.stop_at_once(machine)),
            "power-cut": self._hurt(lambda machine: scene.cluster.stop_at_once(machine, power=True)),
            "wipe": self._hurt(lambda machine: scene.cluster.wipe(machine)),
            "snapshot": self._hurt(self._snapshot),
            "roll-back": self._hurt(self._roll_back),
            "fail-sync": self._hurt(_fail_sync),
            "flip": self._flip,
            "flip-parity": self._flip_parity,
            "block": self._block,
            "lose": self._lose,
            "late": self._late,
            "calm": self._calm,
        }

    def _hurt(self, harm: Callable[[Machine], None]) -> Callable[[list[str]], Awaitable[Said]]:
        async def command(words: list[str]) -> Said:
            for machine in self._scene.machines(words):
                harm(machine)
            return []

        return command

    def _snapshot(self, machine: Machine) -> None:
        self._snapshots[machine.name] = machine.platter.snapshot()

    def _roll_back(self, machine: Machine) -> None:
        assert machine.life is None, "kill it first"
        machine.platter.roll_back(self._snapshots[machine.name])
        machine.index.wipe()

    async def _start(self, words: list[str]) -> Said:
        problems = len(self._scene.cluster.problems)
        for machine in self._scene.machines(words):
            await self._scene.cluster.boot(machine, format_if_empty=machine.wiped)
        return self._scene.cluster.problems[problems:]

    async def _stop(self, words: list[str]) -> Said:
        for machine in self._scene.machines(words):
            await self._scene.cluster.stop(machine)
        return []

    async def _replace(self, words: list[str]) -> Said:
        lost = words[: words.index("via")] if "via" in words else words
        for machine in self._scene.machines(lost):
            machine.wiped = False
        running = [machine.name for machine in self._scene.cluster.running()]
        via = words[-1] if "via" in words else next(name for name in running if name not in spread(lost))
        said: Said = []
        for name in spread(lost):

            async def replace(node: Node, name: str = name) -> ReplaceLostReply:
                return await node.admin.replace_lost(name)

            reply = await self._scene.inside(via, Act(), replace)
            said += [f"{name} replaced, epoch {reply.epoch}", *reply.warnings]
        return said

    async def _flip(self, words: list[str]) -> Said:
        """One bit of the medium, in the middle of a shard's cell or of a register's newest record."""
        name, what = words[0], words[1]
        if what == "register":
            kept = await self._register_bytes(words[2].encode())
        else:
            blob, _, part = what.partition(".")
            shard = ShardName(self._scene.cluster.names.blob_named(blob), int(part or 0), int(words[2]))
            kept = (await self._scene.inside(name, None, lambda node: node.store.cells(shard, 0, 1)))[0]
        platter = self._scene.cluster.machines[name].platter
        file, at = next(
            (file, at)
            for file in sorted(platter.files)
            if (at := bytes(platter.files[file].durable).rfind(kept)) >= 0
        )
        platter.flip(file, at + len(kept) // 2)
        return []

    async def _flip_parity(self, words: list[str]) -> Said:
        self._scene.cluster.faulty_codec.flips_next = int(words[0])
        return []

    async def _register_bytes(self, key: bytes) -> bytes:
        """A head is the same at all homes: any running one tells."""
        for machine in self._scene.cluster.running():
            record = await self._scene.inside(
                machine.name, None, lambda node: node.store.register(self._scene.bucket, key)
            )
            if record is not None and record.head:
                return record.head
        raise AssertionError(f"no running node has {key!r}")

    def _paths(self, words: list[str]) -> tuple[str, list[str]]:
        targets = spread(words[2:]) if words[2] != "all" else list(self._scene.cluster.machines)
        return words[0], targets

    async def _block(self, words: list[str]) -> Said:
        for source in spread(words[: words.index(words[1])]):
            for target in spread(words[2:]):
                self._scene.cluster.network.block(f"{source}:1", f"{target}:1")
                if words[1] == "<->":
                    self._scene.cluster.network.block(f"{target}:1", f"{source}:1")
        return []

    async def _lose(self, words: list[str]) -> Said:
        answers = words[0] == "answers"
        kind, *path = words[1:] if answers else words
        source, targets = self._paths(path)
        self._scene.cluster.watch.rules.append(Rule(kind, source, frozenset(targets), answers=answers))
        return []

    async def _late(self, words: list[str]) -> Said:
        source, targets = self._paths(words[1:-2])
        rule = Rule(words[0], source, frozenset(targets), late_s=seconds(words[-1]))
        self._scene.cluster.watch.rules.append(rule)
        return []

    async def _calm(self, words: list[str]) -> Said:
        assert not words
        self._scene.cluster.network.unblock_all()
        self._scene.cluster.watch.rules.clear()
        return []


def _fail_sync(machine: Machine) -> None:
    assert machine.disk is not None
    machine.disk.fail_syncs = True
