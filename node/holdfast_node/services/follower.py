"""A home follows the feeds of others, and catches up on what it missed: it was away, or a message was lost.

Of every partition it follows as many other homes as it takes to meet each majority without it, so that whatever was
decided without this store is in one of their feeds. What it missed it takes like an accept that comes late; only what
is under a promise of its own has to be decided once more. How far it has come with each feed is written down: a store
that returns reads what was written meanwhile, and nothing else (docs/adr/0089-homes-follow-each-others-feeds.md). Knows
registers, not shards: those are heal's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from holdfast_node.core.acceptance import Late
from holdfast_node.core.errors import BucketClosing, HoldfastError, Unavailable
from holdfast_node.core.ids import StoreId
from holdfast_node.core.messages import (
    ChangedKey,
    Changes,
    CopyKeys,
    FollowedScope,
    KeyName,
    PartitionChanges,
    ReadChanges,
    RegisterCopies,
    RegisterCopy,
    Scope,
    WorkerStatus,
)
from holdfast_node.core.records import FeedCursor
from holdfast_node.core.topology import Topology
from holdfast_node.ports import Bodies
from holdfast_node.services.closed_doors import ClosedDoors
from holdfast_node.services.cursors import At, Cursors
from holdfast_node.services.datapath import DataPath
from holdfast_node.services.fanout import call
from holdfast_node.services.feed import CHANGES_MAX, COPIES_MAX, FOLLOWED_MAX
from holdfast_node.services.foreground import Foreground
from holdfast_node.services.store import Store
from holdfast_node.services.versions import missing_manifests
from holdfast_node.services.worker import Work, run_forever

IDLE_S: Final = 0.5
"""Between rounds while something may have been missed."""
ROUND_S: Final = 5.0
"""Between rounds otherwise."""
ASK_TIMEOUT_S: Final = 5.0


class Home(Protocol):
    """This store's registers; `services.acceptor.Acceptor` has it."""

    async def follow(self, copy: RegisterCopy, scope: Scope) -> Late: ...


