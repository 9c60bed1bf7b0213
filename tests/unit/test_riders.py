"""What is noted with the next write, and what a store that is all but full may still write down."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from holdfast_node.core.errors import StoreFull
from holdfast_node.core.ids import BootId, StoreId
from holdfast_node.core.records import MapRecord, PeerRecord, ScrubRecord
from holdfast_node.services.store import Entry, Store, StoreSettings
from tests.support import stores
from tests.support.compacting import no_rest
from tests.support.stores import KIB, Bench, register

PEER: Final = StoreId(b"peer".ljust(16))
OLDER: Final = PeerRecord(PEER, 3, BootId(b"three".ljust(16)), 20)
YOUNGER: Final = PeerRecord(PEER, 4, BootId(b"four".ljust(16)), 15)
SCRUBBED: Final = ScrubRecord(1, 0, b"", 0, 0)
MAP_BYTES: Final = 40 * KIB
SETTINGS: Final = StoreSettings(volume_bytes=256 * KIB, batch_bytes_max=64 * KIB, reserve_volumes=2)


async def write(store: Store, version: int = 1) -> None:
    await store.append([Entry(register(b"k", version))])


async def fill(store: Store) -> None:
    """With registers, until there is only the room that is left to compaction."""
    with pytest.raises(StoreFull):  # noqa: PT012 - it has to fill up first
        for version in range(1, 10_000):
            await write(store, version)


async def begin_last_volume(store: Store) -> None:
    await fill(store)
    _ = await store.compactor.survey(rest_s=no_rest)
    _ = await store.compactor.copy(1, rest_s=no_rest)


def test_what_is_noted_later_stands_whatever_waits_before_it() -> None:
    """Bulk waits while others are written: a note that went with it would come behind a younger one."""

    async def story() -> None:
        bench = Bench()
        async with bench.store() as store:
            store.piggyback(b"peer", Entry(OLDER))
            bulk = store.append([stores.cell(stores.blob_id(1), 0, b"x" * 100)], bulk=True)
            control = store.append([Entry(YOUNGER)])
            await asyncio.gather(bulk, control)
            assert store.peer(PEER) == YOUNGER
            await write(store)
        async with bench.store() as store:
            assert store.peer(PEER) == YOUNGER

    asyncio.run(story())


def test_what_waits_behind_bulk_rides_with_the_next_that_is_none() -> None:
    async def story() -> None:
        async with Bench().store() as store:
            store.piggyback(b"peer", Entry(OLDER))
            await store.append([stores.cell(stores.blob_id(1), 0, b"x" * 100)], bulk=True)
            assert store.peer(PEER) is None
            await write(store)
            assert store.peer(PEER) == OLDER

    asyncio.run(story())


def test_a_store_in_its_last_volume_notes_who_is_back_and_no_more() -> None:
    """Or no node of a full cluster that starts again could vote, and nobody could decide on a map with more nodes."""

    async def story() -> None:
        async with Bench(capacity_bytes=6 * 256 * KIB).store(settings=SETTINGS) as store:
            await begin_last_volume(store)
            await store.append([Entry(OLDER)])
            assert store.peer(PEER) == OLDER
            refused: tuple[list[Entry], ...] = ([Entry(SCRUBBED)], [Entry(YOUNGER), Entry(SCRUBBED)], [])
            for entries in refused:
                with pytest.raises(StoreFull):
                    await store.append(entries)

    asyncio.run(story())


def test_a_full_store_without_garbage_learns_of_new_maps() -> None:
    """Compaction has nothing to copy, and so does not begin the last volume."""

    async def story() -> None:
        async with Bench(capacity_bytes=6 * 256 * KIB).store(settings=SETTINGS) as store:
            await fill(store)
            for number in range(2):
                await store.append([Entry(MapRecord(bytes([number]) * MAP_BYTES))])
            with pytest.raises(StoreFull):
                await write(store)
            assert store.compactor.room_bytes >= 128 * KIB

    asyncio.run(story())


def test_the_last_volume_is_compactions_after_a_restart_too() -> None:
    async def story() -> None:
        bench = Bench(capacity_bytes=6 * 256 * KIB)
        async with bench.store(settings=SETTINGS, clean=False) as store:
            await begin_last_volume(store)
        async with bench.store(settings=SETTINGS) as store:
            with pytest.raises(StoreFull):
                await write(store)
            assert store.compactor.room_bytes >= 128 * KIB

    asyncio.run(story())
