"""Every shard comes home, the gravest first; nothing is dropped before its replacement was read back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast_node.core.errors import Unavailable
from holdfast_node.core.heal_order import NO_MARGIN_KNOWN
from holdfast_node.core.ids import RESERVED_BUCKET, BlobId
from holdfast_node.core.messages import (
    Accept,
    DropShards,
    FindShards,
    ReadCells,
    ReadCellsReply,
    Reply,
    Request,
    StageCell,
    StageWhole,
)
from holdfast_node.services.closed_doors import CLOSED_PATIENCE_S, ClosedDoors
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.foreground import BUSY_REST, HEAL_REST, HEAL_REST_MAX_S, QUIET_S, REST_MAX_S
from holdfast_node.services.mending import take_census
from holdfast_node.services.wards import INCONCLUSIVE_MAX_S, WAIT_S, Ward
from tests.sim.cluster import Topology
from tests.support.doors import StuckDoors
from tests.support.small_clusters import (
    SIX,
    TWELVE,
    Serve,
    SmallCluster,
    pass_time,
    payload_of,
    run_story,
    stop_last_home,
    until_healthy,
)

SIZES = (300, 8000, 50_000)
FIVE = Topology("rs:3+2", (1, 1, 1, 1, 1))


def test_a_look_that_waited_long_for_the_silent_is_repeated_soon() -> None:
    ward = Ward(0, 0, generation=1, healed_epoch=0)
    ward.begin(1)
    ward.conclusive = False
    ward.spend(30.0)
    ward.end(now_s=100.0)
    assert not ward.due(1, 101.0)
    assert ward.due(1, 100.0 + INCONCLUSIVE_MAX_S)


@pytest.mark.parametrize("gone", [False, True])
def test_a_deletion_that_nobody_goes_on_with_is_undone_after_a_while(gone: bool) -> None:
    """A half-accepted head behind a closed door kept its steward from ever looking through the partition."""

    async def story(small: SmallCluster) -> None:
        doors = StuckDoors(gone=gone)
        closed = ClosedDoors(doors)
        del small
        assert await closed.nothing_behind(RESERVED_BUCKET) is gone
        await pass_time(CLOSED_PATIENCE_S - 1)
        assert await closed.nothing_behind(RESERVED_BUCKET) is gone
        assert not doors.opened
        await pass_time(2)
        assert await closed.nothing_behind(RESERVED_BUCKET) is gone
        assert doors.opened == ([] if gone else [RESERVED_BUCKET])

    run_story(story)


async def everything_is_home(small: SmallCluster) -> None:
    """Each key's every shard is sealed at its home, and nowhere else."""
    for size in SIZES:
        key = b"%d" % size
        manifest = (await small.head(key)).manifest
        assert manifest is not None
        node = small.node("n1")
        census = await small.at("n1", lambda n, seed=manifest.seed_id: take_census(n.path, [seed]))  # type: ignore[misc]
        topology = node.path.topology
        bucket, pool = await small.bucket()
        for number, part in enumerate(manifest.parts):
            partition = topology.part_partition(pool, bucket.id, key, manifest.seed_id, number)
            homes = topology.entry(pool, partition).homes
            assert {i: list(at) for i, at in census.held(manifest.seed_id, number).items()} == {
                index: [home] for index, home in enumerate(homes)
            }
            assert len(part.checksums) == len(homes)
        assert await small.get(key) == payload_of(size)


async def put_for_seed(small: SmallCluster, key: bytes) -> BlobId:
    """What names the shards of the blob that was put."""
    await small.put(key, payload_of(300))
    manifest = (await small.head(key)).manifest
    assert manifest is not None
    return manifest.seed_id


def test_degraded_writes_come_home_when_the_nodes_are_back() -> None:
    async def story(small: SmallCluster) -> None:
        for name in ("n5", "n6"):
            small.cluster.stop_at_once(small.machine(name))
        await pass_time(5)
        for size in SIZES:
            receipt = await small.put(b"%d" % size, payload_of(size))
            assert not receipt.margin.full
        status = await small.cluster.admin(small.machine("n1"), lambda admin: admin.status())
        assert status.exceptions >= 1, "what is degraded is known at once"
        for name in ("n5", "n6"):
            await small.cluster.boot(small.machine(name))
        await until_healthy(small)
        await everything_is_home(small)

    run_story(story)


