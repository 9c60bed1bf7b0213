"""Who is who: introductions between stores, and whether this one may vote.

A store votes only after it introduced itself to a majority of the map's voters and nobody has seen a
later life of it: a higher boot, the same boot under another boot id, or a record it does not have. That is how a
store restored from a snapshot, or a copy of one, is told from the original. Knows nothing of registers or shards.

Residual, published: a rollback to a point no reachable peer has seen past cannot be noticed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from holdfast_node.core.cluster_map import StoreState
from holdfast_node.core.errors import ClusterError, HoldfastError
from holdfast_node.core.ids import ID_BYTES, BootId, NodeName, StoreId
from holdfast_node.core.map_changes import mark_suspect
from holdfast_node.core.messages import Introduce, IntroduceReply, Reply, Request
from holdfast_node.core.records import PeerRecord
from holdfast_node.ports import Answer, Answered
from holdfast_node.services.cartographer import Cartographer
from holdfast_node.services.dispatcher import Caller, Handler, handler
from holdfast_node.services.fanout import gather
from holdfast_node.services.store import Entry
from holdfast_node.services.turns import Turns

INTRODUCE_TIMEOUT_S: Final = 1.0
SETTLED_INTERVAL_S: Final = 5.0
"""How often marks are exchanged once this store votes."""
UNSETTLED_INTERVAL_S: Final = 0.2
WAITING_MAX: Final = 16
"""Introductions of one store that wait to be noted; it asks again soon."""
NEVER_AGAIN: Final = (1 << 63) - 1
"""The mark of a store that came back without records it had: neither this life nor a later one has them, however much
it has written since."""
TWO_AT_ONCE: Final = NEVER_AGAIN - 1
"""The mark of a store of which two copies ran: no later life has what both of them wrote."""


@dataclass(frozen=True, slots=True)
class Life:
    """What makes one running process of a store unique."""

    boot: int
    boot_id: BootId
    recovered_sequence: int


def later_life_seen(mine: Life, reply: IntroduceReply) -> str:
    """Why this peer's marks prove that the asker is not the latest life of its store; empty if they do not."""
    if reply.seen_boot > mine.boot:
        return f"{reply.node} has seen boot {reply.seen_boot} of this store, this is boot {mine.boot}"
    if reply.seen_boot < mine.boot:
        behind = reply.seen_sequence > mine.recovered_sequence
        if behind and reply.seen_sequence >= TWO_AT_ONCE:
            return (
                f"{reply.node} has seen an earlier life of this store without all its records, or two at once"
            )
        if behind:
            return f"{reply.node} has seen record {reply.seen_sequence}, recovered {mine.recovered_sequence}"
        return ""
    if reply.seen_boot_id != mine.boot_id:
        return f"{reply.node} has seen another process with boot {mine.boot} of this store: a copy of it is running"
    if reply.seen_sequence == NEVER_AGAIN:  # said before, when this life came, but perhaps not heard
        return f"{reply.node} has seen this store come back without all its records"
    return ""


