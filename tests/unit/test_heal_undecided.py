"""Heal hears of heads as they are accepted, before anybody knows whether they are decided."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from holdfast_node.core.errors import HoldfastError, Unavailable
from holdfast_node.core.messages import Accept, Reply, Request, StageCell, StageWhole
from holdfast_node.services.dispatcher import Caller
from tests.sim.client import ConnectionLost
from tests.support.small_clusters import (
    Serve,
    SmallCluster,
    pass_time,
    payload_of,
    run_story,
    until_healthy,
)


async def refuse(usual: Serve, caller: Caller, request: Request) -> Reply:
    raise Unavailable("not now")


def test_heal_does_not_forget_what_was_not_decided_yet_when_it_looked() -> None:
    """The steward heard of a head that lacked a shard, read the one before, found it in order, and forgot the key:
    status said "healthy" until the next look."""

    async def story(small: SmallCluster) -> None:
        await until_healthy(small)
        steward, *others = await small.homes(b"8000")
        for staging in (StageCell, StageWhole):
            small.twist(others[-1], staging, refuse)

        async def late(usual: Serve, caller: Caller, request: Request) -> Reply:
            await pass_time(0.5)
            return await usual(caller, request)

        for name in others:
            small.twist(name, Accept, late)
        receipt = await small.put(b"8000", payload_of(8000), at=others[0])
        assert not receipt.margin.full
        await pass_time(10)
        status = await small.cluster.admin(small.machine(steward), lambda admin: admin.status())
        assert status.exceptions == 1

    run_story(story)


@pytest.mark.parametrize("decided", [True, False])
def test_what_only_the_steward_accepted_is_healed_if_it_is_decided_after_all(decided: bool) -> None:
    """Whoever wrote it is gone: the steward decides the head once more, above what it has accepted."""

    async def story(small: SmallCluster) -> None:
        await until_healthy(small)
        steward, *others = await small.homes(b"8000")
        for staging in (StageCell, StageWhole):
            small.twist(others[-1], staging, refuse)
        writer, lost = others[0], others[:2] if decided else others

        async def lose(usual: Serve, caller: Caller, request: Request) -> Reply:
            raise Unavailable("lost on the way")

        for name in lost:
            small.twist(name, Accept, lose)
        putting = asyncio.ensure_future(small.put(b"8000", payload_of(8000), at=writer))
        await pass_time(0.3)
        for name in {writer, others[-1], *lost}:
            small.cluster.stop_at_once(small.machine(name))
            await small.cluster.boot(small.machine(name))
        with contextlib.suppress(HoldfastError, ConnectionLost):
            await putting
        await until_healthy(small)
        head = await small.head(b"8000", at=steward)
        if head.manifest is not None:
            assert await small.get(b"8000", at=steward) == payload_of(8000)

    run_story(story)
