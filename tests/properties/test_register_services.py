"""The register's services on the bench: what callers, stewards, closing buckets and newer maps do to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from holdfast_node.core.api import ListOptions, ListResult
from holdfast_node.core.errors import (
    BlobNotFound,
    BucketClosing,
    ClusterError,
    NotVoting,
    OutcomeUnknown,
    StaleEra,
    StaleGeneration,
    Unavailable,
)
from holdfast_node.core.head import Ballot, HeadKind, Manifest
from holdfast_node.core.ids import (
    BlobId,
    BucketId,
    Digest,
    Epoch,
    Era,
    Generation,
    RequestId,
    StoreId,
    Version,
)
from holdfast_node.core.messages import Accept, CloseBucket, ListRegisters, Prepare, ReadRegister
from holdfast_node.core.operation import Operation, OperationKind
from holdfast_node.core.register import head_hash
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.registers import Attempt
from tests.properties.register_bench import Bench, Member, acceptor, registers
from tests.sim.loop import SimLoop

T = TypeVar("T")
BUCKET = BucketId(b"B" * 16)


def play(
    story: Callable[[Bench], Coroutine[Any, Any, None]], *, code: str = "rs:1+2", partitions: int = 2
) -> None:
    loop = SimLoop(7)
    bench = Bench(loop, seed=7, code=code, partitions=partitions)

    async def main() -> None:
        await bench.start()
        await story(bench)

    loop.run(main())
    assert not loop.problems, loop.problems
    assert not bench.network.problems, bench.network.problems


def put(name: str, **changes: object) -> Operation:
    blob = BlobId(name.encode().ljust(16, b"."))
    manifest = Manifest(blob, blob, 5, "copy:3", 8, 8, Digest(b"d" * 16), ())
    operation = Operation(OperationKind.PUT, RequestId(name.encode().ljust(16, b".")), Era(1), manifest)
    return replace(operation, **changes)  # type: ignore[arg-type]


def delete(name: str) -> Operation:
    return Operation(OperationKind.DELETE, RequestId(name.encode().ljust(16, b".")), Era(1))


def members(bench: Bench) -> list[Member]:
    return list(bench.members.values())


async def on(bench: Bench, at: int, work: Callable[[Member], Awaitable[T]]) -> T:
    member = members(bench)[at]
    return await bench.inside(member, lambda: work(member))


async def run(bench: Bench, at: int, key: bytes, operation: Operation) -> int:
    outcome = await on(bench, at, lambda m: registers(m).run(0, BUCKET, key, operation))
    return outcome.version


async def content(bench: Bench, at: int, key: bytes) -> str:
    head = await on(bench, at, lambda m: registers(m).head(0, BUCKET, key))
    return head.manifest.blob_id.rstrip(b".").decode() if head.manifest is not None else ""


async def page(bench: Bench, at: int, options: ListOptions) -> ListResult:
    async def work(member: Member) -> ListResult:
        assert member.listing is not None
        return await member.listing.page(0, BUCKET, options)

    return await on(bench, at, work)


async def ask(bench: Bench, at: int, request: Any) -> Any:
    """What the home at `at` answers to a stranger."""
    member = members(bench)[at]
    serve = acceptor(member).handlers()[type(request)]
    return await bench.inside(member, lambda: serve(Caller(member.store_id, member.name), request))


def test_a_write_through_one_node_is_read_through_every_other() -> None:
    async def story(bench: Bench) -> None:
        assert await run(bench, 0, b"k", put("one")) == 1
        assert await run(bench, 1, b"k", put("two")) == 2
        assert [await content(bench, at, b"k") for at in range(3)] == ["two"] * 3
        assert await run(bench, 2, b"k", delete("gone")) == 3
        assert await content(bench, 0, b"k") == ""
        with pytest.raises(BlobNotFound):
            _ = await run(bench, 1, b"k", delete("again"))
        assert await run(bench, 1, b"k", delete("gone")) == 3, "the same request"

    play(story)


def test_promises_that_came_with_the_shards_are_enough_for_one_round() -> None:
    async def story(bench: Bench) -> None:
        async def with_shards(member: Member) -> int:
            attempt: Attempt = registers(member).attempt(0, BUCKET, b"k", 1)
            for other in members(bench):
                promise = await acceptor(other).prepare_with(attempt.prepare, [])
                attempt.promised(other.store_id, promise)
            before = bench.network.tally.sent
            outcome = await registers(member).commit(attempt, put("one", base=attempt.base))
            assert bench.network.tally.sent - before == 2, "two accepts to others, no prepare"
            assert attempt.accept_sent
            return outcome.version

        assert await on(bench, 0, with_shards) == 1

    play(story)


def test_with_a_majority_gone_nothing_is_claimed_and_nothing_was_sent() -> None:
    async def story(bench: Bench) -> None:
        _ = await run(bench, 0, b"k", put("one"))
        for member in members(bench)[1:]:
            bench.kill(member)

        async def work(member: Member) -> None:
            attempt = registers(member).attempt(0, BUCKET, b"k", 1)
            with pytest.raises(Unavailable) as raised:
                _ = await registers(member).commit(attempt, put("two", base=attempt.base))
            assert {evidence.who for evidence in raised.value.evidence} >= {"n1", "n2"}
            assert not attempt.accept_sent
            with pytest.raises(Unavailable):
                _ = await registers(member).read(0, BUCKET, b"k")

        await on(bench, 0, work)

    play(story)


def test_an_accept_that_reached_nobody_known_is_an_unknown_outcome() -> None:
    async def story(bench: Bench) -> None:
        async def work(member: Member) -> None:
            attempt = registers(member).attempt(0, BUCKET, b"k", 1)
            for other in members(bench):
                attempt.promised(other.store_id, await acceptor(other).prepare_with(attempt.prepare, []))
            for other in members(bench)[1:]:
                bench.kill(other)
            with pytest.raises(OutcomeUnknown):
                _ = await registers(member).commit(attempt, put("one", base=attempt.base))
            assert attempt.accept_sent

        await on(bench, 0, work)

    play(story)


def test_a_commit_that_is_cancelled_before_its_accept_sends_none_afterwards() -> None:
    async def story(bench: Bench) -> None:
        async def cancelled(member: Member) -> None:
            attempt = registers(member).attempt(0, BUCKET, b"k", 1)
            commit = registers(member).commit(attempt, put("one", base=attempt.base))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.0002):
                    _ = await commit
            assert not attempt.accept_sent

        await on(bench, 0, cancelled)
        await bench.later(1.0)
        for at in range(3):
            store = members(bench)[at].store
            assert store is not None
            record = await on(bench, at, lambda _, s=store: s.register(BUCKET, b"k"))  # type: ignore[misc]
            assert record is None or record.accepted is None
        assert sum(member.store is not None for member in members(bench)) == 3

    play(story)


def test_writers_of_one_key_all_get_through_and_none_twice() -> None:
    async def story(bench: Bench) -> None:
        versions: list[int] = []

        async def writer(number: int) -> None:
            versions.append(await run(bench, number % 6, b"k", put(f"w{number}")))

        async with asyncio.TaskGroup() as group:
            for number in range(24):
                _ = group.create_task(writer(number))
        assert sorted(versions) == list(range(1, 25))
        assert bench.loop.time() < 3.0

    play(story, code="rs:4+2")


def test_a_fence_expires_older_bases_and_a_read_lifts_the_next_above_it() -> None:
    async def story(bench: Bench) -> None:
        async def fenced(member: Member) -> None:
            mine = registers(member)
            old = mine.attempt(0, BUCKET, b"k", 1)
            high = Ballot(1, 500, StoreId(b"z" * 16), 1, 1)
            fence = Operation(OperationKind.FENCE, RequestId(b"f" * 16), Era(1), base=high)
            _ = await registers(members(bench)[1]).run(0, BUCKET, b"k", fence)
            with pytest.raises(ClusterError, match="fence"):
                _ = await mine.commit(old, put("one", base=old.base))
            assert not old.accept_sent
            _ = await mine.read(0, BUCKET, b"k")
            fresh = mine.attempt(0, BUCKET, b"k", 1)
            assert (await mine.commit(fresh, put("one", base=fresh.base))).version == 1

        await on(bench, 0, fenced)

    play(story)


def test_a_home_in_a_newer_generation_refuses_and_the_proposer_follows_the_map() -> None:
    async def story(bench: Bench) -> None:
        _ = await run(bench, 0, b"k", put("one"))
        pool = bench.map.pools[0]
        raised = tuple(replace(entry, generation=Generation(2)) for entry in pool.partitions)
        bench.map = replace(bench.map, epoch=Epoch(2), pools=(replace(pool, partitions=raised),))
        old = members(bench)[0].maps.topology
        assert old is not None
        bench.hand_out("n1", "n2")
        scope = old.scope(0, old.key_partition(0, BUCKET, b"k"))
        with pytest.raises(StaleGeneration):
            _ = await ask(bench, 1, ReadRegister(scope, BUCKET, b"k", want_head=True, inline_bytes_max=0))
        with pytest.raises(StaleGeneration):
            _ = await ask(bench, 1, ListRegisters((scope,), BUCKET, b"", b"", 10))
        assert await run(bench, 0, b"k", put("two")) == 2
        assert members(bench)[0].maps.epoch == 2

    play(story)


def test_a_learner_keeps_accepts_and_does_not_count() -> None:
    async def story(bench: Bench) -> None:
        pool = bench.map.pools[0]
        learner = members(bench)[2].store_id
        entries = tuple(replace(entry, learners=(learner,)) for entry in pool.partitions)
        bench.map = replace(bench.map, epoch=Epoch(2), pools=(replace(pool, partitions=entries),))
        bench.hand_out()
        outcome = await on(bench, 0, lambda m: registers(m).run(0, BUCKET, b"k", put("one")))
        assert learner not in outcome.accepted
        await bench.later(0.5)
        topology = members(bench)[2].maps.topology
        assert topology is not None
        scope = topology.scope(0, topology.key_partition(0, BUCKET, b"k"))
        with pytest.raises(NotVoting):
            _ = await ask(bench, 2, ReadRegister(scope, BUCKET, b"k", want_head=True, inline_bytes_max=0))
        store = members(bench)[2].store
        assert store is not None
        record = await on(bench, 2, lambda _: store.register(BUCKET, b"k"))
        assert record is not None
        assert record.accepted is not None
        bench.kill(members(bench)[1])
        with pytest.raises(Unavailable):
            _ = await run(bench, 0, b"k", put("two"))

    play(story)


def test_an_old_stamp_is_refused_at_every_home_and_nothing_was_sent() -> None:
    async def story(bench: Bench) -> None:
        bench.map = replace(bench.map, epoch=Epoch(2), era=Era(3))
        bench.hand_out()
        with pytest.raises(StaleEra):
            _ = await run(bench, 0, b"k", put("one"))
        assert await run(bench, 0, b"k", put("one", stamp=Era(2))) == 1

    play(story)


def test_a_closed_bucket_refuses_writes_after_a_restart_too_and_opens_only_when_its_record_says_so() -> None:
    async def story(bench: Bench) -> None:
        _ = await run(bench, 0, b"k", put("one"))
        for at in range(3):
            _ = await ask(bench, at, CloseBucket(BUCKET, closing=True))
        victim = members(bench)[1]
        bench.kill(victim)
        await bench.boot(victim)
        with pytest.raises(BucketClosing):
            _ = await run(bench, 1, b"k", put("two"))
        assert await content(bench, 2, b"k") == "one"
        for at in range(3):
            _ = await ask(bench, at, CloseBucket(BUCKET, closing=False))
        with pytest.raises(BucketClosing):
            _ = await run(bench, 1, b"k", put("two"))
        for member in members(bench):
            member.doors.opened = True
        for at in range(3):
            _ = await ask(bench, at, CloseBucket(BUCKET, closing=False))
        assert await run(bench, 1, b"k", put("two")) == 2

    play(story)


def test_a_value_at_one_home_only_is_finished_by_a_read_and_then_stays() -> None:
    async def story(bench: Bench) -> None:
        _ = await run(bench, 0, b"k", put("one"))
        await bench.later(0.1)
        first = members(bench)[0]
        topology = first.maps.topology
        assert topology is not None
        assert first.ballots is not None
        scope = topology.scope(0, topology.key_partition(0, BUCKET, b"k"))
        ballot = first.ballots.mint(1)
        head = await on(bench, 0, lambda m: registers(m).head(0, BUCKET, b"k"))
        half = bench.bodies.encode(replace(head, version=Version(2), manifest=put("half").manifest))
        for at in (0, 1):
            assert (await ask(bench, at, Prepare(scope, BUCKET, b"k", ballot, 1))).promised
        _ = await ask(bench, 0, Accept(scope, BUCKET, b"k", ballot, 1, half, head_hash(half)))
        seen = {await content(bench, at, b"k") for at in (1, 2, 0)}
        again = {await content(bench, at, b"k") for at in (1, 2, 0)}
        assert len(again) == 1
        assert again <= seen

    play(story)


def test_a_listing_shows_what_was_written_page_by_page_whoever_is_asked() -> None:
    async def story(bench: Bench) -> None:
        keys = [b"%02d" % number for number in range(23)]
        for at, key in enumerate(keys):
            _ = await run(bench, at % 3, key, put(f"p{at}"))
        for at in (3, 4, 20):
            _ = await run(bench, 0, keys[at], delete(f"d{at}"))
        bench.kill(members(bench)[2])
        found: list[bytes] = []
        token = b""
        for at in range(100):
            shown = await page(bench, at % 2, ListOptions(page_size=4, page_token=token))
            found += [info.key for info in shown.blobs]
            token = shown.next_page_token
            if not token:
                break
        assert found == [key for at, key in enumerate(keys) if at not in (3, 4, 20)]

    play(story, partitions=4)


def test_a_listing_folds_keys_at_the_delimiter() -> None:
    async def story(bench: Bench) -> None:
        for at, key in enumerate((b"a", b"d/1", b"d/2", b"e/x/1", b"f")):
            _ = await run(bench, 0, key, put(f"p{at}"))
        shown = await page(bench, 1, ListOptions(delimiter=b"/"))
        assert [info.key for info in shown.blobs] == [b"a", b"f"]
        assert shown.prefixes == (b"d/", b"e/")
        inside = await page(bench, 2, ListOptions(prefix=b"e/", delimiter=b"/"))
        assert inside.prefixes == (b"e/x/",)

    play(story)


def test_a_listing_without_enough_homes_says_so() -> None:
    async def story(bench: Bench) -> None:
        for member in members(bench)[1:]:
            bench.kill(member)
        with pytest.raises(Unavailable) as raised:
            _ = await page(bench, 0, ListOptions())
        assert {evidence.who for evidence in raised.value.evidence} <= {"n1", "n2"}

    play(story)


def test_a_scan_gives_every_live_head_once() -> None:
    async def story(bench: Bench) -> None:
        for at in range(40):
            _ = await run(bench, at % 3, b"%03d" % at, put(f"p{at}"))
        _ = await run(bench, 0, b"007", delete("d"))

        async def work(member: Member) -> list[bytes]:
            assert member.listing is not None
            return [key async for key, head in member.listing.scan(0, BUCKET) if head.kind is HeadKind.BLOB]

        assert await on(bench, 1, work) == [b"%03d" % at for at in range(40) if at != 7]

    play(story)


def test_many_writes_of_one_key_raise_the_era_and_are_forgotten_two_eras_later() -> None:
    async def story(bench: Bench) -> None:
        remembered: list[int] = []
        for at in range(150):
            _ = await run(bench, at % 3, b"k", put(f"w{at}", stamp=bench.map.era))
            head = await on(bench, 0, lambda m: registers(m).head(0, BUCKET, b"k"))
            remembered.append(len(head.recent))
            bench.hand_out()
            await bench.later(0.25)
        assert bench.map.era >= 3
        assert max(remembered) < 120
        assert remembered[-1] < 150 - 40

    play(story)
