"""A pool goes from one code to another and back in a simulated cluster, while callers read and write."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest

from holdfast_node.core.api import Condition, Margin
from holdfast_node.core.errors import InvalidArgument, Refused
from holdfast_node.core.head import Ballot, Manifest
from holdfast_node.core.ids import BlobId, StoreId
from holdfast_node.core.node_changes import CancelChange, DrainNodes, RecodePool
from holdfast_node.services.admin import Admin
from holdfast_node.services.datapath import DataPath, KeyPlace
from holdfast_node.services.foreground import QUIET_S
from holdfast_node.services.get import READER_IDLE_S
from holdfast_node.services.mending import Census, Mended, Mender, take_census
from tests.sim.client import Coordinator, SimClient
from tests.sim.cluster import Machine, Topology
from tests.sim.history import content_bytes
from tests.sim.test_found_bugs import Stage
from tests.sim.test_moves import KEYS, change, everything_reads_back, fill
from tests.sim.world import BUCKET

SIZE = 600_000
"""Many parts, most of which a reader has not fetched ahead."""
NINE = Topology("rs:4+2", (3, 3, 3), partitions=2)
TWELVE = Topology("rs:4+2", (3, 3, 3, 3), partitions=2)


async def settled(stage: Stage, patience_s: float = 300.0) -> None:
    """Until everything is in the pool's code."""
    deadline_s = stage.loop.time() + patience_s
    while True:
        plan = await stage.cluster.admin(stage.cluster.machines["n2"], lambda admin: admin.plan())
        if plan.settled:
            return
        assert stage.loop.time() < deadline_s, await stage.health()
        await asyncio.sleep(1.0)


async def codes(stage: Stage) -> set[str]:
    found: set[str] = set()
    machine = stage.cluster.machines["n2"]
    for key in KEYS:
        told = await stage.cluster.admin(machine, partial(Admin.explain, bucket=BUCKET, key=key))
        found.add(told.info.code)
    return found


@pytest.mark.parametrize(
    ("topology", "code"), [(NINE, "rs:6+3"), (NINE, "rs:2+1"), (TWELVE, "lrc:8+4/2"), (NINE, "rs:3+3")]
)
def test_a_pool_goes_to_another_code_and_back(topology: Topology, code: str) -> None:
    stage = Stage(topology=topology)

    async def story() -> None:
        await fill(stage)
        assert await codes(stage) == {"rs:4+2"}
        for wanted in (code, "rs:4+2"):
            assert (await change(stage, RecodePool("main", wanted))).applied
            await everything_reads_back(stage)
            await settled(stage)
            assert not await stage.nemesis.unhealthy(60.0)
            assert await codes(stage) == {wanted}
            await everything_reads_back(stage)

    stage.play(story)


def test_versions_kept_for_undo_stay_in_their_code_until_they_expire() -> None:
    """They can be read and brought back; no home changes until they are gone; then the next change begins by itself."""
    stage = Stage(topology=NINE)

    async def story() -> None:
        await stage.cluster.create_bucket("kept", undo_seconds=60)
        caller = SimClient("c1", stage.cluster, stage.history, chooser=random.Random(1), bucket="kept")
        first = await caller.put(b"k", 8192, Condition())
        assert first is not None
        await caller.put(b"k", 9000, Condition())
        assert (await change(stage, RecodePool("main", "rs:6+3"))).applied
        await asyncio.sleep(30.0)
        assert not await stage.nemesis.unhealthy(30.0)
        with pytest.raises(Refused):
            await change(stage, DrainNodes("n1"))
        plan = await stage.cluster.admin(stage.cluster.machines["n2"], lambda admin: admin.plan())
        assert "rs:4+2: those kept for undo expire" in plan.left
        assert await caller.get_version(b"k", first.version, first.content)
        await caller.undelete(b"k", first.version, first.content)
        await settled(stage, 3600.0)
        assert await caller.get(b"k") is not None
        assert (await change(stage, RecodePool("main", "rs:2+1"))).applied

    stage.play(story)