class Follower:
    """Runs for as long as the node does. Numbers count since the process started. `taken` may be set to hear of every
    register that was missed."""

    name = "follower"

    def __init__(
        self,
        *,
        path: DataPath,
        store: Store,
        bodies: Bodies,
        home: Home,
        closed: ClosedDoors,
        foreground: Foreground,
    ) -> None:
        self._path: Final = path
        self._store: Final = store
        self._bodies: Final = bodies
        self._home: Final = home
        self._closed: Final = closed
        self._foreground: Final = foreground
        self.taken: Callable[[RegisterCopy], None] = _nobody_hears
        self.cursors: Final = Cursors(store)
        self._round: dict[StoreId, list[At]] = {}
        """Whose feeds are still to be followed, and in which partitions."""
        self._followed: dict[At, set[StoreId]] = {}
        """Whose feeds were followed to their ends since somebody came back last."""
        self._began_s = 0.0
        self._looks = 0
        """How often somebody came back: what was asked before that says nothing of now."""
        self._read = 0
        self._missed = 0
        self._state = Work.IDLE
        self._last_error = ""
        self.wake: Final = asyncio.Event()

    async def run(self) -> None:
        await run_forever(self, self.wake, IDLE_S, events=self._path.events)

    def look_again(self) -> None:
        """Somebody came back, or this store did: what was accepted meanwhile may be news here."""
        self._looks += 1
        self._followed.clear()
        self._round.clear()
        self.wake.set()

    def is_level(self, pool: int, partition: int) -> bool:
        """Whether everything decided in the partition before somebody came back last is here."""
        topology = self._path.maps.topology
        if topology is None:
            return False
        return len(self._followed.get((pool, partition), ())) >= _needed(topology, pool, partition)

    # --- working --------------------------------------------------------------------------------------------

    async def work_once(self) -> Work:
        clock = asyncio.get_running_loop().time
        began_s = clock()
        try:
            self._state = await self._work()
            self._last_error = ""
        except HoldfastError as error:
            self._state, self._last_error = Work.IDLE, str(error)
            raise
        if self._state is Work.BUSY:
            await asyncio.sleep(self._foreground.rest_s(clock() - began_s))
        return self._state

    async def _work(self) -> Work:
        topology = self._path.maps.topology
        if topology is None or self._path.me not in topology.active:
            return Work.IDLE
        if not self._round and self._is_due():
            self._began_s = asyncio.get_running_loop().time()
            self._round = self._teachers(topology)
        if not self._round:
            return Work.IDLE
        teacher = min(self._round)
        try:
            await self._follow(topology, teacher, self._round[teacher])
        except BaseException:
            self._round.pop(teacher, None)  # it is asked again in the next round
            raise
        return Work.BUSY if self._round else Work.IDLE

    def _is_due(self) -> bool:
        return self._behind() > 0 or asyncio.get_running_loop().time() >= self._began_s + ROUND_S

    def _teachers(self, topology: Topology) -> dict[StoreId, list[At]]:
        """Of every partition the homes that come next in order, of those that are up: every home has others."""
        found: dict[StoreId, list[At]] = {}
        for scope in topology.kept_by(self._path.me):
            homes = topology.voting_homes(scope.pool, scope.partition)
            if self._path.me not in homes:
                continue
            mine = homes.index(self._path.me)
            others = [home for home in (*homes[mine + 1 :], *homes[:mine]) if self._path.links.is_up(home)]
            for home in others[: _needed(topology, scope.pool, scope.partition)]:
                found.setdefault(home, []).append((scope.pool, scope.partition))
        return found

    async def _follow(self, topology: Topology, teacher: StoreId, left: list[At]) -> None:
        """One answer of one feed."""
        asked, looks = left[:FOLLOWED_MAX], self._looks
        tenures = {at: self.cursors.tenure(at) for at in asked}
        followed = [FollowedScope(topology.scope(*at), self.cursors.sequence(teacher, at)) for at in asked]
        request = ReadChanges(tuple(followed), CHANGES_MAX)
        answer = await call(self._path.links, teacher, request, expect=Changes, timeout_s=ASK_TIMEOUT_S)
        if not answer.partitions:
            raise Unavailable(f"{self._path.name(teacher)} showed none of the partitions asked about")
        for changes in answer.partitions:
            at = (changes.pool, changes.partition)
            tenure = tenures.pop(at, None)
            if tenure is None:
                raise Unavailable(
                    f"{self._path.name(teacher)} showed a partition twice, or one not asked about"
                )
            await self._take_missed(topology.scope(*at), teacher, changes)
            cursor = FeedCursor(*at, tenure, changes.through)
            self.cursors.advance(teacher, cursor, worth_noting=bool(changes.keys))
            if changes.complete and looks == self._looks:
                self._end(teacher, at)

    def _end(self, teacher: StoreId, at: At) -> None:
        self._followed.setdefault(at, set()).add(teacher)
        self._round[teacher].remove(at)
        if not self._round[teacher]:
            del self._round[teacher]

    # --- catching up ----------------------------------------------------------------------------------------

    async def _take_missed(self, scope: Scope, teacher: StoreId, changes: PartitionChanges) -> None:
        missed = [change for change in changes.keys if self._is_missed(change)]
        self._read += len(changes.keys)
        for first in range(0, len(missed), COPIES_MAX):
            await self._take(scope, teacher, missed[first : first + COPIES_MAX])

    def _is_missed(self, change: ChangedKey) -> bool:
        own = self._store.register_entry(change.bucket, change.key)
        return own is None or own.rotten or own.accepted is None or own.accepted < change.accepted

    async def _take(self, scope: Scope, teacher: StoreId, missed: Sequence[ChangedKey]) -> None:
        left = {(change.bucket, change.key): change for change in missed}
        while left:
            request = CopyKeys(scope, tuple(KeyName(*at) for at in left))
            answer = await call(
                self._path.links, teacher, request, expect=RegisterCopies, timeout_s=ASK_TIMEOUT_S
            )
            copies = [copy for copy in answer.copies if left.pop((copy.bucket, copy.key), None)]
            if not copies:
                raise Unavailable(f"{self._path.name(teacher)} has {len(left)} registers no more")
            entries = [
                entry for copy in copies for entry in await missing_manifests(self._store, self._bodies, copy)
            ]
            if entries:
                await self._store.append(entries)
            at_doors = await asyncio.gather(*(self._take_one(scope, copy) for copy in copies))
            for bucket in {copy.bucket for copy, waits in zip(copies, at_doors, strict=True) if waits}:
                # The cursor must not pass what a deletion holds up that may be given up.
                if not await self._closed.nothing_behind(bucket):
                    raise Unavailable("what was missed in a bucket that is being deleted waits for that")

    async def _take_one(self, scope: Scope, copy: RegisterCopy) -> bool:
        """Whether it is behind a closed door."""
        late = await self._home.follow(copy, scope)
        if late.closed:
            return True
        if (above := late.again_above) is not None:
            try:
                await self._path.registers.rewrite(scope.pool, copy.bucket, copy.key, above=above)
            except BucketClosing:
                return True
        elif late.record is not None:
            self.taken(copy)
        else:
            return False
        self._missed += 1
        self._path.events.emit("register_caught_up", key=copy.key.hex(), again=above is not None)
        return False

    # --- telling --------------------------------------------------------------------------------------------

    def status(self) -> WorkerStatus:
        behind = self._behind()
        told = [f"catching up in {behind} partitions" if behind else ""]
        told.append(f"{self._missed} of {self._read} changes read were missed" if self._missed else "")
        told.append(self._last_error)
        return WorkerStatus(
            name=self.name,
            state=self._state.value,
            detail="; ".join(each for each in told if each),
            done=self._missed,
            total=self._missed,
            bytes_done=0,
            rate_bytes_s=0.0,
            eta_s=0.0,
        )

    def _behind(self) -> int:
        topology = self._path.maps.topology
        kept = topology.kept_by(self._path.me) if topology is not None else ()
        return sum(not self.is_level(scope.pool, scope.partition) for scope in kept)


def _needed(topology: Topology, pool: int, partition: int) -> int:
    """Other homes to follow: whatever a majority decided without this one, one of so many has accepted."""
    return topology.enough_to_see(pool, partition) - 1


def _nobody_hears(copy: RegisterCopy) -> None:
    del copy
