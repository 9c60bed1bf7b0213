"""Which blobs survive little, by name: counted from the shards that are really there, the gravest first."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast_node.core.api import Call, Condition, Margin, PutOptions
from holdfast_node.core.errors import InvalidArgument, Unavailable
from holdfast_node.core.ids import RESERVED_BUCKET, RESERVED_POOL, BlobId, NodeName
from holdfast_node.core.messages import DropShards, Reply, Request, StageWhole
from holdfast_node.core.node_changes import CreatePool
from holdfast_node.core.report import RiskReply
from holdfast_node.core.seed import SeedPool
from holdfast_node.services import prove
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.node import Node
from tests.support.small_clusters import (
    BUCKET,
    Serve,
    SmallCluster,
    chunked,
    pass_time,
    payload_of,
    run_story,
)

SIZE = 8000
WHOLE = {"node": 2, "host": 2, "san": 1}


async def lose(small: SmallCluster, key: bytes, count: int) -> None:
    """Drop so many of the key's shards behind everybody's back, both of one SAN first."""
    manifest = (await small.head(key)).manifest
    assert manifest is not None
    await drop(small, manifest.seed_id, count)


async def drop(small: SmallCluster, seed: BlobId, count: int) -> None:
    for name, names in sorted(small.sealed(seed).items())[:count]:
        dropped = DropShards(tuple(names))
        caller = Caller(small.node(name).store.superblock.store, NodeName(name))

        async def handle(node: Node, caller: Caller = caller, dropped: DropShards = dropped) -> None:
            _ = await node.dispatcher.handle(caller, dropped)

        await small.at(name, handle)


async def risks(small: SmallCluster, margin: int = 0, *, pool: str = "") -> RiskReply:
    """The conclusion; what was said on the way must lead to it."""

    async def work(node: Node) -> list[RiskReply]:
        return [reply async for reply in node.admin.risks(margin, pool)]

    *progress, last = await small.at("n1", work)
    assert last.finished
    assert [reply.finished or reply.at_risk for reply in progress] == [()] * len(progress)
    assert not progress or replace(progress[-1], finished=True, at_risk=last.at_risk) == replace(
        last, least_margin=progress[-1].least_margin
    )
    return last


async def explained(small: SmallCluster, key: bytes) -> Margin:
    return (await small.at("n2", lambda node: node.admin.explain(BUCKET, key))).margin


def keys(found: RiskReply) -> list[bytes]:
    return [blob.key for blob in found.at_risk]


def test_of_a_whole_cluster_nothing_is_at_risk_and_its_margin_is_told() -> None:
    async def story(small: SmallCluster) -> None:
        for key in (b"b", b"a"):
            await small.put(key, payload_of(SIZE))
        found = await risks(small)
        assert (found.at_risk, found.total, found.unreachable) == ((), 0, ())
        assert (found.blobs, found.bytes, found.shards) == (2, 2 * SIZE, 12)
        assert dict(found.least_margin.entries) == WHOLE
        assert found.least_margin.full
        found = await risks(small, 1)
        assert [(blob.bucket, blob.key) for blob in found.at_risk] == [
            (prove.BUCKET_RECORDS, BUCKET.encode()),
            (BUCKET, b"a"),
            (BUCKET, b"b"),
        ], "one more SAN would leave nothing to spare"
        [_, blob, _] = found.at_risk
        assert (blob.bucket, blob.version, blob.size, blob.code) == (BUCKET, 1, SIZE, "rs:4+2")
        assert dict(blob.margin.entries) == WHOLE

    run_story(story)


def test_what_has_lost_most_comes_first_and_each_has_the_margin_its_shards_give() -> None:
    async def story(small: SmallCluster) -> None:
        for at, count in enumerate((0, 1, 2, 3)):
            key = b"%d lost %d" % (at, count)
            await small.put(key, payload_of(SIZE))
            await lose(small, key, count)
        found = await risks(small)
        assert [(blob.key, dict(blob.margin.entries)) for blob in found.at_risk] == [
            (b"3 lost 3", {"node": -1, "host": -1, "san": -1}),
            (b"2 lost 2", {"node": 0, "host": 0, "san": 0}),
            (b"1 lost 1", {"node": 1, "host": 1, "san": 0}),
        ]
        assert {blob.weakest for blob in found.at_risk} == {("shards",)}
        assert not any(blob.margin.full for blob in found.at_risk)
        assert keys(await risks(small, -1)) == [b"3 lost 3"]
        assert dict(found.least_margin.entries) == {"node": -1, "host": -1, "san": -1}
        for blob in found.at_risk:
            assert await explained(small, blob.key) == blob.margin

    run_story(story)


def test_what_a_silent_node_holds_does_not_count_and_it_is_named() -> None:
    async def story(small: SmallCluster) -> None:
        await small.put(b"k", payload_of(SIZE))
        await lose(small, b"k", 1)
        for name in ("n5", "n6"):
            small.cluster.stop_at_once(small.machine(name))
        await pass_time(5)
        found = await risks(small, -1)
        assert found.unreachable == ("n5", "n6")
        [blob] = found.at_risk
        assert blob.weakest == ("shards",)

    run_story(story)


def test_the_record_of_a_bucket_is_counted_too() -> None:
    """Without it, nobody finds the bucket's blobs. Whoever lists buckets reads their records, and has them healed."""

    async def story(small: SmallCluster) -> None:
        await small.put(b"k", payload_of(SIZE))
        registers = small.node("n1").registers
        record = BUCKET.encode()
        head = await small.at("n1", lambda _: registers.head(RESERVED_POOL, RESERVED_BUCKET, record))
        assert head.manifest is not None

        async def refuse(usual: Serve, caller: Caller, request: Request) -> Reply:
            raise Unavailable("not now")

        for machine in small.cluster.running():
            small.twist(machine.name, StageWhole, refuse)
        await drop(small, head.manifest.seed_id, 5)
        found = await risks(small)
        [blob] = found.at_risk
        assert (blob.bucket, blob.key) == (prove.BUCKET_RECORDS, record)
        assert dict(blob.margin.entries) == {"node": 0, "host": 0, "san": 0}
        assert found.blobs == 1
        assert found.least_margin == blob.margin

    run_story(story)


