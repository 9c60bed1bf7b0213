"""The SDK's decisions by themselves: no socket, no clock."""

from __future__ import annotations

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

import holdfast
from holdfast.core.endpoints import Rota, parse_endpoints
from holdfast.core.requests import byte_range, key_bytes, parse_hash, show_hash
from holdfast.core.retry import Course, Next
from holdfast.core.transfer import Cutter, Download
from holdfast.errors import CLASS_BY_CODE, MapConflict, NotVoting, PeerUnreachable, StaleEra, error_from_code
from holdfast.values import key_text, printable
from holdfastpb.v1 import blob_pb2, types_pb2

GONE = PeerUnreachable("gone", evidence=[holdfast.Evidence("n1", "gone")])


def course(*, write: bool = True, endpoints: int = 3, attempts: int = 8) -> Course:
    return Course(
        write=write,
        endpoints=endpoints,
        timeout=holdfast.Timeout(total=10.0),
        retries=holdfast.Retries(attempts=attempts, pause=0.1, pause_max=1.0),
        now=0.0,
    )


def test_every_code_of_the_wire_has_its_error() -> None:
    assert set(types_pb2.ErrorCode.values()) - {0} == set(CLASS_BY_CODE)
    for code, cls in CLASS_BY_CODE.items():
        branch = (
            holdfast.CallerError
            if code < 32
            else holdfast.ClusterError
            if code < 64
            else holdfast.IntegrityError
        )
        assert issubclass(cls, branch)
        assert type(error_from_code(code, "m")) is cls


def test_no_pause_until_every_endpoint_was_asked_then_longer_ones() -> None:
    failing = course(write=False)
    pauses = [failing.failed(GONE, sent=True, now=0.0, jitter=1.0).pause_s for _ in range(7)]
    assert pauses == [0.0, 0.0, 0.1, 0.2, 0.4, 0.8, 1.0]


def test_a_node_that_asks_for_patience_gets_it_and_keeps_the_client() -> None:
    again = course().failed(holdfast.Overloaded("busy", retry_after_s=3.0), sent=True, now=0.0, jitter=0.0)
    assert (again.pause_s, again.leave) == (3.0, False)


def test_time_runs_from_the_last_progress() -> None:
    failing = course(write=False)
    failing.failed(GONE, sent=True, now=9.0, jitter=0.0)
    failing.moved(9.5)
    failing.failed(GONE, sent=True, now=19.0, jitter=0.0)
    with pytest.raises(holdfast.Unreachable, match="10 s"):
        failing.failed(GONE, sent=True, now=19.6, jitter=0.0)


def test_the_callers_own_time_counts_for_no_node() -> None:
    going = course()
    before = going.attempt_timeout_s(9.0)
    going.waited(1000.0)
    assert going.attempt_timeout_s(1009.0) == before
    again = going.failed(holdfast.Unavailable("no"), sent=False, now=1009.0, jitter=0.0)
    assert again.how is Next.RETRY


def test_moving_again_what_moved_before_does_not_reset_the_count() -> None:
    failing = course(attempts=3)
    for _ in range(2):
        failing.failed(holdfast.UploadExpired("late"), sent=True, now=0.0, jitter=0.0)
        failing.moved(0.0)
    with pytest.raises(holdfast.UploadExpired, match="3 attempts"):
        failing.failed(holdfast.UploadExpired("late"), sent=True, now=0.0, jitter=0.0)


@pytest.mark.parametrize("sent", [False, True])
def test_only_what_was_sent_is_uncertain(sent: bool) -> None:
    failing = course()
    failing.failed(GONE, sent=sent, now=0.0, jitter=0.0)
    with pytest.raises(holdfast.OutcomeUnknown if sent else holdfast.PreconditionFailed):
        failing.failed(holdfast.PreconditionFailed("no"), sent=True, now=0.0, jitter=0.0)


def test_what_was_never_acceptable_keeps_its_name() -> None:
    failing = course()
    failing.failed(GONE, sent=True, now=0.0, jitter=0.0)
    with pytest.raises(holdfast.TooLarge):
        failing.failed(holdfast.TooLarge("no"), sent=True, now=0.0, jitter=0.0)


def test_a_read_is_never_uncertain() -> None:
    failing = course(write=False)
    failing.failed(GONE, sent=True, now=0.0, jitter=0.0)
    with pytest.raises(holdfast.BlobNotFound):
        failing.failed(holdfast.BlobNotFound("no"), sent=True, now=0.0, jitter=0.0)


