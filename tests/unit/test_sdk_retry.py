"""The SDK against servers that fail on demand: what is retried, under which identity, and what the caller is told."""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import holdfast
from holdfastpb.v1 import types_pb2
from tests.support.faulty_server import Fault, Running, running

QUICK = holdfast.Retries(attempts=6, pause=0.001, pause_max=0.002)
TIMEOUT = holdfast.Timeout(connect=1.0, idle=0.5, total=5.0)


@pytest.fixture
def servers() -> Iterator[Running]:
    with running(2) as found:
        yield found


@pytest.fixture
def client(servers: Running) -> Iterator[holdfast.Client]:
    with holdfast.connect(servers.endpoints, timeout=TIMEOUT, retries=QUICK) as found:
        yield found


@pytest.fixture
def bucket(client: holdfast.Client) -> holdfast.Bucket:
    return client.create_bucket("b")


def every(servers: Running, method: str, *faults: Fault) -> None:
    """The same faults at every server, as the client may stand with any."""
    for server in servers.servers:
        server.faults[method].extend(faults)


def identities(servers: Running) -> set[tuple[bytes, int]]:
    return {(request_id, stamp) for server in servers.servers for _, request_id, stamp in server.calls}


def calls(servers: Running) -> int:
    return sum(len(server.calls) for server in servers.servers)


def test_a_put_reads_back(bucket: holdfast.Bucket) -> None:
    receipt = bucket.put("k", b"hello", metadata={"a": "b"}, content_type="text/plain")
    assert (receipt.version, receipt.size, receipt.margin["san"], receipt.margin.full) == (1, 5, 1, True)
    assert receipt.hash.startswith("xxh3:")
    blob = bucket.get("k")
    assert blob.info.metadata == {"a": "b"}
    assert blob.read() == blob.read() == b"hello"


def test_a_put_is_tried_again_under_one_identity(servers: Running, bucket: holdfast.Bucket) -> None:
    every(servers, "Put", Fault(types_pb2.ERROR_CODE_UNAVAILABLE), Fault(types_pb2.ERROR_CODE_UPLOAD_EXPIRED))
    assert bucket.put("k", b"x" * 3000).version == 1
    assert calls(servers) > 2
    assert len(identities(servers)) == 1
    assert all(stamp == 7 and len(request_id) == 16 for request_id, stamp in identities(servers))


@pytest.mark.parametrize(
    "fault", [Fault(when="after"), Fault(types_pb2.ERROR_CODE_OUTCOME_UNKNOWN, when="after")]
)
def test_a_write_whose_answer_was_lost_is_applied_once(
    servers: Running, bucket: holdfast.Bucket, fault: Fault
) -> None:
    every(servers, "Put", fault)
    every(servers, "Delete", fault)
    assert bucket.put("k", b"x").version == 1
    assert bucket.delete("k") == 2
    assert servers.state.applications == 2


def test_a_refusal_after_a_lost_answer_is_an_unknown_outcome(
    servers: Running, bucket: holdfast.Bucket
) -> None:
    bucket.put("k", b"x")
    every(servers, "Put", Fault())
    with pytest.raises(holdfast.OutcomeUnknown) as caught:
        bucket.put("k", b"y", if_absent=True)
    assert len(caught.value.evidence) >= 2


def test_a_refusal_of_a_first_attempt_is_what_it_says(bucket: holdfast.Bucket) -> None:
    bucket.put("k", b"x")
    with pytest.raises(holdfast.PreconditionFailed) as caught:
        bucket.put("k", b"y", if_absent=True)
    assert (caught.value.code, caught.value.hint) == (6, "none")
    assert caught.value.evidence == (holdfast.Evidence("n1", "no"),)
    with pytest.raises(holdfast.PreconditionFailed):
        bucket.put("k", b"y", if_version=9)
    assert bucket.put("k", b"y", if_version=1).version == 2


