"""Puts and undeletes that go half wrong: no ack that one loss undoes, nothing dropped that may be named."""

from __future__ import annotations

import pytest

from holdfast_node.core.api import Call, Condition, PutOptions
from holdfast_node.core.errors import (
    DeadlineExceeded,
    InvalidArgument,
    OutcomeUnknown,
    StoreFailed,
    StoreFull,
    Unavailable,
)
from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import KEY_BYTES_MAX, Era, RequestId, StoreId
from holdfast_node.core.index_keys import LINK_ROWS
from holdfast_node.core.messages import (
    Accept,
    Commit,
    Holdings,
    LinkShards,
    Prepare,
    Reply,
    Request,
    Seal,
    StageCell,
    StageWhole,
)
from holdfast_node.core.operation import Operation, OperationKind
from holdfast_node.services.dispatcher import Caller
from tests.support.small_clusters import BUCKET, Serve, SmallCluster, pass_time, payload_of, run_story

ALL = ("n1", "n2", "n3", "n4", "n5", "n6")
SIZES = [300, 2000, 30_000]
"""Copied, of one stripe, of several parts."""


async def is_full(usual: Serve, caller: Caller, request: Request) -> Reply:
    raise StoreFull("planted")


async def links_nothing(usual: Serve, caller: Caller, request: Request) -> Reply:
    return Holdings(())


@pytest.mark.parametrize("size", SIZES)
def test_what_may_have_been_accepted_keeps_its_shards(size: int) -> None:
    async def story(small: SmallCluster) -> None:
        accepted = False

        async def lose_answer(usual: Serve, caller: Caller, request: Request) -> Reply:
            nonlocal accepted
            accepted = True
            await usual(caller, request)
            raise DeadlineExceeded("the answer was lost")

        async def fall_silent(usual: Serve, caller: Caller, request: Request) -> Reply:
            if accepted:
                raise DeadlineExceeded("no answer")
            return await usual(caller, request)

        for name in ALL:
            small.twist(name, Accept, lose_answer)
            small.twist(name, Prepare, fall_silent)
            small.twist(name, Commit, fall_silent)
        with pytest.raises(OutcomeUnknown):
            await small.put(b"k", payload_of(size))
        await pass_time(20)
        assert await small.get(b"k") == payload_of(size)

    run_story(story)


@pytest.mark.parametrize("size", SIZES)
def test_no_ack_while_the_loss_of_one_store_would_undo_it(size: int) -> None:
    """All registers vote, but hardly anybody has room for shards."""

    async def story(small: SmallCluster) -> None:
        for name in ALL[1:] if size == SIZES[0] else ALL[2:]:
            for request in (StageWhole, StageCell, Seal):
                small.twist(name, request, is_full)
        with pytest.raises(StoreFull, match="the loss of one more could undo: only the reserve is left at n"):
            await small.put(b"k", payload_of(size))

    run_story(story)


def test_a_full_store_is_not_blamed_for_one_that_is_broken() -> None:
    async def broken(usual: Serve, caller: Caller, asked: Request) -> Reply:
        raise StoreFailed("planted")

    async def story(small: SmallCluster) -> None:
        for name in ALL[1:]:
            small.twist(name, StageWhole, is_full if name == "n2" else broken)
        with pytest.raises(Unavailable, match="the loss of one more could undo"):
            await small.put(b"k", payload_of(300))

    run_story(story)


def test_a_long_upload_is_staged_above_any_fence() -> None:
    async def story(small: SmallCluster) -> None:
        bucket, pool = await small.bucket("n2")
        base = Ballot(1, 1000, StoreId(b"F" * 16), 1, 1)
        fence = Operation(OperationKind.FENCE, RequestId(b"f" * 16), Era(1), base=base)
        await small.at("n2", lambda node: node.registers.run(pool, bucket.id, b"k", fence))
        await small.put(b"k", payload_of(30_000), at="n5")
        assert await small.get(b"k") == payload_of(30_000)

    run_story(story)


def test_a_key_may_be_as_long_as_the_limit_and_no_longer() -> None:
    async def story(small: SmallCluster) -> None:
        await small.put(b"k" * KEY_BYTES_MAX, payload_of(300))
        assert await small.get(b"k" * KEY_BYTES_MAX) == payload_of(300)
        for key in (b"", b"k" * (KEY_BYTES_MAX + 1)):
            with pytest.raises(InvalidArgument, match="a key has"):
                await small.put(key, payload_of(300))

    run_story(story)


