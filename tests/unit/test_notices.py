"""A write whose shards are not all at home is known to its steward when it is acknowledged, whatever gets lost."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import pytest

from holdfast_node.core.errors import HoldfastError, NotVoting, StoreFull, Unavailable
from holdfast_node.core.messages import Accept, DegradedKey, NoteDegraded, Reply, Request
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.notices import KEYS_MAX, LINGER_S
from tests.support.small_clusters import Serve, SmallCluster, pass_time, payload_of, run_story

SIZE = 8000


async def is_full(usual: Serve, caller: Caller, request: Request) -> Reply:
    raise StoreFull("planted")


async def says_nothing(usual: Serve, caller: Caller, request: Request) -> Reply:
    raise Unavailable("planted")


async def exceptions(small: SmallCluster, at: str) -> int:
    return (await small.at(at, lambda node: node.admin.status())).exceptions


async def with_a_home_down(small: SmallCluster, key: bytes) -> tuple[str, str]:
    """The key's steward and a node that is neither it nor the one that is down."""
    homes = await small.homes(key)
    small.cluster.stop_at_once(small.machine(homes[3]))
    await pass_time(5)
    return homes[0], homes[1]


def test_a_degraded_write_is_known_to_its_steward_although_it_missed_the_accept() -> None:
    """Its store was full and refused the head. Nobody else remembered, status said that only a node was down, and
    called everything healthy when that was back. Found by seed 19331."""

    async def story(small: SmallCluster) -> None:
        steward, other = await with_a_home_down(small, b"k")
        small.twist(steward, Accept, is_full)
        await small.put(b"k", payload_of(SIZE), at=other)
        assert await exceptions(small, other) == 1

    run_story(story)


def test_a_steward_that_does_not_answer_is_told_until_it_has_taken_note() -> None:
    async def story(small: SmallCluster) -> None:
        steward, other = await with_a_home_down(small, b"k")
        small.stop_following()
        small.twist(steward, Accept, is_full)
        deaf = True

        async def hears_later(usual: Serve, caller: Caller, request: Request) -> Reply:
            if deaf:
                raise Unavailable("planted")
            return await usual(caller, request)

        small.twist(steward, NoteDegraded, hears_later)
        await small.put(b"k", payload_of(SIZE), at=other)
        await pass_time(3)
        status = await small.at(steward, lambda node: node.admin.status())
        assert status.exceptions == 1, "the steward cannot know, but who wrote it does"
        assert any("have not been looked through" in problem for problem in status.problems)
        deaf = False
        await pass_time(2)
        assert await exceptions(small, other) == 1
        await pass_time(2 * LINGER_S)
        assert not small.node(other).path.notices.health()
        assert await exceptions(small, other) == 1, "the steward knows"

    run_story(story)


def test_what_a_failed_write_may_have_named_is_told_too() -> None:
    """The head is accepted at too few homes for an answer; who finishes it later does not know where its shards are."""

    async def story(small: SmallCluster) -> None:
        homes = await small.homes(b"k")
        steward, other = await with_a_home_down(small, b"k")
        for name in (steward, homes[2], homes[4]):
            small.twist(name, Accept, says_nothing)
        with pytest.raises(HoldfastError):
            await small.put(b"k", payload_of(SIZE), at=other)
        await pass_time(2)
        assert await exceptions(small, other) == 1

    run_story(story)


def test_a_write_that_is_all_at_home_tells_nobody() -> None:
    async def story(small: SmallCluster) -> None:
        small.watch(NoteDegraded)
        for number in range(5):
            await small.put(b"k%d" % number, payload_of(SIZE))
        assert not small.served[NoteDegraded]

    run_story(story)


def test_only_a_steward_takes_note_and_too_many_keys_mean_that_it_looks_through_all() -> None:
    async def story(small: SmallCluster) -> None:
        homes = await small.homes(b"k")
        bucket, pool = await small.bucket()
        await small.put(b"k", payload_of(SIZE))
        await pass_time(5)
        topology = small.node(homes[0]).path.topology
        partition = topology.key_partition(pool, bucket.id, b"k")
        notice = NoteDegraded(pool, partition, (DegradedKey(bucket.id, b"k", 1, ()),), more=False)

        async def told(name: str, what: NoteDegraded) -> None:
            async def tell(node: object) -> None:
                del node
                small.node(name).healer.note(what)

            await small.at(name, tell)

        with pytest.raises(NotVoting):
            await told(homes[1], notice)
        await told(homes[0], notice)
        at = (pool, partition)
        many = [DegradedKey(bucket.id, b"%d" % number, 1, ()) for number in range(KEYS_MAX + 1)]
        steward, other = await with_a_home_down(small, b"k")
        small.twist(steward, NoteDegraded, says_nothing)

        async def tell_all(node: object) -> int:
            del node
            notices = small.node(other).path.notices
            for key in many:
                notices.later(at, key)
            untold = notices._untold[at]
            assert untold.more
            return len(untold.keys)

        assert await small.at(other, tell_all) == KEYS_MAX

    run_story(story)
