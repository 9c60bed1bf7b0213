"""What is counted from outside: it tells of what homes do not know and disks do not have, and of nothing else."""

from __future__ import annotations

import random

import pytest

from holdfast_node.core.api import Condition
from holdfast_node.core.messages import ShardName
from tests.sim.claims import Witness
from tests.sim.doors import Doors
from tests.sim.test_found_bugs import Stage
from tests.sim.world import BUCKET

KEY = b"k"


def nothing(_: object) -> tuple[ShardName, ...]:
    return ()


def witness(stage: Stage) -> Witness:
    return Witness(stage.cluster, stage.history, bucket=BUCKET, keys=[KEY], registers=True)


def test_it_tells_of_a_decided_version_that_most_homes_do_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()

    async def story() -> None:
        ack = await stage.caller.put(KEY, 8192, Condition())
        assert ack is not None
        machine = stage.cluster.machines["n2"]
        looking = witness(stage)
        assert await looking.look(machine)
        assert not looking.violations
        monkeypatch.setattr(stage.history, "decided", lambda: {KEY: ack.version + 1})
        assert await looking.look(machine)
        assert "UNKNOWN: b'k' version 2 in partition" in looking.violations[0]

    stage.play(story)


def test_it_tells_of_shards_that_are_gone_while_status_says_that_all_is_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage()

    async def story() -> None:
        assert await stage.caller.put(KEY, 8192, Condition()) is not None
        assert not await stage.nemesis.unhealthy(60.0)
        machine = stage.cluster.machines["n2"]
        looking = witness(stage)
        assert machine.node is not None
        monkeypatch.setattr(machine.node.store, "shards_of", nothing)
        assert await looking.look(machine)
        assert [said for said in looking.violations if "CLAIM: n2 says" in said]

    stage.play(story)


def test_buckets_that_a_write_won_are_read_in_the_end() -> None:
    stage = Stage()

    async def story() -> None:
        doors = Doors(stage.cluster, stage.history)
        for seed in range(4):
            await doors.race(random.Random(seed))
        assert not await doors.read_back(set())
        _, writer, key = doors.kept[0]
        await writer.delete(key, Condition())
        wrong = await doors.read_back(set())
        assert wrong == [f"LOST BEHIND A DOOR: {key!r} was acked, and its bucket deleted in the end"]

    stage.play(story)