class Membership:
    """The gate in front of every vote of this store."""

    def __init__(self, *, cartographer: Cartographer, seeds: Sequence[str]) -> None:
        """`seeds` are addresses where somebody may know the map, for a store that has none."""
        ports = cartographer.ports
        self._seeds = tuple(seeds)
        self._store = ports.store
        self._links = ports.links
        self._entropy = ports.entropy
        self._events = ports.events
        self._cartographer = cartographer
        block = ports.store.superblock
        self._life = Life(block.boot, block.boot_id, ports.store.recovered_sequence)
        self._introduced: set[StoreId] = {block.store}
        self._suspect = ""
        self._stranger = False
        """Others have a map that knows neither this store nor its node: it waits to be added, and is told then."""
        self._marks: dict[StoreId, PeerRecord] = {}
        self._noting = Turns(WAITING_MAX)
        """By store: who is answered later is compared with what was noted before, and noted behind it."""
        self._wake = asyncio.Event()

    def handlers(self) -> dict[type[Request], Handler]:
        return dict([handler(Introduce, self._serve)])

    def may_vote(self) -> str:
        """Empty if this store may vote, else why not."""
        if self._store.failure:
            return f"the store failed: {self._store.failure}"
        if self._suspect:
            return f"suspect: {self._suspect}"
        topology = self._cartographer.topology
        if topology is None:
            return "no map yet: run `clusterctl init`"
        me = topology.node(self._store.superblock.store)
        if me is None:
            return (
                "this store is not in the map: run `clusterctl node add`, or `clusterctl node replace --lost`"
            )
        if me.state is StoreState.SUSPECT:
            return "the map calls this store suspect: run `clusterctl node replace --lost` for this node"
        voters = topology.map.voters
        met = len(self._introduced.intersection(topology.active, voters))
        if 2 * met <= len(voters):
            return f"introduced to {met} of the map's {len(voters)} voters, needs a majority"
        return ""

    async def run(self) -> None:
        """Exchange marks with every store of the map, quickly until this one may vote, then now and then."""
        self._cartographer.subscribe(lambda _: self._wake.set())
        while True:
            try:
                await self._introduce_all()
            except HoldfastError as error:
                self._events.emit("introduction_failed", error=str(error))
            except Exception as error:  # noqa: BLE001 - a mistake of ours: without introductions nobody votes
                self._events.emit("task_failed", task="membership", error=repr(error))
            unsettled = self.may_vote() and not self._stranger
            interval = UNSETTLED_INTERVAL_S if unsettled else SETTLED_INTERVAL_S
            self._wake.clear()
            try:
                async with asyncio.timeout(self._entropy.jitter(interval, 1.5 * interval)):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _introduce_all(self) -> None:
        topology = self._cartographer.topology
        if topology is None:
            await self._find_map()
            return
        me = self._store.superblock.store
        others = [node.store for node in topology.map.nodes if node.store != me]

        answers = await gather(
            self._links,
            {store: self._introduction(store) for store in others},
            timeout_s=INTRODUCE_TIMEOUT_S,
            enough=lambda _: False,
            late=self._hear,
        )
        for store in sorted(answers):
            self._hear(answers[store])
        if self._suspect:
            await self._confess()

    def _introduction(self, to: StoreId) -> Introduce:
        """Who has told this life that it is the latest notes how far it has come."""
        first = self._cartographer.ports.introduction()
        return (
            replace(first, durable_sequence=self._store.durable_sequence) if to in self._introduced else first
        )

    async def _find_map(self) -> None:
        """Ask at the seeds until somebody has a map. Before `clusterctl init` nobody does."""
        for address in self._seeds:
            try:
                reply = await self._links.introduce(
                    address, self._cartographer.ports.introduction(), timeout_s=INTRODUCE_TIMEOUT_S
                )
            except ClusterError:
                continue
            if reply.epoch > self._cartographer.epoch and reply.store != self._store.superblock.store:
                self._links.learn({reply.store: address})
                await self._cartographer.catch_up(reply.epoch, reply.store)
                self._stranger = self._cartographer.topology is None
                return

    def _hear(self, answer: Answer) -> None:
        if not isinstance(answer, Answered) or not isinstance(answer.reply, IntroduceReply):
            return
        if reason := later_life_seen(self._life, answer.reply):
            if not self._suspect:
                self._events.emit("store_suspect", reason=reason)
                self._suspect = reason  # the first is the most exact
        else:
            self._introduced.add(answer.store)

    async def _confess(self) -> None:
        """Say so in the map: a suspect store never votes again, under any life."""
        store = self._store.superblock.store
        try:
            await self._cartographer.change(lambda current: mark_suspect(current, store))
        except HoldfastError as error:
            self._events.emit("suspect_not_recorded", error=str(error))

    async def _serve(self, caller: Caller, request: Introduce) -> Reply:
        async with self._noting.turn(request.store):
            before = self._marks.get(request.store) or self._store.peer(request.store)
            await self._remember(request, before)
        block = self._store.superblock
        return IntroduceReply(
            node=NodeName(block.node),
            store=block.store,
            cluster_id=block.cluster_id,
            boot=block.boot,
            boot_id=block.boot_id,
            epoch=self._cartographer.epoch,
            seen_boot=before.boot if before else 0,
            seen_boot_id=before.boot_id if before else BootId(bytes(ID_BYTES)),
            seen_sequence=before.sequence if before else 0,
        )

    async def _remember(self, request: Introduce, before: PeerRecord | None) -> None:
        """A new boot is durable before the answer; a higher sequence rides with this store's next commit. Of two copies
        the one that came first keeps its mark while it runs."""
        boot_id, sequence = request.boot_id, request.durable_sequence
        if before is not None:
            copied = request.boot == before.boot and boot_id != before.boot_id
            if not copied and (request.boot, sequence) <= (before.boot, before.sequence):
                return
            if copied:
                boot_id, sequence = before.boot_id, max(TWO_AT_ONCE, before.sequence)
            elif sequence < before.sequence:
                sequence = NEVER_AGAIN
        topology = self._cartographer.topology
        if topology is None or topology.node(request.store) is None:
            return
        mark = PeerRecord(request.store, request.boot, boot_id, sequence)
        if mark == before:
            return
        if before is None or before.boot != request.boot or sequence >= TWO_AT_ONCE:
            await self._store.append([Entry(mark)])
        else:
            self._store.piggyback(request.store, Entry(mark))
        self._marks[request.store] = mark
