"""A disk without room for the index: the store refuses writers, reads go on, and it goes on by itself (ADR 0094)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Final

import pytest

from holdfast_node.core.errors import StoreFailed, StoreFull, StoreRefused
from holdfast_node.core.ids import BootId, StoreId
from holdfast_node.core.records import PeerRecord
from holdfast_node.services.log.committer import INDEX_RETRY_S
from holdfast_node.services.log.volume import volume_name
from holdfast_node.services.store import Entry, Store
from tests.sim.disk import SimDisk
from tests.sim.index import SimIndex
from tests.sim.loop import SimLoop
from tests.support import stores
from tests.support.compacting import no_rest
from tests.support.small_clusters import pass_time
from tests.support.stores import BUCKET, Bench, register

MARK: Final = PeerRecord(StoreId(b"p" * 16), 2, BootId(b"q" * 16), 9)
LONG_S: Final = 10 * INDEX_RETRY_S


class FullBench(Bench):
    """A disk that has room for the index or not."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.delay_s = 0.0

    async def open(self) -> Store:
        index = SimIndex(self.rows, is_full=lambda: self.full)
        disk = SimDisk(self.platter, chooser=self.random, delay_s=lambda: self.delay_s)
        return await stores.open_store(disk, index, events=self.events)

    @property
    def told(self) -> list[str]:
        return [event for event, _ in self.events.seen if event.startswith("index_")]


def run(story: Callable[[FullBench], Coroutine[None, None, None]]) -> None:
    SimLoop(1).run(story(FullBench()))


def test_a_store_whose_index_has_no_room_goes_on_by_itself_once_there_is_some() -> None:
    async def story(bench: FullBench) -> None:
        store = await bench.open()
        await store.append([Entry(register(b"k", 1))])
        bench.full = True
        durable = store.append([Entry(register(b"k", 2))])
        await pass_time(LONG_S)
        assert not durable.done(), "nobody may be told of what cannot be read"
        assert await store.register(BUCKET, b"k") == register(b"k", 1)
        bench.full = False
        await durable
        assert await store.register(BUCKET, b"k") == register(b"k", 2)
        await store.append([Entry(register(b"k", 3))])
        assert bench.told == ["index_full", "index_has_room"]
        await store.close()
        again = await bench.open()
        assert await again.register(BUCKET, b"k") == register(b"k", 3)
        await again.close()

    run(story)


@pytest.mark.parametrize("bulk", [False, True], ids=["control", "bulk"])
def test_it_refuses_whoever_comes_meanwhile(*, bulk: bool) -> None:
    async def story(bench: FullBench) -> None:
        store = await bench.open()
        bench.full = True
        first = store.append([Entry(register(b"k", 1))])
        await pass_time(LONG_S)
        assert store.is_short, "others choose another home for their shards"
        with pytest.raises(StoreFull, match="index"):
            _ = store.append([Entry(register(b"k", 2))], bulk=bulk)
        bench.full = False
        await first
        await store.append([Entry(register(b"k", 2))], bulk=bulk)
        await store.close()

    run(story)


def test_what_is_marked_as_broken_meanwhile_stays_so() -> None:
    async def story(bench: FullBench) -> None:
        store = await bench.open()
        await store.append([Entry(register(b"broken", 1)), Entry(register(b"k", 1))])
        bench.full = True
        durable = store.append([Entry(register(b"k", 2))])
        await pass_time(LONG_S)
        store.mark_rotten(BUCKET, b"broken", store.durable_sequence - 1)
        bench.full = False
        await durable
        await store.close()
        again = await bench.open()
        assert again.rotten_keys() == ((BUCKET, b"broken"),)
        assert await again.register(BUCKET, b"k") == register(b"k", 2)
        await again.close()

    run(story)


def test_no_feed_passes_what_cannot_be_seen_yet() -> None:
    async def story(bench: FullBench) -> None:
        store = await bench.open()
        await store.append([Entry(register(b"a", 1))])
        bench.full = True
        durable = store.append([Entry(register(b"k", 1))])
        await pass_time(LONG_S)
        seen = store.changes(0, 0, 0, 100)
        assert [change.key for change in seen.keys] == [b"a"]
        bench.full = False
        await durable
        assert [change.key for change in store.changes(0, 0, seen.through, 100).keys] == [b"k"]
        await store.close()

    run(story)


