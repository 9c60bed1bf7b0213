"""More keys ail than a steward can remember: the graver find room, and status stays truthful about the others."""

from __future__ import annotations

from functools import partial

import pytest

from holdfast_node.core.errors import Unavailable
from holdfast_node.core.heal_order import HealOrder
from holdfast_node.core.messages import Reply, Request, StageWhole
from holdfast_node.services import healer, wards
from holdfast_node.services.dispatcher import Caller
from tests.support.small_clusters import (
    Serve,
    SmallCluster,
    pass_time,
    payload_of,
    run_story,
    until_healthy,
)

LIMIT = 10
WAITING = [b"waiting %d" % number for number in range(120)]
MENDABLE = [b"mendable %d" % number for number in range(30)]


@pytest.fixture(autouse=True)
def few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healer, "HealOrder", partial(HealOrder, LIMIT))
    monkeypatch.setattr(healer, "AILING_ENOUGH", LIMIT // 2)
    monkeypatch.setattr(wards, "PAGE_ROWS", 4)


async def write_without(small: SmallCluster, down: str) -> None:
    await until_healthy(small)
    small.cluster.stop_at_once(small.machine(down))
    await pass_time(5)
    for key in WAITING:
        await small.put(key, payload_of(3000))


class Refusing:
    """n5 takes no shard until told to."""

    def __init__(self, small: SmallCluster) -> None:
        self.now = True
        small.twist("n5", StageWhole, self._refuse)

    async def _refuse(self, usual: Serve, caller: Caller, request: Request) -> Reply:
        if self.now:
            raise Unavailable("planted: a moment of trouble")
        return await usual(caller, request)


async def is_sealed_at(small: SmallCluster, name: str, key: bytes) -> bool:
    manifest = (await small.head(key)).manifest
    assert manifest is not None
    return name in small.sealed(manifest.seed_id)


def test_what_can_be_mended_is_mended_though_many_wait_for_a_node_that_is_down() -> None:
    async def story(small: SmallCluster) -> None:
        await write_without(small, "n6")
        refusing = Refusing(small)
        keys = MENDABLE[:8]
        for key in keys:
            await small.put(key, payload_of(2500))
        refusing.now = False
        await pass_time(60)
        for key in keys:
            assert await is_sealed_at(small, "n5", key)

    run_story(story)


def test_a_steward_that_starts_finds_what_it_can_mend_behind_what_has_to_wait() -> None:
    async def story(small: SmallCluster) -> None:
        await write_without(small, "n6")
        refusing = Refusing(small)
        keys = [key for key in MENDABLE if (await small.homes(key))[0] == "n1"]
        for key in keys:
            await small.put(key, payload_of(2500), at="n2")
        await small.cluster.stop(small.machine("n1"))
        await pass_time(5)
        await small.cluster.boot(small.machine("n1"))
        await pass_time(20)  # nobody else is steward there any more
        refusing.now = False
        await pass_time(60)
        for key in keys:
            assert await is_sealed_at(small, "n5", key)

    run_story(story)


def test_what_there_was_no_room_for_is_whole_when_status_says_so() -> None:
    async def story(small: SmallCluster) -> None:
        await write_without(small, "n6")
        await small.cluster.boot(small.machine("n6"))
        await until_healthy(small)
        for key in WAITING:
            assert await is_sealed_at(small, "n6", key)

    run_story(story)


def test_status_tells_of_what_there_was_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healer, "HealOrder", partial(HealOrder, 0))

    async def story(small: SmallCluster) -> None:
        await write_without(small, "n6")
        stewards = [small.node(machine.name).healer for machine in small.cluster.running()]
        rows = {(row.pool, row.partition): row for steward in stewards for row in steward.health()}
        bucket, pool = await small.bucket()
        topology = small.node("n1").path.topology
        for key in WAITING:
            row = rows[pool, topology.key_partition(pool, bucket.id, key)]
            assert row.exceptions
            assert row.survives

    run_story(story)
