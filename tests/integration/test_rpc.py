"""The gRPC services of a node, by a client that knows the .proto files only: messages, streams, errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable
from functools import partial

import grpc
import pytest
from grpc import aio

from holdfast_node.adapters.rpc.options import RpcLimits
from holdfast_node.adapters.rpc.statuses import (
    CODE_OF,
    DETAIL_BYTES_MAX,
    STATUS_OF,
    encode_detail,
    one_line,
    status_of,
)
from holdfast_node.core.errors import (
    ErrorCode,
    Evidence,
    InternalError,
    error_from_code,
)
from holdfastpb.v1 import admin_pb2, blob_pb2, blob_pb2_grpc, types_pb2
from tests.support.guest import MIB, OPTIONS, Guest, failure, put_header, run, until

# --- what goes in comes out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4 * MIB, 4 * MIB + 1, 25 * MIB])
def test_a_blob_of_any_size_comes_back(size: int) -> None:
    async def scenario(guest: Guest) -> None:
        data = bytes(range(251)) * (size // 251 + 1)
        data = data[:size]
        receipt = await guest.put(data, content_type="text/x", metadata={"b": "2", "a": "1"})
        assert (receipt.version, receipt.size, receipt.era) == (7, size, 3)
        assert [(entry.tag, entry.survives) for entry in receipt.margin.entries] == [("san", 1), ("node", 2)]
        assert receipt.margin.full
        assert await guest.get() == data
        head = await guest.blobs.Head(blob_pb2.HeadRequest(bucket="b", key=b"k"))
        assert (head.info.size, head.info.content_type, dict(head.info.metadata)) == (
            size,
            "text/x",
            {"a": "1", "b": "2"},
        )
        assert guest.node.blobs.open_gets == 0

    run(scenario)


def test_a_range_is_what_is_sent() -> None:
    async def scenario(guest: Guest) -> None:
        await guest.put(b"0123456789")
        assert await guest.get(first=3, last=7) == b"3456"
        assert await guest.get(first=3) == b"3456789"

    run(scenario)


def test_small_calls_reach_their_doors() -> None:
    async def scenario(guest: Guest) -> None:
        await guest.put(b"x", key=b"one")
        listed = await guest.blobs.List(blob_pb2.ListRequest(bucket="b", prefix=b"o"))
        assert [info.key for info in listed.blobs] == [b"one"]
        assert (list(listed.prefixes), listed.next_page_token) == ([b"dir/"], b"next")
        versions = await guest.blobs.Versions(blob_pb2.VersionsRequest(bucket="b", key=b"one"))
        assert versions.versions[0].current
        deleted = await guest.blobs.Delete(blob_pb2.DeleteRequest(bucket="b", key=b"one"))
        assert (deleted.version, deleted.era) == (8, 3)
        back = await guest.blobs.Undelete(blob_pb2.UndeleteRequest(bucket="b", key=b"one", version=5))
        assert back.version == 5
        bucket = await guest.blobs.CreateBucket(blob_pb2.CreateBucketRequest(name="photos", undo_seconds=-1))
        assert (bucket.name, bucket.pool, bucket.undo_seconds) == ("photos", "main", -1)
        buckets = await guest.blobs.ListBuckets(blob_pb2.ListBucketsRequest())
        assert buckets.buckets[0].closing
        assert buckets.buckets[0].usage == blob_pb2.BucketUsage(blobs=7, bytes=70, whole=False)
        bucket = await guest.blobs.SetBucket(blob_pb2.SetBucketRequest(name="photos", undo_seconds=7))
        assert (bucket.name, bucket.undo_seconds, bucket.HasField("usage")) == ("photos", 7, False)
        bucket = await guest.blobs.SetBucket(blob_pb2.SetBucketRequest(name="photos", quota_bytes=9))
        assert (bucket.undo_seconds, bucket.quota_bytes) == (5, 9)
        with pytest.raises(grpc.aio.AioRpcError, match="nothing is to be set"):
            await guest.blobs.SetBucket(blob_pb2.SetBucketRequest(name="photos"))
        await guest.blobs.DeleteBucket(blob_pb2.DeleteBucketRequest(name="photos"))

    run(scenario)


def test_operators_get_their_reports() -> None:
    async def scenario(guest: Guest) -> None:
        assert (await guest.admin.Identify(admin_pb2.IdentifyRequest())).node == "n1"
        seed = admin_pb2.InitRequest(
            nodes=[admin_pb2.SeedNode(name="n1", address="127.0.0.1:1", tags={"san": "a"})],
            pools=[admin_pb2.SeedPool(name="main", code="rs:4+2")],
            simulated_domains=True,
        )
        reply = await guest.admin.Init(seed)
        assert list(reply.warnings) == ["a warning"]
        assert guest.node.admin.seed is not None
        assert guest.node.admin.seed.nodes[0].tags == (("san", "a"),)
        assert guest.node.admin.seed.nodes[0].weight == 1
        status = await guest.admin.Status(admin_pb2.StatusRequest())
        assert status.nodes[0].tags["san"] == "a"
        assert (await guest.admin.GetMap(admin_pb2.GetMapRequest())).map.epoch == 1
        lost = await guest.admin.ReplaceLost(admin_pb2.ReplaceLostRequest(selector="san=a"))
        assert list(lost.nodes) == ["san=a"]
        rebuilt = await guest.admin.RebuildIndex(admin_pb2.RebuildIndexRequest(node="n1"))
        assert rebuilt.boot == 2
        scrub = await guest.admin.Scrub(admin_pb2.ScrubRequest(now=True))
        assert (scrub.nodes[0].node, scrub.nodes[0].hurried) == ("n1", True)
        assert list(scrub.unreachable) == ["n2"]
        explained = await guest.admin.Explain(admin_pb2.ExplainRequest(bucket="b", key=b"k"))
        assert explained.info.key == b"k"
        proofs = [reply async for reply in guest.admin.Prove(admin_pb2.ProveRequest(lose=["san=a"]))]
        assert [proof.finished for proof in proofs] == [False, True]
        assert list(proofs[1].tested) == ["san=a"]
        risks = [reply async for reply in guest.admin.Risk(admin_pb2.RiskRequest(margin=-1, pool="main"))]
        assert [reply.finished for reply in risks] == [False, True]
        assert risks[1].at_risk[0].margin.entries[0].survives == -1
        assert list(risks[1].at_risk[0].weakest) == ["main"]

    run(scenario)


# --- streams that break -------------------------------------------------------------------------------------------


def test_payload_is_taken_only_as_fast_as_it_is_used() -> None:
    async def scenario(guest: Guest) -> None:
        guest.node.blobs.gate = asyncio.Event()
        sent = 0

        async def messages() -> AsyncIterator[blob_pb2.PutRequest]:
            nonlocal sent
            yield blob_pb2.PutRequest(header=blob_pb2.PutHeader(bucket="b", key=b"k", size=-1))
            for _ in range(30):
                yield blob_pb2.PutRequest(chunk=bytes(4 * MIB))
                sent += 1
            yield blob_pb2.PutRequest(end=blob_pb2.PutEnd(size=120 * MIB))

        putting = asyncio.get_running_loop().create_task(_put(guest, messages()))
        await until(lambda: guest.node.blobs.taken > 0)
        for _ in range(2000):
            await asyncio.sleep(0)
        assert guest.node.blobs.taken == 4 * MIB
        assert sent < 15, "the rest waits at the caller"
        guest.node.blobs.gate.set()
        assert (await putting).size == 120 * MIB

    run(scenario)


async def _put(guest: Guest, messages: AsyncIterator[blob_pb2.PutRequest]) -> blob_pb2.PutReply:
    return await guest.blobs.Put(messages)


@pytest.mark.parametrize("how", ["cancel", "hang up"])
@pytest.mark.parametrize("size", [-1, 3 * MIB])
def test_a_broken_put_never_looks_like_a_short_one(how: str, size: int) -> None:
    async def scenario(guest: Guest) -> None:
        blobs = guest.node.blobs

        def took(count: int) -> bool:
            return blobs.taken == count

        def ended(count: int) -> bool:
            return blobs.ended == count

        for attempt in range(20):
            before = blobs.taken
            async with (
                asyncio.timeout(10),
                aio.insecure_channel(guest.node.address, options=OPTIONS) as channel,
            ):
                call = blob_pb2_grpc.BlobsStub(channel).Put()
                header = blob_pb2.PutHeader(bucket="b", key=b"%d" % attempt, size=size)
                await call.write(blob_pb2.PutRequest(header=header))
                await call.write(blob_pb2.PutRequest(chunk=bytes(MIB)))
                await until(partial(took, before + MIB))
                if how == "cancel":
                    call.cancel()
            await until(partial(ended, attempt + 1))
        assert blobs.blobs == {}

    run(scenario)


def test_a_cancelled_get_lets_go_at_once() -> None:
    async def scenario(guest: Guest) -> None:
        await guest.put(bytes(30 * MIB))
        guest.node.blobs.gate = asyncio.Event()
        call = guest.blobs.Get(blob_pb2.GetRequest(bucket="b", key=b"k", last=-1))
        await anext(aiter(call))
        await until(lambda: guest.node.blobs.open_gets == 1)
        call.cancel()
        await until(lambda: guest.node.blobs.open_gets == 0)

    run(scenario)


# --- errors -------------------------------------------------------------------------------------------------------


def test_an_error_says_what_why_and_who() -> None:
    async def scenario(guest: Guest) -> None:
        failed = await failure(guest.blobs.Head(blob_pb2.HeadRequest(bucket="b", key=b"k")))
        assert failed.status is grpc.StatusCode.NOT_FOUND
        assert (failed.code, failed.message, failed.hint) == (
            ErrorCode.BLOB_NOT_FOUND,
            "there is no such blob",
            "put it",
        )
        assert failed.evidence == (("n2", "none"),)
        failed = await failure(guest.blobs.Get(blob_pb2.GetRequest(bucket="missing", key=b"k", last=-1)))
        assert (failed.status, failed.code) == (grpc.StatusCode.NOT_FOUND, ErrorCode.BUCKET_NOT_FOUND)

    run(scenario)


def test_a_mistake_of_the_node_is_an_incident_number() -> None:
    async def scenario(guest: Guest) -> None:
        guest.node.blobs.fail = ZeroDivisionError("a secret")
        failed = await failure(guest.blobs.Head(blob_pb2.HeadRequest(bucket="b", key=b"k")))
        assert (failed.status, failed.code) == (grpc.StatusCode.INTERNAL, ErrorCode.INTERNAL)
        assert "secret" not in str(failed)
        (event,) = (fields for name, fields in guest.node.events.seen if name == "call_failed")
        assert str(event["incident"]) in failed.hint
        assert event["method"] == "/holdfastpb.v1.Blobs/Head"

    run(scenario)


BAD_HEADERS: dict[str, dict[str, object]] = {
    "no bucket": {"bucket": ""},
    "no key": {"key": b""},
    "long key": {"key": bytes(1025)},
    "bad size": {"size": -2},
    "bad hash": {"hash": b"short"},
    "bad request id": {"call": blob_pb2.Call(request_id=b"short")},
    "request id without an era": {"call": blob_pb2.Call(request_id=bytes(16))},
    "much metadata": {"metadata": {"k": "v" * 8192}},
    "long content type": {"content_type": "x" * 2000},
}


@pytest.mark.parametrize("wrong", BAD_HEADERS.values(), ids=BAD_HEADERS.keys())
def test_a_bad_header_is_refused_before_any_payload(wrong: dict[str, object]) -> None:
    async def scenario(guest: Guest) -> None:
        async def messages() -> AsyncIterator[blob_pb2.PutRequest]:
            yield blob_pb2.PutRequest(header=put_header(**wrong))

        failed = await failure(guest.blobs.Put(messages()))
        assert failed.code in {ErrorCode.INVALID_ARGUMENT, ErrorCode.TOO_LARGE}
        assert failed.status in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE}
        assert guest.node.blobs.blobs == {}

    run(scenario)


def test_a_put_is_a_header_and_chunks() -> None:
    async def scenario(guest: Guest) -> None:
        header = blob_pb2.PutRequest(header=blob_pb2.PutHeader(bucket="b", key=b"k", size=-1))
        chunk = blob_pb2.PutRequest(chunk=b"x")
        for wrong in ([], [chunk], [header, header], [header, chunk, blob_pb2.PutRequest()]):
            failed = await failure(guest.blobs.Put(iter(wrong)))
            assert failed.code == ErrorCode.INVALID_ARGUMENT
        for endless in (
            [header],
            [header, chunk],
            [header, chunk, blob_pb2.PutRequest(end=blob_pb2.PutEnd(size=2))],
        ):
            failed = await failure(guest.blobs.Put(iter(endless)))
            assert failed.code == ErrorCode.UPLOAD_INTERRUPTED
        large = [header, blob_pb2.PutRequest(chunk=bytes(4 * MIB + 1))]
        failed = await failure(guest.blobs.Put(iter(large)))
        assert failed.code == ErrorCode.TOO_LARGE
        assert guest.node.blobs.blobs == {}

    run(scenario)


@pytest.mark.parametrize(("first", "last"), [(-1, -1), (0, -2), (5, 4)])
def test_a_range_that_is_none_is_refused(first: int, last: int) -> None:
    async def scenario(guest: Guest) -> None:
        await guest.put(b"0123456789")
        request = blob_pb2.GetRequest(bucket="b", key=b"k", first=first, last=last)
        assert (await failure(guest.blobs.Get(request))).code == ErrorCode.INVALID_ARGUMENT

    run(scenario)


def test_lists_and_selectors_have_limits() -> None:
    async def scenario(guest: Guest) -> None:
        wrong: list[AsyncIterable[object] | Awaitable[object]] = [
            guest.blobs.List(blob_pb2.ListRequest(bucket="b", page_size=1001)),
            guest.blobs.List(blob_pb2.ListRequest(bucket="b", page_size=-1)),
            guest.blobs.List(blob_pb2.ListRequest(bucket="b", prefix=bytes(2000))),
            guest.blobs.List(blob_pb2.ListRequest(bucket="b", page_token=bytes(9000))),
            guest.admin.ReplaceLost(admin_pb2.ReplaceLostRequest()),
            guest.admin.Prove(admin_pb2.ProveRequest(lose=["x"] * 1000)),
            guest.admin.Risk(admin_pb2.RiskRequest(margin=-2)),
        ]
        for call in wrong:
            assert (await failure(call)).code == ErrorCode.INVALID_ARGUMENT

    run(scenario)


def test_messages_and_headers_have_limits() -> None:
    async def scenario(guest: Guest) -> None:
        large = blob_pb2.PutRequest(chunk=bytes(6 * MIB))
        failed = await failure(guest.blobs.Put(iter([large])))
        assert failed.status is grpc.StatusCode.RESOURCE_EXHAUSTED
        request = blob_pb2.HeadRequest(bucket="b", key=b"k")
        failed = await failure(guest.blobs.Head(request, metadata=(("x-much", "v" * 20_000),)))
        assert failed.status is grpc.StatusCode.RESOURCE_EXHAUSTED
        await guest.put(b"the server lives on")

    run(scenario)


def test_connections_have_a_limit() -> None:
    async def scenario(guest: Guest) -> None:
        await guest.put(b"x")
        own = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
        async with (
            aio.insecure_channel(guest.node.address, options=own) as second,
            aio.insecure_channel(guest.node.address, options=own) as third,
        ):
            request = blob_pb2.HeadRequest(bucket="b", key=b"k")
            assert (await blob_pb2_grpc.BlobsStub(second).Head(request)).info.size == 1
            failed = await failure(blob_pb2_grpc.BlobsStub(third).Head(request, timeout=3))
            assert failed.status in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}

    run(scenario, RpcLimits(connections=2))


def test_every_code_has_a_status_and_every_status_a_code() -> None:
    assert set(STATUS_OF) == set(ErrorCode)
    assert set(CODE_OF) == set(grpc.StatusCode) - {grpc.StatusCode.OK}
    for code in set(ErrorCode) - {ErrorCode.UNSPECIFIED}:
        error = error_from_code(code, "message", hint="hint", evidence=[Evidence("n", "s")], retry_after_ms=9)
        assert status_of(error) is STATUS_OF[code]
        detail = types_pb2.ErrorDetail.FromString(encode_detail(error))
        told = (int(detail.code), detail.message, detail.hint, detail.retry_after_ms)
        assert told == (int(code), "message", "hint", 9)
    for status, code in CODE_OF.items():
        branch = type(error_from_code(code, "")).__mro__[1]
        back = type(error_from_code(CODE_OF[STATUS_OF[code]], "")).__mro__[1]
        assert branch is back, f"{status}: caller, cluster and broken bytes stay what they are"


def test_a_detail_is_bounded_and_a_status_is_one_line() -> None:
    error = InternalError("m" * 9000, hint="h" * 9000, evidence=[Evidence("w" * 900, "s" * 900)] * 100)
    assert len(encode_detail(error)) <= DETAIL_BYTES_MAX
    assert one_line(InternalError("a\nb\x1b[31m\ud800")).isprintable()