def test_a_dead_endpoint_does_not_make_an_outcome_unknown(servers: Running, client: holdfast.Client) -> None:
    servers.kill(0)
    with holdfast.connect(servers.endpoints, timeout=TIMEOUT, retries=QUICK) as fresh:
        bucket = fresh.create_bucket("b")
        bucket.put("k", b"x")
        for _ in range(3):
            with pytest.raises(holdfast.PreconditionFailed):
                bucket.put("k", b"y", if_absent=True)


def test_a_stale_stamp_is_renewed_only_if_nothing_was_applied(
    servers: Running, bucket: holdfast.Bucket
) -> None:
    bucket.put("k", b"x")
    servers.state.era = 9
    every(servers, "Put", Fault(types_pb2.ERROR_CODE_STALE_ERA))
    bucket.put("k", b"y")
    assert {stamp for _, stamp in identities(servers)} == {7, 9}
    every(servers, "Delete", Fault(when="after"), Fault(types_pb2.ERROR_CODE_STALE_ERA))
    servers.servers[0].faults["Delete"].append(Fault(types_pb2.ERROR_CODE_STALE_ERA))
    with pytest.raises(holdfast.OutcomeUnknown):
        bucket.delete("k")


def test_a_source_that_rewinds_is_sent_again_from_the_start(
    servers: Running, bucket: holdfast.Bucket, tmp_path: Path
) -> None:
    data = bytes(range(256)) * 9_000
    path = tmp_path / "f"
    path.write_bytes(data)
    for source in (data, bytearray(data), memoryview(data), path, io.BytesIO(data)):
        every(servers, "Put", Fault(at_bytes=2_000_000))
        bucket.put("k", source)
        assert bucket.get("k").read() == data


def test_a_file_is_sent_from_where_it_stands(servers: Running, bucket: holdfast.Bucket) -> None:
    file = io.BytesIO(b"0123456789")
    file.seek(4)
    every(servers, "Put", Fault(types_pb2.ERROR_CODE_UNAVAILABLE))
    bucket.put("k", file)
    assert bucket.get("k").read() == b"456789"


def test_a_short_iterator_is_replayed(servers: Running, bucket: holdfast.Bucket) -> None:
    every(servers, "Put", Fault(types_pb2.ERROR_CODE_UPLOAD_EXPIRED))
    bucket.put("k", (bytes([i]) * 1000 for i in range(100)))
    assert bucket.get("k").read() == b"".join(bytes([i]) * 1000 for i in range(100))


def test_a_long_iterator_that_breaks_is_interrupted(servers: Running, bucket: holdfast.Bucket) -> None:
    every(servers, "Put", Fault(at_bytes=12_000_000))
    with pytest.raises(holdfast.UploadInterrupted, match="nothing was stored"):
        bucket.put("k", (bytes(1_000_000) for _ in range(40)))
    every(servers, "Put", Fault(when="after"))
    with pytest.raises(holdfast.OutcomeUnknown):
        bucket.put("k", (bytes(1_000_000) for _ in range(12)))


def test_an_iterator_that_raises_stores_nothing(servers: Running, bucket: holdfast.Bucket) -> None:
    def broken() -> Iterator[bytes]:
        yield b"some"
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        bucket.put("k", broken())
    assert not servers.state.blobs


def test_a_broken_read_goes_on_where_it_stood(servers: Running, bucket: holdfast.Bucket) -> None:
    data = bytes(range(250)) * 40
    bucket.put("k", data)
    every(servers, "Get", Fault(at_bytes=4000), Fault(types_pb2.ERROR_CODE_UNAVAILABLE))
    assert bucket.get("k").read() == data
    asked = [request for server in servers.servers for request in server.requests]
    assert {request.first for request in asked} == {0, 4000} or {request.first for request in asked} >= {
        0,
        4000,
    }
    assert all(request.version == 1 for request in asked if request.first)


def test_a_short_stream_is_never_short_bytes(servers: Running, bucket: holdfast.Bucket) -> None:
    data = bytes(10_000)
    bucket.put("k", data)
    servers.state.short = True
    every(servers, "Get", Fault(at_bytes=3000))
    assert bucket.get("k").read() == data


