"""Sources that fail: what they say reaches their caller, is taken for nothing a node said, and ends nothing else."""

from __future__ import annotations

import asyncio
import errno
import io
import threading
from collections.abc import Iterator
from typing import BinaryIO, cast

import pytest

import holdfast
from holdfast.aio.sources import source_of
from tests.faults.support.wait import until
from tests.support.faulty_server import Fault, Running, running


@pytest.fixture
def servers() -> Iterator[Running]:
    with running(1) as found:
        yield found


@pytest.mark.parametrize(
    "error", [StopIteration(), asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(1)]
)
def test_what_would_end_more_than_the_upload_is_told_otherwise(error: BaseException) -> None:
    class Broken:
        def seekable(self) -> bool:
            return False

        def read(self, _: int) -> bytes:
            raise error

    async def read() -> None:
        source = await source_of(cast("BinaryIO", Broken()))
        async with asyncio.timeout(5):
            _ = [chunk async for chunk in source.chunks()]

    with pytest.raises(RuntimeError, match="the source raised"):
        asyncio.run(read())


def test_a_source_out_of_time_is_no_silent_node(servers: Running) -> None:
    class Far(io.BytesIO):
        def read(self, _: int | None = -1) -> bytes:
            raise TimeoutError(errno.ETIMEDOUT, "the disk is far away")

    with holdfast.connect(servers.endpoints) as client:
        bucket = client.create_bucket("b")
        with pytest.raises(TimeoutError, match="far away"):
            bucket.put("k", Far(b"x"))
    assert len(servers.servers[0].calls) == 1, "and nothing is tried again"


def test_a_source_that_is_gone_says_nothing_of_an_earlier_try(servers: Running) -> None:
    class Once(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if servers.state.applications:
                raise OSError(errno.EIO, "the disk is gone")
            return super().read(size)

    with holdfast.connect(servers.endpoints) as client:
        bucket = client.create_bucket("b")
        servers.servers[0].faults["Put"].append(Fault(when="after"))
        with pytest.raises(holdfast.OutcomeUnknown, match="the disk is gone"):
            bucket.put("k", Once(b"x"))
    assert servers.state.blobs


def test_all_that_was_announced_may_be_stored_before_the_source_says_that_it_was_all(
    servers: Running,
) -> None:
    """A node that has as many bytes as were announced waits for nothing more."""
    at_end, leave = threading.Event(), threading.Event()

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            if not data:
                at_end.set()
                leave.wait(20)
            return data

    client = holdfast.connect(servers.endpoints)
    bucket = client.create_bucket("b")
    told: list[holdfast.Error] = []

    def put() -> None:
        try:
            bucket.put("k", Slow(bytes(holdfast.Limits().chunk)))
        except holdfast.Error as error:
            told.append(error)

    thread = threading.Thread(target=put)
    thread.start()
    until(at_end.is_set, 5.0, "all was sent")
    client.close()
    thread.join(5)
    leave.set()
    assert [type(error) for error in told] == [holdfast.OutcomeUnknown]
