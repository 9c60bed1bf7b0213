"""A pool whose code has groups: a lost shard is read from its group alone, and what is survived goes by patterns."""

from __future__ import annotations

from collections import defaultdict

import pytest

from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import Unavailable
from holdfast_node.core.geometry import cell_bytes
from holdfast_node.core.ids import BlobId
from holdfast_node.core.messages import ReadCells, Reply, Request
from holdfast_node.services.dispatcher import Caller
from tests.sim.cluster import Topology
from tests.support.small_clusters import Serve, SmallCluster, pass_time, payload_of, run_story, until_healthy

CODE = parse_code("lrc:8+4/2")
LOCAL = Topology(str(CODE), (3, 3, 3, 3))
SIZES = (100, 8000, 50_000)
"""A copy, one stripe, and several parts."""

Asked = dict[tuple[BlobId, int], set[int]]


def key_of(size: int) -> bytes:
    return b"%d" % size


async def put_all(small: SmallCluster) -> None:
    for size in SIZES:
        receipt = await small.put(key_of(size), payload_of(size))
        assert receipt.margin.full


async def get_all(small: SmallCluster) -> None:
    for size in SIZES:
        assert await small.get(key_of(size)) == payload_of(size)


def note_reads(small: SmallCluster) -> Asked:
    """Which shards of which parts are read from now on, but for those that are proven by reading them back."""
    asked: Asked = defaultdict(set)

    async def note(usual: Serve, caller: Caller, request: Request) -> Reply:
        assert isinstance(request, ReadCells)
        if not request.fresh:
            asked[request.seed_id, request.part].add(request.index)
        return await usual(caller, request)

    for machine in small.cluster.running():
        small.twist(machine.name, ReadCells, note)
    return asked


async def lose(small: SmallCluster, *names: str) -> None:
    """The nodes come back empty, and are taken for what they are."""
    for name in names:
        small.cluster.wipe(small.machine(name))
        await small.cluster.boot(small.machine(name), format_if_empty=True)
    asked = next(machine for machine in small.cluster.running() if machine.name not in names)
    for name in names:
        await small.cluster.admin(asked, lambda admin, n=name: admin.replace_lost(n))  # type: ignore[misc]


def test_any_san_may_go_and_status_says_how_much_more() -> None:
    async def story(small: SmallCluster) -> None:
        await put_all(small)
        await until_healthy(small)
        margin = (await small.put(b"k", payload_of(8000))).margin
        assert dict(margin.entries) == {"node": 2, "host": 2, "san": 1}, "the map has five voters"
        for name in ("n4", "n5", "n6"):
            small.cluster.stop_at_once(small.machine(name))
        await pass_time(5)
        await get_all(small)
        await small.put(b"more", payload_of(9000))
        for name in ("n4", "n5", "n6"):
            await small.cluster.boot(small.machine(name))
        await until_healthy(small)
        assert await small.get(b"more") == payload_of(9000)

    run_story(story, topology=LOCAL)


def test_a_lost_shard_is_healed_from_its_group_alone() -> None:
    async def story(small: SmallCluster) -> None:
        await put_all(small)
        await until_healthy(small)
        gone = small.node("n5").store.superblock.store
        lost: dict[tuple[BlobId, int], int] = {}
        for size in SIZES[1:]:
            manifest = (await small.head(key_of(size))).manifest
            assert manifest is not None
            for number, part in enumerate(manifest.parts):
                lost[manifest.seed_id, number] = part.holders.index(gone)
        asked = note_reads(small)
        await lose(small, "n5")
        await until_healthy(small)
        grouped = {at: index for at, index in lost.items() if CODE.group_of(index)}
        assert grouped, "some part lost a shard that has a group"
        for at, index in grouped.items():
            assert asked[at] == CODE.group_of(index)
        await get_all(small)

    run_story(story, topology=LOCAL)


def test_what_was_read_to_heal_is_told() -> None:
    async def story(small: SmallCluster) -> None:
        await small.put(b"k", payload_of(8000))
        await until_healthy(small)
        await lose(small, (await small.homes(b"k"))[0])
        await until_healthy(small)
        asked = small.cluster.running()[0]
        workers = (await small.cluster.admin(asked, lambda admin: admin.status())).workers
        made = sum(worker.bytes_done for worker in workers if worker.name == "healer")
        read = sum(worker.bytes_read for worker in workers)
        shard = cell_bytes(CODE, 8000)
        copies = made - shard
        assert copies >= 0
        assert read == len(CODE.group_of(0)) * shard + copies, "of the bucket's record each node has a copy"

    run_story(story, topology=LOCAL)


def test_what_a_group_cannot_mend_is_mended_from_everything() -> None:
    async def story(small: SmallCluster) -> None:
        await put_all(small)
        await until_healthy(small)
        homes = await small.homes(key_of(8000))
        await lose(small, *homes[:2])
        await until_healthy(small)
        await get_all(small)

    run_story(story, topology=LOCAL)


@pytest.mark.parametrize(
    ("gone", "readable"),
    [((0, 1, 4, 5), True), ((0, 1, 8, 10), False), ((0, 1, 2), True), ((0, 1, 2, 3), False)],
    ids=["two-of-each-group", "a-group-without-its-parities", "three-of-a-group", "a-group-but-its-parity"],
)
def test_whether_four_losses_are_too_many_depends_on_which(gone: tuple[int, ...], readable: bool) -> None:
    async def story(small: SmallCluster) -> None:
        await small.put(b"k", payload_of(8000))
        homes = await small.homes(b"k")
        reader = homes[9]
        for index in gone:
            small.cluster.stop_at_once(small.machine(homes[index]))
        await pass_time(5)
        if readable:
            assert await small.get(b"k", at=reader) == payload_of(8000)
        else:
            with pytest.raises(Unavailable, match="do not give it back"):
                await small.get(b"k", at=reader)

    run_story(story, topology=LOCAL)
