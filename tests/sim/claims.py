"""Whether what status claims is true in the midst of trouble: its margin beside the shards that disks have. And
whether enough homes know what callers were told of.

A claim may be smaller than what is there, never larger. What is there is counted from outside, by trying every loss:
sealed shards of processes that run, and of those that do not, whatever they may have. Only blobs count that were acked
before status was asked, and are current before and after; of what changed meanwhile, the better moment. Registers and
voters are left out: they make margins smaller. While status says that some partitions were not looked through yet,
it claims nothing of their blobs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Final

from holdfast_node.core.codes import Code, parse_code
from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.head import Head, HeadKind, Manifest
from holdfast_node.core.ids import BucketId
from tests.sim.client import ConnectionLost
from tests.sim.cluster import Cluster, Machine
from tests.sim.history import History
from tests.sim.levelling import unknown_to_many

LOOK_EVERY_S: Final = (0.3, 3.0)
HEAD_TIMEOUT_S: Final = 5.0
STATUS_TIMEOUT_S: Final = 10.0

UNSEEN: Final = "have not been looked through"
"""Of what nobody has looked at since its steward began, status says so: its margins are those of blobs at home."""

Margins = Mapping[str, int]


class Witness:
    """`violations` are claims that were not true."""

    def __init__(
        self,
        cluster: Cluster,
        history: History,
        *,
        bucket: str,
        keys: Sequence[bytes],
        registers: bool,
    ) -> None:
        """`registers`: no store is older than it was, unknown to the map."""
        self._registers = registers
        self._cluster = cluster
        self._history = history
        self._bucket = bucket
        self._keys = keys
        self.violations: list[str] = []

    async def run(self, chooser: random.Random) -> None:
        """Ask one node after another until this is cancelled."""
        while True:
            await asyncio.sleep(chooser.uniform(*LOOK_EVERY_S))
            running = self._cluster.running()
            if running and await self.look(chooser.choice(running)):
                self._cluster.coverage.saw("a claim of status was checked while there was trouble")

    async def look(self, machine: Machine) -> bool:
        """Whether there was anything to compare."""
        try:
            return await self._compare(machine)
        except (HoldfastError, ConnectionLost):
            return False

    async def _compare(self, machine: Machine) -> bool:
        if self._registers:
            await self._compare_registers(machine)
        acked = {(ack.key, ack.version) for ack in self._history.acks}
        before = {
            key: head for key, head in (await self._heads(machine)).items() if (key, head.version) in acked
        }
        first = {key: self._margins(head) for key, head in before.items()}
        status = await self._cluster.admin(machine, lambda admin: admin.status(), STATUS_TIMEOUT_S)
        second = {key: self._margins(head) for key, head in before.items()}
        after = await self._heads(machine)
        if status.partitions_unreported or any(UNSEEN in problem for problem in status.problems):
            return False
        claimed = dict(status.least_margin.entries)
        same = {
            key: head for key, head in before.items() if key in after and after[key].manifest == head.manifest
        }
        for key, head in same.items():
            for tag, real in first[key].items():
                best = max(real, second[key][tag])
                if claimed[tag] > best:
                    self.violations.append(
                        f"CLAIM: {machine.name} says that the loss of {claimed[tag]} {tag} would be survived; "
                        f"{key!r} version {head.version} survives {best}, at {self._cluster.loop.time():.3f} s"
                    )
        return bool(same)

    async def _compare_registers(self, machine: Machine) -> None:
        decided = {key: version for key, version in self._history.decided().items() if key in self._keys}
        bucket, pool = await self._place(machine)
        unknown = await unknown_to_many(self._cluster, pool, bucket, decided)
        self.violations += [f"UNKNOWN: {what}, at {self._cluster.loop.time():.3f} s" for what in unknown]

    async def _place(self, machine: Machine) -> tuple[BucketId, int]:
        if machine.node is None or machine.life is None:
            raise ConnectionLost
        resolve = partial(machine.node.buckets.resolve, self._bucket)
        bucket, pool = await self._cluster.run_in(machine.life, resolve, timeout_s=HEAD_TIMEOUT_S)
        return bucket.id, pool

    async def _heads(self, machine: Machine) -> dict[bytes, Head]:
        """The blobs there are now, as one node reads them."""
        bucket, pool = await self._place(machine)
        node, life = machine.node, machine.life
        if node is None or life is None:
            raise ConnectionLost
        found: dict[bytes, Head] = {}
        for key in self._keys:
            read = partial(node.registers.head, pool, bucket, key)
            head = await self._cluster.run_in(life, read, timeout_s=HEAD_TIMEOUT_S)
            if head.kind is HeadKind.BLOB:
                found[key] = head
        return found

    def _margins(self, head: Head) -> Margins:
        machines = self._cluster.machines.values()
        domains = {
            "node": {machine.name: machine.name for machine in machines},
            "san": {machine.name: machine.san for machine in machines},
        }
        manifest = head.manifest
        assert manifest is not None, "a blob has a manifest"
        code = parse_code(manifest.code)
        held = [self._held(manifest, part, code) for part in range(len(manifest.parts))]
        return {
            tag: min((_survives(code, part, of) for part in held), default=len(of))
            for tag, of in domains.items()
        }

    def _held(self, manifest: Manifest, part: int, code: Code) -> dict[int, set[str]]:
        """Shard -> names of the machines that have it, or may have it."""
        held: dict[int, set[str]] = {index: set() for index in range(code.n)}
        for machine in self._cluster.machines.values():
            if machine.node is not None and machine.life is not None:
                for name in machine.node.store.shards_of(manifest.seed_id):
                    if name.part == part:
                        held[name.index].add(machine.name)
            elif not machine.wiped:
                for names in held.values():
                    names.add(machine.name)
        return held


def _survives(code: Code, held: Mapping[int, set[str]], domain_of: Mapping[str, str]) -> int:
    """The most domains of which any may go and the shards left decode; -1 if they do not now."""
    where = {index: {domain_of[name] for name in names} for index, names in held.items()}
    domains = sorted(set(domain_of.values()))
    for gone in range(len(domains) + 1):
        for lost in combinations(domains, gone):
            if not code.decodes([index for index, spread in where.items() if spread.difference(lost)]):
                return gone - 1
    return len(domains)
