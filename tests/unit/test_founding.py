"""How a cluster is born, once, whoever asks and whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from holdfast_node.core.errors import Refused
from tests.support.atlas import Atlas, epochs, founded, pass_time, play
from tests.support.maps import seed


def test_all_nodes_adopt_the_first_map() -> None:
    async def story(atlas: Atlas) -> None:
        await atlas.start()
        reply = await atlas.run("n3", lambda c: c.init(seed()))
        assert (reply.epoch, reply.already, reply.warnings) == (1, False, ())
        assert epochs(atlas) == {1}
        assert {member.process.store.superblock.cluster_id for member in atlas.running()} == {
            reply.cluster_id
        }

    play(story)


def test_a_second_init_finds_the_same_cluster() -> None:
    async def story(atlas: Atlas) -> None:
        await founded(atlas)
        first = atlas["n1"].cartographer.require().map.cluster_id
        reply = await atlas.run("n2", lambda c: c.init(seed()))
        assert (reply.cluster_id, reply.already) == (first, True)

    play(story)


@pytest.mark.parametrize("number", range(12))
def test_racing_inits_end_in_one_cluster(number: int) -> None:
    async def story(atlas: Atlas) -> None:
        await atlas.start()
        replies = await asyncio.gather(
            *(atlas.run(name, lambda c: c.init(seed())) for name in ("n1", "n3", "n6"))
        )
        assert len({reply.cluster_id for reply in replies}) == 1
        assert len({member.cartographer.encoded for member in atlas.running()}) == 1

    play(story, number=number)


def test_an_init_without_all_stores_names_the_missing_one_and_changes_nothing() -> None:
    async def story(atlas: Atlas) -> None:
        await atlas.start("n1", "n2", "n3", "n4", "n5")
        with pytest.raises(Refused) as refused:
            await atlas.run("n1", lambda c: c.init(seed()))
        assert [evidence.who for evidence in refused.value.evidence] == ["n6"]
        assert epochs(atlas) == {0}
        await atlas.start("n6")
        await atlas.run("n1", lambda c: c.init(seed()))
        assert epochs(atlas) == {1}

    play(story)


@pytest.mark.parametrize("number", range(10))
def test_a_half_done_init_is_finished_by_the_next_after_any_crash(number: int) -> None:
    async def story(atlas: Atlas) -> None:
        await atlas.start()
        atlas.begin("n1", lambda c: c.init(seed()))
        for _ in range(number):
            await pass_time(0.0015)
        names = list(atlas.members)
        atlas.kill(*names, power=True)
        await atlas.start()
        reply = await atlas.run("n4", lambda c: c.init(seed()))
        assert {member.cartographer.epoch for member in atlas.running()} == {1}
        assert {m.cartographer.require().map.cluster_id for m in atlas.running()} == {reply.cluster_id}

    play(story, number=number)


def test_a_store_of_another_cluster_is_named() -> None:
    async def story(atlas: Atlas) -> None:
        small = seed(3, 3, code="rs:1+1")
        await atlas.start()
        await atlas.run("n1", lambda c: c.init(small))
        with pytest.raises(Refused, match="exists already"):
            await atlas.run("n5", lambda c: c.init(seed()))

    play(story)


def test_a_node_that_is_not_in_the_seed_does_not_found_a_cluster() -> None:
    async def story(atlas: Atlas) -> None:
        await atlas.start()
        with pytest.raises(Refused, match="not in the seed"):
            await atlas.run("n5", lambda c: c.init(seed(3, 3, code="rs:1+1")))

    play(story)


@pytest.mark.parametrize("number", range(12))
def test_two_seeds_that_share_nodes_never_both_found_a_cluster(number: int) -> None:
    whole = seed(9, 9, code="rs:2+1")
    first = replace(whole, nodes=whole.nodes[:6])
    second = replace(whole, nodes=whole.nodes[3:])

    async def story(atlas: Atlas) -> None:
        await atlas.start()

        def part(what: str) -> None:
            """Once everybody has met, each side reaches a majority of its seed, and not the other's."""
            if "MapPrepare" in what:
                for one, other in (("n1", "n5"), ("n1", "n6"), ("n9", "n4")):
                    atlas.network.block(atlas[one].address, atlas[other].address)
                    atlas.network.block(atlas[other].address, atlas[one].address)

        atlas.network.note = part
        atlas.begin("n1", lambda c: c.init(first))
        atlas.begin("n9", lambda c: c.init(second))
        await pass_time(60)
        assert len({m.process.store.superblock.cluster_id for m in atlas.running()} - {b""}) <= 1
        assert len({m.cartographer.encoded for m in atlas.running()} - {b""}) <= 1

    play(story, number=number, plan=whole)
