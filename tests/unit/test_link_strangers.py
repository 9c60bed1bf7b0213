"""Far ends that misbehave: what they send ends their request or their stream, and nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.core.errors import ErrorCode, Unimplemented
from holdfast_node.core.ids import BootId, ClusterId, NodeName, StoreId
from holdfast_node.core.messages import (
    Reply,
    Request,
    StageCellReply,
)
from holdfast_node.ports import Answered, Failed
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.link import limits
from holdfast_node.services.link.carrier import Carrier
from holdfast_node.services.link.frames import Frame, FrameType, decode, encode
from holdfast_node.services.link.hello import ErrorDetail, Identity, Role, hello_of
from tests.support.carriers import MemoryCarrier, carrier_pair
from tests.support.street import ID, Street, after, cell, drop, error_of, run

BODIES = ProtobufBodies()
STRANGER = Identity(NodeName("stranger"), StoreId(b"s" * 16), ClusterId(b""), 1, BootId(ID))


# --- far ends that misbehave --------------------------------------------------------------------------------------


async def greet(street: Street, *, bulk: bool = False) -> MemoryCarrier:
    """A stranger's stream to the far node, greeted."""
    near, far = carrier_pair(street.town.tasks)
    street.serve(far)
    body = BODIES.encode(hello_of(STRANGER, bulk=bulk, window_bytes=0))
    await near.write(encode(Frame(FrameType.HELLO, body=body)))
    (frame,) = decode(await near.read(), frame_bytes_max=1 << 20)
    assert frame.type == FrameType.HELLO
    return near


async def reply_to(carrier: MemoryCarrier, frame: Frame) -> Frame:
    await carrier.write(encode(frame))
    (reply,) = decode(await carrier.read(), frame_bytes_max=1 << 20)
    return reply


def request(number: int, kind: int = FrameType.DROP_SHARDS) -> Frame:
    return Frame(kind, number, 1000, body=BODIES.encode(drop(number)), must_understand=True)


def test_an_unknown_type_is_unimplemented_for_that_request_only() -> None:
    async def scenario(street: Street) -> None:
        carrier = await greet(street)
        reply = await reply_to(carrier, request(5, kind=999))
        assert (reply.type, reply.request_id) == (FrameType.ERROR, 5)
        assert BODIES.decode(ErrorDetail, reply.body).code == ErrorCode.UNIMPLEMENTED
        await carrier.write(encode(replace(request(6, kind=998), must_understand=False)))
        reply = await reply_to(carrier, request(7))
        assert (reply.type, reply.request_id) == (FrameType.DROP_SHARDS_REPLY, 7)
        assert street.far.events.count("frame_type_unknown") == 2

    run(scenario)


def test_a_body_that_is_none_is_an_error_for_that_request_only() -> None:
    async def scenario(street: Street) -> None:
        carrier = await greet(street)
        reply = await reply_to(carrier, replace(request(5), body=b"\xff\xff"))
        assert BODIES.decode(ErrorDetail, reply.body).code == ErrorCode.CORRUPT
        assert (await reply_to(carrier, request(6))).type == FrameType.DROP_SHARDS_REPLY

    run(scenario)


@pytest.mark.parametrize(
    "message",
    [
        b"nonsense",
        encode(request(1))[0][:-1],
        encode(Frame(FrameType.STAGE_CELL, 1, body=bytes(300_000)))[0],
        encode(request(1))[0] + b"\0",
    ],
    ids=["nonsense", "cut", "oversized", "trailing"],
)
def test_a_malformed_frame_ends_the_stream_with_a_report(message: bytes) -> None:
    async def scenario(street: Street) -> None:
        carrier = await greet(street)
        await carrier.write([message])
        while await carrier.read():
            pass
        assert street.far.events.count("frame_refused") == 1
        assert isinstance(await street.ask(drop(1)), Answered), "others are not concerned"

    run(scenario)


@settings(max_examples=60)
@given(st.binary(min_size=1, max_size=300), st.booleans())
def test_no_bytes_upset_a_server(data: bytes, greeted: bool) -> None:
    async def scenario(street: Street) -> None:
        if greeted:
            carrier = await greet(street)
        else:
            carrier, far = carrier_pair(street.town.tasks)
            street.serve(far)
        await carrier.write([data])
        while await carrier.read():
            pass
        assert street.far.events.count("task_failed") == 0
        assert isinstance(await street.ask(drop(1)), Answered)
        assert len(street.far_streams()) == 1

    run(scenario)


@settings(max_examples=60)
@given(
    st.sampled_from([int(kind) for kind in FrameType] + [0, 77, 65535]),
    st.binary(max_size=60),
    st.binary(max_size=60),
)
def test_no_frame_upsets_a_server(kind: int, body: bytes, payload: bytes) -> None:
    async def scenario(street: Street) -> None:
        carrier = await greet(street)
        await carrier.write(encode(Frame(kind, 1, body=body, payload=payload, must_understand=True)))
        await carrier.write(encode(request(2)))
        replies: list[int] = []
        while 2 not in replies:
            replies += [frame.request_id for frame in decode(await carrier.read(), frame_bytes_max=1 << 20)]
        assert street.far.events.count("task_failed") == 0

    run(scenario)


