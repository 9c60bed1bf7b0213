"""The shards of this store: take them in verified, give them out verified, say which are here.

A cell is answered for when it is queued for the log, a shard only when all of it is durable. The keeper never
asks another node and knows no register: what may be dropped is for whoever asks to know.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from holdfast_node.core.checksums import cell_checksum
from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import (
    BucketClosing,
    HoldfastError,
    IntegrityError,
    InvalidArgument,
    NotVoting,
    ShardMissing,
    StaleEra,
    StaleGeneration,
    Unavailable,
)
from holdfast_node.core.geometry import MIB, cell_bytes, stripe_size_in, stripes_in
from holdfast_node.core.head import Manifest
from holdfast_node.core.ids import BlobId, Digest
from holdfast_node.core.messages import (
    DropShards,
    DropShardsReply,
    FindShards,
    Holdings,
    LinkShards,
    NameSeeds,
    Prepare,
    PrepareReply,
    ReadCells,
    ReadCellsReply,
    Request,
    Seal,
    SealReply,
    SeedName,
    SeedNames,
    ShardHeader,
    ShardName,
    StageCell,
    StageCellReply,
    StageWhole,
    StageWholeReply,
)
from holdfast_node.core.records import CellRecord, DropRecord, LinkRecord, SealRecord, StageRecord
from holdfast_node.services.budget import KEEP_BYTES, Budget, Grant
from holdfast_node.services.dispatcher import Caller, Handler, handler
from holdfast_node.services.log.shard_reader import ShardState
from holdfast_node.services.store import Entry

ANSWER_BYTES_MAX: Final = 4 * MIB
SEEDS_MAX: Final = 4096
OPEN_STAGES_MAX: Final = 65536
"""Shards with cells on their way to the disk: the keep budget holds fewer even of the smallest cells."""

_PROMISE_REFUSED: Final = (NotVoting, StaleGeneration, StaleEra, BucketClosing)
"""What an acceptor answers after the shard that came along is durable."""


class ShardStore(Protocol):
    """What of the store a keeper needs; `services.store.Store` has it."""

    @property
    def store_time_s(self) -> int: ...

    def append(
        self, entries: Sequence[Entry], *, bulk: bool = False, reserve: bool = False
    ) -> asyncio.Future[None]: ...

    def shard(self, name: ShardName) -> ShardState | None: ...

    async def shard_header(self, name: ShardName, *, fresh: bool = False) -> ShardHeader | None: ...

    def shards_of(self, seed_id: BlobId) -> tuple[ShardName, ...]: ...

    async def cells(self, name: ShardName, first: int, count: int, *, fresh: bool = False) -> list[bytes]: ...

    def cell_checksum(self, seed_id: BlobId, part: int, index: int, stripe: int) -> Digest | None: ...


PrepareWith = Callable[[Prepare, Sequence[Entry]], Awaitable[PrepareReply]]
"""The acceptor's: one durable group of the entries and the promise, refusals included."""
ReportDamage = Callable[[ShardName], None]


@dataclass(slots=True)
class _Stage:
    """Cells of one shard that are on their way to the disk, and what went wrong with any."""

    pending: set[asyncio.Future[None]] = field(default_factory=set[asyncio.Future[None]])
    error: HoldfastError | None = None


