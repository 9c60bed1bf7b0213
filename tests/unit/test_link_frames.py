"""Frames survive the wire or are refused; the numbers on it are those of the protocol; nothing lacks a row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_node.adapters.records import message_of
from holdfast_node.adapters.rpc.carrier import unwrap, wrap
from holdfast_node.core.ids import Digest
from holdfast_node.core.messages import REPLY_TO, ReadCellsReply, ReadMap, RegisterView
from holdfast_node.services.link import hello
from holdfast_node.services.link.authorisation import FRAME_ROWS, may_send
from holdfast_node.services.link.credits import Credits
from holdfast_node.services.link.frames import (
    HEADER_BYTES,
    REPLY_TYPES,
    REQUEST_TYPES,
    Frame,
    FrameError,
    FrameType,
    decode,
    encode,
)
from holdfast_node.services.link.limits import (
    BULK_FRAME_BYTES_MAX,
    KEEP_BUDGET_BYTES,
    MIB,
    PAYLOAD_BYTES_MAX,
    bulk_window_bytes,
)
from holdfast_node.services.link.patience import Patience
from holdfast_node.services.link.surroundings import payload_of, with_payload
from holdfastpb.v1 import peer_pb2

LIMIT = 4096

frames = st.builds(
    Frame,
    type=st.integers(0, 2**16 - 1),
    request_id=st.integers(0, 2**64 - 1),
    deadline_ms=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 2**64 - 1),
    context=st.binary(max_size=20),
    body=st.binary(max_size=50),
    payload=st.binary(max_size=50),
    must_understand=st.booleans(),
)


def joined(many: list[Frame]) -> bytes:
    return b"".join(buffer for frame in many for buffer in encode(frame))


@given(st.lists(frames, max_size=5))
def test_frames_come_out_as_they_went_in(many: list[Frame]) -> None:
    message = joined(many)
    assert list(decode(message, frame_bytes_max=LIMIT)) == many
    assert len(message) == sum(frame.size for frame in many)
    assert list(decode(unwrap(wrap([message])), frame_bytes_max=LIMIT)) == many


@given(frames, st.data())
def test_any_flipped_byte_is_noticed(frame: Frame, data: st.DataObject) -> None:
    message = bytearray(joined([frame]))
    at = data.draw(st.integers(0, len(message) - 1))
    message[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(FrameError):
        list(decode(bytes(message), frame_bytes_max=LIMIT))


@given(frames, st.data())
def test_a_cut_message_is_noticed(frame: Frame, data: st.DataObject) -> None:
    message = joined([frame])
    with pytest.raises(FrameError):
        list(decode(message[: data.draw(st.integers(1, len(message) - 1))], frame_bytes_max=LIMIT))


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_frames(data: bytes) -> None:
    if data:
        with pytest.raises(FrameError):
            list(decode(data, frame_bytes_max=LIMIT))


@given(st.binary(max_size=40))
def test_what_carries_frames_is_checked_too(data: bytes) -> None:
    try:
        inside = unwrap(data)
    except FrameError:
        return
    assert peer_pb2.Frames.FromString(data).frames == inside


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16383, 16384, 2 * MIB])
def test_the_wrapping_is_plain_protobuf(length: int) -> None:
    assert peer_pb2.Frames.FromString(wrap([bytes(length)])).frames == bytes(length)
    sent = peer_pb2.Frames(frames=bytes(length)).SerializeToString()
    assert unwrap(sent or b"\x0a\x00") == bytes(length)


def test_a_frame_over_the_limit_is_refused_before_it_is_read() -> None:
    message = joined([Frame(type=16, body=bytes(100))])
    with pytest.raises(FrameError, match="allowed"):
        list(decode(message, frame_bytes_max=100))
    assert HEADER_BYTES == 48
    assert BULK_FRAME_BYTES_MAX - PAYLOAD_BYTES_MAX > HEADER_BYTES


def test_the_numbers_are_those_of_the_protocol() -> None:
    theirs = {name.removeprefix("FRAME_TYPE_"): number for name, number in peer_pb2.FrameType.items()}
    theirs.pop("UNSPECIFIED")
    assert theirs == {member.name: int(member) for member in FrameType}
    roles = {name.removeprefix("ROLE_"): number for name, number in peer_pb2.Role.items()}
    assert roles == {member.name: int(member) for member in hello.Role}


def test_every_message_has_a_frame_type_of_its_own() -> None:
    numbers = list(REQUEST_TYPES.values()) + list(REPLY_TYPES.values())
    assert len(set(numbers)) == len(numbers) == len(FrameType) - 5
    assert set(REQUEST_TYPES) == set(REPLY_TO)
    assert set(REPLY_TYPES) == set(REPLY_TO.values())


def test_every_frame_that_can_be_received_by_a_server_has_a_row() -> None:
    sent_by_servers = {FrameType.GOODBYE, FrameType.ERROR, FrameType.PONG, *REPLY_TYPES.values()}
    assert set(FRAME_ROWS) == set(FrameType) - sent_by_servers
    for kind in FRAME_ROWS:
        assert may_send(kind, loopback=True)
        assert not may_send(kind, loopback=False)
    assert not may_send(9999, loopback=True)
    assert not may_send(FrameType.GOODBYE, loopback=True)


@pytest.mark.parametrize("cls", [hello.Hello, hello.Context, hello.ErrorDetail])
def test_what_links_say_has_messages_of_the_same_fields(cls: type) -> None:
    from dataclasses import fields

    assert {field.name for field in fields(cls)} == set(message_of(cls).DESCRIPTOR.fields_by_name)


def test_exactly_the_classes_with_a_payload_carry_one() -> None:
    from dataclasses import fields

    classes: set[type] = {*REPLY_TO, *REPLY_TO.values()}
    with_room = {cls.__name__ for cls in classes if "payload" in {field.name for field in fields(cls)}}
    assert with_room == {"StageWhole", "StageCell", "RegisterView", "ReadCellsReply"}
    view = RegisterView(None, Digest(b""), b"", 0, 0)
    assert payload_of(with_payload(view, b"x")) == b"x"
    assert payload_of(with_payload(ReadCellsReply((), b""), b"x")) == b"x"
    assert with_payload(ReadMap(), b"x") == ReadMap()
    assert payload_of(ReadMap()) == b""


@given(st.lists(st.integers(1, 50), max_size=60))
def test_credits_never_exceed_their_window(sizes: list[int]) -> None:
    window, taken = Credits(100), list[int]()
    for size in sizes:
        if window.take(size):
            taken.append(size)
        elif taken:
            window.give_back(taken.pop(0))
        assert window.taken == sum(taken) <= 100


@pytest.mark.parametrize("links", [0, 1, 5, 11, 1000])
def test_windows_fit_the_budget_as_long_as_a_frame_fits_the_window(links: int) -> None:
    window = bulk_window_bytes(KEEP_BUDGET_BYTES, links)
    assert window >= BULK_FRAME_BYTES_MAX
    assert window == BULK_FRAME_BYTES_MAX or window * max(1, links) <= KEEP_BUDGET_BYTES


def test_patience_is_the_p95_of_recent_answers() -> None:
    patience = Patience()
    assert patience.p95_s == 0.05
    for _ in range(90):
        patience.note(0.01)
    assert patience.p95_s == 0.05
    for _ in range(38):
        patience.note(0.5)
    assert patience.p95_s == 0.5
    for _ in range(200):
        patience.note(0.1)
    assert patience.p95_s == 0.1


def test_errors_cross_with_everything_they_say_within_bounds() -> None:
    from holdfast_node.core.errors import Evidence, Unavailable

    error = Unavailable("a" * 5000, hint="\ud800 lone", evidence=[Evidence("n", "s")] * 100, retry_after_ms=5)
    detail = hello.detail_of(error)
    assert len(detail.message) <= 1024
    assert len(detail.evidence) <= 32
    again = hello.error_of(detail)
    assert isinstance(again, Unavailable)
    assert again.retry_after_ms == 5
    assert again.hint == "? lone"
    unknown = hello.error_of(hello.ErrorDetail(code=999, message="from the future"))
    assert "999" in str(unknown)
