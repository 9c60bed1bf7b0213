"""Scrub finds what rots, whatever kind of record it is, and makes it whole; what is whole is left alone."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import pytest

from holdfast_node.core.errors import StoreFull
from holdfast_node.core.ids import BlobId
from holdfast_node.core.index_keys import CELL_ROWS, register_row_key, shard_name, stripe_of
from holdfast_node.core.records import RecordType
from holdfast_node.core.report import NodeScrub
from holdfast_node.services import compaction
from holdfast_node.services.foreground import QUIET_S
from holdfast_node.services.log import verifier
from holdfast_node.services.log.verifier import Survey
from holdfast_node.services.node import Node
from holdfast_node.services.restoring import KILLS_AT_ONCE
from holdfast_node.services.store import Entry
from tests.support import stores
from tests.support.rot import WHERE, flip, is_rotten, live
from tests.support.small_clusters import KIB, SmallCluster, pass_time, payload_of, run_story

SIZES: Final = (100, 8000, 30 * KIB, 100 * KIB)
KEYS: Final = [b"key %d" % number for number in range(12)]


async def filled(small: SmallCluster) -> None:
    """Blobs of every size, some overwritten, one deleted, one brought back."""
    for number, key in enumerate(KEYS):
        _ = await small.put(key, payload_of(SIZES[number % len(SIZES)]))
    first = await small.put(b"old", payload_of(9000))
    _ = await small.put(b"old", payload_of(5000))
    await pass_time(1)
    assert first.version == 1


async def scrubbed(small: SmallCluster) -> list[NodeScrub]:
    """One cycle on every node, asked for, and everything found healed."""
    asked = await small.at("n1", lambda node: node.admin.scrub(now=True))
    found = asked
    for _ in range(200):
        await pass_time(1)
        found = await small.at("n1", lambda node: node.admin.scrub(now=False))
        ended = all(
            node.completed >= begun.cycle for node, begun in zip(found.nodes, asked.nodes, strict=True)
        )
        if ended and not any(node.waiting for node in found.nodes):
            return list(found.nodes)
    raise AssertionError([node.waiting for node in found.nodes])


def total(nodes: Sequence[NodeScrub]) -> tuple[int, int]:
    return sum(node.found for node in nodes), sum(node.healed for node in nodes)


async def check(small: SmallCluster) -> None:
    for number, key in enumerate(KEYS):
        assert await small.get(key) == payload_of(SIZES[number % len(SIZES)])
    assert await small.get(b"old") == payload_of(5000)
    assert await small.get(b"old", version=1) == payload_of(9000)
    status = await small.at("n1", lambda node: node.admin.status())
    assert status.healthy, status.problems


def test_what_is_whole_is_left_alone_and_told_to_be() -> None:
    async def story(small: SmallCluster) -> None:
        await filled(small)
        for nodes in (await scrubbed(small), await scrubbed(small)):
            assert total(nodes) == (0, 0)
            assert all(node.garbage == 0 and node.unproven_s < 30 for node in nodes)
        await check(small)

    run_story(story)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("cached", [True, False])
def test_every_kind_of_record_is_found_and_healed(where: str, cached: bool) -> None:
    async def story(small: SmallCluster) -> None:
        await filled(small)
        machine = small.machine("n2")
        if not cached:
            await small.cluster.stop(machine)
            await small.cluster.boot(machine)
            await pass_time(5)
        chooser = random.Random(where)
        kinds: set[int] = set()
        for name, record in live(machine):
            if record.kind not in {*kinds, RecordType.STORE_TIME, RecordType.SCRUB}:
                kinds.add(record.kind)
                flip(machine, name, record, where, chooser)
        assert kinds >= {
            RecordType.REGISTER,
            RecordType.CELL,
            RecordType.SEAL,
            RecordType.MAP,
            RecordType.PEER,
        }
        nodes = await scrubbed(small)
        found, healed = total(nodes)
        assert found == healed == len(kinds), [node for node in nodes if node.found]
        await check(small)
        assert total(await scrubbed(small)) == (found, healed), "healed is healed"

    run_story(story)


def test_as_many_copies_as_may_be_lost_rot_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of six copies of every register and two of six shards of every blob: nothing votes less for it."""
    monkeypatch.setattr(verifier, "STEP_BYTES", 16 * KIB)  # many steps in every volume

    async def story(small: SmallCluster) -> None:
        await filled(small)
        for name in ("n3", "n4"):
            await small.cluster.stop(small.machine(name))
            await small.cluster.boot(small.machine(name))
        await pass_time(5)
        small.stop_following()
        chooser = random.Random(7)
        count = 0
        for name in ("n3", "n4"):
            machine = small.machine(name)
            for file, record in live(machine):
                if record.kind in (RecordType.REGISTER, RecordType.CELL, RecordType.SEAL):
                    flip(machine, file, record, chooser.choice(WHERE), chooser)
                    count += 1
        nodes = await scrubbed(small)
        found, healed = total(nodes)
        made_anew_before_it_was_met = sum(node.garbage for node in nodes)
        assert found == healed == count - made_anew_before_it_was_met
        assert made_anew_before_it_was_met < count / 4
        await small.go_on_following()
        await check(small)

    run_story(story)


