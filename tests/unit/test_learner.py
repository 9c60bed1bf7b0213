"""A blank or doubtful store learns its partitions' registers before it votes, whatever happens meanwhile."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Never

import pytest
from xxhash import xxh3_128_digest

from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.core.acceptance import blank
from holdfast_node.core.catch_up import KeyId
from holdfast_node.core.errors import HoldfastError, IntegrityError, StaleGeneration
from holdfast_node.core.head import Ballot, Head
from holdfast_node.core.ids import BucketId, Digest, StoreId
from holdfast_node.core.messages import CopyRegisters, RegisterCopy
from holdfast_node.core.records import BucketRecord
from holdfast_node.services.acceptor import Learned
from holdfast_node.services.learner import Learner
from holdfast_node.services.log.volume import volume_name
from holdfast_node.services.store import Entry
from tests.support.atlas import pass_time, until
from tests.support.school import BUCKET, School, play


def test_replaced_stores_learn_everything_and_then_decide_with_a_bare_majority() -> None:
    async def story(school: School) -> None:
        for number in range(90):
            await school.put("n5", b"key %03d" % number)
        await school.replace("n4", "san=s0", "n1", "n2")
        assert school.learning() == 8
        await school.all_vote()
        school.atlas.kill("n3", "n4")
        await school.check("n1")
        for number in range(0, 90, 10):
            await school.put("n2", b"key %03d" % number)
        await school.check("n6")
        assert school.pupils["n1"].learner.status().done == 4

    play(story)


@pytest.mark.parametrize("number", range(4))
def test_what_is_acked_while_stores_learn_survives_the_loss_of_others(number: int) -> None:
    async def story(school: School) -> None:
        school.atlas.network.weather.loss = 0.03 if number % 2 else 0.0
        school.atlas.network.weather.duplicates = 0.05 if number % 3 else 0.0
        names = ["n3", "n4", "n5", "n6"]
        await school.write_for(0.5, names, 40)
        school.atlas.begin("n5", lambda _: school.write_for(1.0, names, 40))
        school.atlas.begin("n6", lambda _: school.write_for(1.0, names, 40))
        await pass_time(0.1)
        await school.replace("n4", "san=s0", "n1", "n2")
        await school.all_vote()
        await pass_time(1.0)
        school.atlas.network.weather.loss = 0.0
        assert len(school.acked) > 20
        school.atlas.kill("n3", "n4")
        await school.check("n1")
        await school.check("n6")

    play(story, number)


@pytest.mark.parametrize("number", range(4))
def test_a_learner_that_crashes_starts_over(number: int) -> None:
    async def story(school: School) -> None:
        for key in range(100):
            await school.put("n5", b"key %03d" % key)
        await school.replace("n4", "n1", "n1")
        for _ in range(4):
            await pass_time(0.004 * (number + 1))
            school.atlas.kill("n1", power=True)
            await school.start("n1")
        await school.all_vote()
        school.atlas.kill("n2", "n3")
        await school.check("n1")

    play(story, number)


@pytest.mark.parametrize("number", range(4))
def test_a_second_loss_meanwhile_starts_over_in_another_generation(number: int) -> None:
    async def story(school: School) -> None:
        for key in range(70):
            await school.put("n5", b"key %03d" % key)
        await school.replace("n4", "n1", "n1")
        await pass_time(0.005 * number)
        await school.replace("n4", "n3", "n3")
        await school.all_vote()
        school.atlas.kill("n4", "n5")
        await school.check("n3")
        generations = [
            entry.generation for entry in school.atlas["n3"].cartographer.require().pool(0).partitions
        ]
        assert min(generations) >= 4

    play(story, number)


def test_floors_closed_buckets_and_era_are_learned_by_their_maximum() -> None:
    closed = BucketId(b"a closed bucket!")

    async def story(school: School) -> None:
        atlas = school.atlas
        floor = Ballot(1, 77, atlas["n3"].store, 1, 1)
        record = atlas["n3"].process.store.partition(0, 2)
        await atlas["n3"].process.store.append([Entry(replace(record, version_floor=41, ballot_floor=floor))])
        record = atlas["n4"].process.store.partition(0, 2)
        await atlas["n4"].process.store.append([Entry(replace(record, version_floor=55))])
        for name in ("n3", "n4", "n5", "n6"):
            await atlas[name].process.store.append([Entry(BucketRecord(closed, closing=True))])
        atlas.kill("n5")
        await school.replace("n4", "n1", "n1")
        await school.all_vote()
        learned = atlas["n1"].process.store.partition(0, 2)
        assert learned.learned_generation == 2
        assert learned.version_floor == 55
        assert learned.ballot_floor == floor
        assert atlas["n1"].process.store.bucket_closing(closed)

    play(story)


def test_a_store_whose_partition_rotted_learns_it_again_and_votes_again() -> None:
    async def story(school: School) -> None:
        for key in range(60):
            await school.put("n5", b"key %03d" % key)
        store = school.atlas["n2"].process.store
        record = store.partition(0, 1)
        await store.append([Entry(replace(record, not_voting="the record rotted"))])
        await until(lambda: school.learning() > 0)
        await school.all_vote()
        assert not store.partition(0, 1).not_voting
        entry = school.atlas["n2"].cartographer.require().entry(0, 1)
        assert (entry.generation, entry.learners) == (3, ())
        school.atlas.kill("n3", "n4")
        await school.check("n2")

    play(story)


def test_what_the_others_have_forgotten_meanwhile_is_not_kept_by_who_learns_again() -> None:
    """It missed the deletion: what it holds is whole, and older than all that anybody else shows."""

    async def story(school: School) -> None:
        for name in ("kept", "forgotten"):
            await school.put("n5", name.encode())
        await pass_time(1.0)
        gone = await school.atlas["n2"].process.store.register(BUCKET, b"forgotten")
        assert gone is not None
        for name in ("n1", "n3", "n4", "n5", "n6"):
            await school.atlas[name].process.store.append([Entry(blank(gone))])
        store = school.atlas["n2"].process.store
        record = store.partition(gone.pool, gone.partition)
        await store.append([Entry(replace(record, not_voting="the record rotted"))])
        await until(lambda: school.learning() > 0)
        await school.all_vote()
        assert await store.register(BUCKET, b"forgotten") is None
        kept = await store.register(BUCKET, b"kept")
        assert kept is not None
        assert kept.accepted is not None

    play(story)


def test_a_learner_waits_for_enough_voting_homes_and_says_so() -> None:
    async def story(school: School) -> None:
        await school.put("n5", b"key 000")
        school.atlas.wipe("n1", "n2")
        await school.start("n1", "n2")
        await school.atlas.run("n4", lambda c: c.replace_lost("san=s0"))
        school.atlas.kill("n5", "n6")
        await pass_time(8)
        assert school.learning() == 8
        status = school.pupils["n1"].learner.status()
        assert status.state == "throttled"
        assert "voting homes" in status.detail
        assert (status.done, status.total) == (0, 4)
        await school.start("n5", "n6")
        await school.all_vote()

    play(story)


def test_manifests_of_retained_versions_are_learned_too() -> None:
    async def story(school: School) -> None:
        first = await school.put("n5", b"key")
        await school.put("n5", b"key")
        blob = first.head.manifest
        assert blob is not None
        await school.replace("n4", "n1", "n1")
        await school.all_vote()
        known = await school.atlas["n1"].process.store.manifest(BUCKET, b"key", blob.blob_id)
        assert known == blob

    play(story)


def test_a_broken_manifest_is_learned_like_one_that_is_missing() -> None:
    """Scrub cannot bring it back while the store learns; if learning waited for scrub, neither would ever end."""

    async def story(school: School) -> None:
        first = await school.put("n5", b"key")
        await school.put("n5", b"key")
        blob = first.head.manifest
        assert blob is not None
        member = school.atlas["n2"]
        store = member.process.store
        at = bytes(member.platter.files[volume_name(1)].durable).rindex(ProtobufBodies().encode(blob)[:60])
        member.platter.flip(volume_name(1), at)
        with pytest.raises(IntegrityError):
            _ = await store.manifest(BUCKET, b"key", blob.blob_id)
        for number in range(4):
            await store.append([Entry(replace(store.partition(0, number), not_voting="records were lost"))])
        await until(lambda: school.learning() > 0)
        await school.all_vote()
        assert await store.manifest(BUCKET, b"key", blob.blob_id) == blob

    play(story)


async def accept_at_one_home(school: School, name: str) -> bytes:
    """A later head of the key that nobody else has; returns it encoded."""
    bodies = ProtobufBodies()
    decided = await school.atlas[name].process.store.register(BUCKET, b"key")
    assert decided is not None
    assert decided.accepted is not None
    later = replace(decided.accepted, counter=decided.accepted.counter + 100)
    head = replace(bodies.decode(Head, decided.head), created_ms=77)
    encoded = bodies.encode(head)
    copy = RegisterCopy(
        BUCKET, b"key", 0, decided.partition, later, encoded, Digest(xxh3_128_digest(encoded)), ()
    )
    assert await school.pupils[name].acceptor.learn(copy) is Learned.TAKEN
    return encoded


def test_what_was_half_accepted_is_decided_before_a_learner_votes() -> None:
    async def story(school: School) -> None:
        await school.put("n5", b"key")
        encoded = await accept_at_one_home(school, "n3")
        await school.replace("n4", "n1", "n1")
        await school.all_vote()
        holding = [
            record is not None and record.head == encoded
            for member in school.atlas.running()
            for record in [await member.process.store.register(BUCKET, b"key")]
        ]
        assert sum(holding) >= 4

    play(story)


def test_a_closed_bucket_keeps_no_learner_from_voting() -> None:
    """Homes accept nothing behind a closed door, so what was half-accepted there cannot be decided any more."""

    async def story(school: School) -> None:
        await school.put("n5", b"key")
        encoded = await accept_at_one_home(school, "n3")
        for member in school.atlas.running():
            await member.process.store.append([Entry(BucketRecord(BUCKET, closing=True))])
        await school.replace("n4", "n1", "n1")
        await school.all_vote()
        record = await school.atlas["n1"].process.store.register(BUCKET, b"key")
        assert record is not None
        assert record.head == encoded, "the highest pair there is"

    play(story)


async def by_hand(school: School, name: str) -> Learner:
    """One piece of work of a learner that works only when it is told to, and a moment."""
    learner = school.pupils[name].learner

    async def work(_: object) -> None:
        with suppress(HoldfastError):
            await learner.work_once()

    await school.atlas.run(name, work)
    await pass_time(0.05)
    return learner


async def read_on(school: School, name: str, *, until_behind: bytes) -> Learner:
    """Until the learner has learned what is up to this key, and not everything."""
    while True:
        learner = await by_hand(school, name)
        assert school.learning() > 0
        if learner._pass is not None and learner._pass.cursor > (BUCKET, until_behind):
            return learner


def test_what_rots_after_it_was_learned_is_not_taken_for_nothing() -> None:
    """It would be at three homes of six; another that is lost and learns from the other three would not find it."""

    async def story(school: School) -> None:
        school.atlas.kill("n5", "n6")
        await school.put("n2", b"a key")
        for number in range(70):
            await school.put("n2", b"later %03d" % number)
        await school.start("n5", "n6")
        school.by_hand = {"n1", "n2"}
        await school.replace("n3", "n1", "n1")
        await read_on(school, "n1", until_behind=b"a key")
        store = school.atlas["n1"].process.store
        store._registers._cache.clear()
        entry = store.register_entry(BUCKET, b"a key")
        assert entry is not None
        store.mark_rotten(BUCKET, b"a key", entry.sequence)
        while school.learning():
            await by_hand(school, "n1")
        await school.replace("n3", "n2", "n2")
        school.atlas.kill("n3", "n4")
        for _ in range(40):
            await by_hand(school, "n2")
        await school.start("n3", "n4")
        while school.learning():
            await by_hand(school, "n2")
        school.atlas.kill("n3", "n4")
        await school.check("n5")

    play(story)


def test_other_sources_go_on_where_those_before_them_fell_silent() -> None:
    async def story(school: School) -> None:
        for number in range(200):
            await school.put("n5", b"key %03d" % number)
        school.by_hand = {"n1"}
        await school.replace("n4", "n1", "n1")
        learner = await read_on(school, "n1", until_behind=b"key 010")
        assert learner._pass is not None
        first = learner._pass.sources
        school.atlas.kill("n3")
        cursors: list[KeyId] = []
        sources: set[tuple[StoreId, ...]] = set()
        while school.learning():
            current = (await by_hand(school, "n1"))._pass
            if current is not None:
                cursors.append(current.cursor)
                sources.add(current.sources)
        assert cursors == sorted(cursors)
        assert sources - {first}
        school.atlas.kill("n4")
        await school.check("n1")

    play(story)


def test_a_source_that_stays_behind_the_map_is_left_for_another() -> None:
    """It may be long in adopting the map, and there are other homes: a new store asked it again and again."""

    async def is_behind(*_: object) -> Never:
        raise StaleGeneration("planted: the map before")

    async def story(school: School) -> None:
        await school.put("n5", b"a key")
        school.by_hand = {"n1"}
        await school.replace("n4", "n1", "n1")
        school.atlas["n2"].process.dispatcher._handlers[CopyRegisters] = is_behind
        for _ in range(40):
            await by_hand(school, "n1")
        assert not school.learning()
        school.atlas.kill("n3", "n4")
        await school.check("n1")

    play(story)