def test_who_keeps_the_names_from_being_read_is_told() -> None:
    async def story(small: SmallCluster) -> None:
        await small.put(b"k", payload_of(SIZE))
        for name in ("n4", "n5", "n6"):
            small.cluster.stop_at_once(small.machine(name))
        await pass_time(5)
        with pytest.raises(Unavailable, match="nobody can say now which blobs there are") as refused:
            await risks(small)
        assert {item.who for item in refused.value.evidence} == {"n4", "n5", "n6"}

    run_story(story)


def test_only_so_many_are_named_the_gravest_and_the_rest_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove, "LISTED_MAX", 2)
    monkeypatch.setattr(prove, "BATCH_KEYS", 2)

    async def story(small: SmallCluster) -> None:
        for number in range(7):
            key = b"%d" % number
            await small.put(key, payload_of(SIZE))
            await lose(small, key, 3 if number in {1, 4} else 1)
        found = await risks(small)
        assert keys(found) == [b"1", b"4"]
        assert (found.total, found.blobs) == (7, 7)

    run_story(story)


def test_what_is_deleted_or_was_overwritten_is_not_counted() -> None:
    async def story(small: SmallCluster) -> None:
        for key in (b"deleted", b"overwritten"):
            await small.put(key, payload_of(SIZE))
            await lose(small, key, 2)
        await small.put(b"overwritten", payload_of(SIZE + 1))
        await small.call("n1", lambda c: c.delete(BUCKET, b"deleted", Condition(), Call()))
        found = await risks(small)
        assert (found.total, found.blobs, found.bytes) == (0, 1, SIZE + 1)

    run_story(story)


def test_an_empty_blob_is_at_risk_by_its_register_alone() -> None:
    async def story(small: SmallCluster) -> None:
        await small.put(b"empty", b"")
        assert (await risks(small)).total == 0
        for name in ("n5", "n6"):
            small.cluster.stop_at_once(small.machine(name))
        await pass_time(5)
        [_, blob] = (await risks(small)).at_risk
        assert (blob.key, blob.size, blob.weakest) == (b"empty", 0, ("register", "voters"))

    run_story(story)


def test_of_one_pool_only_its_own_blobs_are_counted() -> None:
    async def story(small: SmallCluster) -> None:
        await small.at(
            "n1", lambda node: node.admin.change(CreatePool(SeedPool("wide", "rs:3+2", 4)), apply=True)
        )
        await small.at("n1", lambda node: node.buckets.create("other", pool="wide"))
        await small.put(b"k", payload_of(SIZE))
        await small.call(
            "n1", lambda c: c.put("other", b"k", PutOptions(size=SIZE), chunked(payload_of(SIZE)))
        )
        found = await risks(small, 2)
        assert [blob.bucket for blob in found.at_risk] == [prove.BUCKET_RECORDS] * 2 + [BUCKET, "other"]
        found = await risks(small, 2, pool="wide")
        assert (found.blobs, [(blob.bucket, blob.code) for blob in found.at_risk]) == (
            1,
            [("other", "rs:3+2")],
        )
        with pytest.raises(InvalidArgument, match="no pool 'none'"):
            await risks(small, pool="none")

    run_story(story)
