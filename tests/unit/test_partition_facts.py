"""Several write down what they know of one partition, and none of them undoes what another wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace

from holdfast_node.core.records import MapRecord
from tests.support.stores import Bench


def run(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(scenario())


def test_changes_of_a_partition_by_several_do_not_undo_each_other() -> None:
    async def scenario() -> None:
        async with Bench().store() as store:
            await asyncio.gather(
                store.partitions.change({(0, 3): lambda own: replace(own, version_floor=7)}),
                store.partitions.change({(0, 3): lambda own: replace(own, healed_epoch=5)}),
                store.partitions.change({(0, 3): lambda own: replace(own, not_voting="rot")}),
                store.partitions.change({(0, 3): lambda own: own}, beside=[MapRecord(b"map")]),
            )
            own = store.partition(0, 3)
            assert (own.version_floor, own.healed_epoch, own.not_voting) == (7, 5, "rot")
            assert store.map() == b"map"
            durable = store.durable_sequence
            await store.partitions.change({(0, 3): lambda own: replace(own, version_floor=7)})
            assert store.durable_sequence == durable, "nothing is written that changes nothing"

    run(scenario)


def test_who_stops_waiting_for_a_change_of_a_partition_has_still_made_it() -> None:
    async def scenario() -> None:
        async with Bench().store() as store:
            started = asyncio.get_running_loop().create_task(
                store.partitions.change({(0, 3): lambda own: replace(own, version_floor=7)})
            )
            await asyncio.sleep(0)
            started.cancel()
            await store.partitions.change({(0, 3): lambda own: replace(own, healed_epoch=5)})
            own = store.partition(0, 3)
            assert (own.version_floor, own.healed_epoch) == (7, 5)

    run(scenario)