class Keeper:
    """Serves the shard messages. Bytes it holds in memory are bounded by the keep budget."""

    def __init__(
        self,
        *,
        store: ShardStore,
        prepare_with: PrepareWith,
        report_damage: ReportDamage,
        epoch: Callable[[], int],
        budget: Budget | None = None,
    ) -> None:
        self._store: Final = store
        self._prepare_with: Final = prepare_with
        self._report_damage: Final = report_damage
        self._epoch: Final = epoch
        self._budget: Final = budget or Budget("keep", KEEP_BYTES)
        self._stages: Final[dict[ShardName, _Stage]] = {}
        self._dropping: Final[Counter[ShardName]] = Counter()

    def handlers(self) -> dict[type[Request], Handler]:
        return dict(
            [
                handler(StageWhole, self._stage_whole),
                handler(StageCell, self._stage_cell),
                handler(Seal, self._seal),
                handler(ReadCells, self._read_cells),
                handler(DropShards, self._drop),
                handler(LinkShards, self._link),
                handler(FindShards, self._find),
                handler(NameSeeds, self._name_seeds),
            ]
        )

    # --- taking in ------------------------------------------------------------------------------------------

    async def _stage_whole(self, caller: Caller, request: StageWhole) -> StageWholeReply:
        del caller
        header = request.header
        lengths = _cell_lengths(header)
        if len(lengths) != 1:
            raise InvalidArgument(f"a shard of {len(lengths)} cells cannot be staged whole")
        checksum = header.cell_checksums[0]
        _check_cell(_name(header), 0, request.payload, checksum)
        if len(request.payload) != lengths[0]:
            raise IntegrityError(f"the only cell has {len(request.payload)} bytes, not {lengths[0]}")
        self._check_unchanged(_name(header), 0, checksum)
        cell = CellRecord(header.seed_id, header.part, header.index, 0, checksum)
        entries = [Entry(cell, request.payload), Entry(SealRecord(header, self._store.store_time_s))]
        async with self._budget.lease(len(request.payload)):
            if request.prepare is None:
                await self._store.append(entries, bulk=True, reserve=request.mending)
                return StageWholeReply(None)
            try:
                return StageWholeReply(await self._prepare_with(request.prepare, entries))
            except _PROMISE_REFUSED as refusal:
                return StageWholeReply(None, refusal.message)

    async def _stage_cell(self, caller: Caller, request: StageCell) -> StageCellReply:
        del caller
        name = ShardName(request.seed_id, request.part, request.index)
        _check_cell(name, request.stripe, request.payload, request.checksum)
        self._check_unchanged(name, request.stripe, request.checksum)
        grant = await self._budget.take(len(request.payload))
        try:
            entries = self._cell_entries(name, request)
            durable = self._store.append(entries, bulk=True, reserve=request.mending)
        except BaseException:
            grant.release()
            raise
        self._follow(name, durable, grant)
        return StageCellReply()

    def _cell_entries(self, name: ShardName, request: StageCell) -> list[Entry]:
        """With a stage record as long as none is durable, and if the shard is about to go: one on its way may be
        refused, and nobody ever gives up cells of which no record says whose they are."""
        cell = CellRecord(*_place(name), request.stripe, request.checksum)
        entries = [Entry(cell, request.payload)]
        if self._store.shard(name) is None or self._dropping[name]:
            since_s = self._store.store_time_s
            stage = StageRecord(request.bucket, request.key, *_place(name), request.base, since_s)
            entries.insert(0, Entry(stage))
        return entries

    def _follow(self, name: ShardName, durable: asyncio.Future[None], grant: Grant) -> None:
        stage = self._stages.get(name)
        if stage is None:
            assert len(self._stages) < OPEN_STAGES_MAX
            stage = self._stages[name] = _Stage()
        stage.pending.add(durable)

        def settle(done: asyncio.Future[None]) -> None:
            grant.release()
            stage.pending.discard(done)
            if not done.cancelled() and isinstance(error := done.exception(), HoldfastError):
                stage.error = error
            if not stage.pending and stage.error is None and self._stages.get(name) is stage:
                del self._stages[name]

        durable.add_done_callback(settle)

    async def _seal(self, caller: Caller, request: Seal) -> SealReply:
        """Every cell is durable and has the checksum the header names, or this raises and nothing is sealed."""
        del caller
        header = request.header
        name = _name(header)
        lengths = _cell_lengths(header)
        if len(header.cell_checksums) != len(lengths):
            raise InvalidArgument(f"{len(header.cell_checksums)} checksums for {len(lengths)} cells")
        await self._settled(name)
        for stripe, checksum in enumerate(header.cell_checksums):
            stored = self._store.cell_checksum(*_place(name), stripe)
            if stored is None:
                raise ShardMissing(f"cell {stripe} of shard {header.index} is not here")
            if stored != checksum:
                raise IntegrityError(f"cell {stripe} of shard {header.index} is not the one the seal names")
        seal = Entry(SealRecord(header, self._store.store_time_s))
        await self._store.append([seal], bulk=True, reserve=True)
        return SealReply()

    async def _settled(self, name: ShardName) -> None:
        """All cells queued so far are durable; raises what went wrong with one."""
        while (stage := self._stages.get(name)) is not None:
            if stage.error is not None:
                del self._stages[name]
                raise stage.error
            await asyncio.wait(stage.pending)
            await asyncio.sleep(0)

    def _check_unchanged(self, name: ShardName, stripe: int, checksum: Digest) -> None:
        """A sealed shard may be written again with the same bytes (that mends it), never with others."""
        state = self._store.shard(name)
        if state is None or not state.sealed:
            return
        stored = self._store.cell_checksum(*_place(name), stripe)
        if stored is not None and stored != checksum:
            raise IntegrityError(f"shard {name.index} is sealed and has another cell {stripe}")

    # --- giving out -----------------------------------------------------------------------------------------

    async def _read_cells(self, caller: Caller, request: ReadCells) -> ReadCellsReply:
        del caller
        name = ShardName(request.seed_id, request.part, request.index)
        header = await self._header_for(name, request)
        expected = 0
        if header is not None and request.count:
            lengths = _cell_lengths(header)[request.first : request.first + request.count]
            expected = sum(lengths)
        if expected > ANSWER_BYTES_MAX:
            raise InvalidArgument(
                f"{request.count} cells are {expected} bytes; ask for {ANSWER_BYTES_MAX} at most"
            )
        async with self._budget.lease(expected):
            cells = await self._cells(name, request)
        payload = cells[0] if len(cells) == 1 else b"".join(cells)
        checksums = header.cell_checksums if header is not None and request.want_checksums else ()
        return ReadCellsReply(tuple(len(cell) for cell in cells), payload, checksums)

    async def _header_for(self, name: ShardName, request: ReadCells) -> ShardHeader | None:
        """The header, where the answer needs it: one cell alone passes no limit. Who wants to know whether the shard is
        really on the disk wants its seal to be there too."""
        if not request.want_checksums and request.count <= 1 and not request.fresh:
            return None
        header = await self._store.shard_header(name, fresh=request.fresh)
        if header is None:
            raise ShardMissing(f"shard {name.index} of part {name.part} is not here")
        return header

    async def _cells(self, name: ShardName, request: ReadCells) -> list[bytes]:
        if not request.count:
            return []
        try:
            return await self._store.cells(name, request.first, request.count, fresh=request.fresh)
        except IntegrityError:
            self._report_damage(name)
            raise

    async def inline(self, manifest: Manifest) -> tuple[int, bytes] | None:
        """For the acceptor: a shard of this one-stripe blob that is here, data before parity."""
        for name in sorted(self._store.shards_of(manifest.seed_id), key=lambda each: each.index):
            if name.part == 0:
                try:
                    return name.index, (await self._store.cells(name, 0, 1))[0]
                except IntegrityError:
                    self._report_damage(name)
                except (ShardMissing, Unavailable):
                    continue
        return None

    async def _find(self, caller: Caller, request: FindShards) -> Holdings:
        del caller
        if len(request.seed_ids) > SEEDS_MAX:
            raise InvalidArgument(f"{len(request.seed_ids)} blobs in one question, {SEEDS_MAX} at most")
        if request.epoch > self._epoch():
            raise Unavailable(f"this store has the map of epoch {self._epoch()}, not yet {request.epoch}")
        here = (name for seed in request.seed_ids for name in self._store.shards_of(seed))
        return Holdings(tuple(name for name in here if not self._dropping[name]))

    async def _name_seeds(self, caller: Caller, request: NameSeeds) -> SeedNames:
        del caller
        if len(request.seed_ids) > SEEDS_MAX:
            raise InvalidArgument(f"{len(request.seed_ids)} seeds in one question, {SEEDS_MAX} at most")
        found = [await self._name_of(seed) for seed in request.seed_ids]
        return SeedNames(tuple(name for name in found if name is not None))

    async def _name_of(self, seed_id: BlobId) -> SeedName | None:
        """From the first of its shards here whose seal can be read."""
        for name in self._store.shards_of(seed_id):
            try:
                header = await self._store.shard_header(name)
            except IntegrityError:
                continue
            if header is not None:
                return SeedName(seed_id, header.bucket, header.key)
        return None

    # --- links and drops ------------------------------------------------------------------------------------

    async def _link(self, caller: Caller, request: LinkShards) -> Holdings:
        del caller
        held = self._store.shards_of(request.seed_id)
        if held:
            await self._store.append([Entry(LinkRecord(request.seed_id, request.blob_id))])
        return Holdings(self._store.shards_of(request.seed_id) if held else ())

    async def _drop(self, caller: Caller, request: DropShards) -> DropShardsReply:
        del caller
        return DropShardsReply(await self.drop(request.shards, epoch=request.epoch))

    async def drop(self, shards: Sequence[ShardName], *, epoch: int = 0) -> int:
        """How many were here; durable on return. Cells still on their way are waited for: a drop must come after them
        in the log. Raises `Unavailable` if it was decided under the map of an `epoch` that is over here."""
        for name in shards:
            try:
                await self._settled(name)
            except HoldfastError:
                continue
        if 0 < epoch < self._epoch():
            raise Unavailable(f"this store has the map of epoch {self._epoch()}, newer than {epoch}")
        here = [name for name in shards if self._store.shard(name) is not None]
        if here:
            self._dropping.update(here)
            try:
                await self._store.append([Entry(DropRecord(*_place(name))) for name in here])
            finally:
                self._dropping.subtract(here)
                for name in here:
                    if not self._dropping[name]:
                        del self._dropping[name]
        return len(here)

    async def write_again(self, name: ShardName, stripe: int) -> bool:
        """The record of a cell is broken, but perhaps not its bytes. False: they are."""
        async with self._budget.lease(ANSWER_BYTES_MAX):
            try:
                (payload,) = await self._store.cells(name, stripe, 1, fresh=True)
            except (IntegrityError, ShardMissing):
                return False
        checksum = cell_checksum(*_place(name), stripe, payload)
        await self._again(name, Entry(CellRecord(*_place(name), stripe, checksum), payload))
        return True

    async def seal_again(self, name: ShardName) -> bool:
        """The record of a seal can be read by who knows where it is, and not by who reads the log from end to end.
        False: nobody can read it."""
        try:
            header = await self._store.shard_header(name, fresh=True)
        except IntegrityError:
            return False
        if header is None:
            return False
        await self._again(name, Entry(SealRecord(header, self._store.store_time_s)))
        return True

    async def _again(self, name: ShardName, entry: Entry) -> None:
        """Part of a shard that is here, unless it is being dropped: written after that, it would be here again."""
        grant = await self._budget.take(len(entry.payload))
        try:
            if self._store.shard(name) is None or self._dropping[name]:
                grant.release()
                return
            durable = self._store.append([entry], bulk=True, reserve=True)
        except BaseException:
            grant.release()
            raise
        self._follow(name, durable, grant)
        await asyncio.shield(durable)

    async def drop_again(self, name: ShardName) -> None:
        """The record of an earlier drop is broken. Not if the shard is on its way here once more."""
        if name not in self._stages and self._store.shard(name) is None:
            await self._store.append([Entry(DropRecord(*_place(name)))])


def _name(header: ShardHeader) -> ShardName:
    return ShardName(header.seed_id, header.part, header.index)


def _place(name: ShardName) -> tuple[BlobId, int, int]:
    return name.seed_id, name.part, name.index


def _cell_lengths(header: ShardHeader) -> list[int]:
    """Raises `InvalidArgument` for a header that describes no shard."""
    code = parse_code(header.code)
    if not 0 <= header.index < code.n or header.part_size <= 0 or header.stripe_bytes <= 0 or header.part < 0:
        raise InvalidArgument(f"shard {header.index} of {header.part_size} bytes of {code} cannot be")
    count = stripes_in(header.part_size, header.stripe_bytes)
    if len(header.cell_checksums) != count:
        raise InvalidArgument(f"{len(header.cell_checksums)} checksums for {count} cells")
    return [
        cell_bytes(code, stripe_size_in(header.part_size, header.stripe_bytes, stripe))
        for stripe in range(count)
    ]


def _check_cell(name: ShardName, stripe: int, payload: bytes, checksum: Digest) -> None:
    if cell_checksum(*_place(name), stripe, payload) != checksum:
        raise IntegrityError(f"cell {stripe} of shard {name.index} did not arrive as it was sent")