def test_a_blob_that_no_san_may_take_is_told_as_such_though_every_node_is_up() -> None:
    """What ailed was counted in nodes alone: a blob that any node could be taken from, and no SAN, did not lower what
    the cluster was said to survive in SANs."""

    async def story(small: SmallCluster) -> None:
        async def refuse(usual: Serve, caller: Caller, request: Request) -> Reply:
            raise Unavailable("not now")

        away = ("n5", "n6")
        for name in away:
            small.cluster.stop_at_once(small.machine(name))
        await pass_time(5)
        await small.put(b"8000", payload_of(8000))
        for name in away:
            await small.cluster.boot(small.machine(name))
            for staging in (StageCell, StageWhole):
                small.twist(name, staging, refuse)
        await pass_time(20)
        status = await small.cluster.admin(small.machine("n1"), lambda admin: admin.status())
        assert all(node.voting for node in status.nodes)
        assert status.exceptions == 1
        assert dict(status.least_margin.entries) == {"node": 1, "host": 1, "san": 0}

    run_story(story)


def test_what_only_silent_homes_lack_is_left_alone_until_one_is_back() -> None:
    """With one node frozen, every write was degraded and mended in vain: healing took the CPU from the callers."""

    async def story(small: SmallCluster) -> None:
        away = await stop_last_home(small, b"300")
        asked: list[BlobId] = []

        async def note(usual: Serve, caller: Caller, request: Request) -> Reply:
            assert isinstance(request, FindShards)
            asked.extend(request.seed_ids)
            return await usual(caller, request)

        for machine in small.cluster.running():
            small.twist(machine.name, FindShards, note)
        seed_id = await put_for_seed(small, b"300")
        await pass_time(20)
        status = await small.cluster.admin(small.machine("n1"), lambda admin: admin.status())
        assert status.exceptions == 1
        assert seed_id not in asked
        await small.cluster.boot(small.machine(away))
        await until_healthy(small)
        assert seed_id in asked

    run_story(story)


def test_a_steward_that_stood_still_looks_at_what_was_written_meanwhile() -> None:
    """Others were stewards while it was stopped. It had missed nobody, and claimed a full margin of what it missed."""

    async def story(small: SmallCluster) -> None:
        for size in SIZES:
            await small.put(b"%d" % size, payload_of(size))
        await until_healthy(small)
        steward, writer = (await small.homes(b"300"))[:2]
        lost = True

        async def lose(usual: Serve, caller: Caller, request: Request) -> Reply:
            if lost:
                raise Unavailable("the connection was given up")
            return await usual(caller, request)

        small.twist(steward, Accept, lose)
        small.cluster.pause(small.machine(steward))
        await pass_time(15)
        receipt = await small.put(b"300", payload_of(300), at=writer)
        assert not receipt.margin.full
        small.cluster.resume(small.machine(steward))
        await pass_time(0.5)
        lost = False
        await until_healthy(small)
        await everything_is_home(small)

    run_story(story, topology=TWELVE)


def test_a_reason_is_told_no_longer_than_it_holds() -> None:
    """`heal status` went on naming what had been in the way when a node started."""

    async def story(small: SmallCluster) -> None:
        await small.put(b"300", payload_of(300))
        healer = small.node((await small.homes(b"300"))[0]).healer
        vars(healer)["_last_error"] = "partition 0: not yet"
        await stop_last_home(small, b"300")
        await small.put(b"300", payload_of(300))
        await pass_time(5)
        assert healer.status().total > healer.status().done, "something is left to heal"
        assert "not yet" not in healer.status().detail

    run_story(story)


def test_a_question_that_was_lost_is_asked_again_soon() -> None:
    """The store that should have answered is up: nobody will notice its return."""

    async def story(small: SmallCluster) -> None:
        away = await stop_last_home(small, b"300")
        seed_id = await put_for_seed(small, b"300")
        lost: list[str] = []

        async def lose_two(usual: Serve, caller: Caller, request: Request) -> Reply:
            assert isinstance(request, FindShards)
            if seed_id in request.seed_ids and len(lost) < 2:
                lost.append(away)
                raise Unavailable("lost on the way")
            return await usual(caller, request)

        await small.cluster.boot(small.machine(away))
        small.twist(away, FindShards, lose_two)
        await until_healthy(small, WAIT_S / 2)
        assert len(lost) == 2

    run_story(story)


