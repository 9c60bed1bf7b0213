"""The fakes crash as truthfully as they say. What they share with the real adapters is in tests/conformance."""

from __future__ import annotations

import asyncio
import random

import pytest

from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.core.errors import DeadlineExceeded, PeerUnreachable, StoreFailed, StoreFull
from holdfast_node.core.ids import BootId, ClusterId, NodeName, StoreId
from holdfast_node.core.messages import Introduce, IntroduceReply, MapReply, ReadMap, Reply, Request
from holdfast_node.ports import Answer, Answered, Failed
from holdfast_node.services.dispatcher import Caller
from tests.sim.disk import Platter, SimDisk
from tests.sim.index import IndexContent, SimIndex
from tests.sim.loop import Life, SimLoop
from tests.sim.network import Network, PlainResident, Residence, SimLinks

BLOCK = 4096


def _cut_during_commit(seed: int, crash_at_s: float) -> tuple[bytes, bool]:
    """What a power cut at that instant leaves of a commit over old bytes, and whether it had been acked."""
    platter = Platter()
    chooser = random.Random(seed)
    acked: list[bool] = []

    async def write() -> None:
        disk = SimDisk(platter, chooser=chooser, delay_s=lambda: 1.0)
        await disk.create("v", 4 * BLOCK)
        await disk.commit("v", 0, [b"o" * BLOCK])
        await disk.commit("v", 0, [b"n" * BLOCK])
        acked.append(True)

    async def main(loop: SimLoop) -> None:
        life = Life("n1")
        task = loop.start(life, write())
        await asyncio.sleep(crash_at_s)
        life.kill()
        platter.power_cut(chooser)
        assert task.done() == bool(acked)

    loop = SimLoop(seed)
    loop.run(main(loop))
    return bytes(platter.files["v"].durable[:BLOCK]), bool(acked)


def test_a_power_cut_keeps_what_was_acked_and_any_mix_of_the_rest() -> None:
    assert _cut_during_commit(1, 6.5)[0] == b"o" * BLOCK, "before the second write"
    assert _cut_during_commit(1, 8.5) == (b"n" * BLOCK, False), "synced, not yet acked"
    assert _cut_during_commit(1, 9.5) == (b"n" * BLOCK, True)
    mixes = {_cut_during_commit(seed, 7.5)[0] for seed in range(40)}
    assert len(mixes) > 5
    assert all(set(mix) <= set(b"on") for mix in mixes)


def test_a_failed_sync_kills_the_disk_for_ever() -> None:
    async def main() -> None:
        disk = SimDisk(Platter(), chooser=random.Random(1))
        await disk.create("v", BLOCK)
        disk.fail_syncs = True
        with pytest.raises(StoreFailed):
            await disk.commit("v", 0, [b"x" * BLOCK])
        disk.fail_syncs = False
        with pytest.raises(StoreFailed):
            await disk.commit("v", 0, [b"x" * BLOCK])
        with pytest.raises(StoreFailed):
            await disk.read("v", 0, 1)

    SimLoop(1).run(main())


def test_a_full_disk_says_so() -> None:
    async def main() -> None:
        disk = SimDisk(Platter(capacity_bytes=2 * BLOCK), chooser=random.Random(1))
        await disk.create("a", BLOCK)
        with pytest.raises(StoreFull):
            await disk.create("b", 2 * BLOCK)

    SimLoop(1).run(main())


def test_reads_see_what_was_written_before_it_is_durable() -> None:
    async def main() -> bytes:
        disk = SimDisk(Platter(), chooser=random.Random(1), delay_s=lambda: 1.0)
        await disk.create("v", 2 * BLOCK)
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(disk.commit("v", BLOCK, [b"x" * BLOCK]))
            await asyncio.sleep(0.5)
            seen = await disk.read("v", BLOCK - 2, 4)
            assert not writing.done()
        return seen

    assert SimLoop(1).run(main()) == b"\0\0xx"


def test_a_crashed_index_is_some_earlier_state_between_batches() -> None:
    found: set[tuple[tuple[bytes, bytes], ...]] = set()
    for seed in range(30):
        content = IndexContent()

        async def main(content: IndexContent = content) -> None:
            index = SimIndex(content)
            index.write([(b"a", b"1"), (b"b", b"1")])
            await index.flush()
            index.write([(b"a", b"2")], [b"b"])
            index.write([(b"c", b"3")])

        SimLoop(seed).run(main())
        content.crash(random.Random(seed))
        found.add(tuple(SimIndex(content).scan(b"", b"\xff")))
    assert found == {
        ((b"a", b"1"), (b"b", b"1")),
        ((b"a", b"2"),),
        ((b"a", b"2"), (b"c", b"3")),
    }


