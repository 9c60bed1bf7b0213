"""How maps are decided, adopted and told: whole services on simulated stores and links."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.core.cluster_map import ClusterMap, StoreState
from holdfast_node.core.errors import IntegrityError, NotInitialised, OutcomeUnknown, Refused, Unavailable
from holdfast_node.core.ids import Epoch, Era
from holdfast_node.core.map_changes import Change, mark_suspect, raise_era
from holdfast_node.services.cartographer import Cartographer
from tests.support.atlas import Atlas, epochs, founded, play, until
from tests.support.maps import cluster, nodes, seed


def test_a_change_reaches_every_node() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        decided = await atlas.run("n6", lambda c: c.change(raise_era))
        assert (decided.epoch, decided.era) == (2, 2)
        await until(lambda: epochs(atlas) == {2})

    play(story)


def heavier(name: str) -> Change:
    """A change of one node that is not done twice."""

    def change(current: ClusterMap) -> ClusterMap | None:
        if any(node.name == name and node.weight > 1 for node in current.nodes):
            return None
        changed = tuple(replace(node, weight=2) if node.name == name else node for node in current.nodes)
        return replace(current, epoch=Epoch(current.epoch + 1), nodes=changed)

    return change


async def _make_heavier(name: str, cartographer: Cartographer) -> None:
    await cartographer.change(heavier(name), timeout_s=60)


@pytest.mark.parametrize("number", range(12))
def test_concurrent_changes_all_happen_each_in_its_own_epoch(number: int) -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        atlas.network.weather.loss = 0.05 if number % 2 else 0.0
        await asyncio.gather(*(atlas.run(name, partial(_make_heavier, name)) for name in atlas.members))
        top = max(atlas.running(), key=lambda member: member.cartographer.epoch).cartographer.require().map
        assert [node.weight for node in top.nodes] == [2] * 6
        assert top.epoch == 7

    play(story, number=number)


def test_votes_are_kept_for_the_next_map_only() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        for _ in range(10):
            await atlas.run("n1", lambda c: c.change(raise_era))
        for name in ("n1", "n2"):
            store, epoch = atlas[name].process.store, atlas[name].cartographer.epoch
            assert epoch >= 10
            assert [await store.map_vote(each) for each in range(1, epoch + 1)] == [None] * epoch

    play(story)


def test_raising_the_era_that_was_seen_happens_once() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        await asyncio.gather(
            *(atlas.run(name, lambda c: c.change(lambda m: raise_era(m, Era(1)))) for name in atlas.members)
        )
        assert max(epochs(atlas)) == 2

    play(story)


def test_maps_are_decided_with_two_of_five_voters_gone_and_not_with_three() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        assert len(atlas["n1"].cartographer.require().map.voters) == 5
        atlas.kill("n1", "n2")
        await atlas.run("n6", lambda c: c.change(raise_era))
        atlas.kill("n3")
        with pytest.raises(Unavailable) as refused:
            await atlas.run("n6", lambda c: c.change(raise_era, timeout_s=3))
        assert {"n1", "n2", "n3"} <= {evidence.who for evidence in refused.value.evidence}
        await atlas.start("n3")
        assert (await atlas.run("n6", lambda c: c.change(raise_era))).era == 3

    play(story)


def test_a_lost_message_costs_a_question_and_not_the_promises_of_the_others() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        atlas.kill("n1", "n2")  # every vote of the other three is needed
        atlas.network.block(atlas["n3"].address, atlas["n6"].address)
        asyncio.get_running_loop().call_later(1.5, atlas.network.unblock_all)
        await atlas.run("n6", lambda c: c.change(raise_era, timeout_s=3))
        vote = await atlas["n4"].process.store.map_vote(2)
        assert vote is not None
        assert vote.accepted == vote.promised
        assert vote.promised.attempt == 1, "it took another ballot"

    play(story)


def test_a_change_that_may_have_been_voted_for_is_an_unknown_outcome() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        loop = asyncio.get_running_loop()
        for other in ("n2", "n3", "n4", "n5"):
            await_prepare = atlas[other].address
            loop.call_later(0.0035, atlas.network.block, await_prepare, atlas["n1"].address)
        with pytest.raises((OutcomeUnknown, Unavailable)):
            await atlas.run("n1", lambda c: c.change(raise_era, timeout_s=2))
        atlas.network.unblock_all()
        decided = await atlas.run("n2", lambda c: c.change(raise_era))
        assert int(decided.era) == int(decided.epoch)

    play(story)


def test_nothing_to_do_decides_nothing() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        await atlas.run("n1", lambda c: c.change(lambda _: None))
        assert epochs(atlas) == {1}

    play(story)


def test_a_refusal_of_the_change_itself_reaches_the_caller() -> None:
    def refuse(_: ClusterMap) -> ClusterMap:
        raise Refused("no")

    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        with pytest.raises(Refused, match="no"):
            await atlas.run("n1", lambda c: c.change(refuse))

    play(story)


def test_a_change_needs_a_map() -> None:
    async def story(atlas: Atlas) -> None:
        await atlas.start("n1")
        with pytest.raises(NotInitialised):
            await atlas.run("n1", lambda c: c.change(raise_era))

    play(story)


def test_a_suspect_voter_and_one_that_may_not_vote_do_not_count() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        voters = atlas["n6"].cartographer.require().map.voters
        await atlas.run("n6", lambda c: c.change(lambda m: mark_suspect(m, voters[0])))
        suspected = atlas["n6"].cartographer.require().node(voters[0])
        assert suspected is not None
        assert suspected.state is StoreState.SUSPECT
        atlas[str(suspected.name)].cartographer.guard_votes(lambda: "")
        others = [m for m in atlas.running() if m.store in voters[1:]]
        for member in others[:2]:
            member.cartographer.guard_votes(lambda: "not introduced yet")
        with pytest.raises(Unavailable) as refused:
            await atlas.run("n6", lambda c: c.change(raise_era, timeout_s=2))
        said = [evidence.said for evidence in refused.value.evidence]
        assert any("suspect" in one for one in said)
        assert "not introduced yet" in said
        others[0].cartographer.guard_votes(lambda: "")
        assert (await atlas.run("n6", lambda c: c.change(raise_era))).era == 2

    play(story)


# --- adoption


def test_whoever_was_away_learns_of_maps_from_any_peer() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        atlas.cut_off("n6")
        for _ in range(3):
            await atlas.run("n1", lambda c: c.change(raise_era))
        atlas.network.unblock_all()
        assert atlas["n6"].cartographer.epoch == 1
        source = atlas["n2"].store
        await atlas.run("n6", lambda c: asyncio.gather(c.catch_up(4, source), c.catch_up(3, source)))
        assert atlas["n6"].cartographer.epoch == 4

    play(story)


def test_a_source_that_does_not_deliver_is_reported_and_left_alone_for_a_while() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        source = atlas["n2"].store
        events = atlas["n6"].process.events
        before = events.count("map_not_fetched")
        sent = atlas.network.tally.sent
        for _ in range(5):
            await atlas.run("n6", lambda c: c.catch_up(9, source))
        assert events.count("map_not_fetched") == before + 1
        assert atlas.network.tally.sent == sent + 1
        assert atlas["n6"].cartographer.epoch == 1

    play(story)


def test_an_adopted_map_survives_every_crash() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        await atlas.run("n1", lambda c: c.change(raise_era))
        await until(lambda: epochs(atlas) == {2})
        atlas.kill(*atlas.members, power=True)
        await atlas.start()
        assert epochs(atlas) == {2}
        assert (await atlas.run("n4", lambda c: c.change(raise_era))).epoch == 3

    play(story)


def test_subscribers_hear_of_a_map_after_it_is_durable_and_at_once_if_there_is_one() -> None:
    async def story(atlas: Atlas) -> None:
        await atlas.start()
        heard: list[tuple[int, int]] = []
        cartographer = atlas["n2"].cartographer
        store = atlas["n2"].process.store
        cartographer.subscribe(
            lambda t: heard.append(
                (t.map.epoch, ProtobufBodies().decode(ClusterMap, store.map()).epoch if store.map() else 0)
            )
        )
        assert heard == []
        await atlas.run("n1", lambda c: c.init(seed()))
        await until(lambda: bool(heard))
        assert heard == [(1, 1)]
        cartographer.subscribe(lambda t: heard.append((t.map.epoch, 0)))
        assert heard == [(1, 1), (1, 0)]

    play(story)


def test_malformed_foreign_and_older_maps_are_dropped_and_counted() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        cartographer = atlas["n1"].cartographer
        current = cartographer.require().map
        bodies = ProtobufBodies()
        await cartographer.adopt(bodies.encode(replace(current, era=Era(5))))
        assert (cartographer.era, cartographer.invalid_maps) == (1, 0)
        with pytest.raises(Refused, match="belongs to cluster"):
            await cartographer.adopt(bodies.encode(replace(cluster(nodes(6)), epoch=Epoch(9))))
        with pytest.raises(IntegrityError):
            await cartographer.adopt(bodies.encode(replace(current, epoch=Epoch(9), voters=())))
        with pytest.raises(IntegrityError):
            await cartographer.adopt(b"\xff\x00nonsense")
        assert cartographer.invalid_maps == 3
        assert cartographer.epoch == 1
        assert atlas["n1"].process.events.count("map_dropped") == 3

    play(story)


def test_an_unrelated_store_does_not_join_a_cluster_that_does_not_know_its_node() -> None:
    async def story(atlas: Atlas) -> None:
        await atlas.start("n1")
        stranger = replace(cluster(nodes(6)[1:], code="rs:2+1"), epoch=Epoch(3))
        with pytest.raises(Refused, match="neither this store nor its node"):
            await atlas["n1"].cartographer.adopt(ProtobufBodies().encode(stranger))
        assert not atlas["n1"].process.store.superblock.cluster_id

    play(story)