def test_a_flipped_byte_on_the_way_is_read_again_or_refused(
    servers: Running, bucket: holdfast.Bucket, tmp_path: Path
) -> None:
    bucket.put("k", b"x" * 2500)
    servers.state.flip = True
    assert bucket.get("k").read() == b"x" * 2500
    servers.state.flip = True
    with pytest.raises(holdfast.IntegrityError):
        bucket.get("k").save(tmp_path / "f")
    assert list(tmp_path.iterdir()) == []
    servers.state.flip = True
    with pytest.raises(holdfast.IntegrityError):
        list(bucket.get("k").iter())


def test_ranges(bucket: holdfast.Bucket) -> None:
    data = bytes(range(250)) * 20
    bucket.put("k", data)
    assert bucket.get("k", range=(10, 20)).read() == data[10:20]
    assert bucket.get("k", range=(4990, None)).read() == data[4990:]
    blob = bucket.get("k", range=(1000, 9000))
    assert (blob.length, blob.info.size) == (4000, 5000)
    assert b"".join(blob.iter()) == data[1000:]
    for wrong in ((-1, 5), (5, 4)):
        with pytest.raises(holdfast.InvalidArgument):
            bucket.get("k", range=wrong)


def test_save_is_whole_or_not_there(servers: Running, bucket: holdfast.Bucket, tmp_path: Path) -> None:
    bucket.put("k", b"new")
    target = tmp_path / "f"
    target.write_bytes(b"old")
    assert bucket.get("k").save(target) == target
    assert target.read_bytes() == b"new"
    with pytest.raises(holdfast.BlobNotFound):
        bucket.get("absent")


def test_a_call_that_hangs_is_given_up_elsewhere(servers: Running, bucket: holdfast.Bucket) -> None:
    bucket.put("k", b"x")
    every(servers, "Head", Fault(hang=True))
    assert bucket.head("k").version == 1


def test_bytes_sent_once_more_do_not_prolong_a_put_that_gets_nowhere(servers: Running) -> None:
    timeout, attempts = holdfast.Timeout(connect=1.0, idle=0.2, total=0.5), 40
    every(servers, "Put", *[Fault(hang=True)] * attempts)
    retries = holdfast.Retries(attempts=attempts, pause=0.001, pause_max=0.002)
    with holdfast.connect(servers.endpoints, timeout=timeout, retries=retries) as client:
        bucket = client.create_bucket("b")
        with pytest.raises(holdfast.OutcomeUnknown, match="nothing moved for"):
            bucket.put("k", b"x" * 100_000)


def test_a_reader_and_a_source_take_the_time_they_want(servers: Running) -> None:
    """As long as a whole call may take without anything moving, in the middle of one, and then a node fails, too."""
    timeout, data = holdfast.Timeout(connect=1.0, idle=1.0, total=0.5), bytes(range(256)) * 40_000
    pause = threading.Event().wait

    def slowly() -> Iterator[bytes]:
        for at in range(0, len(data), 5_000_000):
            yield data[at : at + 5_000_000]
            pause(0.7)

    with holdfast.connect(servers.endpoints, timeout=timeout) as client:
        bucket = client.create_bucket("b")
        assert bucket.put("k", slowly()).size == len(data)
        every(servers, "Get", Fault(at_bytes=1))
        found = bytearray()
        for chunk in bucket.get("k").iter():
            pause(0.7 if not found else 0.0)
            found += chunk
    assert found == data


def test_giving_up_says_who_answered_what(servers: Running, bucket: holdfast.Bucket) -> None:
    every(servers, "Head", *[Fault(types_pb2.ERROR_CODE_UNAVAILABLE)] * 10)
    with pytest.raises(holdfast.Unavailable) as caught:
        bucket.head("k")
    assert holdfast.Evidence("n1", "no") in caught.value.evidence
    restored = pickle.loads(pickle.dumps(caught.value))
    assert (type(restored), str(restored)) == (type(caught.value), str(caught.value))


