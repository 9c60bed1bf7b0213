"""An operator sets a bucket's undo window anew: it holds for what is kept already."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Final

import pytest

from holdfast_node.core.errors import VersionNotFound
from holdfast_node.services.node import Node
from holdfast_node.services.worker import Work
from tests.support.small_clusters import BUCKET, SmallCluster, pass_time, payload_of, run_story

WINDOW_S: Final = 200


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
        await small.at(machine.name, lambda node: node.collector._book.facts(bucket.id))
    return first.version


def test_a_longer_one_holds_at_once_whatever_was_known_before() -> None:
    async def story(small: SmallCluster) -> None:
        first = await _two_versions(small)
        await pass_time(WINDOW_S + 10)
        await small.at("n1", lambda node: node.buckets.set_undo(BUCKET, 2 * WINDOW_S))
        for machine in small.cluster.running():
            await small.at(machine.name, _expire)
        assert await small.get(b"k", version=first) == payload_of(20_000)
        await pass_time(WINDOW_S)
        for machine in small.cluster.running():
            await small.at(machine.name, _expire)
        with pytest.raises(VersionNotFound):
            await small.get(b"k", version=first)

    run_story(story, undo_seconds=WINDOW_S)


@pytest.mark.parametrize("window_s", [5, 0])
def test_a_shorter_one_ends_sooner_also_what_was_kept_before(window_s: int) -> None:
    async def story(small: SmallCluster) -> None:
        first = await _two_versions(small)
        await pass_time(10)
        await small.at("n1", lambda node: node.buckets.set_undo(BUCKET, window_s))
        for machine in small.cluster.running():
            small.node(machine.name).collector._book.forget()  # as every round does when it begins
            await small.at(machine.name, _expire)
        with pytest.raises(VersionNotFound):
            await small.get(b"k", version=first)
        assert await small.get(b"k") == payload_of(700)

    run_story(story, undo_seconds=WINDOW_S)
