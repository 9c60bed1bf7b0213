"""Who waits for a turn to be made anew in a pool's code, and who does not."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio

import pytest

from holdfast_node.core.api import Margin
from holdfast_node.core.head import Ballot, Manifest
from holdfast_node.core.ids import StoreId
from holdfast_node.core.topology import Topology
from holdfast_node.services.budget import Budget
from holdfast_node.services.datapath import DataPath, KeyPlace
from holdfast_node.services.mending import Census, Mended, Mender, take_census
from holdfast_node.services.node import Node
from holdfast_node.services.recoding import AT_ONCE, Recoder
from holdfast_node.services.wards import Found
from tests.support.small_clusters import SmallCluster, payload_of, run_story

KEY = b"in the former code"


class Mending(Mender):
    """Says that all is well now, or that it is not."""

    def __init__(self, path: DataPath) -> None:
        super().__init__(path, Budget("repair", 0))
        self.result = Mended()
        self.mended = 0

    async def mend(
        self, place: KeyPlace, manifest: Manifest, census: Census, *, base: Ballot | None, deep: bool
    ) -> Mended:
        del place, manifest, census, base, deep
        self.mended += 1
        return self.result


class Bench:
    """A recoder both of whose turns are taken for long, and a key that is to be made anew."""

    def __init__(self, node: Node, found: Found, census: Census) -> None:
        self.mender = Mending(node.path)
        self.recoder = Recoder(node.path, self.mender)
        self.found = found
        self.census = census

    async def ends(self, *, deep: bool = False, census: Census | None = None) -> bool:
        """Whether it is through with the key although it has no turn."""
        (manifest,) = self.found.manifests
        mending = self.recoder.mend(self.found, manifest, census or self.census, base=None, deep=deep)
        try:
            _ = await asyncio.wait_for(mending, 5.0)
        except TimeoutError:
            return False
        return True


async def bench_of(small: SmallCluster, node: Node) -> Bench:
    head = await small.head(KEY)
    bucket, pool = await node.buckets.resolve("bucket")
    assert head.manifest is not None
    census = await take_census(node.path, [head.manifest.seed_id])
    bench = Bench(node, Found(KeyPlace(pool, bucket.id, KEY), head, (head.manifest,)), census)
    for _ in range(AT_ONCE):
        _ = await bench.recoder._turns.acquire()
    return bench


def test_what_is_grave_or_damaged_is_mended_before_its_turn_to_be_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A SAN was lost while a pool went to another code: what the next would take stood behind blobs of terabytes."""

    def is_in_former_code(found: Found, topology: Topology) -> bool:
        del found, topology
        return True

    monkeypatch.setattr(Found, "in_former_code", is_in_former_code)

    async def story(small: SmallCluster) -> None:
        await small.put(KEY, payload_of(9000))

        async def work(node: Node) -> None:
            bench = await bench_of(small, node)
            assert not await bench.ends(), "nothing is wrong with it"
            assert bench.mender.mended == 0
            assert await bench.ends(deep=True)
            (held,) = bench.census.found.values()
            lost = {name: stores for name, stores in held.items() if name[1] > 1}
            seed = bench.found.manifests[0].seed_id
            grave = Census(bench.census.topology, {seed: lost}, frozenset())
            assert await bench.ends(census=grave)
            assert bench.mender.mended == 2
            bench.mender.result = Mended(failed="its home is full")
            assert not await bench.ends(census=grave), "it may be saved by being made anew"
            silent = Census(bench.census.topology, {seed: lost}, frozenset(node.path.topology.stores))
            assert not await bench.ends(census=silent)
            assert bench.mender.mended == 3, "nobody lacks anything who could be given it"

        await small.at("n1", work)

    run_story(story)


def test_new_shards_are_compared_with_what_the_old_ones_survive_by_then() -> None:
    """A node was down when heal took the key in hand, and is back: the old shards survive more than they did."""
    poor = Margin((("node", 0), ("host", 0), ("san", 0)), full=False)

    async def story(small: SmallCluster) -> None:
        await small.put(KEY, payload_of(9000))

        async def work(node: Node) -> None:
            bench = await bench_of(small, node)
            for _ in range(AT_ONCE):
                bench.recoder._turns.release()
            bench.mender.result = Mended(waiting={StoreId(b"w" * 16)}, margin=poor)
            (old,) = bench.found.manifests
            before = Census(bench.census.topology, {}, frozenset())
            result = await bench.recoder._recode(bench.found.place, old, before)
            assert "it would survive fewer losses than it does" in result.failed

        await small.at("n1", work)

    run_story(story)
