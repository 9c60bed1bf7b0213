"""A store that joins a partition blank, or cannot vouch for it any more, learns its registers.

For each partition in which the map calls this store a learner: page the registers of enough voting homes that
every decided head is among them, settle what they disagree on, take floors, era and closed buckets after the
last page, write everything down, and only then tell the map: a learner votes from then on, and a move closes with
the last of its newcomers. A newcomer first forgets what it held from an earlier time as a home. A crash or another
generation starts over; other homes of the same one go on where those before them fell silent. Refuses to know shards:
those are heal's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Protocol, TypeVar

from holdfast_node.core.catch_up import KeyId, Window, fences, merge, with_floors
from holdfast_node.core.errors import (
    BucketClosing,
    Evidence,
    HoldfastError,
    StaleGeneration,
    Unavailable,
)
from holdfast_node.core.ids import ID_BYTES, RESERVED_BUCKET, BucketId, Era, RequestId, StoreId
from holdfast_node.core.map_changes import finish_learning, relearn
from holdfast_node.core.messages import (
    CopyRegisters,
    FloorsReply,
    ReadFloors,
    RegisterCopies,
    RegisterCopy,
    Reply,
    Request,
    Scope,
    WorkerStatus,
)
from holdfast_node.core.operation import Operation, OperationKind
from holdfast_node.core.records import BucketRecord
from holdfast_node.core.topology import Topology
from holdfast_node.ports import Failed
from holdfast_node.services.acceptor import Learned
from holdfast_node.services.cartographer import Cartographer
from holdfast_node.services.closed_doors import ClosedDoors, Doors
from holdfast_node.services.fanout import gather, replies
from holdfast_node.services.leftovers import Forgetful, Leftovers, older_than, partitions_of
from holdfast_node.services.log.partition_facts import Changed
from holdfast_node.services.store import Entry
from holdfast_node.services.versions import missing_manifests
from holdfast_node.services.worker import Work, run_forever

IDLE_S: Final = 1.0
PAGE_TIMEOUT_S: Final = 5.0
PAGE_ROWS: Final = 64
"""Heads are some KiB: a page of this many stays far under a frame. Halved while pages fail, down to one
row."""
PASS_PARTITIONS_MAX: Final = 64
"""Partitions learned together: more means fewer pages, fewer means that some vote sooner."""
SETTLES_AT_ONCE: Final = 8
FAILURES_MAX: Final = 3
"""A source that failed so often in a row is left for another."""
AVOID_S: Final = 2.0

_START: Final[KeyId] = (RESERVED_BUCKET, b"")
"""Before every key: none is empty."""
R = TypeVar("R", bound=Reply)


class Pupil(Forgetful, Protocol):
    """This store's registers; `services.acceptor.Acceptor` has it."""

    async def learn(self, copy: RegisterCopy) -> Learned: ...


class Settler(Protocol):
    """Finishes what may be half accepted; `services.registers.Registers` does."""

    def run(self, pool: int, bucket: BucketId, key: bytes, operation: Operation) -> Awaitable[object]: ...


@dataclass(slots=True)
class _Pass:
    """One walk over the keys of some partitions. What a home decides it decides key by key: each key has to be seen by
    enough homes of the generation, not all keys by the same ones."""

    scopes: tuple[Scope, ...]
    sources: tuple[StoreId, ...]
    cursor: KeyId = _START
    settled: set[KeyId] = field(default_factory=set[KeyId])
    failures: int = 0


