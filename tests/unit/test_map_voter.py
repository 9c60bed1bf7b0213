"""One store's votes on maps: kept over a crash, cast only where it is entitled, never taken back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from holdfast_node.core.cluster_map import ClusterMap, StoreState
from holdfast_node.core.errors import IntegrityError, MapConflict, NotVoting, Refused
from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import ClusterId, Epoch, StoreId
from holdfast_node.core.map_changes import mark_suspect, raise_era
from holdfast_node.core.messages import MapAccept, MapAcceptReply, MapPrepare, MapPrepareReply, Request
from holdfast_node.core.topology import Topology
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.map_voter import MapVoter
from holdfast_node.services.store import Store
from tests.support.maps import CLUSTER, cluster, node, nodes, store_id
from tests.support.stores import BODIES, Bench, ballot


class Adopted:
    """The map this store follows; asked for a newer one it has none."""

    def __init__(self, adopted: ClusterMap) -> None:
        self.topology: Topology | None = Topology(adopted)

    @property
    def map(self) -> ClusterMap:
        assert self.topology is not None
        return self.topology.map

    @property
    def epoch(self) -> int:
        return self.map.epoch

    async def catch_up(self, epoch: int, source: StoreId) -> None:
        pass


class Voter:
    """A voter on a store, in a map of six nodes of which it is the first."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.adopted = Adopted(map_of(store))
        self.votes = MapVoter(self.adopted, store, BODIES)

    async def ask(self, request: Request) -> Any:
        serve = self.votes.handlers()[type(request)]
        return await serve(Caller(store_id(2), node(2).name), request)

    async def prepare(self, counter: int, epoch: int = 2) -> MapPrepareReply:
        reply: MapPrepareReply = await self.ask(MapPrepare(CLUSTER, epoch, ballot(counter)))
        return reply

    async def accept(
        self, counter: int, proposed: ClusterMap | None = None, epoch: int = 2
    ) -> MapAcceptReply:
        encoded = BODIES.encode(proposed or successor(self))
        reply: MapAcceptReply = await self.ask(MapAccept(CLUSTER, epoch, ballot(counter), encoded))
        return reply


def map_of(store: Store) -> ClusterMap:
    me = store.superblock.store
    return cluster(
        [replace(entry, store=me if at == 0 else entry.store) for at, entry in enumerate(nodes(6))]
    )


def successor(voter: Voter) -> ClusterMap:
    changed = raise_era(voter.adopted.map)
    assert changed is not None
    return changed


async def joined(store: Store) -> Voter:
    await store.join(CLUSTER)
    return Voter(store)


def play(story: Callable[[Voter], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Bench().store() as store:
            await story(await joined(store))

    asyncio.run(main())


def test_only_no_smaller_ballot_is_promised_or_accepted() -> None:
    async def story(voter: Voter) -> None:
        assert (await voter.prepare(5)).promised
        assert await voter.prepare(4) == MapPrepareReply(False, ballot(5), None, b"")
        assert await voter.prepare(5) == MapPrepareReply(True, None, None, b""), "the same question once more"
        assert await voter.accept(4) == MapAcceptReply(False, ballot(5))
        assert (await voter.accept(5)).accepted
        assert await voter.prepare(6) == MapPrepareReply(
            True, None, ballot(5), BODIES.encode(successor(voter))
        )
        assert await voter.accept(5) == MapAcceptReply(False, ballot(6))

    play(story)


def test_accepting_promises() -> None:
    async def story(voter: Voter) -> None:
        assert (await voter.accept(5)).accepted
        assert await voter.accept(4) == MapAcceptReply(False, ballot(5))
        assert not (await voter.prepare(4)).promised

    play(story)


def test_a_vote_is_durable_before_it_is_told() -> None:
    async def story(voter: Voter) -> None:
        for vote in (voter.prepare(5), voter.accept(5)):
            before = voter.store.durable_sequence
            await vote
            assert voter.store.durable_sequence > before

    play(story)


def test_votes_outlive_a_crash() -> None:
    bench = Bench()

    async def promise() -> None:
        async with bench.store(clean=False) as store:
            assert (await (await joined(store)).prepare(5)).promised

    async def accept() -> None:
        async with bench.store(clean=False) as store:
            voter = await joined(store)
            assert await voter.prepare(4) == MapPrepareReply(False, ballot(5), None, b"")
            assert not (await voter.accept(4)).accepted
            assert (await voter.accept(7)).accepted

    async def show() -> None:
        async with bench.store() as store:
            voter = await joined(store)
            assert not (await voter.prepare(6)).promised
            assert (await voter.prepare(8)).accepted == ballot(7)

    for story in (promise, accept, show):
        asyncio.run(story())


def test_epochs_do_not_share_votes() -> None:
    async def story(voter: Voter) -> None:
        assert (await voter.accept(9)).accepted
        voter.adopted.topology = Topology(successor(voter))
        assert await voter.prepare(3, epoch=3) == MapPrepareReply(True, None, None, b"")

    play(story)


@pytest.mark.parametrize("epoch", [0, 1])
def test_what_is_decided_is_not_voted_on_again(epoch: int) -> None:
    async def story(voter: Voter) -> None:
        with pytest.raises(MapConflict):
            await voter.prepare(5, epoch)
        with pytest.raises(MapConflict):
            await voter.accept(5, epoch=epoch)

    play(story)


def test_an_epoch_whose_voters_are_not_known_is_not_voted_on() -> None:
    async def story(voter: Voter) -> None:
        with pytest.raises(NotVoting, match="at 1"):
            await voter.prepare(5, epoch=3)

    play(story)


def without_me(voter: Voter) -> None:
    changed = replace(voter.adopted.map, voters=voter.adopted.map.voters[1:])
    voter.adopted.topology = Topology(changed)


def suspect(voter: Voter) -> None:
    changed = mark_suspect(voter.adopted.map, voter.store.superblock.store)
    assert changed is not None
    assert changed.nodes[0].state is StoreState.SUSPECT
    voter.adopted.topology = Topology(replace(changed, epoch=Epoch(1)))


def unintroduced(voter: Voter) -> None:
    voter.votes.may_vote = lambda: "introduced to 2 of 6 stores, needs a majority"


@pytest.mark.parametrize("condition", [without_me, suspect, unintroduced])
def test_who_is_not_entitled_does_not_vote(condition: Callable[[Voter], None]) -> None:
    async def story(voter: Voter) -> None:
        condition(voter)
        with pytest.raises(NotVoting):
            await voter.prepare(5)
        with pytest.raises(NotVoting):
            await voter.accept(5)

    play(story)


def test_another_clusters_maps_are_not_voted_on() -> None:
    async def story(voter: Voter) -> None:
        other = ClusterId(b"another cluster.")
        at: Ballot = ballot(5)
        with pytest.raises(Refused):
            await voter.ask(MapPrepare(other, 2, at))
        with pytest.raises(IntegrityError):
            await voter.accept(5, replace(successor(voter), cluster_id=other))

    play(story)


def test_a_map_of_another_epoch_than_its_message_is_not_accepted() -> None:
    async def story(voter: Voter) -> None:
        with pytest.raises(IntegrityError):
            await voter.accept(5, replace(successor(voter), epoch=Epoch(4)))
        assert (await voter.prepare(1)).accepted is None

    play(story)
