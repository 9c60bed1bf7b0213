"""Learning while a pool's code changes: partitions with more and with fewer homes, and homes that stay and learn."""

from __future__ import annotations

from typing import Final

from xxhash import xxh3_128_digest

from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.core.head import Ballot, Head, HeadKind
from holdfast_node.core.ids import Digest, Version
from holdfast_node.core.map_moves import recode
from holdfast_node.core.messages import RegisterCopy
from holdfast_node.services.acceptor import Learned
from tests.sim.loop import SimLoop
from tests.support.atlas import Atlas, pass_time
from tests.support.maps import seed
from tests.support.school import BUCKET, School, play

POOL: Final = "default"


def key_of(school: School, partition: int) -> bytes:
    topology = school.atlas["n1"].cartographer.require()
    keys = (b"key %d" % number for number in range(1000))
    return next(key for key in keys if topology.key_partition(0, BUCKET, key) == partition)


async def spread(school: School, source: str) -> None:
    """Everybody has the map of this node."""
    epoch, store = school.atlas[source].cartographer.epoch, school.atlas[source].store
    for member in list(school.atlas.running()):
        if member.name != source:
            await school.atlas.run(member.name, lambda maps: maps.catch_up(epoch, store))


async def half_way(school: School) -> tuple[int, int, str]:
    """A pool on its way to nine homes, one newcomer of which is away: a partition that waits for it and has six homes
    still, one that has nine, and who is away."""
    atlas = school.atlas
    topology = atlas["n1"].cartographer.require()
    preview = recode(topology.map, POOL, "rs:6+3")
    assert preview is not None
    coming = [{topology.name(store) for store in entry.learners} for entry in preview.pools[0].partitions]
    waits, done, away = next(
        (waits, done, name)
        for waits, names in enumerate(coming)
        for name in sorted(names)
        for done, others in enumerate(coming)
        if waits < done and name not in others and name != "n9"
    )
    atlas.kill(away)
    await atlas.run("n9", lambda maps: maps.change(lambda current: recode(current, POOL, "rs:6+3")))
    for _ in range(40):
        await pass_time(0.5)
        await spread(school, "n9")
        if not atlas["n9"].cartographer.require().entry(0, done).moving:
            break
    entries = atlas["n9"].cartographer.require().map.pools[0].partitions
    assert (bool(entries[waits].moving), len(entries[waits].homes), len(entries[done].homes)) == (True, 6, 9)
    return waits, done, away


def test_nine_homes_are_learned_from_as_many_as_it_takes_though_six_need_fewer() -> None:
    """One pass took its sources from the first partition, and an acked write was gone with the store that had died."""
    names = [f"n{number}" for number in range(1, 10)]
    founding = seed(9, 0, code="rs:4+2", partitions=4)
    loop = SimLoop(0)
    atlas = Atlas(loop, founding)
    school = School(atlas)

    async def story() -> None:
        await school.start()
        await atlas.run("n1", lambda maps: maps.init(founding))
        await pass_time(1)
        _, done, away = await half_way(school)
        key = key_of(school, done)
        missing = [name for name in names[:4] if name != away][:3]
        holders = [name for name in names if name not in (*missing, away)]
        atlas.kill(*missing)
        await school.put(holders[-1], key)
        await school.start(*missing, away)
        await pass_time(0.2)
        await spread(school, "n9")
        dies = holders[0]
        await school.replace("n9", dies, dies)
        for _ in range(400):
            await pass_time(0.02)
            if not atlas["n9"].cartographer.require().learned_by(atlas[dies].store):
                break
        await spread(school, "n9")
        atlas.kill(*holders[1:])
        found = await school.get(missing[0], key)
        assert found.version == 1, "five of nine homes are up"

    loop.run(story())


def test_a_home_that_stays_does_not_take_what_it_missed_before_the_move() -> None:
    """Three of six old homes have it: with a fourth that copied it, it would be decided, and it is at one of three new
    homes only."""

    async def story(school: School) -> None:
        atlas = school.atlas
        names = [member.name for member in atlas.running()]
        atlas.kill(*names)
        school.by_hand.update(names)
        await school.start(*names)
        head = ProtobufBodies().encode(Head(Version(1), HeadKind.TOMBSTONE, created_ms=77))
        scope = atlas["n1"].cartographer.require().scope(0, 0)
        ballot = Ballot(scope.generation, 5, atlas["n2"].store, 1, 1)
        await atlas.run("n1", lambda maps: maps.change(lambda current: recode(current, POOL, "rs:2+1")))
        topology = atlas["n1"].cartographer.require()
        entry = topology.entry(0, 0)
        assert entry.moving, "they have to learn first"
        copy = RegisterCopy(BUCKET, key_of(school, 0), 0, 0, ballot, head, Digest(xxh3_128_digest(head)), ())
        stays = next(topology.name(store) for store in entry.moving if store in entry.homes)
        await spread(school, "n1")
        assert await school.pupils[stays].acceptor.learn(copy) is Learned.PROMISED

    play(story)
