"""The port of a node: who may call what, where it listens, health, reflection, and the order of its end."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc import aio

from holdfast_node.adapters.rpc.bind import bind
from holdfast_node.adapters.rpc.rows import METHOD_ROWS, is_loopback, may_call
from holdfast_node.adapters.rpc.server import SERVICES, ListenRefused, require_loopback
from holdfast_node.core.errors import (
    ErrorCode,
    HoldfastError,
    LocalError,
)
from holdfastpb.v1 import admin_pb2, blob_pb2, blob_pb2_grpc, peer_pb2
from tests.support.guest import Guest, failure, nobody, run, stream, unary, until
from tests.support.rpc_node import RpcNode

# --- who may call -------------------------------------------------------------------------------------------------


def test_every_method_has_a_row_and_every_row_a_method() -> None:
    methods = {
        f"/{service.full_name}/{method.name}"
        for module in (blob_pb2, admin_pb2, peer_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    methods |= {f"/grpc.health.v1.Health/{name}" for name in ("Check", "List", "Watch")}
    methods.add("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
    assert set(METHOD_ROWS) == methods


@pytest.mark.parametrize(
    ("peer", "here"),
    [
        ("ipv4:127.0.0.1:40000", True),
        ("ipv6:[::1]:40000", True),
        ("ipv6:%5B::1%5D:40000", True),
        ("ipv4:10.0.0.1:40000", False),
        ("ipv4:1.127.0.1:4", False),
        ("ipv6:[::2]:4", False),
        ("", False),
    ],
)
def test_only_this_machine_may_call(peer: str, here: bool) -> None:
    assert is_loopback(peer) is here
    assert may_call("/holdfastpb.v1.Blobs/Get", peer) is here
    assert not may_call("/holdfastpb.v1.Blobs/NoSuchMethod", peer)


def test_a_method_without_a_row_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(METHOD_ROWS, "/holdfastpb.v1.Blobs/Head")
    monkeypatch.delitem(METHOD_ROWS, "/holdfastpb.v1.Blobs/Get")
    monkeypatch.delitem(METHOD_ROWS, "/grpc.health.v1.Health/Check")
    monkeypatch.delitem(METHOD_ROWS, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")

    async def scenario(guest: Guest) -> None:
        failed = await failure(guest.blobs.Head(blob_pb2.HeadRequest(bucket="b", key=b"k")))
        assert (failed.status, failed.code) == (grpc.StatusCode.PERMISSION_DENIED, ErrorCode.UNAUTHORIZED)
        failed = await failure(guest.blobs.Get(blob_pb2.GetRequest(bucket="b", key=b"k")))
        assert failed.status is grpc.StatusCode.PERMISSION_DENIED
        check = unary(guest.channel, "/grpc.health.v1.Health/Check")
        assert (await failure(check(b""))).status is grpc.StatusCode.PERMISSION_DENIED
        info = stream(guest.channel, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        assert (await failure(info(iter([b"\x3a\x00"])))).status is grpc.StatusCode.PERMISSION_DENIED
        unknown = unary(guest.channel, "/holdfastpb.v1.Blobs/NoSuchMethod")
        assert (await failure(unknown(b""))).status is grpc.StatusCode.UNIMPLEMENTED

    run(scenario)


def test_a_service_with_a_missing_method_does_not_start() -> None:
    with pytest.raises(AttributeError):
        bind(blob_pb2.DESCRIPTOR.services_by_name["Blobs"], object())


# --- the port -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["0.0.0.0:7101", "[::]:7101", "10.1.2.3:1", "example.com:1", ":7101", "nonsense"]
)
def test_nothing_listens_beyond_this_machine(address: str) -> None:
    with pytest.raises(ListenRefused, match="TLS") as caught:
        require_loopback(address)
    assert isinstance(caught.value, LocalError)
    assert isinstance(caught.value, HoldfastError)
    for fine in ("127.0.0.1:0", "127.9.9.9:1", "[::1]:0", "localhost:1"):
        require_loopback(fine)


def test_a_port_in_use_is_refused() -> None:
    async def scenario(guest: Guest) -> None:
        second = RpcNode("n2", nobody, address=guest.node.address)
        with pytest.raises(ListenRefused, match="cannot listen"):
            await second.start()
        await second.stop(0.0)
        await guest.put(b"x")

    run(scenario)


async def health(guest: Guest, service: str) -> int:
    check = unary(guest.channel, "/grpc.health.v1.Health/Check")
    name = service.encode()
    return (await check(b"\x0a" + bytes([len(name)]) + name))[1]


def test_health_says_serving_only_when_the_node_is_ready() -> None:
    async def scenario(guest: Guest) -> None:
        for service in ("", *SERVICES):
            assert await health(guest, service) == 1
        await guest.node.rpc.set_ready(ready=False)
        for service in ("", *SERVICES):
            assert await health(guest, service) == 2

    run(scenario)


def test_a_node_whose_store_has_failed_leaves_its_callers_to_others() -> None:
    async def scenario(guest: Guest) -> None:
        await guest.put(b"x")
        guest.node.failure = "Input/output error"
        for call in (
            guest.blobs.Head(blob_pb2.HeadRequest(bucket="b", key=b"k")),
            guest.admin.Identify(admin_pb2.IdentifyRequest()),
        ):
            failed = await failure(call)
            assert failed.code == ErrorCode.STORE_FAILED
        with pytest.raises(aio.AioRpcError):
            await guest.put(b"y")
        assert [data for _, data in guest.node.blobs.blobs.values()] == [b"x"]
        assert await health(guest, "") == 1, "which the node itself takes back"

    run(scenario)


def test_reflection_tells_any_client_what_is_offered() -> None:
    async def scenario(guest: Guest) -> None:
        info = stream(guest.channel, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        symbol = b"holdfastpb.v1.Blobs"
        asked = [
            b"\x3a\x00",
            b"\x22" + bytes([len(symbol)]) + symbol,
        ]  # list_services; file_containing_symbol
        replies = [reply async for reply in info(iter(asked))]
        for service in (*SERVICES, "grpc.health.v1.Health"):
            assert service.encode() in replies[0]
        whole = blob_pb2.DESCRIPTOR.serialized_pb
        assert whole in replies[1]
        assert FileDescriptorProto.FromString(whole).service[0].name == "Blobs"

    run(scenario)


def test_stopping_lets_a_call_finish_and_takes_no_other() -> None:
    async def scenario(guest: Guest) -> None:
        guest.node.blobs.gate = asyncio.Event()
        putting = asyncio.get_running_loop().create_task(guest.put(b"in flight"))
        await until(lambda: guest.node.blobs.taken > 0)
        stopping = asyncio.get_running_loop().create_task(guest.node.rpc.stop(10.0))
        for _ in range(100):
            await asyncio.sleep(0)
        async with aio.insecure_channel(
            guest.node.address, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as late:
            stub = blob_pb2_grpc.BlobsStub(late)
            failed = await failure(stub.Head(blob_pb2.HeadRequest(bucket="b", key=b"k"), timeout=5))
            assert failed.status in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
        guest.node.blobs.gate.set()
        assert (await putting).size == len(b"in flight")
        await stopping

    run(scenario)
