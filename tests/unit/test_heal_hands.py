"""Keys that are mended together end each in its own time."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from typing import Never

import pytest

from holdfast_node.core.cluster_map import ClusterMap
from holdfast_node.core.head import Ballot, Manifest
from holdfast_node.core.heal_order import HealOrder
from holdfast_node.core.ids import BucketId
from holdfast_node.core.messages import Reply, Request, StageCell
from holdfast_node.services.bucket_book import BucketBook
from holdfast_node.services.budget import Budget
from holdfast_node.services.datapath import KeyPlace
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.foreground import HealBounds
from holdfast_node.services.heal_hands import TOGETHER_S, Hands
from holdfast_node.services.mending import Census, Mended
from holdfast_node.services.node import Node
from holdfast_node.services.tasks import Tasks
from holdfast_node.services.wards import DeletedBuckets, Found, Looker, ailing_as_reported
from tests.support.small_clusters import (
    KIB,
    Serve,
    SmallCluster,
    pass_time,
    payload_of,
    run_story,
    until_healthy,
)
from tests.unit.test_quarantine import poison

GONE_WRONG = BucketId(b"gone wrong" + bytes(6))
KEYS = (b"small", b"large", b"other")
CANDIDATES = [b"hurt %d" % number for number in range(30)]


class Mending:
    """Mends at once, but for what is large."""

    def __init__(self) -> None:
        self.large = asyncio.Event()
        self.begun: list[bytes] = []

    async def mend(
        self, found: Found, manifest: Manifest, census: Census, *, base: Ballot | None, deep: bool
    ) -> Mended:
        del manifest, census, base, deep
        self.begun.append(found.place.key)
        if found.place.key == b"large":
            await self.large.wait()
        return Mended()


class Bench:
    """Hands of their own, beside those of a healthy cluster's node."""

    def __init__(self, node: Node) -> None:
        self.tasks = Tasks(node.path.events)
        self.mending, self.order, self.freed = Mending(), HealOrder(), asyncio.Event()
        self.hands = Hands(
            node.path,
            DeletedBuckets(node.bucket_book, node.closed_doors),
            HealBounds(Budget("repair", 0), node.foreground, self.tasks),
            self.order,
            up=frozenset,
            freed=self.freed,
        )
        vars(self.hands)["_mender"] = self.mending
        self._node = node

    async def report(self, *keys: bytes) -> None:
        bucket, pool = await self._node.buckets.resolve("bucket")
        for key in keys:
            self.order.add(ailing_as_reported(self._node.path.topology, KeyPlace(pool, bucket.id, key)))

    async def mend(self) -> None:
        await self.hands.mend(self.order.most_urgent(0.0, 16))

    def in_hand(self) -> list[bytes]:
        return [each.key for each in self.order.in_hand.values()]


async def bench_of(small: SmallCluster) -> Bench:
    for key in KEYS:
        await small.put(key, payload_of(3000))

    async def made(node: Node) -> Bench:
        return Bench(node)

    return await small.at("n1", made)


def test_a_large_blob_is_in_the_way_of_no_other_and_is_not_begun_twice() -> None:
    async def story(small: SmallCluster) -> None:
        bench = await bench_of(small)

        async def work(node: Node) -> None:
            began_s = asyncio.get_running_loop().time()
            await bench.report(b"small", b"large")
            await bench.mend()
            assert asyncio.get_running_loop().time() < began_s + 2 * TOGETHER_S
            assert bench.in_hand() == [b"large"]
            await bench.report(b"other")
            await bench.mend()
            assert sorted(bench.mending.begun) == sorted(KEYS)
            assert len(bench.order) == 1
            bench.freed.clear()
            bench.mending.large.set()
            await bench.freed.wait()
            assert not bench.in_hand()
            assert not len(bench.order)

        await small.at("n1", work)

    run_story(story)


def test_who_stops_ends_what_is_in_hand() -> None:
    async def story(small: SmallCluster) -> None:
        bench = await bench_of(small)

        async def work(node: Node) -> None:
            await bench.report(b"large")
            await bench.mend()
            await bench.tasks.close()
            assert not bench.in_hand()
            assert len(bench.order) == 1, "it is not in order"

        await small.at("n1", work)

    run_story(story)