async def overwritten(small: SmallCluster) -> int:
    """A key whose first version can be brought back."""
    first = await small.put(b"k", payload_of(20_000))
    await small.put(b"k", payload_of(700))
    return first.version


def test_whoever_an_undelete_names_has_linked_its_shards_durably() -> None:
    async def story(small: SmallCluster) -> None:
        version = await overwritten(small)
        small.twist("n6", LinkShards, links_nothing)
        await small.call("n3", lambda c: c.undelete(BUCKET, b"k", version, Call()))
        manifest = (await small.head(b"k")).manifest
        assert manifest is not None
        link = LINK_ROWS + manifest.seed_id + manifest.blob_id
        linked = {m.name for m in small.cluster.running() if link in m.index.rows}
        named = {small.name_of(store) for part in manifest.parts for store in part.holders if store}
        assert named == linked == set(ALL) - {"n6"}
        assert await small.get(b"k") == payload_of(20_000)

    run_story(story)


def test_an_undelete_is_refused_while_the_loss_of_one_store_would_undo_it() -> None:
    async def story(small: SmallCluster) -> None:
        version = await overwritten(small)
        for name in ALL[:2]:
            small.twist(name, LinkShards, links_nothing)
        with pytest.raises(Unavailable, match="4 of 6 shards"):
            await small.call("n3", lambda c: c.undelete(BUCKET, b"k", version, Call()))
        assert await small.get(b"k") == payload_of(700)

    run_story(story)


@pytest.mark.parametrize("size", SIZES)
def test_a_repeated_request_tells_of_the_bytes_that_are_stored(size: int) -> None:
    """The first answer was lost, and the source gives other bytes now: the receipt is of the first ones, so that
    whoever compares it with what was sent sees that they differ."""

    async def story(small: SmallCluster) -> None:
        era = small.node("n1").cartographer.era
        options = PutOptions(call=Call(request_id=RequestId(b"r" * 16), stamp=era))
        first = await small.put(b"k", payload_of(size), options=options)
        again = await small.put(b"k", payload_of(size + 1)[::-1], options=options)
        assert (again.version, again.hash, again.size) == (first.version, first.hash, size)
        assert await small.get(b"k") == payload_of(size)

    run_story(story)


def test_a_repeated_undelete_tells_of_the_version_it_brought_back() -> None:
    """The first answer was lost, and somebody has written since: not of what is current now, nor of what a second
    undelete would bring back."""

    async def story(small: SmallCluster) -> None:
        call = Call(request_id=RequestId(b"r" * 16), stamp=small.node("n1").cartographer.era)
        _ = await overwritten(small)
        first = await small.call("n3", lambda c: c.undelete(BUCKET, b"k", 0, call))
        assert first.size == 20_000
        await small.put(b"k", payload_of(900))
        again = await small.call("n3", lambda c: c.undelete(BUCKET, b"k", 0, call))
        assert (again.version, again.hash, again.size) == (first.version, first.hash, first.size)
        await small.call("n3", lambda c: c.delete(BUCKET, b"k", Condition(), Call()))
        again = await small.call("n3", lambda c: c.undelete(BUCKET, b"k", 0, call))
        assert (again.version, again.hash, again.size) == (first.version, first.hash, first.size)
        assert (await small.head(b"k")).version == first.version + 2

    run_story(story)


def test_a_repeated_undelete_is_not_refused_because_what_it_brought_back_is_gone() -> None:
    """A refusal by the key's own register says that no try was applied, and one was."""

    async def story(small: SmallCluster) -> None:
        call = Call(request_id=RequestId(b"r" * 16), stamp=small.node("n1").cartographer.era)
        _ = await overwritten(small)
        first = await small.call("n3", lambda c: c.undelete(BUCKET, b"k", 0, call))
        last = await small.put(b"k", payload_of(900))
        bucket, pool = await small.bucket()
        await small.at("n1", lambda node: node.registers.expire(pool, bucket.id, b"k", last.version))
        with pytest.raises(OutcomeUnknown, match=f"as version {first.version}, which is kept no more"):
            await small.call("n3", lambda c: c.undelete(BUCKET, b"k", 0, call))
        assert (await small.head(b"k")).version == last.version

    run_story(story)