def test_handoffs_are_dropped_only_after_the_home_was_read_back() -> None:
    async def story(small: SmallCluster) -> None:
        homes = await small.homes(b"300")
        away = next(name for name in homes if name != "n1")
        small.cluster.stop_at_once(small.machine(away))
        await pass_time(5)
        for size in SIZES:
            await small.put(b"%d" % size, payload_of(size))
        read_back: set[tuple[bytes, int, int]] = set()

        async def note_reads(usual: Serve, caller: Caller, request: Request) -> Reply:
            reply = await usual(caller, request)
            if isinstance(request, ReadCells) and request.fresh:
                read_back.add((request.seed_id, request.part, request.index))
            return reply

        async def check_drop(usual: Serve, caller: Caller, request: Request) -> Reply:
            assert isinstance(request, DropShards)
            for name in request.shards:
                assert (name.seed_id, name.part, name.index) in read_back, "dropped unproven"
            return await usual(caller, request)

        await small.cluster.boot(small.machine(away))
        for machine in small.cluster.running():
            small.twist(machine.name, ReadCells, note_reads)
            small.twist(machine.name, DropShards, check_drop)
        await until_healthy(small)
        await everything_is_home(small)
        assert read_back

    run_story(story, topology=TWELVE)


def test_a_home_that_lies_keeps_its_handoff_alive() -> None:
    """The rebuilt copy does not read back: the other copy must stay."""

    async def story(small: SmallCluster) -> None:
        homes = await small.homes(b"8000")
        away = next(name for name in homes if name != "n1")
        small.cluster.stop_at_once(small.machine(away))
        await pass_time(5)
        await small.put(b"8000", payload_of(8000))
        manifest = (await small.head(b"8000")).manifest
        assert manifest is not None

        async def rot(usual: Serve, caller: Caller, request: Request) -> Reply:
            reply = await usual(caller, request)
            assert isinstance(reply, ReadCellsReply)
            return replace(reply, payload=bytes(len(reply.payload)))

        before = {name for held in small.sealed(manifest.seed_id).values() for name in held}
        await small.cluster.boot(small.machine(away))
        small.twist(away, ReadCells, rot)
        await pass_time(60)
        others = {n: names for n, names in small.sealed(manifest.seed_id).items() if n != away}
        assert {name for held in others.values() for name in held} == before
        status = await small.cluster.admin(small.machine("n1"), lambda admin: admin.status())
        assert not status.healthy
        assert status.exceptions == 1

    run_story(story, topology=TWELVE)


def test_a_broken_shard_that_a_reader_met_is_mended() -> None:
    async def story(small: SmallCluster) -> None:
        await small.put(b"50000", payload_of(50_000))
        home = next(name for name in (await small.homes(b"50000"))[:4] if name != "n1")
        lying = True

        async def rot(usual: Serve, caller: Caller, request: Request) -> Reply:
            reply = await usual(caller, request)
            assert isinstance(reply, ReadCellsReply)
            return replace(reply, payload=bytes(len(reply.payload))) if lying else reply

        small.twist(home, ReadCells, rot)
        written: list[Request] = []

        async def note(usual: Serve, caller: Caller, request: Request) -> Reply:
            nonlocal lying
            lying = False
            written.append(request)
            return await usual(caller, request)

        small.twist(home, StageCell, note)
        small.twist(home, StageWhole, note)
        assert await small.get(b"50000") == payload_of(50_000)
        await pass_time(60)
        assert written, "the shard was written again"
        await until_healthy(small)

    run_story(story)


def test_replaced_nodes_get_their_shards_back_and_status_is_truthful() -> None:
    async def story(small: SmallCluster) -> None:
        for size in SIZES:
            await small.put(b"%d" % size, payload_of(size))
        older = payload_of(777)
        await small.put(b"300", older)
        await small.put(b"300", payload_of(300))
        kept = (await small.head(b"300")).retained
        for name in ("n3", "n4"):
            small.cluster.wipe(small.machine(name))
        await pass_time(5)
        for name in ("n3", "n4"):
            await small.cluster.boot(small.machine(name), format_if_empty=True)
            await small.cluster.admin(small.machine("n1"), lambda admin, n=name: admin.replace_lost(n))  # type: ignore[misc]
        await until_healthy(small)
        await everything_is_home(small)
        healed = [
            row.healed_epoch for m in small.cluster.running() if m.node for row in m.node.healer.health()
        ]
        joined = max(n.joined_epoch for n in small.node("n1").path.topology.map.nodes)
        assert min(healed) >= joined
        for name in ("n1", "n2"):
            small.cluster.stop_at_once(small.machine(name))
        await pass_time(5)
        versions = [entry.version for entry in kept if entry.size == len(older)]
        assert await small.get(b"300", at="n3", version=versions[-1]) == older, "kept versions are healed too"

    run_story(story)


