"""The partitions this store is steward of, and how far it has looked through each.

A *full* look, after a change of the map, asks the stores what they hold of every blob of every key, page by page,
merged over enough homes that none is missed. All others go through this store's own feed, from where everything was in
order: what was written before that is not looked at again. Finds what ails. Mends nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from holdfast_node.core.api import Margin
from holdfast_node.core.catch_up import merge
from holdfast_node.core.errors import BucketClosing, NotVoting, Unavailable
from holdfast_node.core.geometry import layout_of
from holdfast_node.core.head import ABSENT_HEAD, NO_BALLOT, Ballot, Head, HeadKind, Manifest
from holdfast_node.core.heal_order import Ailing
from holdfast_node.core.ids import RESERVED_BUCKET, BucketId, StoreId
from holdfast_node.core.margin import least, nothing_to_spare, shards_survive
from holdfast_node.core.messages import CopyRegisters, PartitionChanges, RegisterCopies, RegisterCopy
from holdfast_node.core.topology import Topology
from holdfast_node.ports import Bodies, Failed
from holdfast_node.services.bucket_book import BucketBook
from holdfast_node.services.closed_doors import ClosedDoors
from holdfast_node.services.cursors import Cursors
from holdfast_node.services.datapath import DataPath, KeyPlace, homes_to_fill, homes_without_shard
from holdfast_node.services.fanout import gather, replies
from holdfast_node.services.mending import plans_of, take_census

PAGE_ROWS: Final = 64
PAGE_TIMEOUT_S: Final = 10.0
RELOOK_S: Final = 300.0
"""Between looks through what was accepted lately, if nothing happens: it moves the point from which one starts over."""
INCONCLUSIVE_S: Final = 5.0
"""After a look during which some store did not say what it holds."""
INCONCLUSIVE_MAX_S: Final = 60.0
"""However long that look took: waiting for the silent is not work."""
RECOUNT_S: Final = 10.0
"""Between looks for what is left in the code that the pool had before, or for what there was no room to remember."""
WAIT_S: Final = 60.0
"""Before a key whose store is down is looked at again, unless a store comes up before that."""
LOOK_SHARE: Final = 20
"""A look may take at most about this fraction of the time."""

UNKNOWN: Final = -1

_START: Final[tuple[BucketId, bytes]] = (RESERVED_BUCKET, b"")


@dataclass(frozen=True, slots=True)
class Found:
    """One key with its current head and the manifests of all versions it keeps."""

    place: KeyPlace
    head: Head
    manifests: tuple[Manifest, ...]
    accepted: Ballot = NO_BALLOT
    """Under which the head was accepted, if that is all that is known of it."""

    def in_former_code(self, topology: Topology) -> bool:
        """Whether the current version is in a code that the pool has no more."""
        current = self.head.manifest
        return (
            current is not None
            and bool(current.parts)
            and not topology.is_current(self.place.pool, current.code)
        )

    def left_in_former_code(self, topology: Topology) -> int:
        """How many versions are, as far as is known: one whose manifest is not at hand may be."""
        pool = self.place.pool
        known = sum(bool(m.parts) and not topology.is_current(pool, m.code) for m in self.manifests)
        return known or int(self.lacks_manifests)

    @property
    def lacks_manifests(self) -> bool:
        """Whether a version is kept of which it is not known where its shards are."""
        known = {manifest.blob_id for manifest in self.manifests}
        kept = (entry.blob_id for entry in self.head.retained if entry.kind is HeadKind.BLOB)
        return not known.issuperset(kept)


@dataclass(slots=True)
class Ward:
    """One partition under stewardship. `healed_epoch`: every shard was at its home, of all stores that had joined by
    then. `settled`: what this store had accepted up to this sequence of its log was in order then."""

    pool: int
    partition: int
    generation: int
    healed_epoch: int
    settled: int = 0
    reviewed: int = 0
    """The sequence up to which the last look through the own feed went; settled once nothing ails any more."""
    looked_epoch: int = 0
    """The epoch up to which a full look has ended; healed once nothing it found ails any more."""
    looking: bool = False
    full: bool = False
    conclusive: bool = True
    cursor: tuple[BucketId, bytes] = _START
    after: int = 0
    """How far the look under way has come: in keys if it is full, else in the own feed."""
    next_look_s: float = 0.0
    seen: bool = False
    """Whether a look has ended since this store took the partition over, or since somebody it may not know of came
    back. Until then what is on record is what a steward knew once, and no news is not good news."""
    former: int = UNKNOWN
    """Versions met in a full look that are in a code the pool had before."""
    _former_met: int = 0
    _former_unmet: bool = False
    """One was written since the look under way began, perhaps where it had passed."""
    missed: Margin | None = None
    """The least margin of what ails here and had no room to be remembered, until a look has found it again."""
    _again: bool = False
    """Somebody came back during the look under way, which does not look at what this store may have missed."""
    _target_epoch: int = 0
    _whole: bool = True
    """Whether everything the look under way has found is remembered."""
    _spent_s: float = 0.0
    _held_until_s: float = 0.0

    @property
    def at(self) -> tuple[int, int]:
        return self.pool, self.partition

    def due(self, epoch: int, now_s: float) -> bool:
        """Whether a look is under way or should begin: stores have joined, or it has been a while."""
        if now_s < self._held_until_s:
            return False
        if self.looking or now_s >= self.next_look_s:
            return True
        return max(self.healed_epoch, self.looked_epoch) < epoch and self.conclusive and self.missed is None

    def begin(self, epoch: int, *, recoding: bool = False) -> None:
        """`recoding`: the pool had another code before, and it is not known that nothing is left in that."""
        self.looking, self.conclusive, self._whole = True, True, True
        self.cursor, self.after = _START, self.settled
        self.full = max(self.healed_epoch, self.looked_epoch) < epoch or (recoding and self.former != 0)
        self._former_met, self._former_unmet = 0, False
        self._target_epoch, self._spent_s = epoch, 0.0

    def end(self, now_s: float) -> None:
        self.looking, self.seen = False, not self._again
        if self._whole and not self.full:
            self.reviewed = self.after
        elif self._whole and self.conclusive:
            self.looked_epoch = self._target_epoch
            self.former = UNKNOWN if self._former_unmet else self._former_met
        if self._whole and (self.conclusive or not self.full):
            self.missed = None
        earned_s = LOOK_SHARE * self._spent_s
        if self.conclusive:
            recount = self.former > 0 or self._former_unmet or not self._whole
            self.next_look_s = now_s + max(RECOUNT_S if recount else RELOOK_S, earned_s)
        else:
            self.next_look_s = now_s + min(max(INCONCLUSIVE_S, earned_s), INCONCLUSIVE_MAX_S)
        if self._again:
            self._again, self.next_look_s = False, now_s

    def look_again(self) -> None:
        """Something may have been accepted that this store was not told of: it comes to the end of the own feed. A look
        under way goes on, for a node that comes and goes would keep it from ever reaching its end; after one at all
        keys there is one at the feed."""
        self.seen, self._again = False, self.looking and self.full
        self.next_look_s = 0.0

    def forget(self, margin: Margin, now_s: float) -> None:
        """There was no room to remember something that ails here: it has to be found once more."""
        self._whole, self.looked_epoch, self.reviewed = False, 0, 0
        self.missed = least((margin, self.missed or margin))
        self.next_look_s = min(self.next_look_s, now_s + max(RECOUNT_S, LOOK_SHARE * self._spent_s))

    def met_former(self, count: int) -> None:
        """So many versions in a code that the pool had before."""
        self._former_met += count

    def written_in_former_code(self, now_s: float) -> None:
        """By somebody who began before the code changed: nobody may have counted that."""
        self.former, self._former_unmet = UNKNOWN, True
        self.next_look_s = min(self.next_look_s, now_s + RECOUNT_S)

    def spend(self, elapsed_s: float) -> None:
        """A page took this long."""
        self._spent_s += elapsed_s

    def hold(self, until_s: float) -> None:
        """It cannot be looked through now: others first."""
        self._held_until_s = until_s


def stewarded(topology: Topology, path: DataPath) -> Iterator[tuple[int, int]]:
    """The partitions whose first live voting home is this store."""
    for scope in topology.kept_by(path.me):
        for home in topology.voting_homes(scope.pool, scope.partition):
            if home == path.me:
                yield scope.pool, scope.partition
                break
            if path.links.is_up(home):
                break


class OwnRegisters(Protocol):
    """What this store has accepted; `services.store.Store` has it."""

    def changes(self, pool: int, partition: int, after: int, limit: int) -> PartitionChanges: ...

    async def copies_of(self, keys: Sequence[tuple[BucketId, bytes]]) -> RegisterCopies: ...


class Level(Protocol):
    """Whether this store knows all that was decided; `services.follower.Follower` does."""

    @property
    def cursors(self) -> Cursors: ...

    def look_again(self) -> None: ...

    def is_level(self, pool: int, partition: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class DeletedBuckets:
    """Who knows whether a bucket is gone, and whether anything can be behind a closed door."""

    book: BucketBook
    closed: ClosedDoors


class Looker:
    """Reads the keys of a ward, a page per call."""

    def __init__(
        self,
        path: DataPath,
        own: OwnRegisters,
        level: Level,
        bodies: Bodies,
        deleted: DeletedBuckets,
    ) -> None:
        self._path: Final = path
        self._own: Final = own
        self._level: Final = level
        self._bodies: Final = bodies
        self._closed: Final = deleted.closed
        self._book: Final = deleted.book

    async def look(self, ward: Ward, up: frozenset[StoreId]) -> list[Ailing]:
        """The next page: which of its keys ail. Ends the look after the last. The return of a store that is not `up`
        will be noticed. Raises `ClusterError` to be repeated."""
        began_s = asyncio.get_running_loop().time()
        topology = self._path.topology
        if ward.full:
            ailing, at_end = await self._look_at_all(topology, ward)
        else:
            ailing, at_end = await self._look_at_own(topology, ward, up)
        now_s = asyncio.get_running_loop().time()
        ward.spend(now_s - began_s)
        if at_end:
            ward.end(now_s)
        return ailing

    async def _look_at_own(
        self, topology: Topology, ward: Ward, up: frozenset[StoreId]
    ) -> tuple[list[Ailing], bool]:
        """What this store accepted since all was in order: it has missed nothing, or will hear of it."""
        if not self._level.is_level(*ward.at):
            raise Unavailable(f"partition {ward.partition}: catching up with the other homes first")
        changes = self._own.changes(*ward.at, ward.after, PAGE_ROWS)
        found = [
            await self._found(KeyPlace(ward.pool, change.bucket, change.key))
            for change in changes.keys
            if not await self._book.is_gone(change.bucket)
        ]
        recoding = topology.former_code(ward.pool) is not None
        if recoding and any(key.left_in_former_code(topology) for key in found):
            ward.written_in_former_code(asyncio.get_running_loop().time())
        ailing = await self._ask_of_suspects(topology, ward, found, up)
        # A home that missed a version and then accepted the next has no manifest of it: heal asks the others for it.
        ailing += [
            ailing_of(topology, ward.partition, key, named_margin(topology, self._path, key))
            for key in found
            if key.lacks_manifests
        ]
        ward.after = changes.through
        return ailing, changes.complete

    async def _found(self, place: KeyPlace) -> Found:
        """From this store's own register; a broken one is read from the others, and scrub looks after it."""
        with contextlib.suppress(NotVoting):
            for copy in (await self._own.copies_of(((place.bucket, place.key),))).copies:
                return await self._settled(place, copy, disputed=False)
        head = (await self._path.registers.read(place.pool, place.bucket, place.key)).head
        return Found(place, head, (head.manifest,) if head.manifest is not None else ())

    async def _look_at_all(self, topology: Topology, ward: Ward) -> tuple[list[Ailing], bool]:
        """What every home shows, and what every store says it holds."""
        pages = await self._pages(topology, ward)
        window = merge(pages, ())
        disputed = frozenset(window.disputed)
        found: list[Found] = []
        for copy in window.known:
            if await self._book.is_gone(copy.bucket):
                continue  # what it kept for undo went with it
            place = KeyPlace(ward.pool, copy.bucket, copy.key)
            found.append(await self._settled(place, copy, disputed=(copy.bucket, copy.key) in disputed))
        ailing = await self._ask(topology, ward, found)
        if window.end is not None:
            ward.cursor = window.end
        return ailing, window.end is None

    async def _pages(self, topology: Topology, ward: Ward) -> dict[StoreId, RegisterCopies]:
        scope = topology.scope(*ward.at)
        needed = topology.enough_to_see(*ward.at)
        homes = topology.voting_homes(*ward.at)
        up = sorted(
            (store for store in homes if self._path.links.is_up(store)), key=lambda s: s != self._path.me
        )
        if len(up) < needed:
            raise Unavailable(
                f"partition {ward.partition}: {needed} voting homes must be up to look through it"
            )
        request = CopyRegisters((scope,), *ward.cursor, PAGE_ROWS)
        answers = await gather(
            self._path.links,
            dict.fromkeys(up[:needed], request),
            timeout_s=PAGE_TIMEOUT_S,
            enough=lambda so_far: any(isinstance(answer, Failed) for answer in so_far.values()),
        )
        for answer in answers.values():
            if isinstance(answer, Failed):
                raise answer.error
        return replies(answers, RegisterCopies)

    async def _settled(self, place: KeyPlace, copy: RegisterCopy, *, disputed: bool) -> Found:
        accepted = NO_BALLOT
        if not disputed:
            head, accepted = self._bodies.decode(Head, copy.head), copy.accepted
        else:
            try:
                head = (await self._path.registers.read(place.pool, place.bucket, place.key)).head
            except BucketClosing:
                if not await self._closed.nothing_behind(place.bucket):
                    raise
                return Found(place, ABSENT_HEAD, ())
        current = (head.manifest,) if head.manifest is not None else ()
        kept = {retained.blob_id for retained in head.retained}
        older = tuple(manifest for manifest in copy.manifests if manifest.blob_id in kept)
        return Found(place, head, (*current, *older), accepted)

    async def _ask_of_suspects(
        self, topology: Topology, ward: Ward, found: Sequence[Found], up: frozenset[StoreId]
    ) -> list[Ailing]:
        """Manifests keep the names of those who sealed the shards: of what has moved since, all is said to be away from
        home. So the stores are asked about these keys, and about no others."""
        named = [(key, ailing_as_named(self._path, ward.partition, key, up, fresh=True)) for key in found]
        suspects = [(key, ailing) for key, ailing in named if ailing is not None]
        if not suspects:
            return []
        seeds = dict.fromkeys(m.seed_id for key, _ in suspects for m in key.manifests if m.parts)
        census = await take_census(self._path, list(seeds))
        return [
            ailing
            for key, ailing in suspects
            if key.in_former_code(topology)
            or any(
                plan.waiting or not plan.in_order
                for manifest in key.manifests
                for plan in plans_of(key.place, manifest, census)
            )
        ]

    async def _ask(self, topology: Topology, ward: Ward, found: Sequence[Found]) -> list[Ailing]:
        """Compare what stores say they hold with where it belongs."""
        ward.met_former(sum(key.left_in_former_code(topology) for key in found))
        seeds = list(dict.fromkeys(m.seed_id for key in found for m in key.manifests if m.parts))
        if not seeds:
            return []
        census = await take_census(self._path, seeds)
        ailing: list[Ailing] = []
        for key in found:
            plans = [plan for m in key.manifests for plan in plans_of(key.place, m, census)]
            if any(plan.waiting for plan in plans):
                ward.conclusive = False
            if key.in_former_code(topology) or any(not plan.in_order for plan in plans):
                ailing.append(ailing_of(topology, ward.partition, key, least(plan.margin for plan in plans)))
        return ailing


