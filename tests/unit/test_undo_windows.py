"""An operator sets a bucket's undo window anew: it holds for what is kept already."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from holdfast_node.core.api import BucketSettings
from holdfast_node.core.errors import VersionNotFound
from holdfast_node.core.head import Head
from holdfast_node.core.ids import BucketId
from holdfast_node.services.node import Node
from holdfast_node.services.worker import Work
from tests.support.small_clusters import BUCKET, SmallCluster, pass_time, payload_of, run_story

WINDOW_S: Final = 200
Expire = Callable[[int, BucketId, bytes, int], Awaitable[Head]]


async def _never(*_: object) -> Work:
    return Work.IDLE


async def _expire(node: Node) -> None:
    """One round of ending windows, by what the node knows of buckets."""
    start = await node.collector._expiry.step(b"")
    while start:
        start = await node.collector._expiry.step(start)


async def _two_versions(small: SmallCluster) -> int:
    """The older one's number. Collectors do nothing but what the test tells them, and know the bucket's window."""
    for machine in small.cluster.running():
        vars(small.node(machine.name).collector)["work_once"] = _never
    first = await small.put(b"k", payload_of(20_000))
    await small.put(b"k", payload_of(700))
    bucket, _ = await small.bucket()
    for machine in small.cluster.running():
        await small.at(machine.name, lambda node: node.bucket_book.facts(bucket.id))
    return first.version


def test_a_longer_one_holds_at_once_whatever_was_known_before() -> None:
    async def story(small: SmallCluster) -> None:
        first = await _two_versions(small)
        await pass_time(WINDOW_S + 10)
        await small.at(
            "n1", lambda node: node.buckets.change(BUCKET, BucketSettings(undo_seconds=2 * WINDOW_S))
        )
        for machine in small.cluster.running():
            await small.at(machine.name, _expire)
        assert await small.get(b"k", version=first) == payload_of(20_000)
        await pass_time(WINDOW_S)
        for machine in small.cluster.running():
            await small.at(machine.name, _expire)
        with pytest.raises(VersionNotFound):
            await small.get(b"k", version=first)

    run_story(story, undo_seconds=WINDOW_S)


def test_a_longer_one_holds_also_in_the_midst_of_a_round() -> None:
    """Many keys were asked about by the old window before it was set: only what was being given up right then goes."""
    keys = [b"k%d" % number for number in range(12)]

    async def story(small: SmallCluster) -> None:
        await _two_versions(small)
        first: dict[bytes, int] = {}
        for key in keys:
            first[key] = (await small.put(key, payload_of(2000))).version
            await small.put(key, payload_of(700))
        await pass_time(WINDOW_S + 10)
        given_up: list[bytes] = []
        for machine in small.cluster.running():
            registers = small.node(machine.name).registers

            async def expire(
                pool: int, bucket: BucketId, key: bytes, below: int, usual: Expire = registers.expire
            ) -> Head:
                if not given_up:
                    longer = BucketSettings(undo_seconds=10 * WINDOW_S)
                    await small.at("n2", lambda node: node.buckets.change(BUCKET, longer))
                given_up.append(key)
                return await usual(pool, bucket, key, below)

            vars(registers)["expire"] = expire
        for machine in small.cluster.running():
            await small.at(machine.name, _expire)
        assert len(given_up) == 1
        for key in set(keys) - set(given_up):
            assert await small.get(key, version=first[key]) == payload_of(2000)

    run_story(story, undo_seconds=WINDOW_S)


@pytest.mark.parametrize("window_s", [5, 0])
def test_a_shorter_one_ends_sooner_also_what_was_kept_before(window_s: int) -> None:
    async def story(small: SmallCluster) -> None:
        first = await _two_versions(small)
        await pass_time(10)
        await small.at("n1", lambda node: node.buckets.change(BUCKET, BucketSettings(undo_seconds=window_s)))
        for machine in small.cluster.running():
            small.node(machine.name).bucket_book.forget()  # as every round does when it begins
            await small.at(machine.name, _expire)
        with pytest.raises(VersionNotFound):
            await small.get(b"k", version=first)
        assert await small.get(b"k") == payload_of(700)

    run_story(story, undo_seconds=WINDOW_S)


def test_a_store_that_dies_again_and_again_counts_its_time_all_the_same() -> None:
    """It was noted once a minute: nothing ever expired on a node that was killed before each was over."""

    async def story(small: SmallCluster) -> None:
        machine = small.machine("n2")
        for life in range(1, 6):
            for _ in range(4):
                await pass_time(5)
                await small.put(b"k", payload_of(100))
            small.cluster.stop_at_once(machine)
            await small.cluster.boot(machine)
            assert small.node("n2").store.store_time_s >= life * 10

    run_story(story)
