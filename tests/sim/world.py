"""One seed, one world: a cluster, callers, trouble; then calm, in which everything must come right again.

Phases: birth; bursts of work under faults, with what destroys data between them; faults stop; the cluster must
converge by itself (all learners voting, heal done, status healthy); every key is read back; the history is judged.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from holdfast_node.core import geometry
from holdfast_node.core.absence import Patience
from holdfast_node.core.api import Condition
from holdfast_node.core.errors import HoldfastError
from holdfast_node.services import collection, collector, eras, forgetting
from tests.sim.checker import Kind, Result
from tests.sim.claims import Witness
from tests.sim.client import CHUNK_BYTES, ConnectionLost, SimClient
from tests.sim.cluster import Cluster, Topology
from tests.sim.doors import Doors
from tests.sim.garbage import garbage_left
from tests.sim.history import History
from tests.sim.levelling import registers_apart
from tests.sim.loop import SimLoop, nobody_listening
from tests.sim.nemesis import PATIENCE_S, Nemesis, Trouble

BUCKET: Final = "bucket"
FIRST_FILES: Final = 3
"""Of a store that has not gone over to a second volume: superblock, volume, spare."""
HASTY_SHARE: Final = 0.5
FORGETFUL_SHARE: Final = 0.25
"""Of the worlds with hasty collectors: deleted keys are forgotten as soon as they may be, and more is deleted."""
LINGER_SHARE: Final = 0.5
LINGER_S: Final = (2.0, 12.0)
"""That is less than a caller waits for an answer."""
TIDY_EVERY: Final = 3
"""One world in so many, if collectors are hasty, ends once nothing is kept any more that no head names."""
LEVEL_EVERY: Final = 3
"""One world in so many ends once all homes have the same registers."""
WORLD_LIMIT_S: Final = 5000.0
"""Virtual seconds after which a world is stuck."""

TOPOLOGIES: Final = (
    Topology("rs:4+2", (2, 2, 2)),
    Topology("rs:4+2", (2, 2, 2)),
    Topology("rs:4+2", (2, 2, 2), partitions=2),
    Topology("rs:3+2", (1, 1, 1, 1, 1)),
    Topology("rs:2+2", (1, 1, 1, 1)),
    Topology("rs:2+1", (1, 1, 1, 1)),
    Topology("rs:4+2", (3, 3, 3, 3)),
)
GROUPED: Final = Topology("lrc:8+4/2", (3, 3, 3, 3), partitions=2)
GROUPED_SHARE: Final = 0.06
RECODED: Final = (
    Topology("rs:4+2", (2, 2, 1, 1), partitions=2),
    Topology("rs:4+2", (2, 2, 1, 1), partitions=2),
    Topology("rs:2+2", (2, 2, 1, 1), partitions=2),
    Topology("rs:4+2", (3, 3, 3), partitions=2),
)
"""Pools that can go to several other codes."""
RECODED_SHARE: Final = 0.12
WATCHED_SHARE: Final = 0.25
IMPATIENT: Final = (
    Topology("rs:3+2", (1, 1, 1, 1, 1, 1)),
    Topology("rs:2+2", (2, 2, 1, 1), partitions=2),
    Topology("rs:4+2", (3, 2, 2), partitions=2),
    Topology("rs:2+1", (2, 2, 1)),
    Topology("rs:4+2", (3, 3, 3), partitions=2),
)
"""Nodes to spare: others take over what is at those that do not answer."""
IMPATIENT_SHARE: Final = 0.12
PATIENCES: Final = (Patience(3.0, 6.0), Patience(3.0, 6.0), Patience(10.0, 20.0))
UNDO_SECONDS: Final = (0, 1, 3, 10, 24 * 3600)
"""What is kept for long holds up a change of code."""


@dataclass(frozen=True)
class Plan:
    """What a seed stands for. Fields may be fixed by whoever aims at something."""

    topology: Topology
    trouble: Trouble
    clients: int
    keys: int
    rounds: int
    bursts: int
    patience_s: float = PATIENCE_S
    undo_seconds: int = 24 * 3600
    watched: bool = False
    """What status claims is checked all the time."""

    @staticmethod
    def drawn(seed: int) -> Plan:
        chooser = random.Random(f"plan {seed}")
        scrub_cycle_s = random.Random(f"scrub {seed}").choice((10.0, 600.0, 600.0, 600.0))
        topology = chooser.choice(TOPOLOGIES)
        if random.Random(f"groups {seed}").random() < GROUPED_SHARE:
            topology = GROUPED
        recoding = random.Random(f"recoding {seed}")
        trouble, recode = Trouble.drawn(chooser), recoding.random() < RECODED_SHARE
        if recode:
            topology = recoding.choice(RECODED)
        impatient = random.Random(f"patience {seed}")
        absence = not recode and impatient.random() < IMPATIENT_SHARE
        if absence:
            topology = replace(impatient.choice(IMPATIENT), patience=impatient.choice(PATIENCES))
        if recode and recoding.random() < 0.5:  # among much else the wrong nodes seldom miss a write
            trouble = Trouble(wipe=trouble.wipe)
        return Plan(
            topology=replace(topology, scrub_cycle_s=scrub_cycle_s),
            trouble=replace(
                trouble,
                absence=absence,
                move=random.Random(f"moves {seed}").random() < 0.25,
                recode=recode,
                unfollowed=random.Random(f"unfollowed {seed}").random() < (0.7 if recode else 0.15),
            ),
            clients=chooser.randint(2, 4),
            keys=chooser.randint(1, 6),
            rounds=chooser.randint(3, 9),
            bursts=chooser.randint(1, 2),
            undo_seconds=random.Random(f"undo {seed}").choice((0, 1, 3) if recode else UNDO_SECONDS),
            watched=recode or random.Random(f"watched {seed}").random() < WATCHED_SHARE,
        )


@dataclass
class Outcome:
    """What became of a world. `violations` empty: nothing wrong was seen."""

    seed: int
    plan: Plan
    violations: list[str]
    digest: str
    steps: int
    seconds: float
    messages: int
    faults: Counter[str]
    errors: dict[str, int]
    acked: int
    seen: Counter[str]
    trace: list[str] = field(default_factory=list[str])


Setting = tuple[object, str, object]

_SMALL: Final[tuple[Setting, ...]] = (
    (geometry, "STRIPE_BYTES", 8 * 1024),
    (geometry, "WIDE_STRIPE_BYTES", 16 * 1024),
    (geometry, "WIDE_FROM_BYTES", 64 * 1024),
    (geometry, "PART_BYTES", 32 * 1024),
    (geometry, "TINY_TOTAL_BYTES", 6 * 512),
    (collection, "QUARANTINE_S", 0.0),
    (eras, "RECENT_SOFT", 6),
    (eras, "INTERVALS_S", ((20, 0.25), (10, 1.0), (6, 2.0))),
)
_HASTY: Final[tuple[Setting, ...]] = (
    (collector, "ROUND_MIN_S", 1.0),
    (collector, "ROUND_MAX_S", 4.0),
    (collector, "DOUBT_EVERY", 4),
    (collection, "STAGE_TTL_S", 4),
    (collection, "QUARANTINE_S", 2.0),
)
_FORGETFUL: Final[tuple[Setting, ...]] = (
    (forgetting, "REST_S", 2),
    (forgetting, "ERA_REST_S", 2.0),
)


@contextmanager
def small_numbers(*, hasty: bool = False, forgetful: bool = False) -> Generator[None]:
    """The same rules on small numbers: many stripes and parts in a few kilobytes, eras that are raised now and then.
    `hasty` collectors come by all the time, and take a write for failed that only dawdles; `forgetful` ones also forget
    what was deleted a moment ago."""
    wanted = _SMALL + (_HASTY if hasty else ()) + (_FORGETFUL if forgetful else ())
    before = [(where, name, getattr(where, name)) for where, name, _ in wanted]
    for where, name, value in wanted:
        setattr(where, name, value)
    try:
        yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)


class World:
    """Runs one plan. `tidy`: some worlds must end with nothing left that no head names. `forgetful`: deleted keys are
    forgotten while it runs."""

    def __init__(
        self,
        seed: int,
        plan: Plan,
        *,
        keep_trace: bool = False,
        tidy: bool = True,
        forgetful: bool = False,
    ) -> None:
        self.seed = seed
        self.plan = plan
        self.loop = SimLoop(seed)
        self.history = History(forgetful=forgetful)
        self.trace: list[str] = []
        self._keep_trace = keep_trace
        self._tidy = tidy
        self._hash = hashlib.blake2b(digest_size=8)
        self._chooser = random.Random(f"world {seed}")
        self.cluster = Cluster(self.loop, plan.topology, seed=seed, note=self.note)
        self.nemesis = Nemesis(
            self.cluster,
            plan.trouble,
            chooser=random.Random(f"nemesis {seed}"),
            note_loss=self.history.note_loss,
        )
        self.cluster.coverage.writing = self.history.writing
        self.keys = [f"k{number}".encode() for number in range(plan.keys)]
        self.clients = [
            SimClient(
                f"c{number}",
                self.cluster,
                self.history,
                chooser=random.Random(f"client {number} {seed}"),
                bucket=BUCKET,
            )
            for number in range(plan.clients)
        ]
        self._witness = Witness(
            self.cluster,
            self.history,
            bucket=BUCKET,
            keys=self.keys,
            registers=not (plan.trouble.rollback or plan.trouble.clone),
        )
        self._rots = plan.trouble.damages or plan.trouble.read_errors
        self.violations: list[str] = []
        self._doors = Doors(self.cluster, self.history)

    def note(self, what: str) -> None:
        line = f"{self.loop.time():10.4f} {what}"
        self._hash.update(line.encode())
        if self._keep_trace:
            self.trace.append(line)

    # --- the story

    def run(self) -> Outcome:
        try:
            self.loop.run(self._story())
        except AssertionError as error:
            self.violations.append(f"{type(error).__name__}: {error}")
        self._look_around()
        self.violations += self._witness.violations + self.history.judge()
        return Outcome(
            seed=self.seed,
            plan=self.plan,
            violations=self.violations,
            digest=self._hash.hexdigest(),
            steps=self.loop.steps,
            seconds=self.loop.time(),
            messages=self.cluster.network.tally.sent,
            faults=self.nemesis.done,
            errors=dict(self.history.errors),
            acked=len(self.history.acks),
            seen=self._seen(),
            trace=self.trace,
        )

    def _seen(self) -> Counter[str]:
        """What of `coverage.SOMETIMES` happened here."""
        coverage, history = self.cluster.coverage, self.history
        results = Counter(op.result for ops in history.ops.values() for op in ops)
        deletes = [op for ops in history.ops.values() for op in ops if op.kind is Kind.DELETE]
        caught = {content for _, _, content in history.caught_by_loss}
        volumes = max((len(m.platter.files) for m in self.cluster.machines.values()), default=0)
        for name, happened in (
            ("a put was acked with less than full margin", any(not ack.margin.full for ack in history.acks)),
            (
                "a put was acked with no margin left",
                any(min(dict(ack.margin.entries).values(), default=1) == 0 for ack in history.acks),
            ),
            (
                "an upload was acked that had begun before a store was lost",
                any(ack.content in caught for ack in history.acks),
            ),
            ("a condition failed", results[Result.CONDITION_FAILED] > 0),
            ("a delete found nothing", any(op.result is Result.ABSENT for op in deletes)),
            (
                "a write was given up without knowing whether it took effect",
                results[Result.UNKNOWN] > 0,
            ),
            ("a write needed more than one attempt", history.attempts > 0),
            ("a log went over to another volume", volumes > FIRST_FILES),
        ):
            if happened:
                coverage.saw(name)
        return coverage.seen

    async def _story(self) -> None:
        try:
            async with asyncio.timeout(WORLD_LIMIT_S):
                await self._birth()
                async with self._watched():
                    for _ in range(self.plan.bursts):
                        await self._burst()
                    await self._calm()
                await self._read_back()
        except TimeoutError:
            busy = ", ".join(f"{client.name}: {client.busy}" for client in self.clients)
            self.violations.append(f"STUCK: the world did not end within {WORLD_LIMIT_S} s ({busy})")

    @asynccontextmanager
    async def _watched(self) -> AsyncGenerator[None]:
        """Not where data rots or disks lie: nobody can know of that before it is read."""
        if not self.plan.watched or self._rots:
            yield
            return
        looking = asyncio.ensure_future(self._witness.run(random.Random(f"witness {self.seed}")))
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.wait([looking])
            if not looking.cancelled():
                looking.result()

    async def _birth(self) -> None:
        await self.cluster.found()
        for _ in range(50):
            try:
                await self.cluster.create_bucket(BUCKET, undo_seconds=self.plan.undo_seconds)
            except (HoldfastError, ConnectionLost) as error:
                self.note(f"no bucket yet: {error!r}")
                await asyncio.sleep(0.5)
            else:
                return
        raise AssertionError("no bucket could be created in a healthy cluster")

    async def _burst(self) -> None:
        """Callers work while the nemesis rages; then, with callers still at work, what destroys."""
        async with asyncio.TaskGroup() as group:
            raging = group.create_task(self.nemesis.rage())
            working = [group.create_task(self._work(client)) for client in self.clients]
            await asyncio.wait(working)
            self.nemesis.stop()
            await raging
        if self.plan.trouble.wipe or self.plan.trouble.rollback or self.plan.trouble.clone:
            async with asyncio.TaskGroup() as group:
                destroying = group.create_task(self._destroy_and_rage())
                working = [group.create_task(self._work(client)) for client in self.clients]
                await asyncio.wait(working)
                self.nemesis.stop()
                await destroying
        self.nemesis.resume_raging()

    async def _destroy_and_rage(self) -> None:
        """What destroys is followed by more trouble while it is mended."""
        self.nemesis.resume_raging()
        await self.nemesis.destroy()
        await self.nemesis.rage()

    async def _work(self, client: SimClient) -> None:
        chooser = random.Random(f"{client.name} {self.seed} {len(self.history.acks)}")
        for _ in range(self.plan.rounds):
            await self._one_operation(client, chooser)
            if chooser.random() < 0.5:
                await asyncio.sleep(chooser.expovariate(2.0))
        client.busy = ""

    async def _one_operation(self, client: SimClient, chooser: random.Random) -> None:
        key = chooser.choice(self.keys)
        roll = chooser.random()
        if roll < 0.35:
            size = self._size(chooser)
            await client.put(key, size, Condition(), linger_s=self._linger_s(size, chooser))
        elif roll < 0.50:
            await client.put(key, self._size(chooser), self._condition(key, chooser))
        elif roll < 0.60:
            condition = self._condition(key, chooser)
            await client.delete(key, condition if condition.if_version > 0 else Condition())
        elif roll < 0.65:
            await self._undelete(client, key, chooser)
        elif roll < 0.70:
            await client.get_range(key, chooser.randrange(2000), chooser.randrange(1, 20_000))
        elif roll < 0.72:
            await self._doors.race(chooser)
        elif self.history.forgetful and roll > 0.85:
            await client.delete(key, Condition())
        elif roll < 0.78:
            await client.list(self.keys, chooser.choice((1, 2, 1000)))
        else:
            await client.get(key)

    def _size(self, chooser: random.Random) -> int:
        """Tiny, one stripe, several stripes, several parts; boundaries more often than chance would."""
        low, high = chooser.choice(((12, 512), (12, 512), (513, 8192), (8193, 32768), (32769, 70_000)))
        return chooser.choice((low, high, chooser.randint(low, high)))

    def _linger_s(self, size: int, chooser: random.Random) -> float:
        """Where stores are lost, some uploads of several parts take long enough for one to be replaced meanwhile."""
        if not self.plan.trouble.wipe or size <= geometry.PART_BYTES or chooser.random() > LINGER_SHARE:
            return 0.0
        return chooser.uniform(*LINGER_S) * CHUNK_BYTES / size

    def _condition(self, key: bytes, chooser: random.Random) -> Condition:
        versions = sorted({op.version for op in self.history.ops[key] if op.version})[-3:]
        if not versions or chooser.random() < 0.4:
            return Condition(if_absent=True)
        return Condition(if_version=chooser.choice(versions))

    async def _undelete(self, client: SimClient, key: bytes, chooser: random.Random) -> None:
        known = [ack for ack in self.history.acks if ack.key == key]
        if known:
            ack = chooser.choice(known[-4:])
            await client.undelete(key, ack.version, ack.content)

    # --- the end

    async def _calm(self) -> None:
        self.note("CALM")
        self.nemesis.stop()
        if why := await self.nemesis.replace_lost():
            self.violations.append(f"NOT REPLACED: {why}")
        await self.nemesis.settle_processes()
        if self._rots:
            self.violations += [f"NOT SCRUBBED: {why}" for why in await self.nemesis.scrub()]
            if why := await self.nemesis.replace_holed():
                self.violations.append(f"NOT REPLACED: {why}")
        why = await self.nemesis.unhealthy(self.plan.patience_s)
        if why and not self.history.excused():
            self.violations.append(f"NOT CONVERGED after {self.plan.patience_s} s: {why}")
        if not why and not self._rots:
            await self._witness.look(self.cluster.running()[0])
            self.violations += await self._doors.claims()

    async def _read_back(self) -> None:
        """Every key, and a listing: nothing may fail now. Whether it is right is for the judge of the history."""
        reader = self.clients[0]
        excused = self.history.excused()
        for key in self.keys:
            if await reader.get(key, patience=6) is None and key not in excused:
                last = self.history.last_errors.get(reader.name, "")
                self.violations.append(f"UNREADABLE: {key!r} after faults stopped: {last}")
        self.violations += await self._doors.read_back(excused)
        if not await reader.list(self.keys, 2):
            self.violations.append(f"NO LIST after faults stopped: {self.history.last_errors}")
        if self.seed % LEVEL_EVERY == 1 and not excused:
            self.violations += [f"APART: {what}" for what in await registers_apart(self.cluster)]
        if self.seed % TIDY_EVERY == 0 and not excused and self._tidy:
            self.violations += [f"GARBAGE: {what}" for what in await garbage_left(self.cluster)]

    def _look_around(self) -> None:
        """Mistakes nobody was waiting for."""
        self.violations += [f"LOOP: {problem}" for problem in self.loop.problems]
        self.violations += [f"HANDLER: {problem}" for problem in self.cluster.network.problems]
        self.violations += [f"NODE: {problem}" for problem in self.cluster.problems]
        for name, events in self.cluster.events:
            for event, fields in events.seen:
                if event in {"task_failed", "request_failed"}:
                    self.violations.append(f"EVENT: {name} {event} {fields}")
        if self.history.corrupt_reads and not self.plan.trouble.damages:
            self.violations += [f"CORRUPT without rot: {read}" for read in self.history.corrupt_reads]


def run_world(
    seed: int, plan: Plan | None = None, *, keep_trace: bool = False, hasty: bool | None = None
) -> Outcome:
    """Everything that happens follows from the seed. `hasty` collectors come by all the time, in half of all worlds:
    what they decide completes what others left half done, and hides bugs. Garbage collection is off so that nothing can
    depend on the past; what was there before a world is never looked at again, so that the thousandth is as quick as
    the first."""
    if hasty is None:
        hasty = random.Random(f"hasty {seed}").random() < HASTY_SHARE
    forgetful = hasty and random.Random(f"forgetful {seed}").random() < FORGETFUL_SHARE
    gc.freeze()
    gc.disable()
    try:
        with small_numbers(hasty=hasty, forgetful=forgetful):
            world = World(
                seed,
                plan or Plan.drawn(seed),
                keep_trace=keep_trace,
                tidy=hasty,
                forgetful=forgetful,
            )
            outcome = world.run()
        with nobody_listening():
            del world
            gc.collect()
        return outcome
    finally:
        gc.enable()
