"""Uploads that take long: nodes go, come back empty, and stop, while parts are sealed and nothing is named yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import pytest

from holdfast_node.core.api import PutOptions
from holdfast_node.core.errors import StoreFull, Unavailable
from holdfast_node.core.messages import Reply, Request, StageCell, StageWhole
from holdfast_node.services.dispatcher import Caller
from tests.support.small_clusters import (
    BUCKET,
    TWELVE,
    Serve,
    SmallCluster,
    pass_time,
    payload_of,
    run_story,
    until_healthy,
)

PART_BYTES: Final = 32 * 1024
PARTS: Final = 6
KEY: Final = b"k"


class Upload:
    """Its last part comes when `gate` opens."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def chunks(self) -> AsyncIterator[bytes]:
        data = payload_of(PART_BYTES * PARTS)
        for at in range(0, len(data), 4096):
            if at >= PART_BYTES * (PARTS - 1):
                await self.gate.wait()
            yield data[at : at + 4096]

    async def put(self, small: SmallCluster, at: str) -> object:
        options = PutOptions(size=PART_BYTES * PARTS)
        return await small.call(at, lambda blobs: blobs.put(BUCKET, KEY, options, self.chunks()))


def holders(small: SmallCluster) -> dict[tuple[bytes, int], set[str]]:
    """Of every part but the first: who has shards of it."""
    held: dict[tuple[bytes, int], set[str]] = {}
    for machine in small.cluster.running():
        assert machine.node is not None
        for seed in machine.node.store.inventory.seeds(b"", 10_000)[0]:
            for shard in seed.shards:
                if shard.part:
                    held.setdefault((shard.seed_id, shard.part), set()).add(machine.name)
    return held


def test_no_upload_is_acked_whose_early_part_is_under_the_floor() -> None:
    async def story(small: SmallCluster) -> None:
        await until_healthy(small)
        homes = await small.homes(KEY)
        upload = Upload()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(refused(small, upload, homes[0]))
            await pass_time(30)
            stop = next(
                chosen
                for names in holders(small).values()
                for chosen in [[*sorted(names - set(homes)), *sorted(names & set(homes[1:]))[:2]][:3]]
                if len(names) == 6 and len(chosen) == 3 and len(set(chosen) & set(homes)) <= 2
            )
            for name in stop:
                small.cluster.stop_at_once(small.machine(name))
            await pass_time(10)
            upload.gate.set()
            await task

    async def refused(small: SmallCluster, upload: Upload, at: str) -> None:
        with pytest.raises(Unavailable, match="within reach"):
            await upload.put(small, at)

    run_story(story, topology=TWELVE)


def test_what_an_upload_names_at_a_store_that_was_replaced_meanwhile_is_made_again() -> None:
    """Heal had passed the replacement before the head was decided, and the steward that took note was started again."""

    async def story(small: SmallCluster) -> None:
        await until_healthy(small)
        homes = await small.homes(KEY)
        steward, asker, lost = homes[0], homes[1], homes[-1]
        upload = Upload()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(upload.put(small, asker))
            await pass_time(20)
            small.cluster.wipe(small.machine(lost))
            await pass_time(3)
            await small.cluster.boot(small.machine(lost), format_if_empty=True)
            small.machine(lost).wiped = False
            await small.at(asker, lambda node: node.admin.replace_lost(lost))
            await until_healthy(small, 600)
            full = True

            async def refuse(usual: Serve, caller: Caller, request: Request) -> Reply:
                if full and isinstance(request, StageCell | StageWhole) and request.mending:
                    raise StoreFull("planted")
                return await usual(caller, request)

            small.twist(lost, StageCell, refuse)
            small.twist(lost, StageWhole, refuse)
            upload.gate.set()
            await task
        await pass_time(2)
        small.cluster.stop_at_once(small.machine(steward))
        await small.cluster.boot(small.machine(steward))
        await pass_time(60)
        full = False
        await until_healthy(small, 600)
        found = await small.cluster.admin(
            small.machine(asker), lambda admin: admin.explain(bucket=BUCKET, key=KEY)
        )
        assert not [(shard.part, shard.index) for shard in found.shards if not shard.found_at]

    run_story(story)
