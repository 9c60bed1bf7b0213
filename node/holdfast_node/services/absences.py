"""Who has been silent for too long: others take over what is theirs, without an operator. Who comes back gets a share.

Every node counts for itself how long it has heard of whom; the first voter that is up asks all others and acts on what
a majority of the voters saw (`core.absence`). What it begins is a change of homes like any other: planned by the
placement, refused while another is under way, and to be cancelled by an operator. Mends nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast_node.core.absence import Overdue, Patience, agreed_s, is_awaited, leader, overdue, returned
from holdfast_node.core.cluster_map import ClusterMap, NodeEntry
from holdfast_node.core.errors import HoldfastError, Refused
from holdfast_node.core.ids import StoreId
from holdfast_node.core.map_changes import Change
from holdfast_node.core.map_moves import add_node, end_moves, give_up, in_one_code, keep_no_longer
from holdfast_node.core.messages import Sighting, WorkerStatus
from holdfast_node.core.picture import Picture
from holdfast_node.core.topology import Topology
from holdfast_node.services.cartographer import Cartographer
from holdfast_node.services.worker import Work, run_forever

LOOK_S: Final = 1.0
STOOD_STILL_S: Final = 2.0
"""Who looks so much later than it meant to has seen nothing meanwhile, and counts anew."""
AGAIN_S: Final = 5.0
"""Between questions to all nodes while somebody is overdue."""
REFUSED_S: Final = 60.0
"""After a change that could not be made: what stands in its way seldom goes soon, and looking costs a placement."""
ACT_MAX_S: Final = 15.0
"""So long it may take to ask everybody and to change the map: whoever took longer stood still."""
FILL_MAX: Final = 0.9
"""No node is filled further by what it takes over: one that is full is worse than one that is gone."""


class Absences:
    name = "absences"

    def __init__(
        self, *, cartographer: Cartographer, picture: Callable[[], Awaitable[Picture]], patience: Patience
    ) -> None:
        self._cartographer: Final = cartographer
        self._links: Final = cartographer.ports.links
        self._events: Final = cartographer.ports.events
        self._me: Final = cartographer.ports.store.superblock.store
        self._picture: Final = picture
        self._patience: Final = patience
        self._since: dict[StoreId, tuple[bool, float]] = {}
        self._looked_s = 0.0
        self._not_before_s = 0.0
        self._detail = ""
        self._refusal = ""
        self._given_up = 0
        self.wake: Final = asyncio.Event()

    async def run(self) -> None:
        await run_forever(self, self.wake, LOOK_S, events=self._events)

    def status(self) -> WorkerStatus:
        detail = self._refusal or self._detail
        return WorkerStatus(
            name=self.name,
            state=(Work.THROTTLED if detail else Work.IDLE).value,
            detail=detail,
            done=self._given_up,
            total=self._given_up,
            bytes_done=0,
            rate_bytes_s=0.0,
        )

    def warnings(self) -> tuple[str, ...]:
        """Why others do not take over although it is time."""
        return (self._refusal,) if self._refusal else ()

    def sightings(self) -> tuple[Sighting, ...]:
        """Of those that are silent, or awaited. None by whoever has not looked for long: what it saw may be over."""
        topology = self._cartographer.topology
        now_s = asyncio.get_running_loop().time()
        if topology is None or now_s > self._looked_s + LOOK_S + STOOD_STILL_S:
            return ()
        return tuple(
            Sighting(store, up, now_s - since_s)
            for store, (up, since_s) in sorted(self._since.items())
            if not up or _is_awaited(topology, store)
        )

    async def work_once(self) -> Work:
        topology = self._cartographer.topology
        if topology is None or self._me not in topology.active:
            return Work.IDLE
        self._look(topology)
        seen = {self._me: self.sightings()}
        here = overdue(topology, agreed_s((self._me,), seen, up=False), self._patience)
        back = returned(topology, agreed_s((self._me,), seen, up=True), self._patience)
        self._detail = _told(here)
        if not self._leads(topology):
            self._refusal = ""
        elif not here.nodes and not back:
            self._refusal = "" if here.left_s else here.why
        elif asyncio.get_running_loop().time() >= self._not_before_s:
            begun_s = asyncio.get_running_loop().time()
            await self._act()
            self._looked_s = min(asyncio.get_running_loop().time(), begun_s + ACT_MAX_S)
        return Work.IDLE

    def _look(self, topology: Topology) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s > self._looked_s + LOOK_S + STOOD_STILL_S:
            self._since.clear()
        self._looked_s = now_s
        before = self._since
        self._since = {}
        for store in topology.stores:
            if store != self._me:
                up = self._links.is_up(store)
                was = before.get(store)
                self._since[store] = was if was is not None and was[0] is up else (up, now_s)

    def _leads(self, topology: Topology) -> bool:
        """One is enough."""
        return leader(topology, lambda store: store == self._me or self._links.is_up(store)) == self._me

    async def _act(self) -> None:
        """Ask everybody, and do what a majority of the voters saw reason for."""
        loop = asyncio.get_running_loop()
        picture = await self._picture()
        self._not_before_s = loop.time() + AGAIN_S
        topology = picture.topology
        seen, voters = picture.sightings(), topology.map.voters
        gone = overdue(topology, agreed_s(voters, seen, up=False), self._patience)
        back = returned(topology, agreed_s(voters, seen, up=True), self._patience)
        try:
            if gone.nodes:
                await self._give_up(picture, gone)
            elif back is not None and picture.votes(back.store):
                await self._take_back(picture, back)
            self._refusal = ""
        except Refused as error:
            self._not_before_s = loop.time() + REFUSED_S
            names = ", ".join(gone.nodes) or (back.name if back is not None else "")
            self._refuse(f"{names}: others cannot take over: {error}" if gone.nodes else f"{names}: {error}")
        except HoldfastError as error:
            self._events.emit("absence_not_recorded", error=str(error))

    async def _give_up(self, picture: Picture, gone: Overdue) -> None:
        """What only waits for them ends first: while it is open, nothing else can begin."""
        names = " ".join(gone.nodes)
        if ended := _planned(picture, lambda current: end_moves(current, gone.nodes)):
            if await self._decided(picture, ended):
                self._events.emit("moves_ended", nodes=names, epoch=ended.epoch)
            return
        after = _planned(picture, lambda current: give_up(current, gone.nodes))
        if after is None:
            return
        picture.refuse_without_room(after, FILL_MAX)
        if await self._decided(picture, after):
            self._given_up += len(gone.nodes)
            self._events.emit("nodes_given_up", nodes=names, epoch=after.epoch)

    async def _take_back(self, picture: Picture, node: NodeEntry) -> None:
        if node.kept:
            after = _planned(picture, lambda current: keep_no_longer(current, node.name))
        else:
            after = _planned(picture, lambda current: add_node(current, node))
        if after is not None and await self._decided(picture, after) and not node.kept:
            self._events.emit("node_taken_back", node=node.name, epoch=after.epoch)

    async def _decided(self, picture: Picture, after: ClusterMap) -> bool:
        """Whether that is the next map: only after the one that was looked at. An operator may have changed their mind
        since."""
        seen = picture.topology.map.epoch
        decided = await self._cartographer.change(lambda now: after if now.epoch == seen else None)
        return decided is after

    def _refuse(self, why: str) -> None:
        if why != self._refusal:
            self._events.emit("absence_not_handled", reason=why)
        self._refusal = why


def _is_awaited(topology: Topology, store: StoreId) -> bool:
    node = topology.node(store)
    return node is not None and is_awaited(node)


def _told(found: Overdue) -> str:
    return f"{found.why} {found.left_s:.0f} s" if found.left_s else found.why


def _planned(picture: Picture, change: Change) -> ClusterMap | None:
    return change(in_one_code(picture.topology.map, picture.settled_pools()))