def test_a_cycle_comes_by_itself_and_goes_on_after_a_restart() -> None:
    async def story(small: SmallCluster) -> None:
        await filled(small)
        await pass_time(400)
        [first] = [
            node
            for node in (await small.at("n1", lambda n: n.admin.scrub(now=False))).nodes
            if node.node == "n2"
        ]
        assert first.completed >= 1
        machine = small.machine("n2")
        name, record = next((n, r) for n, r in live(machine) if r.kind == RecordType.CELL)
        flip(machine, name, record, "payload", random.Random(1))
        await small.cluster.stop(machine)
        await small.cluster.boot(machine)
        await pass_time(700)
        [second] = [
            node
            for node in (await small.at("n1", lambda n: n.admin.scrub(now=False))).nodes
            if node.node == "n2"
        ]
        assert second.completed > first.completed
        assert (second.found, second.healed) == (1, 1)
        assert second.unproven_s <= second.promised_s
        await check(small)

    run_story(story)


@pytest.mark.parametrize("where", WHERE)
def test_what_was_healed_is_not_missed_when_the_index_is_made_anew(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken records are still in the log, and who reads it from end to end must not fear for what they said."""
    monkeypatch.setattr(compaction, "AT_ONCE_MAX", 0)  # or the volume they are in is given back meanwhile

    async def story(small: SmallCluster) -> None:
        await filled(small)
        machine = small.machine("n2")
        chooser = random.Random(where)
        for name, record in live(machine):
            if chooser.random() < 0.3:
                flip(machine, name, record, where, chooser)
        nodes = await scrubbed(small)
        assert total(nodes)[0] > 10
        await pass_time(3)
        await small.cluster.stop(machine)
        machine.index.wipe()
        await small.cluster.boot(machine)
        await pass_time(10)
        assert machine.node is not None
        assert is_rotten(machine), "nothing is left to be afraid of"
        assert not machine.node.store.lost_records
        assert machine.node.store.rotten() == ()
        assert total(await scrubbed(small)) == (0, 0)
        await check(small)

    run_story(story)


def test_what_is_left_of_a_failed_write_is_no_finding() -> None:
    """A shard that no version has cannot be made again, and need not be."""

    async def story(small: SmallCluster) -> None:
        await filled(small)
        seed = BlobId(b"of nobody".ljust(16))
        entries = [stores.cell(seed, 0, bytes(600)), stores.seal(seed, [bytes(600)])]

        async def leave(node: Node) -> None:
            await node.store.append(entries, bulk=True)

        await small.at("n2", leave)
        machine = small.machine("n2")
        for name, record in live(machine):
            if record.key.startswith(seed):
                flip(machine, name, record, "payload")
        nodes = await scrubbed(small)
        assert total(nodes) == (0, 0)
        assert sum(node.garbage for node in nodes) == 2
        await check(small)

    run_story(story)


def test_what_cannot_be_healed_yet_is_named_with_the_reason_until_it_is() -> None:
    """Half of the cluster is away: neither the register nor the cell can be brought back, and nobody says they were."""

    async def story(small: SmallCluster) -> None:
        await filled(small)
        small.stop_following()
        machine = small.machine("n2")
        away = [small.machine(name) for name in ("n4", "n5", "n6")]
        for other in away:
            await small.cluster.stop(other)
        bucket, _ = await small.bucket()
        records = live(machine)
        register = next(each for each in records if each[1].key == bucket.id + KEYS[1])
        cell = next(
            each
            for each in records
            if each[1].kind == RecordType.CELL and each[1].extent.payload_length > 1000
        )
        for name, record in (register, cell):
            flip(machine, name, record, "payload" if record.kind == RecordType.CELL else "body")
        assert machine.node is not None
        machine.node.store._registers._cache.clear()
        _ = await small.at("n2", lambda node: node.admin.scrub(now=True))
        await pass_time(60)
        [told] = [
            node
            for node in (await small.at("n2", lambda node: node.admin.scrub(now=False))).nodes
            if node.node == "n2"
        ]
        assert (told.found, told.healed) == (2, 0)
        assert any("a register" in line and "homes" in line for line in told.waiting), told.waiting
        problems = (await small.at("n2", lambda node: node.admin.status())).problems
        assert "n2: 2 broken records are not healed yet: `clusterctl scrub` names them" in problems, problems
        for other in away:
            await small.cluster.boot(other)
        assert total(await scrubbed(small)) == (2, 2)
        await small.go_on_following()
        await check(small)

    run_story(story)


def test_callers_are_noticed_and_heal_is_not_taken_for_one() -> None:
    async def story(small: SmallCluster) -> None:
        await filled(small)
        homes = await small.homes(KEYS[0])
        await pass_time(2 * QUIET_S)
        assert not any(small.node(name).foreground.busy for name in homes)
        _ = await small.head(KEYS[0])
        assert not any(small.node(name).foreground.busy for name in homes), "nobody waits for bytes"
        _ = await small.get(KEYS[0])
        assert any(small.node(name).foreground.busy for name in homes)
        await pass_time(2 * QUIET_S)
        _ = await small.put(KEYS[0], payload_of(SIZES[0]))
        assert sum(small.node(name).foreground.busy for name in homes) >= 4
        foreground = small.node(homes[0]).foreground
        assert foreground.rest_s(0.1) > 0.9
        await pass_time(2 * QUIET_S)
        assert foreground.rest_s(0.1) == pytest.approx(0.1)

    run_story(story)


def test_a_row_made_anew_during_the_survey_is_no_finding() -> None:
    """Callers go on writing while the index is read from end to end."""

    async def story(small: SmallCluster) -> None:
        await filled(small)
        bucket, _ = await small.bucket()
        node = small.node("n2")
        row_key = register_row_key(bucket.id, KEYS[0])
        before = node.store.verifier.rests_on(row_key)
        _ = await small.put(KEYS[0], payload_of(SIZES[0]))
        assert node.store.verifier.rests_on(row_key) > before
        restorer = node.scrubber._restorer
        restorer.add(Survey({before: 1}, ((row_key, before),), ()))
        assert (restorer.found, len(restorer), restorer.garbage) == (0, 0, 0)
        assert node.store.rotten() == ()

    run_story(story)


def test_any_number_of_broken_records_is_buried() -> None:
    """More than fit a volume, let alone a group of the log."""

    async def story(small: SmallCluster) -> None:
        await filled(small)
        store, restorer = small.node("n2").store, small.node("n2").scrubber._restorer
        broken = dict.fromkeys(range(1 << 20, (1 << 20) + 5 * KILLS_AT_ONCE), 7)
        restorer.add(Survey(broken, (), ()))
        _ = await small.at("n2", lambda _: restorer.work(at_once=1))
        assert store._indexer.tables.killed() == {(7, sequence) for sequence in broken}

    run_story(story)


def test_a_full_store_reads_itself_back_and_notes_that_once_it_has_room() -> None:
    async def story(small: SmallCluster) -> None:
        await filled(small)
        store, scrubber = small.node("n2").store, small.node("n2").scrubber
        before = store.scrubbed()
        store._committer._index_full = True
        await small.at("n2", lambda _: scrubber._begin())
        assert store.scrubbed() == before
        store._committer._index_full = False
        await store.append([Entry(stores.register(b"k", 1))])
        assert store.scrubbed() == scrubber._record != before

    run_story(story)


def test_a_full_store_keeps_no_memory_for_what_it_cannot_write_again() -> None:
    async def story(small: SmallCluster) -> None:
        await filled(small)
        node = small.node("n2")
        cell = next(record for _, record in live(small.machine("n2")) if record.kind == RecordType.CELL)
        name = shard_name(CELL_ROWS + cell.key)
        platter = small.machine("n2").platter
        platter.capacity_bytes = platter.used_bytes()
        node.store._committer.measure()

        async def write(node: Node) -> None:
            with pytest.raises(StoreFull):
                _ = await node.keeper.write_again(name, stripe_of(CELL_ROWS + cell.key))
            with pytest.raises(StoreFull):
                _ = await node.keeper.seal_again(name)

        await small.at("n2", write)
        assert node.keeper._budget.used_bytes == 0

    run_story(story)
