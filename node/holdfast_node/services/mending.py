"""One blob's shards brought home: rebuilt from k others, read back past the page cache, and only then tidied up.

Idempotent, and two menders of one blob are harmless: nothing is dropped before its replacement is proven. Refuses to
choose what to mend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from holdfast_node.core.api import Margin
from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.geometry import layout_of
from holdfast_node.core.head import NO_BALLOT, Ballot, Manifest
from holdfast_node.core.heal_order import PartPlan, may_go, plan_part
from holdfast_node.core.ids import BlobId, StoreId
from holdfast_node.core.margin import least
from holdfast_node.core.messages import DropShards, DropShardsReply, FindShards, Holdings, ShardName
from holdfast_node.core.topology import Topology
from holdfast_node.services.budget import Budget
from holdfast_node.services.cells import CellFetch, PartSource
from holdfast_node.services.datapath import DataPath, KeyPlace, PartTarget, source_of
from holdfast_node.services.fanout import call, gather, replies
from holdfast_node.services.rebuild import RUN_BYTES, Rebuild

FIND_TIMEOUT_S: Final = 10.0
DROP_TIMEOUT_S: Final = 10.0
SEEDS_PER_QUESTION: Final = 512


@dataclass(frozen=True, slots=True)
class Census:
    """Who holds what, as the stores said: seed -> (part, index) -> stores. `silent` stores did not say.

    Whoever said something has the map of `topology` or a newer one, and so refuses what is decided under older ones.
    """

    topology: Topology
    found: Mapping[BlobId, Mapping[tuple[int, int], Sequence[StoreId]]]
    silent: frozenset[StoreId]

    def held(self, seed_id: BlobId, part: int) -> dict[int, Sequence[StoreId]]:
        return {index: at for (number, index), at in self.found.get(seed_id, {}).items() if number == part}


@dataclass(slots=True)
class Mended:
    """What became of one blob. In order if it is `waiting` for no store and nothing `failed`."""

    waiting: set[StoreId] = field(default_factory=set[StoreId])
    failed: str = ""
    margin: Margin = Margin((), full=True)
    bytes_written: int = 0
    bytes_read: int = 0
    """To make shards from; reading them back is not counted."""
    shards_made: int = 0
    copies_dropped: int = 0

    @property
    def in_order(self) -> bool:
        return not self.waiting and not self.failed


@dataclass(slots=True)
class _Part:
    """One part in hand."""

    place: KeyPlace
    manifest: Manifest
    number: int
    plan: PartPlan
    source: PartSource
    topology: Topology
    proven: set[int] = field(default_factory=set[int])


async def take_census(path: DataPath, seeds: Sequence[BlobId]) -> Census:
    """Ask every store of the map that is up what it holds of these seeds."""
    topology = path.topology
    stores = topology.stores
    up = [store for store in stores if path.links.is_up(store)]
    heard = set(up)
    found: dict[BlobId, dict[tuple[int, int], list[StoreId]]] = {seed: {} for seed in seeds}
    for first in range(0, len(seeds), SEEDS_PER_QUESTION):
        request = FindShards(tuple(seeds[first : first + SEEDS_PER_QUESTION]), topology.map.epoch)
        answers = await gather(
            path.links, dict.fromkeys(up, request), timeout_s=FIND_TIMEOUT_S, enough=lambda _: False
        )
        holdings = replies(answers, Holdings)
        heard &= set(holdings)
        for store in sorted(holdings):
            for name in holdings[store].shards:
                found.setdefault(name.seed_id, {}).setdefault((name.part, name.index), []).append(store)
    return Census(topology, found, frozenset(stores) - heard)


def plans_of(place: KeyPlace, manifest: Manifest, census: Census) -> list[PartPlan]:
    """What is to be done about each part of a blob."""
    topology = census.topology
    code = layout_of(manifest).code
    plans: list[PartPlan] = []
    for part in range(len(manifest.parts)):
        partition = topology.part_partition(place.pool, place.bucket, place.key, manifest.seed_id, part)
        held = census.held(manifest.seed_id, part)
        plans.append(plan_part(topology, place.pool, partition, held=held, silent=census.silent, code=code))
    return plans


def _waited_for(
    topology: Topology, place: KeyPlace, manifest: Manifest, number: int, *, plan: PartPlan
) -> set[StoreId]:
    """The homes that did not say and may lack their shard. One that was sealed at this very home, and never seen
    elsewhere, is only as unknown as everything else at a store that is down. One whose holder was replaced is not: the
    store that took its place began empty."""
    partition = topology.part_partition(place.pool, place.bucket, place.key, manifest.seed_id, number)
    homes = topology.homes_for(place.pool, partition, parse_code(manifest.code))
    named = manifest.parts[number].holders
    return {homes[index] for index in plan.waiting if named[index] != homes[index] or index in plan.elsewhere}


class Mender:
    """Mends blobs within the repair budget."""

    def __init__(self, path: DataPath, repair: Budget) -> None:
        self._path: Final = path
        self._repair: Final = repair

    async def mend(
        self, place: KeyPlace, manifest: Manifest, census: Census, *, base: Ballot | None, deep: bool
    ) -> Mended:
        """Bring every shard home that can be. `deep`: believe no store that it holds what it should, read it."""
        topology = census.topology
        result = Mended()
        plans = plans_of(place, manifest, census)
        result.margin = least(plan.margin for plan in plans)
        for number, plan in enumerate(plans):
            result.waiting |= _waited_for(topology, place, manifest, number, plan=plan)
            if plan.in_order and not deep:
                continue
            part = _Part(
                place,
                manifest,
                number,
                plan,
                self._source(place, manifest, number, census),
                topology,
            )
            try:
                await self._mend_part(part, base or NO_BALLOT, result, deep=deep)
            except HoldfastError as error:
                result.failed = _told(part, error)
        return result

    def _source(self, place: KeyPlace, manifest: Manifest, number: int, census: Census) -> PartSource:
        source = source_of(census.topology, place, manifest, number, layout_of(manifest).code)
        held = census.held(manifest.seed_id, number)
        source.candidates = [list(held.get(index, ())) for index in range(source.code.n)]
        return source

    async def _mend_part(self, part: _Part, base: Ballot, result: Mended, *, deep: bool) -> None:
        """A copy at home counts once it was read back: until then it is worth no more than none."""
        targets = dict(part.plan.missing)
        homes = part.topology.homes_for(part.place.pool, self._partition(part), part.source.code)
        doubted = {index for index, _ in part.plan.surplus}
        if deep:
            doubted |= {index for index, home in enumerate(homes) if home in part.source.candidates[index]}
        for index in sorted(doubted):
            if not await self._proven(part, index, homes[index]):
                part.source.candidates[index].remove(homes[index])
                targets[index] = homes[index]
        if targets:
            await self._make(part, targets, base, result)
        held = {index: list(stores) for index, stores in enumerate(part.source.candidates) if stores}
        for index in part.proven:
            held[index] = [homes[index], *(store for store in held.get(index, ()) if store != homes[index])]
        where = (part.place.pool, self._partition(part))
        for index in sorted(part.proven):
            for store in held[index][1:]:
                if not may_go(part.topology, where, held, (index, store), code=part.source.code):
                    result.failed = (
                        f"shard {index} of part {part.number} stays at {self._path.name(store)} too"
                    )
                else:
                    await self._drop(part, index, store, result)
                    held[index].remove(store)

    async def _make(self, part: _Part, targets: dict[int, StoreId], base: Ballot, result: Mended) -> None:
        """Rebuild shards at their homes and prove them."""
        target = PartTarget(
            place=part.place,
            seed_id=part.manifest.seed_id,
            part=part.number,
            part_size=part.source.part_size,
            code=part.source.code,
            stripe_bytes=part.manifest.stripe_bytes,
            base=base,
            mending=True,
        )
        rebuild = Rebuild(
            self._path,
            source=part.source,
            target=target,
            targets=targets,
            budget=self._repair,
            damage=_note_nothing,
        )
        sealed = await rebuild.run()
        result.bytes_written += rebuild.bytes_written
        result.bytes_read += rebuild.bytes_read
        for index, store in sealed.items():
            if await self._proven(part, index, store):
                result.shards_made += 1
            else:
                result.failed = (
                    f"shard {index} of part {part.number} did not read back at {self._path.name(store)}"
                )
        for index, error in rebuild.failed.items():
            result.failed = f"shard {index} of part {part.number}: {error}"

    async def _proven(self, part: _Part, index: int, store: StoreId) -> bool:
        """Read the whole shard back from one store, past the page cache, against the manifest's digests."""
        if index in part.proven:
            return True
        source = part.source
        alone = PartSource(
            seed_id=source.seed_id,
            part=source.part,
            part_size=source.part_size,
            code=source.code,
            stripe_bytes=source.stripe_bytes,
            shard_checksums=source.shard_checksums,
            candidates=[[store] if at == index else [] for at in range(source.code.n)],
        )
        per_run = max(1, RUN_BYTES // source.stripe_bytes)
        for first in range(0, source.stripe_count, per_run):
            stripes = range(first, min(first + per_run, source.stripe_count))
            async with self._repair.lease(sum(source.cell_size(stripe) for stripe in stripes)):
                fetch = CellFetch(
                    self._path.links,
                    self._path.codec,
                    alone,
                    stripes=stripes,
                    wanted=(index,),
                    damage=_note_nothing,
                    fresh=True,
                )
                try:
                    await fetch.run()
                except HoldfastError:
                    return False
        part.proven.add(index)
        return True

    async def _drop(self, part: _Part, index: int, store: StoreId, result: Mended) -> None:
        """A copy whose home was just read back. Whoever has a newer map refuses: that may call it home."""
        if not self._path.links.is_up(store):
            result.waiting.add(store)
            return
        name = ShardName(part.manifest.seed_id, part.number, index)
        request = DropShards((name,), part.topology.map.epoch)
        await call(self._path.links, store, request, expect=DropShardsReply, timeout_s=DROP_TIMEOUT_S)
        result.copies_dropped += 1

    def _partition(self, part: _Part) -> int:
        place = part.place
        return part.topology.part_partition(
            place.pool, place.bucket, place.key, part.manifest.seed_id, part.number
        )


def _told(part: _Part, error: HoldfastError) -> str:
    """What is wrong with a part that cannot be mended, and which of its shards nobody has."""
    gone = [index for index, stores in enumerate(part.source.candidates) if not stores]
    nowhere = f"shards {', '.join(map(str, gone))} of part {part.number} are nowhere: " if gone else ""
    return nowhere + str(error)


def _note_nothing(store: StoreId, seed_id: BlobId, part: int, index: int) -> None:
    """Whatever is found broken is about to be mended."""
    del store, seed_id, part, index