def test_an_unknown_code_keeps_its_branch(servers: Running, bucket: holdfast.Bucket) -> None:
    every(servers, "Head", Fault(20))
    with pytest.raises(holdfast.CallerError, match="20"):
        bucket.head("k")


def test_nobody_there_is_unavailable() -> None:
    quick = holdfast.Timeout(connect=0.2, idle=0.2, total=0.3)
    with (
        holdfast.connect("127.0.0.1:1,127.0.0.1:2", timeout=quick, retries=QUICK) as client,
        pytest.raises(holdfast.Unavailable) as caught,
    ):
        client.bucket("b").head("k")
    assert {item.who for item in caught.value.evidence} == {"127.0.0.1:1", "127.0.0.1:2"}


def test_many(bucket: holdfast.Bucket) -> None:
    keys = [f"k{i:02}" for i in range(20)]
    assert all(outcome.ok for outcome in bucket.put_many((key, key.encode()) for key in keys))
    assert [info.name for info in bucket.list()] == keys
    assert [info.name for info in bucket.list(prefix="k1")] == keys[10:]
    fetched = list(bucket.get_many([*keys, "absent", ""], concurrency=3))
    assert [outcome.unwrap().data for outcome in fetched[:20]] == [key.encode() for key in keys]
    assert isinstance(fetched[20].error, holdfast.BlobNotFound)
    assert isinstance(fetched[21].error, holdfast.InvalidArgument)
    assert [outcome.ok for outcome in bucket.delete_many([*keys, "absent"])] == [True] * 20 + [False]


def test_copy_keeps_what_belongs_to_the_blob(servers: Running, bucket: holdfast.Bucket) -> None:
    bucket.put("k", b"x" * 5000, metadata={"a": "b"}, content_type="text/plain")
    every(servers, "Put", Fault(types_pb2.ERROR_CODE_UNAVAILABLE))
    bucket.copy("k", "copy")
    info = bucket.head("copy")
    assert (info.size, info.metadata, info.content_type) == (5000, {"a": "b"}, "text/plain")


def test_progress_is_told(bucket: holdfast.Bucket) -> None:
    told: list[tuple[int, int | None]] = []
    bucket.put("k", b"x" * 3_000_000, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (3_000_000, 3_000_000)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    bucket.get("k").read(progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (3_000_000, 3_000_000)


def test_bad_input_is_refused_without_a_call(servers: Running, bucket: holdfast.Bucket) -> None:
    for key in ("", b"", "x" * 1025, "ü" * 513):
        with pytest.raises(holdfast.InvalidArgument):
            bucket.put(key, b"x")
    with pytest.raises(holdfast.InvalidArgument, match="content or a path"):
        bucket.put("k", "text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(holdfast.InvalidArgument):
        bucket.put("k", 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(holdfast.InvalidArgument):
        bucket.put("k", b"x", checksum="md5:00")
    with pytest.raises(holdfast.ChecksumMismatch):
        bucket.put("k", b"x", checksum="xxh3:" + "00" * 16)
    with pytest.raises(holdfast.TooLarge):
        bucket.put("k", b"x", metadata={"a": "x" * 9000})
    with pytest.raises(holdfast.InvalidArgument):
        bucket.put("k", b"x", if_absent=True, if_version=1)
    with pytest.raises(holdfast.InvalidArgument):
        holdfast.connect("nonsense")
    assert calls(servers) == 0


def test_keys_of_any_bytes_have_names_that_find_them(bucket: holdfast.Bucket) -> None:
    for key in (b"\xff\xfe", "ü/日本", b"\x00\x01", "x" * 1024):
        bucket.put(key, b"x")
        [info] = [info for info in bucket.list() if bucket.head(info.name).key == info.key]
        assert bucket.get(info.name).info.key == info.key
        bucket.delete(info.name)