class Learner:
    name = "learner"

    def __init__(self, *, cartographer: Cartographer, pupil: Pupil, settler: Settler, doors: Doors) -> None:
        ports = cartographer.ports
        self._store = ports.store
        self._links = ports.links
        self._bodies = ports.bodies
        self._entropy = ports.entropy
        self._events = ports.events
        self._cartographer = cartographer
        self._pupil = pupil
        self._settler = settler
        self._closed = ClosedDoors(doors)
        self._me = ports.store.superblock.store
        self._leftovers = Leftovers(self._me, ports.store, pupil)
        self._pass: _Pass | None = None
        self._rows = PAGE_ROWS
        self._avoid: dict[StoreId, float] = {}
        self._state = Work.IDLE
        self._detail = ""
        self._learned_total = 0
        self._bytes = 0
        self._busy_s = 0.0
        self.wake: Final = asyncio.Event()
        cartographer.subscribe(lambda _: self.wake.set())

    async def run(self) -> None:
        await run_forever(self, self.wake, IDLE_S, events=self._events)

    def status(self) -> WorkerStatus:
        topology = self._cartographer.topology
        left = len(topology.learned_by(self._me)) if topology is not None else 0
        return WorkerStatus(
            name=self.name,
            state=self._state.value,
            detail=self._detail,
            done=self._learned_total,
            total=self._learned_total + left,
            bytes_done=self._bytes,
            rate_bytes_s=self._bytes / self._busy_s if self._busy_s else 0.0,
            eta_s=left * self._busy_s / self._learned_total if self._learned_total else 0.0,
        )

    async def work_once(self) -> Work:
        clock = asyncio.get_running_loop().time
        begun = clock()
        try:
            self._state = await self._work()
            if self._state is Work.BUSY:
                self._busy_s += clock() - begun
        except HoldfastError as error:
            self._state, self._detail = Work.IDLE, str(error)
            raise
        return self._state

    async def _work(self) -> Work:
        topology = self._cartographer.topology
        if topology is None or self._me not in topology.active:
            return Work.IDLE
        if await self._doubt(topology):
            return Work.BUSY
        scopes = topology.learned_by(self._me)
        if not scopes:
            self._pass, self._detail = None, ""
            return Work.IDLE
        if blank := [
            scope for scope in scopes if self._is_newcomer(topology, scope) and not self._has_entered(scope)
        ]:
            await self._enter(blank)
            return Work.BUSY
        ready = [scope for scope in scopes if self._has_learned(scope)]
        if ready:
            await self._finish(ready)
            return Work.BUSY
        current = self._resume(topology, scopes)
        if current is None:
            return Work.THROTTLED
        return await self._step(current)

    async def _doubt(self, topology: Topology) -> bool:
        """Partitions this store votes in but cannot vouch for: it becomes a learner there again."""
        beyond = self._leftovers.beyond_learning
        keys = [key for key in self._store.forgotten_keys() if key not in beyond]
        rotten = {at for key in keys for at in partitions_of(topology, key)}
        doubtful: dict[tuple[int, int], int] = {}
        for scope in topology.kept_by(self._me):
            at = (scope.pool, scope.partition)
            not_voting = bool(self._store.partition(*at).not_voting)
            if self._is_newcomer(topology, scope):
                if not_voting and self._has_entered(scope):
                    doubtful[at] = scope.generation
            elif self._votes(topology, scope) and (at in rotten or not_voting):
                doubtful[at] = scope.generation
        if not doubtful or relearn(topology.map, self._me, doubtful) is None:
            return False
        self._events.emit("learning_again", partitions=len(doubtful))
        await self._cartographer.change(lambda current: relearn(current, self._me, doubtful))
        return True

    def _has_learned(self, scope: Scope) -> bool:
        record = self._store.partition(scope.pool, scope.partition)
        return record.learned_generation == scope.generation and not record.not_voting

    def _votes(self, topology: Topology, scope: Scope) -> bool:
        """As a home: it may be learning all the same, if it stays one where registers move to fewer homes."""
        entry = topology.entry(scope.pool, scope.partition)
        return self._me in entry.homes and (self._me not in entry.learners or bool(entry.moving))

    def _is_newcomer(self, topology: Topology, scope: Scope) -> bool:
        return self._me not in topology.entry(scope.pool, scope.partition).homes

    def _has_entered(self, scope: Scope) -> bool:
        return self._store.partition(scope.pool, scope.partition).entered_generation == scope.generation

    async def _enter(self, scopes: Sequence[Scope]) -> None:
        """Begin blank: what this store still holds here is from an earlier time as a home, and may be older than what
        the others have forgotten since."""
        generations = {(scope.pool, scope.partition): scope.generation for scope in scopes}
        topology = self._cartographer.require()
        if rotten := self._leftovers.blank_rot(topology, generations, self._store.rotten_keys()):
            await self._store.append(rotten)
        after, complete = _START, False
        while not complete:
            page = await self._store.register_copies(frozenset(generations), *after, PAGE_ROWS)
            await asyncio.gather(
                *(
                    self._pupil.forget(
                        (copy.bucket, copy.key), older_than(generations[copy.pool, copy.partition])
                    )
                    for copy in page.copies
                )
            )
            complete = page.complete or not page.copies
            if page.copies:
                after = (page.copies[-1].bucket, page.copies[-1].key)
        await self._store.partitions.change(
            {
                at: partial(replace, entered_generation=generation, not_voting="")
                for at, generation in generations.items()
            }
        )
        self._events.emit("partitions_entered", partitions=len(generations))

    async def _finish(self, ready: Sequence[Scope]) -> None:
        learned = {(scope.pool, scope.partition): scope.generation for scope in ready}
        await self._cartographer.change(lambda current: finish_learning(current, self._me, learned))
        self._learned_total += len(learned)
        self._events.emit("partitions_learned", partitions=len(learned), epoch=self._cartographer.epoch)

    # --- one pass -------------------------------------------------------------------------------------------

    def _resume(self, topology: Topology, scopes: Sequence[Scope]) -> _Pass | None:
        """The running pass without the partitions whose generation is over, with other sources if these fail, or a new
        one."""
        current = self._pass
        if current is not None:
            alive = set(scopes)
            current.scopes = tuple(scope for scope in current.scopes if scope in alive)
            if current.scopes and current.failures >= FAILURES_MAX:
                begun = self._begin(topology, current.scopes)
                if begun is not None:
                    begun.cursor = current.cursor
                    self._pass = begun
                return begun
            if current.scopes and all(self._teaches(topology, current, scope) for scope in current.scopes):
                return current
        self._pass = self._begin(topology, scopes)
        return self._pass

    @staticmethod
    def _teaches(topology: Topology, current: _Pass, scope: Scope) -> bool:
        """While a code changes, partitions of a pool have different numbers of homes."""
        enough = len(current.sources) >= topology.enough_to_see(scope.pool, scope.partition)
        return enough and set(current.sources).issubset(topology.voting_homes(scope.pool, scope.partition))

    def _begin(self, topology: Topology, scopes: Sequence[Scope]) -> _Pass | None:
        for scope in scopes:
            sources = self._sources(topology, scope)
            if sources:
                taught = [other for other in scopes if other.pool == scope.pool]
                begun = _Pass((), sources)
                taught = [other for other in taught if self._teaches(topology, begun, other)]
                begun.scopes = tuple(taught[:PASS_PARTITIONS_MAX])
                self._detail = f"{len(begun.scopes)} partitions from " + ", ".join(
                    map(topology.name, sources)
                )
                return begun
        needed = topology.enough_to_see(scopes[0].pool, scopes[0].partition)
        self._detail = f"waiting for {needed} voting homes to be up"
        return None

    def _sources(self, topology: Topology, scope: Scope) -> tuple[StoreId, ...]:
        """Empty if not enough voting homes are up. The same order for every partition, so that many share a
        pass."""
        now = asyncio.get_running_loop().time()
        up = [s for s in topology.voting_homes(scope.pool, scope.partition) if self._links.is_up(s)]
        up.sort(key=lambda store: (self._avoid.get(store, 0.0) > now, topology.name(store)))
        needed = topology.enough_to_see(scope.pool, scope.partition)
        return tuple(sorted(up[:needed])) if len(up) >= needed else ()

    async def _step(self, current: _Pass) -> Work:
        """One window of keys; after the last one the floors."""
        try:
            window = merge(await self._pages(current), current.settled)
            if window.disputed:
                await self._settle(current, window.disputed)
                return Work.BUSY
            if promised := await self._learn(window):
                await self._settle_promised(current, promised)
            await self._leftovers.forget(*self._relearned(current), current.cursor, window)
            if window.end is None:
                await self._close(current)
                self._pass = None
            else:
                current.cursor, current.settled = window.end, set()
        except StaleGeneration:
            current.failures += 1  # of a source that stays behind the map, others may teach meanwhile
            return Work.THROTTLED
        except HoldfastError as error:
            self._failed(current, error)
            return Work.THROTTLED
        current.failures = 0
        self._rows = min(PAGE_ROWS, 2 * self._rows)
        return Work.BUSY

    def _failed(self, current: _Pass, error: HoldfastError) -> None:
        current.failures += 1
        self._detail = str(error)
        self._rows = max(1, self._rows // 2)
        if current.failures == FAILURES_MAX:
            self._events.emit("sources_left", error=str(error))

    async def _pages(self, current: _Pass) -> dict[StoreId, RegisterCopies]:
        bucket, key = current.cursor
        request = CopyRegisters(current.scopes, bucket, key, self._rows)
        return await self._ask_all(current, request, RegisterCopies)

    async def _ask_all(self, current: _Pass, request: Request, expect: type[R]) -> dict[StoreId, R]:
        """An answer of every source, each given in the generation asked for; raises if one is missing."""
        answers = await gather(
            self._links,
            dict.fromkeys(current.sources, request),
            timeout_s=PAGE_TIMEOUT_S,
            enough=lambda so_far: any(isinstance(answer, Failed) for answer in so_far.values()),
        )
        for store, answer in sorted(answers.items()):
            if isinstance(answer, Failed):
                await self._source_failed(current, store, answer.error)
                raise answer.error
        found = replies(answers, expect)
        if len(found) < len(current.sources):
            raise Unavailable("a source gave no usable answer")
        return found

    async def _source_failed(self, current: _Pass, store: StoreId, error: HoldfastError) -> None:
        if isinstance(error, StaleGeneration):
            await self._cartographer.fetch(store)
            if self._still_learning(current) != current.scopes:  # it is not the source that is behind
                return
        self._avoid[store] = asyncio.get_running_loop().time() + AVOID_S

    async def _settle(self, current: _Pass, disputed: Sequence[KeyId]) -> None:
        """Have each decided in the present generation; the pages are then read again."""
        topology = self._cartographer.require()
        pool = current.scopes[0].pool
        for first in range(0, len(disputed), SETTLES_AT_ONCE):
            some = disputed[first : first + SETTLES_AT_ONCE]
            await asyncio.gather(*(self._settle_one(topology, pool, key) for key in some))
            current.settled.update(some)

    async def _settle_one(self, topology: Topology, pool: int, key: KeyId, *, door: bool = True) -> None:
        """A closed `door` is as good as a decision; else it raises `BucketClosing`, unless the bucket is gone."""
        request_id = RequestId(self._entropy.token(ID_BYTES))
        settle = Operation(OperationKind.SETTLE, request_id, Era(topology.map.era))
        try:
            await self._settler.run(pool, *key, settle)
        except BucketClosing:
            # Nothing can be decided behind a closed door, and who closed it may never come back. The highest pair is
            # what a home that accepted it would hold, and every decided one is among those shown. Only where that pair
            # cannot be taken, because of a promise given here, is it not enough.
            if not door and not await self._closed.nothing_behind(key[0]):
                raise

    async def _settle_promised(self, current: _Pass, promised: Sequence[KeyId]) -> None:
        """Keys with a promise of ours in the way: decided anew, they are at a majority of the new homes without us."""
        topology = self._cartographer.require()
        for first in range(0, len(promised), SETTLES_AT_ONCE):
            some = promised[first : first + SETTLES_AT_ONCE]
            await asyncio.gather(
                *(self._settle_one(topology, current.scopes[0].pool, key, door=False) for key in some)
            )

    async def _learn(self, window: Window) -> list[KeyId]:
        """Returns the keys that are not taken for a promise given here."""
        manifests: list[Entry] = []
        for copy in window.known:
            manifests += await missing_manifests(self._store, self._bodies, copy)
            self._bytes += len(copy.head)
        if manifests:
            await self._store.append(manifests)
        learned = await asyncio.gather(*(self._pupil.learn(copy) for copy in window.known))
        return [
            (copy.bucket, copy.key)
            for copy, what in zip(window.known, learned, strict=True)
            if what is Learned.PROMISED
        ]

    async def _close(self, current: _Pass) -> None:
        """After the last page: floors, era and closed buckets; then every partition of the pass is
        learned."""
        found = await self._ask_all(current, ReadFloors(current.scopes), FloorsReply)
        known = fences(found.values())
        await self._reach_era(known.era, {store: reply.era for store, reply in found.items()})
        doors = [
            BucketRecord(bucket, closing=True)
            for bucket in known.closed_buckets
            if not self._store.bucket_closing(bucket)
        ]
        topology = self._cartographer.require()
        scopes = self._still_learning(current)
        if any((scope.pool, scope.partition) not in known.floors for scope in scopes):
            raise Unavailable("a source left a partition out of its floors")

        def learned(scope: Scope) -> Changed:
            floors = known.floors[scope.pool, scope.partition]
            votes = self._votes(topology, scope)
            return lambda own: replace(
                with_floors(own, floors),
                learned_generation=scope.generation,
                not_voting=own.not_voting if votes else "",
            )

        changes = {(scope.pool, scope.partition): learned(scope) for scope in scopes}
        await self._store.partitions.change(changes, beside=doors)

    def _relearned(self, current: _Pass) -> tuple[Topology, tuple[Scope, ...]]:
        """Where this store votes neither as a newcomer, who began blank, nor as a home that stays."""
        topology = self._cartographer.require()
        return topology, tuple(
            scope
            for scope in self._still_learning(current)
            if not self._is_newcomer(topology, scope) and not self._votes(topology, scope)
        )

    def _still_learning(self, current: _Pass) -> tuple[Scope, ...]:
        now = set(self._cartographer.require().learned_by(self._me))
        return tuple(scope for scope in current.scopes if scope in now)

    async def _reach_era(self, era: int, eras: Mapping[StoreId, int]) -> None:
        for store in sorted(eras):
            if self._cartographer.era < era and eras[store] == era:
                await self._cartographer.fetch(store)
        if self._cartographer.era < era:
            raise Unavailable(
                f"a source is in era {era}, this store in {self._cartographer.era}",
                evidence=[Evidence(store.hex()[:8], f"era {its}") for store, its in sorted(eras.items())],
            )
