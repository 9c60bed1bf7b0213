"""This store's votes on maps: Paxos' acceptor, one instance per epoch, durable before every reply.

A store votes on epoch e+1 only while its adopted map is that of epoch e and names it a voter; on epoch 1
while it belongs to no cluster at all. Refuses to judge the maps it votes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from holdfast_node.core.cluster_map import ClusterMap
from holdfast_node.core.errors import IntegrityError, MapConflict, NotVoting, Refused
from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import ClusterId, StoreId
from holdfast_node.core.map_changes import validate
from holdfast_node.core.messages import (
    MapAccept,
    MapAcceptReply,
    MapPrepare,
    MapPrepareReply,
    Reply,
    Request,
)
from holdfast_node.core.records import MapVoteRecord
from holdfast_node.core.topology import Topology
from holdfast_node.ports import Bodies
from holdfast_node.services.dispatcher import Caller, Handler, handler
from holdfast_node.services.store import Entry, Store


class Adopted(Protocol):
    """The map this node follows."""

    @property
    def epoch(self) -> int: ...

    @property
    def topology(self) -> Topology | None: ...

    async def catch_up(self, epoch: int, source: StoreId) -> None: ...


class MapVoter:
    def __init__(self, adopted: Adopted, store: Store, bodies: Bodies) -> None:
        self._adopted = adopted
        self._store = store
        self._bodies = bodies
        self._voting = asyncio.Lock()
        self.may_vote: Callable[[], str] = lambda: ""

    def handlers(self) -> dict[type[Request], Handler]:
        return dict([handler(MapPrepare, self._serve_prepare), handler(MapAccept, self._serve_accept)])

    async def _serve_prepare(self, caller: Caller, request: MapPrepare) -> Reply:
        await self._entitled(caller, request.cluster_id, request.epoch)
        async with self._voting:
            self._open(request.epoch)
            vote = await self._store.map_vote(request.epoch)
            if vote is not None and request.ballot < vote.promised:
                return MapPrepareReply(promised=False, higher=vote.promised, accepted=None, map=b"")
            accepted, known = (vote.accepted, vote.map) if vote is not None else (None, b"")
            await self._record(MapVoteRecord(request.epoch, request.ballot, accepted, known))
            return MapPrepareReply(promised=True, higher=None, accepted=accepted, map=known)

    async def _serve_accept(self, caller: Caller, request: MapAccept) -> Reply:
        await self._entitled(caller, request.cluster_id, request.epoch)
        async with self._voting:
            self._open(request.epoch)
            self._check(request)
            vote = await self._store.map_vote(request.epoch)
            if vote is not None and request.ballot < vote.promised:
                return MapAcceptReply(accepted=False, higher=vote.promised)
            ballot: Ballot = request.ballot
            await self._record(MapVoteRecord(request.epoch, ballot, ballot, request.map))
            return MapAcceptReply(accepted=True, higher=None)

    async def _record(self, vote: MapVoteRecord) -> None:
        await self._store.append([Entry(vote)])

    async def _entitled(self, caller: Caller, cluster_id: ClusterId, epoch: int) -> None:
        """Raises unless this store may vote in this instance; catches up with the caller first if it is
        behind."""
        await self._adopted.catch_up(epoch - 1, caller.store)
        if epoch > self._adopted.epoch + 1:
            raise NotVoting(f"asked to vote on epoch {epoch}, this node is at {self._adopted.epoch}")
        mine = self._store.superblock
        self._open(epoch)
        topology = self._adopted.topology
        if topology is None:
            return
        if cluster_id != mine.cluster_id:
            raise Refused(f"this store belongs to cluster {mine.cluster_id.hex()}")
        if mine.store not in topology.map.voters:
            raise NotVoting("this store is not a voter of the map")
        if mine.store not in topology.active:
            raise NotVoting("the map calls this store suspect")
        if reason := self.may_vote():
            raise NotVoting(reason)

    def _open(self, epoch: int) -> None:
        if epoch <= self._adopted.epoch:
            raise MapConflict(f"epoch {epoch} is decided; this node is at {self._adopted.epoch}")

    def _check(self, request: MapAccept) -> None:
        """A sound proposer sends sound maps; a vote for another one would be a promise to follow nonsense."""
        topology = self._adopted.topology
        proposed = self._bodies.decode(ClusterMap, request.map)
        validate(topology.map if topology is not None else None, proposed)
        if proposed.epoch != request.epoch:
            raise IntegrityError(f"the map proposed for epoch {request.epoch} says epoch {proposed.epoch}")
        mine = self._store.superblock.cluster_id
        if mine and mine != proposed.cluster_id:
            raise Refused(f"this store belongs to cluster {mine.hex()}")
