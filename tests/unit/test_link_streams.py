"""One stream under virtual time: heartbeats, batches, limits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast_node.core.errors import ErrorCode, InternalError, Overloaded, PeerUnreachable
from holdfast_node.core.ids import BlobId
from holdfast_node.core.messages import ReadCells, Reply, StageCellReply
from holdfast_node.ports import Answer, Answered, Failed
from holdfast_node.services.link import limits
from holdfast_node.services.link.carrier import CarrierLost
from holdfast_node.services.link.frames import Frame, FrameType, decode
from holdfast_node.services.link.outbox import Outbox
from tests.sim.loop import SimLoop
from tests.support.street import ID, Street, after, cell, drop, error_of, run, spawn

# --- silence ------------------------------------------------------------------------------------------------------


def test_an_idle_link_stays_up_by_its_heartbeats() -> None:
    async def scenario(street: Street) -> None:
        assert isinstance(await street.ask(drop(0)), Answered)
        for _ in range(100):
            await after(0.5)
            assert street.up
        assert street.near.events.seen == []

    run(scenario)


def test_two_seconds_of_silence_are_down_and_the_first_frame_is_up_again() -> None:
    async def scenario(street: Street) -> None:
        await street.ask(drop(0))
        await street.town.carriers[0].stall(stalled=True)
        pending = spawn(street.ask(drop(1), 60))
        await after(1.4)
        assert street.opinions() == [True]
        await after(1.8)
        assert street.opinions() == [False]
        await street.town.carriers[0].stall(stalled=False)
        assert isinstance(await pending, Answered), "what was asked meanwhile is still answered"
        assert street.up
        assert len(street.town.carriers) == 1, "the same stream"

    run(scenario)


def test_a_stream_that_stays_silent_is_given_up_and_probed() -> None:
    async def scenario(street: Street) -> None:
        await street.ask(drop(0))
        await street.town.carriers[0].stall(stalled=True)
        pending = spawn(street.ask(drop(1), 60))
        await after(11.0)
        assert isinstance(error_of(await pending), PeerUnreachable)
        await after(1.5)
        assert street.up, "the probe found it again"
        assert len(street.town.carriers) == 2

    run(scenario)


def test_a_loop_that_stood_still_does_not_blame_its_peers() -> None:
    async def scenario(street: Street) -> None:
        await street.ask(drop(0))
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        await after(0.1)
        loop._now += 30.0  # pyright: ignore[reportPrivateUsage]
        await asyncio.sleep(0)
        assert street.up
        await after(1.0)
        assert street.up
        assert len(street.town.carriers) == 1

    run(scenario)


def test_a_dead_address_is_tried_with_growing_pauses() -> None:
    async def scenario(street: Street) -> None:
        server = street.town.servers.pop("far")
        assert isinstance(error_of(await street.ask(drop(0))), PeerUnreachable)
        assert street.opinions() == [False]
        assert isinstance(error_of(await street.ask(drop(1))), PeerUnreachable), "at once, without a try"
        await after(30)
        street.town.servers["far"] = server
        await after(2)
        assert street.up
        assert street.near.events.count("link_lost") == 1
        assert street.near.events.count("link_restored") == 1

    run(scenario)


# --- a store that has failed --------------------------------------------------------------------------------------


def test_a_node_whose_store_has_failed_is_down_to_others_and_says_why() -> None:
    async def scenario(street: Street) -> None:
        assert isinstance(await street.ask(drop(0)), Answered)
        street.far.failure = "Input/output error"
        handled = street.desk.handled
        await after(1.5)
        assert street.opinions() == [False], "by the next heartbeat, though nobody asked for anything"
        refused = error_of(await street.ask(drop(1)))
        assert isinstance(refused, PeerUnreachable)
        assert [(each.who, each.said) for each in refused.evidence] == [
            ("far", "its store failed: Input/output error")
        ]
        await after(30.0)
        assert street.opinions() == [False]
        assert isinstance(error_of(await street.ask(drop(2))), PeerUnreachable)
        assert street.desk.handled == handled
        street.far.failure = ""  # it was started again
        await after(2.0)
        assert street.opinions() == [True]

    run(scenario)


def test_what_was_asked_before_the_store_failed_is_answered_before_the_goodbye() -> None:
    async def scenario(street: Street) -> None:
        street.desk.gate = asyncio.Event()
        first = spawn(street.ask(drop(7)))
        await after(0.1)
        street.desk.gate.set()
        street.far.failure = "Input/output error"
        assert isinstance(await first, Answered)
        assert isinstance(error_of(await street.ask(drop(8))), PeerUnreachable)

    run(scenario)


# --- batches and limits -------------------------------------------------------------------------------------------


class SlowCarrier:
    """A carrier whose writes end when they are told to."""

    peer = "slow"
    loopback = True

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.gate = asyncio.Semaphore(0)

    async def write(self, buffers: Sequence[bytes]) -> None:
        self.messages.append(b"".join(buffers))
        await self.gate.acquire()

    async def read(self) -> bytes:
        raise CarrierLost("write only")

    def close(self) -> None:
        pass


@settings(max_examples=30)
@given(st.lists(st.integers(0, 3000), min_size=1, max_size=60), st.integers(1, 5))
def test_batches_keep_the_order_and_their_limit(sizes: list[int], at_once: int) -> None:
    limit = 4096

    async def main() -> None:
        carrier, taken = SlowCarrier(), list[int]()
        outbox = Outbox(carrier, message_bytes_max=limit)
        writer = asyncio.get_running_loop().create_task(outbox.run())
        for number, size in enumerate(sizes):
            frame = Frame(FrameType.PING, number, body=bytes(size))
            outbox.post(frame, partial(taken.append, number))
            if number % at_once == 0:
                await asyncio.sleep(0)
                carrier.gate.release()
        outbox.finish()
        for _ in sizes:
            carrier.gate.release()
        await writer
        sent = [frame for message in carrier.messages for frame in decode(message, frame_bytes_max=limit)]
        assert [frame.request_id for frame in sent] == list(range(len(sizes))) == taken
        assert all(len(message) <= limit for message in carrier.messages)
        assert outbox.queued_bytes == 0

    SimLoop(1, orderly=True).run(main())


def test_what_queues_during_a_write_leaves_together() -> None:
    async def main() -> None:
        carrier = SlowCarrier()
        outbox = Outbox(carrier, message_bytes_max=1 << 20)
        writer = asyncio.get_running_loop().create_task(outbox.run())
        outbox.post(Frame(FrameType.PING, 0))
        await after(1)
        for number in range(1, 100):
            outbox.post(Frame(FrameType.PING, number))
        carrier.gate.release()
        await after(1)
        assert [len(message) // 48 for message in carrier.messages] == [1, 99]
        writer.cancel()

    SimLoop(1).run(main())


def test_an_abandoned_outbox_lets_go_of_everyone() -> None:
    async def main() -> None:
        carrier, taken = SlowCarrier(), list[int]()
        outbox = Outbox(carrier, message_bytes_max=1 << 20)
        writer = asyncio.get_running_loop().create_task(outbox.run())
        outbox.post(Frame(FrameType.PING), lambda: taken.append(1))
        await after(1)
        outbox.post(Frame(FrameType.PING), lambda: taken.append(2))
        outbox.abandon()
        outbox.post(Frame(FrameType.PING), lambda: taken.append(3))
        assert taken == [1, 2, 3]
        writer.cancel()

    SimLoop(1).run(main())


def test_too_many_waiting_requests_are_overload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WAITING_REQUESTS_MAX", 10)

    async def scenario(street: Street) -> None:
        street.desk.gate = asyncio.Event()
        await street.ask(cell(1))
        asks = [spawn(street.ask(cell(3 << 20), 60)) for _ in range(20)]
        await after(1)
        refused = [task for task in asks if task.done()]
        assert len(refused) == 20 - 2 - 10, "two fit the window, ten may wait"
        assert all(isinstance(error_of(task.result()), Overloaded) for task in refused)
        street.desk.gate.set()
        for task in asks:
            await task

    run(scenario)


def test_waiting_requests_are_bounded_in_bytes_too() -> None:
    async def scenario(street: Street) -> None:
        street.desk.gate = asyncio.Event()
        asks = [spawn(street.ask(cell(4 << 20), 60)) for _ in range(20)]
        await after(1)
        refused = [task for task in asks if task.done()]
        assert len(refused) >= 20 - 1 - 8
        expired = [spawn(street.ask(cell(1000), 0.5)) for _ in range(3)]
        for task in expired:
            assert error_of(await task).code in {ErrorCode.DEADLINE_EXCEEDED, ErrorCode.OVERLOADED}
        street.desk.gate.set()
        for task in asks:
            await task
        assert isinstance(await street.ask(cell(4 << 20)), Answered), "nothing leaked"

    run(scenario)


def test_a_peer_has_so_many_requests_in_work_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUESTS_PER_STREAM_MAX", 8)

    async def scenario(street: Street) -> None:
        street.desk.gate = asyncio.Event()
        asks = [spawn(street.ask(drop(number))) for number in range(20)]
        await after(1)
        assert street.desk.working == 8
        assert sum(task.done() for task in asks) == 12
        street.desk.gate.set()
        answers = [await task for task in asks]
        assert sum(isinstance(answer, Answered) for answer in answers) == 8
        assert {error_of(a).code for a in answers if isinstance(a, Failed)} == {ErrorCode.OVERLOADED}

    run(scenario)


def test_large_replies_wait_for_a_slow_reader() -> None:
    async def scenario(street: Street) -> None:
        await street.ask(ReadCells(BlobId(ID), 0, 0, 0, 1))
        await street.town.far_ends[0].out.change(stalled=True)
        asks = [spawn(street.ask(ReadCells(BlobId(ID), 0, 0, 0, 1 << 20), 600)) for _ in range(200)]
        await after(1)
        assert street.desk.working == 0
        (outbox,) = street.far_streams()
        assert outbox.queued_bytes <= limits.READS_PER_STREAM_MAX << 20
        await street.town.far_ends[0].out.change(stalled=False)
        for task in asks:
            assert isinstance(await task, Answered)

    run(scenario)


def test_a_callback_that_fails_harms_nobody_else() -> None:
    async def scenario(street: Street) -> None:
        def done(_: Answer) -> None:
            raise ZeroDivisionError

        street.near.links.send(street.far.store, drop(1), timeout_s=5, done=done)
        assert isinstance(await street.ask(drop(2)), Answered)
        assert street.near.events.count("answer_callback_failed") == 1

    run(scenario)


def test_an_answer_that_nobody_foresaw_is_one_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(street: Street) -> None:
        def decode(*_: object) -> None:
            raise ZeroDivisionError

        assert isinstance(await street.ask(drop(1)), Answered)
        with monkeypatch.context() as patched:
            patched.setattr(street.near.around.bodies, "decode", decode)
            assert isinstance(error_of(await street.ask(drop(2))), InternalError)
        assert street.near.events.count("answer_unreadable") == 1
        assert isinstance(await street.ask(drop(3)), Answered)
        assert len(street.town.carriers) == 1, "the same stream"

    run(scenario)


def test_a_node_that_answers_itself_wrongly_is_told_so() -> None:
    async def scenario(street: Street) -> None:
        async def wrongly(*_: object) -> Reply:
            return StageCellReply()

        street.near.serve = wrongly
        error = error_of(await street.near.ask(street.near.store, drop(1)))
        assert isinstance(error, InternalError)
        assert "StageCellReply" in error.message

    run(scenario)


def test_every_send_is_answered_once_whatever_breaks() -> None:
    async def scenario(street: Street) -> None:
        answers: list[list[Answer]] = []
        for round_ in range(40):
            for number in range(10):
                got: list[Answer] = []
                answers.append(got)
                request = cell(300_000) if number % 2 else drop(number)
                street.near.links.send(street.far.store, request, timeout_s=0.5, done=got.append)
            await after(0.01)
            if round_ % 3 == 0:
                for carrier in list(street.town.carriers):
                    await carrier.cut()
        await after(5)
        assert [len(got) for got in answers] == [1] * len(answers)

    run(scenario)
