"""Several lives of one store, drawn from a seed: every kind of record, all at once, ended in every way.

Each writer owns its facts, so that at most one group is on its way for any of them. Knows nothing of how the disk
behaves; it only notes what it asks and what it is told.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from holdfast_node.core.errors import StoreRefused
from holdfast_node.core.head import Head, HeadKind
from holdfast_node.core.ids import BlobId, BootId, BucketId, StoreId, Version
from holdfast_node.core.index_keys import record_key
from holdfast_node.core.messages import ShardHeader
from holdfast_node.core.records import (
    BucketRecord,
    DropRecord,
    FeedCursor,
    FollowedRecord,
    KillRecord,
    LinkRecord,
    ManifestRecord,
    MapRecord,
    MapVoteRecord,
    PeerRecord,
    SealRecord,
    StageRecord,
    StoreTimeRecord,
)
from holdfast_node.services.log.compactor import Usage
from holdfast_node.services.store import Entry, Store, StoreSettings
from tests.crashes.directory import Cut
from tests.crashes.facts import CLUSTER, Fact, Group, Known, compare
from tests.crashes.recording import Recording, RecordingDisk, RecordingIndex, index_fallen_back
from tests.support import stores
from tests.support.compacting import give_back
from tests.support.stores import BODIES, BUCKET, KIB

SETTINGS: Final = StoreSettings(volume_bytes=64 * KIB, batch_bytes_max=32 * KIB, reserve_volumes=1)
LIVES: Final = 5
GROUPS_IN_A_LIFE: Final = 40
PAUSE_STEPS_MAX: Final = 30
KEYS: Final = 5
RIDER: Final = StoreId(b"rider".ljust(16))


class WentWrong(Exception):
    """A store contradicted what it had acknowledged while it was still being recorded."""


class Enough(Exception):
    """This life ends now."""


class Life:
    """One process's work on the store. `known` is what has to be there, by all that was noted."""

    def __init__(self, store: Store, recording: Recording, known: Known, chooser: random.Random) -> None:
        self._store = store
        self._recording = recording
        self._known = known
        self._chooser = chooser
        self._left = GROUPS_IN_A_LIFE

    async def run(self) -> None:
        """Raises `Enough` in the middle of everything."""
        if self._chooser.random() < 0.5:
            await self._compact()
        async with asyncio.TaskGroup() as group:
            for number in range(KEYS):
                group.create_task(self._registers(b"key %d" % number))
            for writer in range(2):
                group.create_task(self._shards(writer))
            group.create_task(self._small_facts())
            group.create_task(self._compaction())

    async def _compaction(self) -> None:
        """Again and again, in the middle of all that the others do."""
        while True:
            for _ in range(self._chooser.randrange(PAUSE_STEPS_MAX)):
                await asyncio.sleep(0)
            await self._compact()

    async def _compact(self) -> None:
        """Some of the volumes that are not all live."""

        def some(usage: tuple[Usage, ...]) -> list[int]:
            worth = [each.number for each in usage if each.garbage > 0.1]
            return self._chooser.sample(worth, min(len(worth), self._chooser.randint(1, 3)))

        _ = await give_back(self._store, some)

    async def _append(
        self, entries: Sequence[Entry], facts: dict[Fact, object], *, bulk: bool = False
    ) -> None:
        for _ in range(self._chooser.choice((0, 0, self._chooser.randrange(PAUSE_STEPS_MAX)))):
            await asyncio.sleep(0)
        if self._left == 0:
            raise Enough
        self._left -= 1
        if self._chooser.random() < 0.15 and not bulk:
            peer = PeerRecord(RIDER, 1, BootId(b"q" * 16), self._number())
            self._store.piggyback(b"rider", Entry(peer))
            if not any(Fact("peer", peer.store) in group.facts for group in self._known.in_flight.values()):
                facts = {**facts, Fact("peer", peer.store): peer}
            else:
                self._store.piggyback(b"rider", Entry(StoreTimeRecord(self._number())))
        number = len(self._recording.events)
        group = Group(number, bulk, facts)
        self._known.ask(group)
        self._recording.note("asked", group)
        await self._store.append(entries, bulk=bulk)
        self._known.ack(number)
        self._recording.note("acked", number)

    def _number(self) -> int:
        return len(self._recording.events)

    async def _registers(self, key: bytes) -> None:
        """Version after version, with older ones retained, tombstones, and promises in between."""
        while True:
            before = self._known.settled.get(Fact("register", key))
            version = self._number() + 1
            kind = self._chooser.random()
            if kind < 0.1 and before is None:
                record = replace(stores.promise(key, version), partition=key[-1] % 3)
                await self._append([Entry(record)], {Fact("register", key): record})
            elif kind < 0.2 and before is not None:
                tombstone = BODIES.encode(Head(Version(version), HeadKind.TOMBSTONE))
                record = replace(stores.register(key, version, partition=key[-1] % 3), head=tombstone)
                await self._append([Entry(record)], {Fact("register", key): record})
            else:
                await self._append(*self._put(key, version))

    def _put(self, key: bytes, version: int) -> tuple[list[Entry], dict[Fact, object]]:
        retained = [
            fact.number for fact in self._known.settled if fact.kind == "manifest" and fact.name == key
        ]
        learned = version + 100_000
        record = stores.register(key, version, partition=key[-1] % 3, retained=retained[-3:])
        facts: dict[Fact, object] = {
            Fact("register", key): record,
            Fact("manifest", key, version): stores.manifest(version),
        }
        entries = [Entry(record)]
        if self._chooser.random() < 0.2:
            manifest = stores.manifest(learned)
            entries.append(Entry(ManifestRecord(BUCKET, key, BODIES.encode(manifest))))
            facts[Fact("manifest", key, learned)] = manifest
        return entries, facts

    async def _shards(self, writer: int) -> None:
        """Small ones as one group, larger ones cell by cell; some are dropped, some of those come again."""
        while True:
            number = self._number() if self._chooser.random() < 0.8 else 0
            seed = BlobId((b"%d %d" % (writer, number)).ljust(16))
            sizes = [
                self._chooser.choice((200, 4000, 9000, 15000)) for _ in range(self._chooser.randint(1, 3))
            ]
            cells = [self._chooser.randbytes(size) for size in sizes]
            entries = [stores.cell(seed, stripe, data) for stripe, data in enumerate(cells)]
            seal = stores.seal(seed, cells)
            assert isinstance(seal.body, SealRecord)
            sealed = self._sealed(seed, seal.body.header)
            there = {Fact("cell", seed, stripe): data for stripe, data in enumerate(cells)}
            if Fact("shard", seed) in self._known.settled:
                await self._drop(seed)
            if self._chooser.random() < 0.5 and sum(sizes) < 20000:
                await self._append([*entries, seal], {**there, **sealed}, bulk=True)
            else:
                stage = Entry(StageRecord(BUCKET, b"k", seed, 0, 0, stores.ballot(1), 0))
                for stripe, entry in enumerate(entries):
                    fact = Fact("cell", seed, stripe)
                    facts: dict[Fact, object] = {fact: there[fact]}
                    if not stripe:
                        facts[Fact("shard", seed)] = b"staged"
                    await self._append([entry] if stripe else [stage, entry], facts, bulk=True)
                await self._append([seal], sealed)
            if self._chooser.random() < 0.5:
                link = LinkRecord(seed, BlobId(self._number().to_bytes(16, "big")))
                await self._append([Entry(link)], {Fact("link", link.seed_id + link.blob_id): True})
            if self._chooser.random() < 0.3:
                await self._drop(seed)

    @staticmethod
    def _sealed(seed: BlobId, header: ShardHeader) -> dict[Fact, object]:
        return {Fact("shard", seed): b"sealed", Fact("header", seed): header}

    async def _drop(self, seed: BlobId) -> None:
        gone: dict[Fact, object] = {
            fact: None
            for fact in self._known.settled
            if fact.name == seed and fact.kind in ("cell", "shard", "header")
        }
        await self._append([Entry(DropRecord(seed, 0, 0))], gone)

    async def _small_facts(self) -> None:
        while True:
            number = self._number() + 1
            match self._chooser.randrange(8):
                case 0:
                    body = MapRecord(b"map %d" % number)
                    await self._append([Entry(body)], {Fact("map"): body.map})
                case 1:
                    vote = MapVoteRecord(number, stores.ballot(1), None, b"")
                    await self._append([Entry(vote)], {Fact("vote", number=number): vote})
                case 2:
                    partition = stores.partition(number % 4, version_floor=number)
                    fact = Fact("partition", number=number % 4)
                    await self._append([Entry(partition)], {fact: partition})
                case 3:
                    bucket = BucketId((b"bucket %d" % (number % 3)).ljust(16))
                    was = self._known.settled.get(Fact("closing", bucket)) is not None
                    record = BucketRecord(bucket, closing=not was)
                    await self._append([Entry(record)], {Fact("closing", bucket): None if was else True})
                case 4:
                    peer = PeerRecord(
                        StoreId((b"peer %d" % (number % 3)).ljust(16)), 1, BootId(b"q" * 16), number
                    )
                    await self._append([Entry(peer)], {Fact("peer", peer.store): peer})
                case 5:
                    kill = KillRecord(7, number)
                    await self._append([Entry(kill)], {Fact("kill", record_key(kill)): True})
                case 6:
                    followed = FollowedRecord(StoreId(b"peer 0".ljust(16)), (FeedCursor(0, 1, 0, number),))
                    await self._append([Entry(followed)], {Fact("followed", followed.store): followed})
                case _:
                    await self._append([Entry(StoreTimeRecord(number))], {})


