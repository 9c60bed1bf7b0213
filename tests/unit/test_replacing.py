"""New stores take the place of lost ones, or are refused with the reason."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.core.cluster_map import ClusterMap
from holdfast_node.core.errors import Refused
from holdfast_node.core.ids import Epoch, StoreId
from holdfast_node.core.map_changes import finish_learning, raise_era
from holdfast_node.services.cartographer import Cartographer
from tests.support.atlas import Atlas, epochs, founded, play
from tests.support.maps import cluster, nodes


async def _vote_everywhere(me: StoreId, cartographer: Cartographer) -> None:
    def learned(current: ClusterMap) -> ClusterMap | None:
        generations = {(0, at): entry.generation for at, entry in enumerate(current.pools[0].partitions)}
        return finish_learning(current, me, generations)

    await cartographer.change(learned)


def test_two_lost_nodes_are_replaced_in_one_change_and_know_the_map() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        old = {name: atlas[name].store for name in ("n1", "n2")}
        atlas.wipe("n1", "n2")
        await atlas.start("n1", "n2")
        reply = await atlas.run("n5", lambda c: c.replace_lost("san=s0"))
        assert (reply.nodes, reply.epoch, reply.warnings) == (("n1", "n2"), 2, ())
        assert epochs(atlas) == {2}
        current = atlas["n1"].cartographer.require()
        for name in ("n1", "n2"):
            node = current.by_name(name)
            assert node is not None
            assert node.store == atlas[name].store != old[name]
            assert len(current.learned_by(node.store)) == 4
        for name in ("n1", "n2"):
            await atlas.run(name, partial(_vote_everywhere, atlas[name].store))
        final = atlas["n2"].cartographer.require()
        assert all(len(final.voting_homes(0, at)) == 6 for at in range(4))

    play(story)


def test_a_replaced_voter_votes_again() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        atlas.wipe("n1", "n2")
        await atlas.start("n1", "n2")
        await atlas.run("n5", lambda c: c.replace_lost("san=s0"))
        atlas.kill("n3", "n4")
        assert (await atlas.run("n6", lambda c: c.change(raise_era))).era == 2

    play(story)


def test_a_node_that_missed_a_replacement_still_replaces_what_is_lost_now() -> None:
    """It had looked at its own, older map, and said that nothing was left to do."""

    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        atlas.cut_off("n6")
        atlas.wipe("n1")
        await atlas.start("n1")
        await atlas.run("n5", lambda c: c.replace_lost("n1"))
        atlas.wipe("n1")
        await atlas.start("n1")
        atlas.network.unblock_all()
        assert atlas["n6"].cartographer.epoch < atlas["n5"].cartographer.epoch
        await atlas.run("n6", lambda c: c.replace_lost("n1"))
        assert atlas["n6"].cartographer.require().node(atlas["n1"].store) is not None

    play(story)


@pytest.mark.parametrize(
    ("start", "said"),
    [((), "no store answers"), (("n2",), "no store answers")],
)
def test_a_lost_node_without_a_new_store_is_refused_with_the_way_to_start_one(
    start: tuple[str, ...], said: str
) -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        atlas.wipe("n1", "n2")
        if start:
            await atlas.start(*start)
        with pytest.raises(Refused) as refused:
            await atlas.run("n5", lambda c: c.replace_lost("san=s0"))
        assert said in refused.value.evidence[0].said
        assert "holdfast-node" in refused.value.hint
        assert epochs(atlas) <= {0, 1}

    play(story)


def test_a_node_that_is_not_lost_is_not_replaced() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        with pytest.raises(Refused) as refused:
            await atlas.run("n5", lambda c: c.replace_lost("n1"))
        assert "it is not lost" in refused.value.evidence[0].said

    play(story)


def test_three_of_six_are_refused_with_the_partitions_named() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        atlas.wipe("n1", "n2")
        await atlas.start("n1", "n2")
        await atlas.run("n5", lambda c: c.replace_lost("san=s0"))
        atlas.wipe("n3")
        await atlas.start("n3")
        with pytest.raises(Refused) as refused:
            await atlas.run("n5", lambda c: c.replace_lost("n3"))
        assert "4 partitions" in refused.value.message
        assert "keep 3 of 6" in refused.value.evidence[0].said

    play(story)


def test_a_store_of_another_cluster_does_not_take_a_lost_nodes_place() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        atlas.wipe("n1")
        await atlas.start("n1")
        foreign = replace(cluster(nodes(6)), epoch=Epoch(1))
        await atlas["n1"].cartographer.adopt(ProtobufBodies().encode(foreign))
        with pytest.raises(Refused) as refused:
            await atlas.run("n5", lambda c: c.replace_lost("n1"))
        assert "belongs to cluster" in refused.value.evidence[0].said

    play(story)
