"""Quotas: what is in a bucket is counted by all stewards, and no node lets in more than a bucket may have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from holdfast_node.core.api import Bucket, BucketSettings, BucketUsage, Call, Condition, PutOptions
from holdfast_node.core.errors import InvalidArgument, QuotaExceeded
from holdfast_node.core.ids import BucketId, NodeName
from holdfast_node.core.messages import PartitionUsage, ReadUsage, Reply, Request, Usage
from holdfast_node.services.buckets import QUOTA_BYTES_MAX, SETTINGS_AGE_S
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.quotas import BUCKETS_MAX, USAGE_AGE_S
from tests.support.small_clusters import BUCKET, KIB, Serve, SmallCluster, pass_time, run_story

UNKNOWN = PutOptions(size=-1)


async def set_quota(small: SmallCluster, quota_bytes: int) -> Bucket:
    """And wait until every node goes by it."""
    settings = BucketSettings(quota_bytes=quota_bytes)
    changed = await small.at("n1", lambda node: node.buckets.change(BUCKET, settings))
    await pass_time(SETTINGS_AGE_S)
    return changed


async def used(small: SmallCluster, *, at: str = "n1") -> BucketUsage:
    bucket, _ = await small.bucket(at)
    (found,) = await small.call(at, lambda c: c.usage([bucket]))
    return found


def _say(small: SmallCluster, name: str, rows: tuple[PartitionUsage, ...]) -> None:
    """Have a node tell this, whatever it has."""

    async def say(usual: Serve, caller: Caller, asked: Request) -> Reply:
        del usual, caller, asked
        return Usage(rows)

    small.twist(name, ReadUsage, say)


async def _broken() -> AsyncIterator[bytes]:
    yield bytes(KIB)
    raise InvalidArgument("the source broke")


async def refused(
    small: SmallCluster, key: bytes, size: int, *, at: str = "n1", declared: bool = True
) -> bool:
    options = PutOptions(size=size) if declared else UNKNOWN
    try:
        await small.put(key, bytes(size), at=at, options=options)
    except QuotaExceeded:
        return True
    return False


def test_what_is_in_a_bucket_is_counted_over_all_nodes_whoever_is_asked() -> None:
    async def story(small: SmallCluster) -> None:
        assert await used(small) == BucketUsage(0, 0, whole=True)
        for number in range(12):
            await small.put(b"k%d" % number, bytes(KIB))
        await small.put(b"k0", bytes(100))
        bucket, _ = await small.bucket()
        await small.call("n1", lambda c: c.delete(BUCKET, b"k1", Condition(), Call()))
        for name in ("n1", "n4"):
            assert await used(small, at=name) == BucketUsage(11, 10 * KIB + 100, whole=True)
        other = await small.at("n1", lambda node: node.buckets.create("other"))
        both = await small.call("n2", lambda c: c.usage([other, bucket]))
        assert [each.blobs for each in both] == [0, 11], "buckets of the same partitions are told apart"

    run_story(story)


def test_with_nodes_away_others_count_and_with_too_many_it_is_said_that_there_may_be_more() -> None:
    async def story(small: SmallCluster) -> None:
        for number in range(12):
            await small.put(b"k%d" % number, bytes(KIB))
        small.cluster.stop_at_once(small.machine("n6"))
        await pass_time(10.0)
        assert await used(small) == BucketUsage(12, 12 * KIB, whole=True)
        _say(small, "n1", ())
        assert not (await used(small)).whole

    run_story(story)


def test_more_than_a_bucket_may_have_is_refused_at_every_node_and_counted_from_when_it_is_let_in() -> None:
    async def story(small: SmallCluster) -> None:
        assert (await set_quota(small, 10 * KIB)).quota_bytes == 10 * KIB
        assert await refused(small, b"large", 10 * KIB + 1)
        assert not await refused(small, b"a", 6 * KIB)
        assert await refused(small, b"b", 5 * KIB), "heard of, or let in here: it counts at once"
        assert not await refused(small, b"b", 4 * KIB)
        assert not await refused(small, b"empty", 0)
        await pass_time(USAGE_AGE_S)
        for name in ("n2", "n6"):
            assert await refused(small, b"c", 1, at=name)
        await small.call("n3", lambda c: c.delete(BUCKET, b"a", Condition(), Call()))
        await pass_time(USAGE_AGE_S)
        assert not await refused(small, b"c", 5 * KIB, at="n2")
        await set_quota(small, 0)
        assert not await refused(small, b"d", 50 * KIB)

    run_story(story)


def test_an_upload_of_unknown_size_ends_where_the_quota_does_and_leaves_nothing() -> None:
    async def story(small: SmallCluster) -> None:
        await set_quota(small, 40 * KIB)
        assert not await refused(small, b"a", 20 * KIB, declared=False)
        assert await refused(small, b"b", 21 * KIB, declared=False)
        assert await used(small) == BucketUsage(1, 20 * KIB, whole=True)
        assert not await refused(small, b"b", 20 * KIB, declared=False), "what was refused counts no more"

    run_story(story)


def test_what_is_under_way_for_long_goes_on_counting() -> None:
    """What stewards tell meanwhile knows nothing of it."""

    async def story(small: SmallCluster) -> None:
        await set_quota(small, 40 * KIB)

        async def slow() -> AsyncIterator[bytes]:
            for _ in range(30):
                await pass_time(USAGE_AGE_S)
                yield bytes(KIB)

        async def meanwhile() -> bool:
            await pass_time(25 * USAGE_AGE_S)
            return await refused(small, b"b", 20 * KIB)

        upload = small.call("n1", lambda c: c.put(BUCKET, b"slow", UNKNOWN, slow()))
        _, no_room = await asyncio.gather(upload, meanwhile())
        assert no_room
        assert await used(small) == BucketUsage(1, 30 * KIB, whole=True)
        assert not await refused(small, b"b", 10 * KIB)

    run_story(story)


def test_a_put_that_fails_gives_back_what_it_was_let_in_with() -> None:
    async def story(small: SmallCluster) -> None:
        await set_quota(small, 10 * KIB)
        for _ in range(3):
            with pytest.raises(InvalidArgument):
                await small.call("n1", lambda c: c.put(BUCKET, b"k", PutOptions(size=9 * KIB), _broken()))
        assert not await refused(small, b"k", 9 * KIB)

    run_story(story)


def test_callers_who_come_while_a_bucket_is_asked_about_do_not_wait_but_count() -> None:
    async def story(small: SmallCluster) -> None:
        await set_quota(small, 10 * KIB)
        await small.put(b"first", bytes(KIB))
        await pass_time(USAGE_AGE_S)
        outcomes = await asyncio.gather(*(refused(small, b"k%d" % number, 2 * KIB) for number in range(8)))
        assert outcomes.count(False) == 4
        assert (await used(small)).bytes == 9 * KIB

    run_story(story)


def test_two_who_tell_of_a_partition_count_once() -> None:
    async def story(small: SmallCluster) -> None:
        row = PartitionUsage(0, 0, (3,), (300,))
        _say(small, "n1", (row,))
        _say(small, "n2", (PartitionUsage(0, 0, (2,), (900,)), PartitionUsage(7, 0, (5,), (5,))))
        _say(small, "n3", (PartitionUsage(0, 1, (), ()),))
        for name in ("n4", "n5", "n6"):
            _say(small, name, ())
        assert await used(small) == BucketUsage(3, 300, whole=False)

    run_story(story)


def test_bad_quotas_and_bad_questions_are_refused() -> None:
    async def story(small: SmallCluster) -> None:
        for wrong in (-1, QUOTA_BYTES_MAX + 1):
            settings = BucketSettings(quota_bytes=wrong)
            with pytest.raises(InvalidArgument):
                await small.at("n1", lambda node, it=settings: node.buckets.change(BUCKET, it))  # type: ignore[misc]
        many = ReadUsage((BucketId(bytes(16)),) * (BUCKETS_MAX + 1))
        store = small.node("n1").store.superblock
        with pytest.raises(InvalidArgument):
            await small.at(
                "n1", lambda node: node.dispatcher.handle(Caller(store.store, NodeName("n1")), many)
            )

    run_story(story)