async def live(recording: Recording, known: Known, chooser: random.Random, *, life: int) -> None:
    """Open, settle what the life before left open, work, and end in some way."""
    disk = RecordingDisk(recording)
    index = RecordingIndex(recording, index_fallen_back(recording, chooser))
    try:
        store = await stores.open_store(
            disk, index, settings=SETTINGS, seed=f"life {life} {chooser.random()}"
        )
    except StoreRefused as refused:
        raise WentWrong(f"what the life before left is refused: {refused}") from None
    wrong, landed = await compare(store, known)
    if wrong:
        raise WentWrong(wrong)
    known.opened(store.superblock, landed)
    recording.note("opened", (store.superblock, landed))
    if life == 1:
        recording.note("joining", None)
        known.clusters = (b"", CLUSTER)
        await store.join(CLUSTER)
        known.clusters = (CLUSTER,)
        recording.note("joined", None)
    try:
        await Life(store, recording, known, chooser).run()
    except* Enough:
        pass
    ending = chooser.choice(("close", "kill", "cut", "cut"))
    if ending == "close":
        await store.close()
    disk.dead = True
    await store.abandon()
    if ending == "cut":
        fates = recording.directory.fates(chooser)
        recording.happen(Cut(chooser.choice([fate for fate in fates if fate.kind != "cached"])))


def record(seed: int) -> Recording:
    """The same seed gives the same recording."""
    recording, known, chooser = Recording(), Known(), random.Random(f"crash workload {seed}")

    async def lives() -> None:
        for life in range(LIVES):
            await live(recording, known, chooser, life=life)

    asyncio.run(lives())
    return recording
