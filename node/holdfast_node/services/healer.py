"""Heal: as steward, find every shard that is not at its home, bring it there, and say truthfully how far that is.

Looks through a partition when a store has joined, when stewardship comes here, and now and then; hears of degraded
writes and of damage at once. Smallest margin first. Two healers of one key are harmless. Moves no homes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from holdfast_node.core.api import Margin
from holdfast_node.core.errors import HoldfastError, NotVoting
from holdfast_node.core.head import Head
from holdfast_node.core.heal_order import NO_MARGIN_KNOWN, NONE_AILING, Ailing, HealOrder
from holdfast_node.core.ids import StoreId
from holdfast_node.core.margin import gravity, least
from holdfast_node.core.messages import (
    Accept,
    AcceptReply,
    NoteDegraded,
    NoteDegradedReply,
    PartitionHealth,
    QuarantinedKey,
    QuarantineReply,
    ReadQuarantine,
    RegisterCopy,
    Reply,
    Request,
    ShardHeader,
    ShardName,
    WorkerStatus,
)
from holdfast_node.core.records import FeedCursor, PartitionRecord
from holdfast_node.core.topology import Topology
from holdfast_node.ports import Bodies
from holdfast_node.services.datapath import DataPath, KeyPlace
from holdfast_node.services.dispatcher import Caller, Handler, handler
from holdfast_node.services.foreground import HealBounds
from holdfast_node.services.heal_hands import TRIES_MAX, Hands
from holdfast_node.services.log.partition_facts import PartitionFacts
from holdfast_node.services.naming import Namer
from holdfast_node.services.wards import (
    UNKNOWN,
    WAIT_S,
    DeletedBuckets,
    Found,
    Level,
    Looker,
    OwnRegisters,
    Ward,
    ailing_as_named,
    ailing_as_reported,
    stewarded,
)
from holdfast_node.services.worker import Work, run_forever

IDLE_S: Final = 1.0
AT_ONCE: Final = 16
"""Keys mended at once; the repair budget bounds their bytes."""
PACED: Final = 2
"""The same while callers wait, of what one more loss would not take."""
AILING_ENOUGH: Final = 5_000
"""With this many known, what can be mended goes before looking for more."""
QUARANTINED_MAX: Final = 100
"""Told of one store: keys and reasons are 160 KiB at most, and a control frame takes 256."""
WATCH_S: Final = 0.25
"""Between looks at who is up: much less than the two seconds of silence after which somebody is not."""
STOOD_STILL_S: Final = 1.0
"""A node that stood still so long may have been counted as down, and others as stewards in its place."""
HOLD_S: Final = 1.0
"""Before a partition that could not be looked through is tried again."""
DAMAGED_SHARDS_MAX: Final = 1_000
DAMAGED_AT_ONCE: Final = 64


class HealStore(OwnRegisters, Protocol):
    """What of the store heal needs; `services.store.Store` has it."""

    @property
    def partitions(self) -> PartitionFacts: ...

    def partition(self, pool: int, partition: int) -> PartitionRecord: ...

    def count(self, pool: int, partition: int) -> tuple[int, int]: ...

    async def shard_header(self, name: ShardName) -> ShardHeader | None: ...


class Healer:
    """The heal worker of one store. `report`, `report_shard` and `watch` are how it hears of things."""

    name = "healer"

    def __init__(
        self,
        *,
        path: DataPath,
        store: HealStore,
        bodies: Bodies,
        level: Level,
        deleted: DeletedBuckets,
        bounds: HealBounds,
    ) -> None:
        self._path: Final = path
        self._foreground: Final = bounds.foreground
        self._store: Final = store
        self._bodies: Final = bodies
        self._level: Final = level
        self._cursors: Final = level.cursors
        self._looker: Final = Looker(path, store, level, bodies, deleted)
        self._namer: Final = Namer(path, store)
        self._order: Final = HealOrder()
        self._wards: dict[tuple[int, int], Ward] = {}
        self._damaged: dict[ShardName, None] = {}
        self._up: frozenset[StoreId] = frozenset()
        """As seen last: whoever is not among them is noticed when it comes back."""
        self._returned = False
        """Somebody came back, and the work has not taken note of it yet."""
        self._moved_epoch = 0
        """The last change of where shards belong that the work has taken note of."""
        self._state = Work.IDLE
        self._last_error = ""
        self.wake: Final = asyncio.Event()
        self._hands: Final = Hands(path, deleted, bounds, self._order, up=lambda: self._up, freed=self.wake)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            _ = group.create_task(self._watch_peers())
            await run_forever(self, self.wake, IDLE_S, events=self._path.events)

    # --- hearing --------------------------------------------------------------------------------------------

    def report(self, place: KeyPlace) -> None:
        """A reader met a shard of this key that is not intact, or not where it should be."""
        topology = self._path.maps.topology
        if topology is not None:
            self._add(ailing_as_reported(topology, place))

    def report_shard(self, name: ShardName) -> None:
        """The keeper found a shard of its own broken."""
        if len(self._damaged) < DAMAGED_SHARDS_MAX:
            self._damaged[name] = None
            self.wake.set()

    def watch(self, handlers: Mapping[type[Request], Handler]) -> dict[type[Request], Handler]:
        """The acceptor's handlers, with an ear at what is accepted in partitions under stewardship, and doors for
        notices and for questions about the quarantine."""
        accept = handlers[Accept]

        async def heard(caller: Caller, request: Request) -> Reply:
            reply = await accept(caller, request)
            if isinstance(request, Accept) and isinstance(reply, AcceptReply) and reply.accepted:
                self._accepted((request.scope.pool, request.scope.partition), request)
            return reply

        own = [handler(NoteDegraded, self._note), handler(ReadQuarantine, self._quarantine)]
        return {**handlers, Accept: heard, **dict(own)}

    def caught_up(self, copy: RegisterCopy) -> None:
        """What was accepted elsewhere, and missed here until now."""
        self._accepted((copy.pool, copy.partition), copy)

    def _accepted(self, at: tuple[int, int], register: Accept | RegisterCopy) -> None:
        ward = self._wards.get(at)
        topology = self._path.maps.topology
        if ward is None or topology is None:
            return
        head = self._bodies.decode(Head, register.head)
        if head.manifest is None:
            return
        ballot = register.ballot if isinstance(register, Accept) else register.accepted
        found = Found(KeyPlace(ward.pool, register.bucket, register.key), head, (head.manifest,), ballot)
        if found.in_former_code(topology):
            ward.written_in_former_code(asyncio.get_running_loop().time())
        ailing = ailing_as_named(self._path, ward.partition, found, self._up, fresh=True)
        if ailing is not None:
            self._add(ailing)

    def note(self, notice: NoteDegraded) -> None:
        """Somebody wrote what is not all at home. Raises `NotVoting` if this store is not the steward there."""
        ward = self._wards.get((notice.pool, notice.partition))
        if ward is None:
            raise NotVoting("this store is not the steward of the partition")
        later_s = asyncio.get_running_loop().time() + WAIT_S
        for key in notice.keys:
            due_s = later_s if self._up.isdisjoint(key.lacking) else 0.0
            margin = Margin(key.survives, full=False)
            self._add(Ailing(*ward.at, key.bucket, key.key, margin, since=0, due_s=due_s))
        if notice.more:
            ward.look_again()
            self.wake.set()

    async def _note(self, caller: Caller, request: NoteDegraded) -> Reply:
        del caller
        self.note(request)
        return NoteDegradedReply()

    def _add(self, ailing: Ailing) -> None:
        now_s = asyncio.get_running_loop().time()
        for dropped in self._order.add(ailing):
            if (ward := self._wards.get((dropped.pool, dropped.partition))) is not None:
                ward.forget(dropped.margin, now_s)
        self.wake.set()

    async def _watch_peers(self) -> None:
        """Beside the work, a piece of which may take longer than somebody is away. Who stood still itself was away."""
        loop = asyncio.get_running_loop()
        while True:
            topology = self._path.maps.topology
            if topology is not None:
                self._see_who_is_up(topology)
            asleep_s = loop.time()
            await asyncio.sleep(WATCH_S)
            if loop.time() - asleep_s > WATCH_S + STOOD_STILL_S:
                self._returned = True
                self.wake.set()

    def _see_who_is_up(self, topology: Topology) -> None:
        up = frozenset(store for store in topology.stores if self._path.links.is_up(store))
        if up - self._up:
            self._returned = True
            self.wake.set()
        self._up = up

    # --- working --------------------------------------------------------------------------------------------

    async def work_once(self) -> Work:
        try:
            self._state = await self._work()
        except HoldfastError as error:
            self._state, self._last_error = Work.IDLE, str(error)
            raise
        return self._state

    async def _work(self) -> Work:
        topology = self._path.maps.topology
        if topology is None or self._path.me not in topology.active:
            return Work.IDLE
        now_s = asyncio.get_running_loop().time()
        self._note_returns(topology)
        self._take_wards(topology)
        await self._conclude()
        await self._name_damaged(topology)
        urgent = self._order.most_urgent(now_s, AT_ONCE, paced=PACED if self._foreground.busy else None)
        grave = bool(urgent) and urgent[0].grave
        ward = self._next_ward(topology, now_s)
        if ward is not None and not grave and (not urgent or len(self._order) < AILING_ENOUGH):
            await self._look(topology, ward)
            return Work.BUSY
        if urgent:
            await self._hands.mend(urgent)
            if not grave:
                await asyncio.sleep(self._foreground.heal_rest_s(asyncio.get_running_loop().time() - now_s))
            return Work.BUSY
        return Work.THROTTLED if len(self._order) else Work.IDLE

    def _note_returns(self, topology: Topology) -> None:
        """Somebody is back: what waited need not wait any longer, and what was written on the far side of a partition
        may be news here."""
        self._see_who_is_up(topology)
        if topology.map.unsettled_epoch != self._moved_epoch:  # what waited for a home may have another now
            self._moved_epoch = topology.map.unsettled_epoch
            self._order.hasten()
        if self._returned:
            self._returned = False
            self._order.hasten()
            for ward in self._wards.values():
                ward.look_again()
            self._level.look_again()

    def _take_wards(self, topology: Topology) -> None:
        """Stewardship follows who is up. What comes here is looked through: its last steward may have known more."""
        mine = set(stewarded(topology, self._path))
        gone = self._wards.keys() - mine
        if gone:
            self._order.forget(gone)
        for at in gone:
            del self._wards[at]
        for at in sorted(mine):
            generation = topology.entry(*at).generation
            ward = self._wards.get(at)
            if ward is None or ward.generation != generation:
                settled = self._cursors.sequence(self._path.me, at)
                self._wards[at] = Ward(*at, generation, self._store.partition(*at).healed_epoch, settled)

    async def _conclude(self) -> None:
        """A partition all of which was looked at, with nothing left to mend, is healed up to that epoch, and settled up
        to what was accepted last then."""
        ailing = self._order.per_partition()
        self._cursors.note()
        for ward in self._wards.values():
            if ward.reviewed > ward.settled and ward.at not in ailing:
                ward.settled = ward.reviewed
                cursor = FeedCursor(*ward.at, self._cursors.tenure(ward.at), ward.settled)
                self._cursors.advance(self._path.me, cursor, worth_noting=True)
            if ward.looked_epoch > ward.healed_epoch and ward.at not in ailing:
                epoch = ward.looked_epoch
                await self._store.partitions.change({ward.at: partial(replace, healed_epoch=epoch)})
                ward.healed_epoch = epoch
                self._path.events.emit(
                    "partition_healed", pool=ward.pool, partition=ward.partition, epoch=ward.healed_epoch
                )

    def _next_ward(self, topology: Topology, now_s: float) -> Ward | None:
        epoch = topology.map.unsettled_epoch
        due = [ward for ward in self._wards.values() if ward.due(epoch, now_s)]
        return min(due, key=lambda ward: (not ward.looking, ward.healed_epoch, ward.at), default=None)

    async def _look(self, topology: Topology, ward: Ward) -> None:
        if not ward.looking:
            ward.begin(topology.map.unsettled_epoch, recoding=topology.former_code(ward.pool) is not None)
        try:
            for ailing in await self._looker.look(ward, self._up):
                self._add(ailing)
        except HoldfastError as error:
            self._hold(ward, error.message)
        except Exception as error:
            self._hold(ward, repr(error))
            raise  # to whoever runs workers, who tells of it
        else:
            self._last_error = ""

    def _hold(self, ward: Ward, why: str) -> None:
        ward.hold(asyncio.get_running_loop().time() + HOLD_S)
        self._last_error = f"partition {ward.partition}: {why}"

    async def _name_damaged(self, topology: Topology) -> None:
        """Whose the broken shards are: their seals know the key, or those of the seed's other shards."""
        if not self._damaged:
            return
        damaged = list(self._damaged)[:DAMAGED_AT_ONCE]
        for name in damaged:
            del self._damaged[name]
        for bucket, key in (await self._namer.keys_of(damaged)).keys:
            for pool in range(len(topology.map.pools)):
                self.report(KeyPlace(pool, bucket, key))

    # --- telling --------------------------------------------------------------------------------------------

    async def _quarantine(self, caller: Caller, request: ReadQuarantine) -> Reply:
        """The keys in quarantine here; with `retry`, they are tried again at once."""
        del caller
        found = self._order.hopeless(TRIES_MAX)
        keys = tuple(
            QuarantinedKey(*each.name, each.tries, min(gravity(each.margin), default=0), each.why)
            for each in found[:QUARANTINED_MAX]
        )
        if request.retry and found:
            self._order.try_again(TRIES_MAX)
            self.wake.set()
        return QuarantineReply(keys, len(found))

    def health(self) -> tuple[PartitionHealth, ...]:
        """One row per partition under stewardship. Nothing is claimed of one that was not looked through yet."""
        ailing = self._order.per_partition()
        hopeless = Counter((each.pool, each.partition) for each in self._order.hopeless(TRIES_MAX))
        rows: list[PartitionHealth] = []
        for ward in self._wards.values():
            count, margin = ailing.get(ward.at, NONE_AILING)
            if ward.missed is not None:
                count, margin = max(1, count), least((margin, ward.missed))
            rows.append(
                PartitionHealth(
                    *ward.at,
                    *self._store.count(*ward.at),
                    healed_epoch=ward.healed_epoch if self._knows(ward) else 0,
                    exceptions=count,
                    least_margin=min(gravity(margin), default=NO_MARGIN_KNOWN),
                    passed_epoch=ward.healed_epoch,
                    quarantined=hopeless[ward.at],
                    survives=margin.entries,
                    former=ward.former if self._knows(ward) else UNKNOWN,
                )
            )
        return tuple(rows)

    def _knows(self, ward: Ward) -> bool:
        """Nothing is claimed of a partition in which this store may have missed something."""
        return ward.seen and not self._returned and self._level.is_level(*ward.at)

    def status(self) -> WorkerStatus:
        now_s = asyncio.get_running_loop().time()
        progress = self._hands.progress
        return WorkerStatus(
            name=self.name,
            state=(Work.BUSY if self._order.in_hand else self._state).value,
            detail=self._detail(),
            done=progress.done,
            total=progress.done + len(self._order),
            bytes_done=progress.bytes_made,
            rate_bytes_s=progress.rate_bytes_s(now_s),
            eta_s=self._eta_s(now_s),
            bytes_read=progress.bytes_read,
        )

    def _eta_s(self, now_s: float) -> float:
        """Not known while a look may still find more, nor for what was tried in vain."""
        left = len(self._order) - len(self._order.hopeless(TRIES_MAX))
        looking = any(ward.looking and ward.full for ward in self._wards.values())
        return 0.0 if looking else self._hands.progress.time_for_s(left, now_s)

    def _detail(self) -> str:
        looking = sum(ward.looking and ward.full for ward in self._wards.values())
        quarantined = len(self._order.hopeless(TRIES_MAX))
        told = [f"looking through {looking} partitions" if looking else ""]
        told.append(f"{quarantined} in quarantine" if quarantined else "")
        told.append((self._hands.last_error or self._last_error) if len(self._order) or looking else "")
        return "; ".join(each for each in told if each)