class Pair:
    """Two nodes: n1 asks, n2 answers any `ReadMap` with a map that names the caller."""

    def __init__(self, seed: int) -> None:
        self.loop = SimLoop(seed)
        self.network = Network(self.loop, ProtobufBodies(), chooser=random.Random(seed))
        self.served = 0
        self.one = self._residence("n1")
        self.two = self._residence("n2")
        self.network.attach(self.one)
        self.network.attach(self.two)
        self.links = SimLinks(self.network, self.one)
        self.links.learn({self.two.store: self.two.address})

    def _residence(self, name: str) -> Residence:
        return Residence(
            name + ":1", StoreId(name.encode() * 8), NodeName(name), Life(name), PlainResident(self._serve)
        )

    async def _serve(self, caller: Caller, request: Request) -> Reply:
        self.served += 1
        if isinstance(request, Introduce):
            blank = ClusterId(b""), 1, BootId(bytes(16)), 0, 0, BootId(bytes(16)), 0
            return IntroduceReply(NodeName("n2"), self.two.store, *blank)
        return MapReply(caller.store)

    async def ask(self, timeout_s: float = 1.0) -> Answer:
        future: asyncio.Future[Answer] = self.loop.create_future()
        self.links.send(self.two.store, ReadMap(), timeout_s=timeout_s, done=future.set_result)
        assert not future.done()
        return await future


def test_a_request_is_answered_by_the_store_that_was_asked() -> None:
    pair = Pair(1)
    answer = pair.loop.run(pair.ask())
    assert answer == Answered(pair.two.store, MapReply(pair.one.store))


def test_lost_messages_end_at_the_deadline_and_doubled_ones_are_answered_once() -> None:
    pair = Pair(1)

    async def main() -> None:
        pair.network.weather.duplicates = 1.0
        assert isinstance(await pair.ask(), Answered)
        await asyncio.sleep(1)
        assert pair.served == 2
        pair.network.block("n2:1", "n1:1")
        answer = await pair.ask(timeout_s=7.0)
        assert isinstance(answer, Failed)
        assert isinstance(answer.error, DeadlineExceeded)
        assert pair.served == 4, "a one-way partition: the requests did arrive"

    pair.loop.run(main())


def test_a_dead_peer_is_unreachable_and_another_life_is_not_the_one_asked() -> None:
    pair = Pair(1)

    async def main() -> None:
        assert pair.links.is_up(pair.two.store)
        pair.two.life.kill()
        answer = await pair.ask()
        assert isinstance(answer, Failed)
        assert isinstance(answer.error, PeerUnreachable)
        await asyncio.sleep(3)
        assert not pair.links.is_up(pair.two.store)
        reborn = Residence(
            pair.two.address, StoreId(b"other" * 3 + b"!"), pair.two.node, Life("n2"), pair.two.resident
        )
        pair.network.attach(reborn)
        answer = await pair.ask()
        assert isinstance(answer, Failed)
        assert isinstance(answer.error, PeerUnreachable)

    pair.loop.run(main())


def test_whoever_is_behind_catches_up_before_it_answers() -> None:
    pair = Pair(1)
    one, two = pair.one.resident, pair.two.resident
    assert isinstance(one, PlainResident)
    assert isinstance(two, PlainResident)
    one.known_epoch = 3

    async def main() -> None:
        await pair.ask()
        assert two.catches == [(3, pair.one.store)]
        two.known_epoch = 9
        await pair.ask()
        await asyncio.sleep(1)
        assert one.catches == [(9, pair.two.store)]

    pair.loop.run(main())


def test_introductions_work_without_a_map_and_fail_in_time() -> None:
    pair = Pair(1)
    me = Introduce(NodeName("n1"), pair.one.store, ClusterId(b""), 1, BootId(bytes(16)), 0)

    async def main() -> None:
        reply = await pair.links.introduce("n2:1", me, timeout_s=1.0)
        assert reply.store == pair.two.store
        with pytest.raises(PeerUnreachable):
            await pair.links.introduce("nowhere:1", me, timeout_s=1.0)
        pair.network.block("n1:1", "n2:1")
        with pytest.raises(PeerUnreachable):
            await pair.links.introduce("n2:1", me, timeout_s=1.0)

    pair.loop.run(main())