def ailing_of(topology: Topology, partition: int, key: Found, margin: Margin, due_s: float = 0.0) -> Ailing:
    place = key.place
    return Ailing(
        place.pool,
        partition,
        place.bucket,
        place.key,
        margin,
        since=key.head.created_ms,
        due_s=due_s,
        accepted=key.accepted,
        recode=key.in_former_code(topology),
    )


def ailing_as_reported(topology: Topology, place: KeyPlace) -> Ailing:
    """Something of it is not intact, or not where it should be, and nobody has looked yet how much is left."""
    partition = topology.key_partition(place.pool, place.bucket, place.key)
    margin = nothing_to_spare(topology, place.pool)
    return Ailing(place.pool, partition, place.bucket, place.key, margin, since=0, deep=True)


def ailing_as_named(
    path: DataPath, partition: int, key: Found, up: frozenset[StoreId], *, fresh: bool = False
) -> Ailing | None:
    """Believe manifests: was some shard sealed away from its home, or nowhere? Nothing can be mended while every home
    that lacks one is down: such a key is due when somebody comes back. `fresh`: accepted just now."""
    topology = path.topology
    lacking = {
        home
        for manifest in key.manifests
        for home in homes_without_shard(topology, key.place, manifest, fresh=fresh)
    }
    lacking.update(homes_to_fill(topology, key.place, key.head.manifest, fresh=fresh))
    if not lacking:
        return None
    due_s = 0.0 if lacking & up else asyncio.get_running_loop().time() + WAIT_S
    return ailing_of(topology, partition, key, named_margin(topology, path, key), due_s)


def named_margin(topology: Topology, path: DataPath, key: Found) -> Margin:
    """The least margin, if the holders named are up and hold what they sealed."""
    return least(
        shards_survive(
            topology,
            key.place.pool,
            {
                index: (store,)
                for index, store in enumerate(part.holders)
                if store and path.links.is_up(store)
            },
            layout_of(manifest).code,
        )
        for manifest in key.manifests
        for part in manifest.parts
    )
