"""A client that is closed in the middle of a call: what its callers are told, and that nothing holds it up."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

import holdfast
from tests.faults.support.wait import until
from tests.support.faulty_server import Fault, Running, running

LOST_ANSWER = Fault(when="after", hang=True)


@pytest.fixture
def servers() -> Iterator[Running]:
    with running(1) as found:
        yield found


def failure(
    client: holdfast.Client, call: Callable[[], object], under_way: Callable[[], object]
) -> holdfast.Error:
    """What a call on a thread of its own is told when the client is closed under it."""
    told: list[holdfast.Error] = []

    def work() -> None:
        try:
            call()
        except holdfast.Error as error:
            told.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: bool(under_way()), 5.0, "the call is under way")
    client.close()
    thread.join(5)
    [error] = told
    return error


@pytest.mark.parametrize("data", [b"x", iter([b"x"])])
def test_a_write_under_way_may_have_been_applied(servers: Running, data: bytes | Iterator[bytes]) -> None:
    client = holdfast.connect(servers.endpoints)
    bucket = client.create_bucket("b")
    servers.servers[0].faults["Put"].append(LOST_ANSWER)
    error = failure(client, lambda: bucket.put("k", data), lambda: servers.state.applications)
    assert isinstance(error, holdfast.OutcomeUnknown), error


def test_so_may_one_that_waits_for_its_next_try(servers: Running) -> None:
    client = holdfast.connect(servers.endpoints)
    bucket = client.create_bucket("b")
    bucket.put("k", b"x")
    servers.servers[0].faults["Delete"].extend([Fault(when="after"), Fault(33, retry_after_ms=60_000)])
    error = failure(client, lambda: bucket.delete("k"), lambda: len(servers.servers[0].calls) == 3)
    assert isinstance(error, holdfast.OutcomeUnknown), error


def test_a_write_of_which_not_all_was_sent_stored_nothing(servers: Running) -> None:
    """Its source is a pipe that says nothing, and stays open."""
    client = holdfast.connect(servers.endpoints)
    bucket = client.create_bucket("b")
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe, os.fdopen(write, "wb"):
        error = failure(client, lambda: bucket.put("k", pipe), lambda: servers.servers[0].calls)
        assert isinstance(error, holdfast.UploadInterrupted), error
    assert not servers.state.blobs


def test_a_read_was_not_answered(servers: Running) -> None:
    client = holdfast.connect(servers.endpoints)
    bucket = client.create_bucket("b")
    bucket.put("k", b"x")
    hanging = servers.servers[0].faults["Head"]
    hanging.append(Fault(hang=True))
    error = failure(client, lambda: bucket.head("k"), lambda: not hanging)
    assert type(error) is holdfast.Unavailable
    assert "closed" in str(error)


def test_closing_looks_like_no_cancellation(servers: Running) -> None:
    """Tasks that nobody cancelled are told, too."""

    async def story() -> list[object]:
        client = holdfast.aio.connect(servers.endpoints)
        bucket = await client.create_bucket("b")
        await bucket.put("k", b"x" * 100_000)
        blob = await bucket.get("k")
        steps = blob.iter()
        await anext(steps)
        server = servers.servers[0]
        server.faults["Put"].append(LOST_ANSWER)
        server.faults["Head"].append(Fault(hang=True))
        async with asyncio.TaskGroup() as group:
            told = [
                group.create_task(_told(bucket.put("l", b"x"))),
                group.create_task(_told(bucket.head("k"))),
            ]
            await asyncio.to_thread(
                until, lambda: servers.state.applications == 2 and not server.faults["Head"], 5.0, "both hang"
            )
            await client.close()
        with pytest.raises(holdfast.Unavailable):
            async for _ in steps:
                pass
        return [type(task.result()) for task in told]

    assert asyncio.run(story()) == [holdfast.OutcomeUnknown, holdfast.Unavailable]


async def _told(call: Awaitable[object]) -> holdfast.Error:
    try:
        await call
    except holdfast.Error as error:
        return error
    raise AssertionError