@settings(max_examples=60)
@given(
    st.sampled_from([int(kind) for kind in FrameType if kind != FrameType.GOODBYE] + [0, 77, 65535]),
    st.integers(0, 3),
    st.binary(max_size=60),
)
def test_no_reply_upsets_a_client(kind: int, request_id: int, body: bytes) -> None:
    class Liar:
        async def serve(self, carrier: Carrier) -> None:
            await carrier.read()
            far = Identity(NodeName("far"), StoreId(b"far".ljust(16, b"\0")), ClusterId(b""), 1, BootId(ID))
            greeting = hello_of(far, bulk=False, window_bytes=1 << 20)
            await carrier.write(encode(Frame(FrameType.HELLO, body=BODIES.encode(greeting))))
            while await carrier.read():
                await carrier.write(encode(Frame(kind, request_id, body=body)))

    async def scenario(street: Street) -> None:
        street.town.servers["far"] = Liar()
        answer = await street.ask(drop(1), 2)
        assert isinstance(answer, Failed) or kind == FrameType.DROP_SHARDS_REPLY
        assert street.near.events.count("task_failed") == 0

    run(scenario)


def test_more_than_was_granted_ends_the_stream() -> None:
    async def scenario(street: Street) -> None:
        street.desk.gate = asyncio.Event()
        carrier = await greet(street, bulk=True)
        body = BODIES.encode(cell(0))
        for number in range(1, 4):
            await carrier.write(
                encode(Frame(FrameType.STAGE_CELL, number, 1000, body=body, payload=bytes(3 << 20)))
            )
        await carrier.read()
        assert street.far.events.count("frame_refused") == 1
        street.desk.gate.set()

    run(scenario)


@pytest.mark.parametrize("again", [5, 4])
def test_no_request_is_run_twice(again: int) -> None:
    """A commit that a steward refused would succeed once the key has changed."""

    async def scenario(street: Street) -> None:
        carrier = await greet(street)
        await reply_to(carrier, request(5))
        await carrier.write(encode(request(again)))
        await carrier.read()
        assert street.far.events.count("frame_refused") == 1
        assert street.desk.handled == 1

    run(scenario)


def test_the_first_frame_is_hello() -> None:
    async def scenario(street: Street) -> None:
        near, far = carrier_pair(street.town.tasks)
        street.serve(far)
        await near.write(encode(request(1)))
        assert await near.read() == b""
        assert street.far.events.count("frame_refused") == 1

    run(scenario)


def test_who_says_nothing_is_hung_up_on() -> None:
    async def scenario(street: Street) -> None:
        near, far = carrier_pair(street.town.tasks)
        street.serve(far)
        assert await near.read() == b""
        assert street.far.events.count("link_ended") == 1

    run(scenario)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"protocol_min": 2, "protocol_max": 3}, ErrorCode.UNIMPLEMENTED),
        ({"role": Role.CLIENT}, ErrorCode.UNIMPLEMENTED),
    ],
    ids=["protocol", "client"],
)
def test_who_cannot_be_served_is_told_why(change: dict[str, int], code: ErrorCode) -> None:
    async def scenario(street: Street) -> None:
        near, far = carrier_pair(street.town.tasks)
        street.serve(far)
        hello = replace(hello_of(STRANGER, bulk=False, window_bytes=0), **change)  # type: ignore[arg-type]
        await near.write(encode(Frame(FrameType.HELLO, body=BODIES.encode(hello))))
        (frame,) = decode(await near.read(), frame_bytes_max=1 << 20)
        assert frame.type == FrameType.GOODBYE
        assert BODIES.decode(ErrorDetail, frame.body).code == code

    run(scenario)


def test_nobody_beyond_this_machine_is_served() -> None:
    async def scenario(street: Street) -> None:
        street.town.loopback = False
        error = error_of(await street.ask(drop(1)))
        assert "this machine" in str(error)

    run(scenario)


def test_streams_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STREAMS_MAX", 1)

    async def scenario(street: Street) -> None:
        assert isinstance(await street.ask(drop(1)), Answered)
        error = error_of(await street.ask(cell(10)))
        assert "too many links" in str(error)

    run(scenario)


def test_a_handler_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDLER_OVERTIME_S", 1.0)

    async def scenario(street: Street) -> None:
        street.desk.gate = asyncio.Event()
        assert error_of(await street.ask(drop(1), 0.5)).code == ErrorCode.DEADLINE_EXCEEDED
        assert street.desk.working == 1
        await after(1.5)
        assert street.desk.working == 0

    run(scenario)


def test_a_wrong_reply_type_is_an_internal_error() -> None:
    async def wrong(_: Caller, request: Request) -> Reply:
        return StageCellReply()

    async def scenario(street: Street) -> None:
        street.far.serve = wrong
        assert error_of(await street.ask(drop(1))).code == ErrorCode.INTERNAL

    run(scenario)


def test_unimplemented_is_what_a_dispatcher_says() -> None:
    async def none(_: Caller, request: Request) -> Reply:
        raise Unimplemented("not here")

    async def scenario(street: Street) -> None:
        street.far.serve = none
        assert error_of(await street.ask(drop(1))).code == ErrorCode.UNIMPLEMENTED

    run(scenario)


def test_a_far_end_that_never_greets_is_given_up() -> None:
    class Mute:
        async def serve(self, carrier: Carrier) -> None:
            await carrier.read()
            await after(100)

    async def scenario(street: Street) -> None:
        street.town.servers["far"] = Mute()
        error = error_of(await street.ask(drop(0), 30))
        assert "greeting" in str(error)

    run(scenario)
