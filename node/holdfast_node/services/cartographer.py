"""The map at this node: adopted durably before anyone is told, changed only by a majority of its voters.

Epoch e+1 is one Paxos instance among the voters that map e names. `change` proposes there, finishes what
somebody else had half decided, and tries again on the newer map. What may change and why is
`core.map_changes`' and the callers' business; how a first map comes about is `services.founding`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from holdfast_node.core.cluster_map import ClusterMap
from holdfast_node.core.errors import (
    ClusterError,
    HoldfastError,
    IntegrityError,
    MapConflict,
    NotInitialised,
    OutcomeUnknown,
    Refused,
    Unavailable,
)
from holdfast_node.core.ids import StoreId
from holdfast_node.core.map_changes import Change, replace_lost, validate
from holdfast_node.core.messages import MapDecided, MapDecidedReply, MapReply, ReadMap, Reply, Request
from holdfast_node.core.records import MapRecord
from holdfast_node.core.report import InitReply, ReplaceLostReply
from holdfast_node.core.seed import Seed
from holdfast_node.core.topology import Topology
from holdfast_node.ports import Answer, Bodies, Entropy, Links
from holdfast_node.services.dispatcher import Caller, Handler, handler
from holdfast_node.services.events import Events
from holdfast_node.services.fanout import call
from holdfast_node.services.founding import Founding, tell_all
from holdfast_node.services.map_ballots import MapProposer, Round
from holdfast_node.services.map_ports import MapPorts
from holdfast_node.services.map_voter import MapVoter
from holdfast_node.services.replacing import find_newcomers, shard_warnings
from holdfast_node.services.store import Entry, Store
from holdfast_node.services.tasks import Tasks

FETCH_TIMEOUT_S: Final = 2.0
CHANGE_TIMEOUT_S: Final = 10.0
FETCH_PAUSE_S: Final = 0.5
"""A peer that could not deliver is not asked again for so long: everything it sends would wait for it."""
REPLACE_TRIES: Final = 3
"""How often a replacement looks again because the map it looked at was not the latest."""
RETRY_S: Final = (0.01, 0.08)
"""Bounds of the pause after a lost round. Uniform, not growing: rounds are short and rivals few."""


class Cartographer:
    """Holds the adopted map. One per node; alive before any map exists."""

    def __init__(
        self, *, store: Store, links: Links, bodies: Bodies, entropy: Entropy, events: Events, tasks: Tasks
    ) -> None:
        self.ports: Final = MapPorts(store, links, bodies, entropy, events, tasks)
        self._topology: Topology | None = None
        self._encoded = b""
        self._subscribers: list[Callable[[Topology], None]] = []
        self._adopting = asyncio.Lock()
        self._catching_up: asyncio.Task[None] | None = None
        self._fetch_failed: dict[StoreId, float] = {}
        """When a source last could not deliver; forgotten with the first that can."""
        self.invalid_maps = 0
        """Maps dropped because they were malformed, of another cluster, or no successor of the one held."""
        self._voter = MapVoter(self, store, bodies)
        self._proposer = MapProposer(store.superblock, links)
        encoded = store.map()
        if encoded:
            self._take(bodies.decode(ClusterMap, encoded), encoded)

    @property
    def topology(self) -> Topology | None:
        return self._topology

    @property
    def epoch(self) -> int:
        return self._topology.map.epoch if self._topology is not None else 0

    @property
    def era(self) -> int:
        return self._topology.map.era if self._topology is not None else 0

    @property
    def encoded(self) -> bytes:
        """The adopted map as it is stored and told; empty if there is none."""
        return self._encoded

    def require(self) -> Topology:
        """The topology, or `NotInitialised`."""
        if self._topology is None:
            raise NotInitialised("this node has no map yet", hint="run `clusterctl init`")
        return self._topology

    def guard_votes(self, may_vote: Callable[[], str]) -> None:
        """From now on this store votes on maps only while `may_vote()` is empty."""
        self._voter.may_vote = may_vote

    def subscribe(self, callback: Callable[[Topology], None]) -> None:
        """Call back after every adoption, and at once if there is a map already."""
        self._subscribers.append(callback)
        if self._topology is not None:
            callback(self._topology)

    def handlers(self) -> dict[type[Request], Handler]:
        return {
            **self._voter.handlers(),
            **dict([handler(ReadMap, self._serve_read), handler(MapDecided, self._serve_decided)]),
        }

    # --- adopting -----------------------------------------------------------------------------------------

    async def adopt(self, encoded: bytes) -> None:
        """Take a decided map: newer ones only, valid ones only, durable before anyone here sees it.

        Raises `IntegrityError` or `Refused` for a map this store must not follow; it is counted and dropped.
        """
        try:
            decided = self.ports.bodies.decode(ClusterMap, encoded)
            async with self._adopting:
                if decided.epoch <= self.epoch:
                    return
                await self._bind(decided)
                validate(self._topology.map if self._topology is not None else None, decided)
                await self.ports.store.append([Entry(MapRecord(encoded, decided.epoch))])
                self._take(decided, encoded)
        except (IntegrityError, Refused) as error:
            self.invalid_maps += 1
            self.ports.events.emit("map_dropped", error=str(error), dropped=self.invalid_maps)
            raise
        self.ports.events.emit("map_adopted", epoch=self.epoch, era=self.era)

    async def _bind(self, decided: ClusterMap) -> None:
        """A store belongs to one cluster for ever: the first whose map names it or its node."""
        block = self.ports.store.superblock
        if block.cluster_id == decided.cluster_id:
            return
        if block.cluster_id:
            raise Refused(
                f"this store belongs to cluster {block.cluster_id.hex()}, the map to {decided.cluster_id.hex()}"
            )
        if not any(node.store == block.store or node.name == block.node for node in decided.nodes):
            raise Refused(
                f"the map of cluster {decided.cluster_id.hex()} knows neither this store nor its node"
            )
        validate(None, decided)
        await self.ports.store.join(decided.cluster_id)

    def _take(self, decided: ClusterMap, encoded: bytes) -> None:
        topology = Topology(decided)
        self._topology, self._encoded = topology, encoded
        self.ports.links.learn(topology.addresses())
        for callback in list(self._subscribers):
            callback(topology)

    async def catch_up(self, epoch: int, source: StoreId) -> None:
        """Try to have the map of `epoch` or a newer one, from the peer that showed it. One fetch at a time.

        Raises nothing: whoever could not catch up answers as what it is, behind. What must not happen in
        between is kept out by generations and by votes, which name their epoch.
        """
        while self.epoch < epoch:
            running = self._catching_up
            if running is not None and not running.done():
                await asyncio.shield(running)
                continue
            now = asyncio.get_running_loop().time()
            if self._fetch_failed.get(source, -FETCH_PAUSE_S) + FETCH_PAUSE_S > now:
                return
            self._catching_up = self.ports.tasks.spawn(self._fetch_quietly(epoch, source), "map.catch_up")
            await asyncio.shield(self._catching_up)

    async def _fetch_quietly(self, epoch: int, source: StoreId) -> None:
        try:
            await self.fetch(source)
            said = f"has no map of epoch {epoch}"
        except HoldfastError as error:
            said = str(error)
        if self.epoch < epoch:
            self._fetch_failed[source] = asyncio.get_running_loop().time()
            self.ports.events.emit("map_not_fetched", source=source.hex(), epoch=epoch, error=said)
        else:
            self._fetch_failed.clear()

    async def fetch(self, source: StoreId) -> None:
        """Adopt whatever map this peer has, if it is newer."""
        reply = await call(self.ports.links, source, ReadMap(), expect=MapReply, timeout_s=FETCH_TIMEOUT_S)
        if reply.map:
            await self.adopt(reply.map)

    async def _serve_read(self, _: Caller, __: ReadMap) -> Reply:
        return MapReply(self._encoded)

    async def _serve_decided(self, _: Caller, request: MapDecided) -> Reply:
        await self.adopt(request.map)
        return MapDecidedReply(self.epoch)

    # --- changing -----------------------------------------------------------------------------------------

    async def change(self, change: Change, *, timeout_s: float = CHANGE_TIMEOUT_S) -> ClusterMap:
        """Decide `change(current map)` as the next map, or again on a newer one; returns the map it holds in.

        `change` returns None when nothing is left to do and may raise `Refused`. Raises `Unavailable`
        (nothing was proposed), `OutcomeUnknown` (a vote may have been cast) or `MapConflict` (lost to others
        until the end).
        """
        self.require()
        rounds = _Rounds()
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    current = self.require().map
                    proposed = change(current)
                    if proposed is None:
                        return current
                    validate(current, proposed)
                    assert proposed.epoch == current.epoch + 1, "a change makes the next epoch"
                    if await self._round(current, proposed, rounds):
                        return proposed
        except TimeoutError:
            raise rounds.failure(timeout_s) from None

    async def _round(self, current: ClusterMap, proposed: ClusterMap, rounds: _Rounds) -> bool:
        """One ballot of the instance after `current`. True if `proposed` itself was decided."""
        own = self.ports.bodies.encode(proposed)
        outcome = await self._proposer.run(current, own, rounds.sent)
        rounds.last = outcome
        if outcome.decided:
            await self.adopt(outcome.decided)
            self.tell(current)
            return outcome.decided == own
        if outcome.newer:
            await self._follow(outcome.newer, current.epoch + 1)
            return self._encoded == own
        await asyncio.sleep(self.ports.entropy.jitter(*RETRY_S))
        return self._encoded == own

    async def _follow(self, sources: tuple[StoreId, ...], epoch: int) -> None:
        for source in sources:
            await self.catch_up(epoch, source)

    def tell(self, before: ClusterMap | None = None) -> None:
        """Best effort: send the adopted map to every node of it, and to those it left out. Others learn by
        epochs."""
        topology = self.require()
        stores = set(topology.stores) | {node.store for node in (before.nodes if before is not None else ())}
        for store in sorted(stores - {self.ports.store.superblock.store}):
            self.ports.links.send(
                store, MapDecided(self._encoded), timeout_s=FETCH_TIMEOUT_S, done=_ignore_answer
            )

    # --- what operators ask for ---------------------------------------------------------------------------

    async def init(self, seed: Seed) -> InitReply:
        """Found the cluster of this seed, or finish founding it, or say that it exists already."""
        encoded, reply = await Founding(self.ports, self._proposer, seed).decide()
        await self.adopt(encoded)
        return replace(reply, warnings=(*reply.warnings, *await self._confirm(self.require().stores)))

    async def replace_lost(self, selector: str) -> ReplaceLostReply:
        """New, empty stores take the place of the lost ones under the same node names, all in one change."""
        for _ in range(REPLACE_TRIES):
            before = self.epoch
            try:
                return await self._replace_lost(selector)
            except MapConflict:
                if self.epoch == before:
                    raise
        return await self._replace_lost(selector)

    async def _replace_lost(self, selector: str) -> ReplaceLostReply:
        topology = self.require()
        nodes = topology.select(selector)
        swaps = await find_newcomers(self.ports, topology, nodes)
        decided = await self.change(lambda current: replace_lost(current, swaps))
        warnings = shard_warnings(topology.map, swaps) + await self._confirm(swaps.values())
        return ReplaceLostReply(tuple(str(node.name) for node in nodes), decided.epoch, warnings)

    async def confirm(self) -> tuple[str, ...]:
        """Tell every node of the map adopted here and wait; a warning for each that did not confirm."""
        return await self._confirm(self.require().stores)

    async def _confirm(self, stores: Iterable[StoreId]) -> tuple[str, ...]:
        topology = self.require()
        names = {
            store: topology.name(store) for store in stores if store != self.ports.store.superblock.store
        }
        return await tell_all(self.ports, self._encoded, names)


class _Rounds:
    """What is known when the time is up."""

    def __init__(self) -> None:
        self.last: Round | None = None
        self.accept_sent = False

    def sent(self) -> None:
        self.accept_sent = True

    def failure(self, timeout_s: float) -> ClusterError:
        evidence = self.last.evidence if self.last is not None else ()
        hint = "look at `clusterctl status`; a majority of the voters must answer"
        if self.accept_sent:
            return OutcomeUnknown(
                f"the map change was not settled within {timeout_s:g} s", hint=hint, evidence=evidence
            )
        if self.last is not None and self.last.rivals:
            return MapConflict(f"other map changes went first for {timeout_s:g} s", evidence=evidence)
        return Unavailable(
            f"no majority of the map's voters within {timeout_s:g} s", hint=hint, evidence=evidence
        )


def _ignore_answer(_: Answer) -> None:
    return None