@pytest.mark.parametrize(
    ("topology", "lost", "paced"),
    [(FIVE, ("n5",), True), (FIVE, ("n4", "n5"), False), (SIX, ("n6",), False)],
    ids=["nothing-at-stake", "a-node", "a-san"],
)
def test_callers_go_before_heal_unless_one_more_loss_would_take_something(
    topology: Topology, lost: tuple[str, ...], paced: bool
) -> None:
    rests: list[float] = []

    def rest_s(took_s: float) -> float:
        rests.append(took_s)
        return 0.0

    async def story(small: SmallCluster) -> None:
        for number in range(12):
            _ = await small.put(b"key %d" % number, payload_of(9000))
        await until_healthy(small)
        for machine in small.cluster.running():
            vars(small.node(machine.name).foreground)["heal_rest_s"] = rest_s
        for name in lost:
            small.cluster.wipe(small.machine(name))
            await small.cluster.boot(small.machine(name), format_if_empty=True)
        for name in lost:
            _ = await small.cluster.admin(small.machine("n1"), lambda admin, n=name: admin.replace_lost(n))  # type: ignore[misc]
        await until_healthy(small)
        assert bool(rests) == paced

    run_story(story, topology=topology)


def test_rests_are_in_proportion_and_bounded() -> None:
    """One that had waited 45 seconds for the silent rested for seven minutes."""

    async def story(small: SmallCluster) -> None:
        foreground = small.node("n1").foreground
        await pass_time(2 * QUIET_S)
        assert foreground.heal_rest_s(0.1) == 0.0, "nobody waits"
        assert foreground.rest_s(0.1) == 0.1
        await small.put(b"key", payload_of(100))
        await pass_time(QUIET_S / 2)
        assert foreground.heal_rest_s(0.1) == HEAL_REST * 0.1
        assert foreground.heal_rest_s(60.0) == HEAL_REST_MAX_S
        assert foreground.rest_s(0.1) == BUSY_REST * 0.1
        assert foreground.rest_s(60.0) == REST_MAX_S

    run_story(story)


def test_a_replaced_home_that_falls_silent_while_it_is_mended_is_waited_for() -> None:
    """The manifest names the store that was lost, so nothing vouches for the one in its place."""

    async def story(small: SmallCluster) -> None:
        for size in SIZES:
            await small.put(b"%d" % size, payload_of(size))
        for name in ("n3", "n4"):
            small.cluster.wipe(small.machine(name))
            await small.cluster.boot(small.machine(name), format_if_empty=True)
        asked: set[Caller] = set()
        silent = True

        async def falls_silent(usual: Serve, caller: Caller, request: Request) -> Reply:
            if silent and caller in asked:
                raise Unavailable("cut off")
            asked.add(caller)
            return await usual(caller, request)

        small.twist("n3", FindShards, falls_silent)
        for name in ("n3", "n4"):
            await small.cluster.admin(small.machine("n1"), lambda admin, n=name: admin.replace_lost(n))  # type: ignore[misc]
        await pass_time(30)
        assert asked, "somebody looked, and then mended without it"
        silent = False
        await until_healthy(small)
        await everything_is_home(small)

    run_story(story)


def test_nothing_ails_in_a_healthy_cluster() -> None:
    async def story(small: SmallCluster) -> None:
        for size in SIZES:
            await small.put(b"%d" % size, payload_of(size))
        await pass_time(30)
        await until_healthy(small)
        rows = [
            row for machine in small.cluster.running() if machine.node for row in machine.node.healer.health()
        ]
        assert sum(row.blobs for row in rows) == len(SIZES)
        assert {row.least_margin for row in rows} == {NO_MARGIN_KNOWN}
        assert sum(m.node.healer.status().bytes_done for m in small.cluster.running() if m.node) == 0

    run_story(story)
