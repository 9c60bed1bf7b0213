"""Healing's own rules, one by one: who is believed, what is sealed, what is dropped, what counts as healed."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from holdfast_node.core.errors import StoreFull, Unavailable
from holdfast_node.core.geometry import layout_of
from holdfast_node.core.head import NO_BALLOT, Manifest
from holdfast_node.core.ids import BlobId, StoreId
from holdfast_node.core.messages import FindShards, Reply, Request, StageCell, StageWhole
from holdfast_node.ports import Buffer, Codec
from holdfast_node.services.budget import KEEP_BYTES, Budget
from holdfast_node.services.datapath import KeyPlace, PartTarget, source_of
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.mending import take_census
from holdfast_node.services.node import Node
from holdfast_node.services.rebuild import Rebuild
from tests.support.small_clusters import Serve, SmallCluster, pass_time, payload_of, run_story


async def is_full(usual: Serve, caller: Caller, request: Request) -> Reply:
    raise StoreFull("planted")


async def says_nothing(usual: Serve, caller: Caller, request: Request) -> Reply:
    raise Unavailable("planted")


def is_expected(store: StoreId, seed_id: BlobId, part: int, index: int) -> None:
    pass


async def put(small: SmallCluster, size: int) -> tuple[KeyPlace, Manifest]:
    await small.put(b"k", payload_of(size))
    manifest = (await small.head(b"k")).manifest
    assert manifest is not None
    bucket, pool = await small.bucket()
    return KeyPlace(pool, bucket.id, b"k"), manifest


def store_of(small: SmallCluster, name: str) -> StoreId:
    return small.node(name).store.superblock.store


def test_a_store_that_does_not_say_what_it_holds_is_not_taken_to_hold_nothing() -> None:
    async def story(small: SmallCluster) -> None:
        _, manifest = await put(small, 2000)
        small.twist("n3", FindShards, says_nothing)
        dead = store_of(small, "n4")
        small.cluster.stop_at_once(small.machine("n4"))
        await pass_time(5)
        census = await small.at("n1", lambda node: take_census(node.path, [manifest.seed_id]))
        assert census.silent == {store_of(small, "n3"), dead}
        assert len(census.held(manifest.seed_id, 0)) == 4

    run_story(story)


class LyingCodec:
    """Gives back cells that nobody encoded: broken memory, or a broken library."""

    def __init__(self, usual: Codec) -> None:
        self._usual = usual

    def encode(self, code: str, data: Sequence[Buffer]) -> list[bytes]:
        return self._usual.encode(code, data)

    def decode(self, code: str, cells: Mapping[int, Buffer], wanted: Sequence[int]) -> list[bytes]:
        return [bytes(len(cell)) for cell in self._usual.decode(code, cells, wanted)]


@pytest.mark.parametrize("size", [2000, 30_000])
def test_what_was_rebuilt_into_something_else_is_not_sealed(size: int) -> None:
    async def story(small: SmallCluster) -> None:
        place, manifest = await put(small, size)

        async def rebuild(node: Node) -> Rebuild:
            code = layout_of(manifest).code
            path = replace(node.path, codec=LyingCodec(node.path.codec))
            source = source_of(path.topology, place, manifest, 0, code)
            target = PartTarget(
                place, manifest.seed_id, 0, source.part_size, code, manifest.stripe_bytes, NO_BALLOT
            )
            elsewhere = source.candidates[1][0]
            source.candidates[0] = []
            budget = Budget("repair", KEEP_BYTES)
            rebuild = Rebuild(
                path,
                source=source,
                target=target,
                targets={0: elsewhere},
                budget=budget,
                damage=is_expected,
            )
            assert await rebuild.run() == {}
            return rebuild

        failed = (await small.at("n1", rebuild)).failed
        assert "rebuilt into something else" in failed[0].message
        assert await small.get(b"k") == payload_of(size)

    run_story(story)


def test_nothing_counts_as_healed_while_something_ails() -> None:
    """What is on record outlives the steward: the next one would not look again."""

    async def story(small: SmallCluster) -> None:
        await put(small, 2000)
        small.cluster.wipe(small.machine("n3"))
        await pass_time(5)
        await small.cluster.boot(small.machine("n3"), format_if_empty=True)
        for request in (StageWhole, StageCell):
            small.twist("n3", request, is_full)
        await small.cluster.admin(small.machine("n1"), lambda admin: admin.replace_lost("n3"))
        await pass_time(60)
        topology = small.node("n1").path.topology
        joined = max(node.joined_epoch for node in topology.map.nodes)
        bucket, pool = await small.bucket()
        partition = topology.key_partition(pool, bucket.id, b"k")
        on_record = [
            machine.node.store.partition(pool, partition).healed_epoch
            for machine in small.cluster.running()
            if machine.node
        ]
        assert max(on_record) < joined

    run_story(story)