def test_who_is_queued_is_refused_like_who_comes() -> None:
    """What they hold while they wait (a budget for bytes) is what readers need."""

    async def story(bench: FullBench) -> None:
        store = await bench.open()
        await store.append([Entry(register(b"before", 1))])
        bench.full, bench.delay_s = True, 1.0
        first = store.append([Entry(register(b"k", 1))])
        await pass_time(0.5)
        queued = store.append([Entry(register(b"other", 1))], bulk=True)
        await pass_time(LONG_S)
        assert queued.done()
        with pytest.raises(StoreFull, match="index"):
            await queued
        assert not first.done()
        bench.full = False
        await first
        await store.close()

    run(story)


def test_riders_of_a_refused_append_ride_with_the_next() -> None:
    async def story(bench: FullBench) -> None:
        store = await bench.open()
        bench.full = True
        first = store.append([Entry(register(b"k", 1))])
        await pass_time(LONG_S)
        store.piggyback(b"mark", Entry(MARK))
        with pytest.raises(StoreFull):
            _ = store.append([Entry(register(b"k", 2))])
        bench.full = False
        await first
        await store.append([Entry(register(b"k", 2))])
        assert store.peer(MARK.store) == MARK
        await store.close()

    run(story)


def test_a_close_that_meets_a_full_index_ends() -> None:
    async def story(bench: FullBench) -> None:
        store = await bench.open()
        await store.append([Entry(register(b"k", 1))])
        bench.full = True
        await asyncio.wait_for(store.close(), LONG_S)
        bench.full = False
        again = await bench.open()
        assert await again.register(BUCKET, b"k") == register(b"k", 1)
        await again.close()

    run(story)


def test_the_log_leaves_some_room_to_the_index() -> None:
    async def story(bench: FullBench) -> None:
        store = await bench.open()
        room = store.capacity_bytes
        await store.close()
        settings = replace(stores.SMALL, index_room_bytes=room // 2)
        again = await stores.open_store(
            SimDisk(bench.platter, chooser=bench.random), SimIndex(bench.rows), settings=settings
        )
        assert again.capacity_bytes == room - room // 2
        await again.close()

    run(story)


def test_it_can_be_closed_meanwhile_and_loses_nothing() -> None:
    async def story(bench: FullBench) -> None:
        store = await bench.open()
        bench.full = True
        durable = store.append([Entry(register(b"k", 1))])
        await pass_time(LONG_S)
        await store.close()
        with pytest.raises(StoreFailed, match="no room"):
            await durable
        bench.full = False
        again = await bench.open()
        assert await again.register(BUCKET, b"k") == register(b"k", 1)
        await again.close()

    run(story)


def test_a_store_does_not_start_where_its_index_has_no_room_and_says_so() -> None:
    async def story(bench: FullBench) -> None:
        store = await bench.open()
        await store.append([Entry(register(b"k", 1))])
        await store.close()
        bench.full = True
        with pytest.raises(StoreRefused, match="no room"):
            await bench.open()
        bench.full = False
        again = await bench.open()
        assert await again.register(BUCKET, b"k") == register(b"k", 1)
        await again.close()

    run(story)


def test_no_volume_goes_while_an_index_that_needs_it_cannot_be_made_durable() -> None:
    async def story(bench: FullBench) -> None:
        store = await bench.open()
        version = 0
        while store.compactor.end.volume < 4:
            version += 1
            await store.append([Entry(register(b"k", version))])
        await store.compactor.survey(rest_s=no_rest)
        await store.compactor.copy(2, rest_s=no_rest)
        bench.full = True
        with pytest.raises(StoreFull, match="index"):
            await store.compactor.remove(2)
        assert volume_name(2) in bench.platter.files
        bench.full = False
        await store.compactor.remove(2)
        await store.close()
        again = await bench.open()
        assert await again.register(BUCKET, b"k") == register(b"k", version)
        await again.close()

    run(story)
