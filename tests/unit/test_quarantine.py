"""One blob that cannot be mended holds up no other, and is named with the shards that are nowhere."""

from __future__ import annotations

from holdfast_node.core.ids import NodeName
from holdfast_node.core.messages import DropShards
from holdfast_node.core.report import QuarantineListReply
from holdfast_node.services.datapath import KeyPlace
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.heal_hands import TRIES_MAX
from holdfast_node.services.node import Node
from tests.support.small_clusters import SmallCluster, pass_time, payload_of, run_story

SIZE = 8000
OTHERS = [b"other %d" % number for number in range(30)]
POISONED = b"poisoned"


async def poison(small: SmallCluster, key: bytes, count: int) -> None:
    """Throw away so many of the key's shards, and have a reader meet that."""
    await small.put(key, payload_of(SIZE))
    manifest = (await small.head(key)).manifest
    assert manifest is not None
    held = sorted((names[0].index, name, names) for name, names in small.sealed(manifest.seed_id).items())
    for _, name, names in held[:count]:
        dropped = DropShards(tuple(names))
        caller = Caller(small.node(name).store.superblock.store, NodeName(name))

        async def drop(node: Node, caller: Caller = caller, dropped: DropShards = dropped) -> None:
            _ = await node.dispatcher.handle(caller, dropped)

        await small.at(name, drop)
    homes = await small.homes(key)
    bucket, pool = await small.bucket()

    async def report(node: Node) -> None:
        node.healer.report(KeyPlace(pool, bucket.id, key))

    await small.at(homes[0], report)


async def listed(small: SmallCluster, *, retry: bool = False) -> QuarantineListReply:
    return await small.at("n1", lambda node: node.admin.quarantine(retry=retry))


def test_a_poisoned_blob_is_listed_with_its_missing_shards_and_the_others_heal() -> None:
    async def story(small: SmallCluster) -> None:
        assert (await listed(small)).total == 0
        await poison(small, POISONED, 3)
        down = "n6"
        small.cluster.stop_at_once(small.machine(down))
        await pass_time(5)
        for key in OTHERS:
            await small.put(key, payload_of(SIZE))
        await small.cluster.boot(small.machine(down))
        await pass_time(20)
        status = await small.at("n1", lambda node: node.admin.status())
        assert status.exceptions == 1, "the others are whole again"
        await pass_time(300)
        found = await listed(small)
        assert found.total == 1
        [blob] = found.blobs
        assert (blob.bucket, blob.key, blob.margin) == ("bucket", POISONED, -1)
        assert blob.tries >= TRIES_MAX
        assert "shards 0, 1, 2 of part 0 are nowhere" in blob.why
        assert not found.unreachable
        problems = (await small.at("n1", lambda node: node.admin.status())).problems
        assert problems[-1] == "1 keys cannot be mended: `clusterctl quarantine list` says why"
        assert (await listed(small, retry=True)).total == 1
        assert (await listed(small)).total == 0, "tried as if for the first time"
        await pass_time(300)
        assert (await listed(small)).total == 1

    run_story(story)


def test_who_does_not_answer_is_named() -> None:
    async def story(small: SmallCluster) -> None:
        small.cluster.stop_at_once(small.machine("n6"))
        await pass_time(5)
        assert (await listed(small)).unreachable == ("n6",)

    run_story(story)


def test_a_blob_that_still_decodes_is_mended_and_never_listed() -> None:
    async def story(small: SmallCluster) -> None:
        await poison(small, b"hurt", 2)
        await pass_time(20)
        assert await small.get(b"hurt") == payload_of(SIZE)
        assert (await listed(small)).total == 0
        status = await small.at("n1", lambda node: node.admin.status())
        assert status.healthy, status.problems

    run_story(story)


def test_the_time_left_is_measured_and_ends_at_nothing() -> None:
    """Of twelve nodes one was away; what it missed comes home key by key, slowly enough to watch."""

    async def story(small: SmallCluster) -> None:
        small.cluster.stop_at_once(small.machine("n6"))
        await pass_time(5)
        for number in range(80):
            await small.put(b"%d" % number, payload_of(SIZE))
        small.cluster.slow_disks["n6"] = 200.0
        await small.cluster.boot(small.machine("n6"))
        seen: list[float] = []
        for _ in range(200):
            await pass_time(0.2)
            status = await small.at("n1", lambda node: node.admin.status())
            etas = [worker.eta_s for worker in status.workers if worker.name == "healer"]
            seen.append(max(etas) if min(etas) >= 0 else -1.0)
            if status.healthy:
                break
        known = [eta for eta in seen if eta > 0]
        assert known, "a rate is known long before the end"
        assert max(known) < 300
        assert seen[-1] == 0

    run_story(story)
