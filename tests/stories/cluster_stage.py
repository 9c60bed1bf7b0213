"""Plays a story of a whole cluster: the product's own nodes on the simulator, without chance.

    > cluster rs:4+2 sans 2,2,2 partitions 1     founded, healthy, with a bucket; the first command
    > put n1 k 3000 as A [if-absent] [if-version=N] [request=r] [declared=no]
    > get n1 k [version=N] [range=0-100] | delete n1 k | undelete n1 k 1 as B | list n1 | fence n1 k
    > expire n1 k 2 | collect n1                 versions below 2 of k are over; a round of n1's collector
    > buckets n1 delete                          from here on, messages about the bucket's record are told too
    > begin put n1 ...                           do not wait for it; its end is told when it comes
    > kill n3 | power-cut n3 | start n3 | wipe n3 | stop n3 | replace n3 [via n1]
    > snapshot n3 | roll-back n3 | fail-sync n3
    > flip n3 A.0 2 | flip n3 register k         one bit of what n3 keeps on its disk
    > flip-parity 5                              the next stripe's cell 5 is encoded wrong, wherever that is
    > block n1 -> n2 n3 | block n1 <-> n2 | lose Accept n1 -> n3 | lose answers Accept n1 -> n3
    > late Accept n1 -> n3 by 5s | calm          calm: nothing is blocked, lost or late any more
    > tell CopyRegisters Stage                   tell these also of background work; `tell nothing`
    > advance 2s | wait healthy | status | explain k | show k | map

Lines without `>` before the first command are prose, `#` begins a remark; all else is written by the stage.
"""

from __future__ import annotations

import asyncio
import gc
import textwrap
from typing import Final

from holdfast_node.core.errors import HoldfastError
from tests.sim.client import ConnectionLost
from tests.sim.cluster import Topology
from tests.sim.loop import SimLoop, nobody_listening
from tests.sim.world import small_numbers
from tests.stories.callers import Callers
from tests.stories.harm import Harm
from tests.stories.looks import Looks
from tests.stories.scene import BUCKET, Commands, Said, Scene
from tests.stories.wording import together

QUIET_S: Final = 0.05
"""After each command: long enough for every answer that is on its way."""
WIDTH: Final = 120


class Stage:
    """Runs one command after another and collects what is to be told."""

    def __init__(self, loop: SimLoop) -> None:
        self.scene: Final = Scene(loop)
        self._begun: dict[str, asyncio.Task[Said]] = {}
        looks = Looks(self.scene)
        self._until_healthy: Final = looks.commands["wait"]
        self._commands: Final[Commands] = {
            "cluster": self._found,
            "tell": self._tell,
            **Callers(self.scene).commands,
            **Harm(self.scene).commands,
            **looks.commands,
        }

    async def play(self, command: str) -> Said:
        """What is to be told of one command."""
        words = command.split()
        waits = words[0] != "begin"
        verb, *rest = words if waits else words[1:]
        task = self.scene.loop.create_task(self._run(verb, rest))
        if waits:
            await asyncio.wait([task])
        else:
            self._begun[f"the {verb} on {rest[0]}"] = task
        await self.scene.pass_by(QUIET_S)
        result = await task if waits else []
        said = [*self.scene.cluster.watch.flush(), *result]
        for name in [name for name, begun in self._begun.items() if begun.done()]:
            first, *more = await self._begun.pop(name)
            said += [f"{name}: {first}", *more]
        return said

    async def _run(self, verb: str, rest: list[str]) -> Said:
        try:
            return await self._commands[verb](rest)
        except ConnectionLost:
            return ["no answer: the node is gone"]
        except HoldfastError as error:
            return [f"{type(error).__name__}: {error.message}", *_evidence(error)]

    async def _found(self, words: list[str]) -> Said:
        code, options = words[0], dict(zip(words[1::2], words[2::2], strict=True))
        sans = tuple(int(count) for count in options["sans"].split(","))
        topology = Topology(code, sans, int(options.get("partitions", "1")))
        self.scene.begin(topology)
        await self.scene.cluster.found()
        while True:
            try:
                await self.scene.cluster.create_bucket(BUCKET)
                break
            except HoldfastError:
                await self.scene.pass_by(0.2)
        await self._until_healthy(["healthy"])
        for name in self.scene.cluster.machines:
            bucket, _ = await self.scene.inside(name, None, lambda node: node.buckets.resolve(BUCKET))
            self.scene.bucket = bucket.id
        self.scene.cluster.watch.flush()
        self.scene.cluster.wording.counted_from = self.scene.cluster.watch.highest
        nodes = topology.nodes()
        members = {san: together(name for name, of in nodes if of == san) for _, san in nodes}
        return ["; ".join(f"{san}: {names}" for san, names in members.items())]

    async def _tell(self, words: list[str]) -> Said:
        self.scene.cluster.watch.telling = () if words == ["nothing"] else tuple(words)
        return []


def _evidence(error: HoldfastError) -> Said:
    """Who answered what, the same only once."""
    by_whom: dict[str, Said] = {}
    for evidence in error.evidence:
        by_whom.setdefault(evidence.who, []).append(evidence.said)
    said: dict[str, list[str]] = {}
    for who, texts in by_whom.items():
        said.setdefault(", ".join(texts), []).append(who)
    return [f"    {together(who)}: {text}" for text, who in said.items()]


def wrapped(said: str) -> list[str]:
    """One answer as lines of the file."""
    indent = 2 + len(said) - len(said.lstrip())
    return textwrap.wrap(
        said.strip(),
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 6),
        break_long_words=False,
        break_on_hyphens=False,
    )


def perform(text: str) -> str:
    """The story with its answers as they are today. Collection is off so that nothing depends on the past; what was
    loaded before the first story is never looked at again."""
    if not gc.get_freeze_count():
        gc.freeze()
    gc.disable()
    try:
        with small_numbers():
            lines = _played(text)
        with nobody_listening():
            gc.collect()
    finally:
        gc.enable()
    return "\n".join(lines) + "\n"


def _played(text: str) -> list[str]:
    loop = SimLoop(1, orderly=True)
    stage = Stage(loop)
    lines: list[str] = []

    async def whole() -> None:
        begun = False
        for line in text.splitlines():
            if line.startswith("> "):
                begun = True
                told = await stage.play(line[2:].split("#", maxsplit=1)[0])
                lines.extend([line, *(part for said in told for part in wrapped(said))])
            elif not begun or line.startswith("#") or not line.strip():
                lines.append(line)

    loop.run(whole())
    problems = [*loop.problems, *stage.scene.cluster.network.problems]
    assert not problems, problems
    return lines