def test_a_reader_goes_on_when_the_blob_is_made_anew_and_its_old_shards_are_gone() -> None:
    stage = Stage(topology=NINE)

    async def story() -> None:
        ack = await stage.caller.put(b"large", SIZE, Condition())
        assert ack is not None

        async def slowly(node: Coordinator) -> bytes:
            """Not so slowly that it loses its place."""
            result = await node.get(BUCKET, b"large")
            chunks: list[bytes] = []
            for _ in range(8):
                chunks.append(await anext(aiter(result.chunks)))
                await asyncio.sleep(READER_IDLE_S / 2)
            return b"".join([*chunks, *[chunk async for chunk in result.chunks]])

        reading = asyncio.ensure_future(stage.cluster.run("n3", slowly, timeout_s=3600.0))
        await asyncio.sleep(1.0)
        assert (await change(stage, RecodePool("main", "rs:6+3"))).applied
        assert await reading == content_bytes(ack.content, SIZE)
        await settled(stage)

    stage.play(story)


def test_cancelled_on_the_way_everything_goes_back() -> None:
    stage = Stage(topology=NINE)

    async def story() -> None:
        await fill(stage)
        assert (await change(stage, RecodePool("main", "rs:6+3"))).applied
        await asyncio.sleep(0.5)
        assert (await change(stage, CancelChange())).applied
        await settled(stage)
        assert await codes(stage) == {"rs:4+2"}
        await everything_reads_back(stage)
        with pytest.raises(InvalidArgument, match="no pool"):
            await change(stage, RecodePool("other", "rs:6+3"))

    stage.play(story)


def judge(patch: pytest.MonkeyPatch, found: Mended) -> None:
    """Say this of every new blob that is read back."""
    mend = Mender.mend

    async def judged(
        self: Mender, place: KeyPlace, manifest: Manifest, census: Census, *, base: Ballot | None, deep: bool
    ) -> Mended:
        return found if deep else await mend(self, place, manifest, census, base=base, deep=deep)

    patch.setattr(Mender, "mend", judged)


@pytest.mark.parametrize(
    "found",
    [
        Mended(failed="shard 3 of part 0 did not read back"),
        Mended(
            waiting={StoreId(b"w" * 16)}, margin=Margin((("node", 0), ("host", 0), ("san", 0)), full=False)
        ),
    ],
)
def test_nothing_is_pointed_at_that_does_not_read_back_or_survives_less(
    found: Mended, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(topology=NINE)

    async def story() -> None:
        await fill(stage)
        with monkeypatch.context() as patch:
            judge(patch, found)
            assert (await change(stage, RecodePool("main", "rs:6+3"))).applied
            await asyncio.sleep(30.0)
            assert await codes(stage) == {"rs:4+2"}
        await settled(stage)
        assert await codes(stage) == {"rs:6+3"}
        await everything_reads_back(stage)

    stage.play(story)


def test_shards_at_stores_that_do_not_answer_now_are_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were sealed there a moment ago; nobody has read them back, and without them the blob may survive less."""
    stage = Stage(topology=NINE)
    poor = Mended(margin=Margin((("node", 0), ("host", 0), ("san", 0)), full=False))

    async def story() -> None:
        await fill(stage)
        with monkeypatch.context() as patch:

            async def silent(path: DataPath, seeds: Sequence[BlobId]) -> Census:
                return replace(await take_census(path, seeds), silent=frozenset(path.topology.stores))

            judge(patch, poor)
            patch.setattr("holdfast_node.services.recoding.take_census", silent)
            assert (await change(stage, RecodePool("main", "rs:6+3"))).applied
            await asyncio.sleep(30.0)
            assert await codes(stage) == {"rs:4+2"}
        await settled(stage)
        assert await codes(stage) == {"rs:6+3"}

    stage.play(story)


def test_heal_does_not_take_its_own_work_for_that_of_callers() -> None:
    """It would leave them the machine, and go at a quarter of its speed in a cluster where nobody waits."""
    stage = Stage(topology=NINE)

    async def story() -> None:
        await fill(stage)
        assert await codes(stage) == {"rs:4+2"}, "after which the bucket's record is known"
        await asyncio.sleep(2 * QUIET_S)
        assert (await change(stage, RecodePool("main", "rs:6+3"))).applied
        while await codes(stage) != {"rs:6+3"}:
            assert not [machine.name for machine in stage.cluster.running() if is_busy(machine)]
            await asyncio.sleep(QUIET_S / 4)

    stage.play(story)


def is_busy(machine: Machine) -> bool:
    return machine.node is not None and machine.node.foreground.busy