def test_a_new_stamp_only_while_nothing_can_have_been_applied() -> None:
    fresh = course()
    assert fresh.failed(StaleEra("old"), sent=True, now=0.0, jitter=0.0).how is Next.RESTAMP
    fresh.failed(GONE, sent=True, now=0.0, jitter=0.0)
    with pytest.raises(holdfast.OutcomeUnknown):
        fresh.failed(StaleEra("old"), sent=True, now=0.0, jitter=0.0)


@pytest.mark.parametrize("error", [NotVoting("no"), MapConflict("no")])
def test_what_nodes_say_to_each_other_is_unavailable_to_a_caller(error: holdfast.Error) -> None:
    failing = course(attempts=1)
    with pytest.raises(holdfast.Unavailable) as caught:
        failing.failed(error, sent=True, now=0.0, jitter=0.0)
    assert type(caught.value) is holdfast.Unavailable


def test_a_broken_answer_to_a_write_is_not_tried_again() -> None:
    with pytest.raises(holdfast.OutcomeUnknown):
        course().failed(holdfast.InternalError("oops"), sent=True, now=0.0, jitter=0.0)
    reading = course(write=False)
    reading.failed(holdfast.Corrupt("oops"), sent=True, now=0.0, jitter=0.0)
    reading.failed(holdfast.Corrupt("oops"), sent=True, now=0.0, jitter=0.0)
    with pytest.raises(holdfast.Corrupt):
        reading.failed(holdfast.Corrupt("oops"), sent=True, now=0.0, jitter=0.0)


def test_endpoints() -> None:
    assert parse_endpoints("a:1, b:2,,a:1") == ("a:1", "b:2")
    assert parse_endpoints(["[::1]:7101"]) == ("[::1]:7101",)
    for wrong in ("", "a", "a:0", "a:65536", "a:b", "http://a:1", "a:1:2"):
        with pytest.raises(holdfast.InvalidArgument):
            parse_endpoints(wrong)


def test_calls_that_fail_together_move_on_by_one() -> None:
    rota = Rota(("a:1", "b:1", "c:1"))
    for _ in range(5):
        rota.failed("a:1")
    assert rota.current == "b:1"


@given(st.binary(min_size=1, max_size=1024))
def test_every_key_has_a_name_that_finds_it_and_can_be_shown(key: bytes) -> None:
    assert key_bytes(key_text(key)) == key
    assert printable(key).isprintable() or printable(key) == ""


@given(st.lists(st.binary(max_size=50)), st.integers(1, 40))
def test_cutting_keeps_every_byte_and_the_size(buffers: list[bytes], size: int) -> None:
    cutter = Cutter(size)
    messages = [message for buffer in buffers for message in cutter.feed(buffer)]
    messages += cutter.rest()
    assert b"".join(messages) == b"".join(buffers)
    assert all(len(message) == size for message in messages[:-1])
    assert all(0 < len(message) <= size for message in messages)


def test_ranges_and_hashes() -> None:
    assert byte_range(None) == (0, -1)
    assert byte_range((3, None)) == (3, -1)
    assert byte_range((3, 3)) == (3, 3)
    raw = xxhash.xxh3_128_digest(b"x")
    assert parse_hash(show_hash(raw)) == raw
    with pytest.raises(holdfast.InvalidArgument):
        parse_hash("xxh3:12")


def header(version: int, first: int, last: int, data: bytes) -> blob_pb2.GetHeader:
    info = blob_pb2.BlobInfo(version=version, size=len(data), hash=xxhash.xxh3_128_digest(data))
    return blob_pb2.GetHeader(info=info, first=first, last=last)


def test_a_resumed_download_asks_for_the_rest_of_the_same_version() -> None:
    data = bytes(range(100))
    download = Download("b", b"k", version=0, first=0, last=-1)
    assert (download.request().version, download.request().last) == (0, -1)
    download.opened(header(4, 0, 100, data), "n1")
    download.received(data[:30], "n1")
    again = download.request()
    assert (again.version, again.first, again.last) == (4, 30, 100)
    with pytest.raises(holdfast.InternalError):
        download.opened(header(5, 30, 100, data[1:]), "n2")
    download.opened(header(4, 30, 100, data), "n2")
    download.received(data[30:], "n2")
    assert download.done
    download.verify("n2")


def test_a_whole_download_of_other_bytes_is_corrupt() -> None:
    download = Download("b", b"k", version=0, first=0, last=-1)
    download.opened(header(4, 0, 3, b"abc"), "n1")
    download.received(b"abd", "n1")
    with pytest.raises(holdfast.Corrupt):
        download.verify("n1")
    with pytest.raises(holdfast.InternalError):
        download.received(b"x", "n1")