def test_what_was_mended_while_homes_changed_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look for the new homes may have passed it before its shards were brought to those that had been its homes."""
    epoch = 1
    monkeypatch.setattr(ClusterMap, "unsettled_epoch", property(lambda _: epoch))

    async def story(small: SmallCluster) -> None:
        bench = await bench_of(small)

        async def work(node: Node) -> None:
            nonlocal epoch
            await bench.report(b"large")
            await bench.mend()
            epoch += 1
            bench.mending.large.set()
            await bench.freed.wait()
            assert len(bench.order) == 1
            await bench.mend()
            assert not len(bench.order)

        await small.at("n1", work)

    run_story(story)


def test_a_mistake_over_one_key_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is most urgent is first each time: nothing else was ever mended."""
    usual = BucketBook.is_gone

    async def mistaken(book: BucketBook, bucket: BucketId) -> bool:
        if bucket == GONE_WRONG:
            raise ArithmeticError("what nobody foresaw")
        return await usual(book, bucket)

    monkeypatch.setattr(BucketBook, "is_gone", mistaken)

    async def story(small: SmallCluster) -> None:
        bench = await bench_of(small)

        async def work(node: Node) -> None:
            wrong = ailing_as_reported(node.path.topology, KeyPlace(0, GONE_WRONG, b"wrong"))
            bench.order.add(wrong)
            await bench.report(b"small")
            await bench.mend()
            (left,) = bench.order.most_urgent(60.0, 16)
            assert (left.name, left.tries, left.why) == (
                wrong.name,
                1,
                "ArithmeticError('what nobody foresaw')",
            )

        await small.at("n1", work)

    run_story(story)


def test_a_look_that_meets_a_mistake_keeps_no_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is being looked through goes first: no other partition was looked through, and nothing mended meanwhile."""

    async def mistaken(*_: object) -> Never:
        raise ArithmeticError("what nobody foresaw")

    async def story(small: SmallCluster) -> None:
        await until_healthy(small)
        healer = small.node("n1").healer

        async def work(node: Node) -> None:
            topology, now_s = node.path.topology, asyncio.get_running_loop().time()
            for ward in healer._wards.values():
                ward.look_again()
            wrong = healer._next_ward(topology, now_s)
            assert wrong is not None
            with monkeypatch.context() as patch:
                patch.setattr(Looker, "look", mistaken)
                with pytest.raises(ArithmeticError):
                    await healer._look(topology, wrong)
            assert healer._next_ward(topology, now_s) is not wrong

        await small.at("n1", work)

    run_story(story)


async def first_of(small: SmallCluster, steward: str) -> bytes:
    for key in CANDIDATES:
        if (await small.homes(key))[0] == steward:
            return key
    raise AssertionError(f"{steward} is steward of none")


def test_damage_is_mended_while_a_large_blob_is_in_hand() -> None:
    """Its steward mended nothing else for the hours that took."""

    async def story(small: SmallCluster) -> None:
        await until_healthy(small)
        steward, *_, away = await small.homes(b"large")
        hurt = await first_of(small, steward)
        small.cluster.stop_at_once(small.machine(away))
        await pass_time(5)
        await small.put(b"large", payload_of(40 * 32 * KIB), at=steward)
        large = (await small.head(b"large", at=steward)).manifest
        assert large is not None
        await small.cluster.boot(small.machine(away))
        begun = False

        async def is_slow(usual: Serve, caller: Caller, request: Request) -> Reply:
            nonlocal begun
            if isinstance(request, StageCell) and request.seed_id == large.seed_id:
                begun = True
                await pass_time(5)
            return await usual(caller, request)

        small.twist(away, StageCell, is_slow)
        while not begun:
            await pass_time(0.5)
        await poison(small, hurt, 1)
        await pass_time(5)
        manifest = (await small.head(hurt)).manifest
        assert manifest is not None
        assert len(small.sealed(manifest.seed_id)) == 6
        assert small.node(steward).healer.status().state == "busy"

    run_story(story)
