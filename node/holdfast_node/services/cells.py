"""Verified cells of one part, from whoever has them: bad, missing and slow cells are erasures.

Asks the holders of the cells that are wanted, and others only when those fail or dawdle. Every cell that leaves
here was hashed here and agrees with the digest the reader trusts. Refuses to know ranges, blobs and registers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from holdfast_node.core.checksums import cell_checksum, shard_checksum
from holdfast_node.core.codes import Code
from holdfast_node.core.errors import (
    Evidence,
    HoldfastError,
    IntegrityError,
    InternalError,
    ShardMissing,
    Unavailable,
)
from holdfast_node.core.geometry import cell_bytes, stripe_size_in, stripes_in
from holdfast_node.core.ids import BlobId, Digest, StoreId
from holdfast_node.core.messages import ReadCells, ReadCellsReply
from holdfast_node.ports import Answer, Answered, Codec, Links
from holdfast_node.services.fanout import failing
from holdfast_node.services.striping import rebuild_cells

READ_TIMEOUT_S: Final = 10.0
PATIENCE_MIN_S: Final = 0.02
"""Hedging below this would double the work of a busy cluster for nothing."""

Name = Callable[[StoreId], str]
Damage = Callable[[StoreId, BlobId, int, int], None]
"""A store, and the seed, part and index of a shard that it should hold intact and does not."""


@dataclass(slots=True)
class PartSource:
    """What is known of one part's shards. `candidates[i]` may hold shard i, likeliest first.

    `shard_checksums[i]` is the digest over shard i's cell checksums, from the manifest; `cell_checksums` are the
    lists that were seen to agree with it.
    """

    seed_id: BlobId
    part: int
    part_size: int
    code: Code
    stripe_bytes: int
    shard_checksums: tuple[Digest, ...]
    candidates: list[list[StoreId]]
    cell_checksums: dict[int, tuple[Digest, ...]] = field(default_factory=dict[int, tuple[Digest, ...]])

    @property
    def stripe_count(self) -> int:
        return stripes_in(self.part_size, self.stripe_bytes)

    def cell_size(self, stripe: int) -> int:
        return cell_bytes(self.code, stripe_size_in(self.part_size, self.stripe_bytes, stripe))


class CellFetch:
    """The cells of shards `wanted` in `stripes`, read or rebuilt. Await `run` once, or `start` and await `result`."""

    def __init__(
        self,
        links: Links,
        codec: Codec,
        source: PartSource,
        *,
        stripes: range,
        wanted: Sequence[int],
        damage: Damage,
        fresh: bool = False,
    ) -> None:
        self._links: Final = links
        self._codec: Final = codec
        self._source: Final = source
        self._stripes: Final = stripes
        self._wanted: Final = tuple(wanted)
        self._damage: Final = damage
        self._fresh: Final = fresh
        self._loop: Final = asyncio.get_running_loop()
        self._done: Final[asyncio.Future[None]] = self._loop.create_future()
        self._got: dict[int, list[bytes]] = {}
        self._pending: dict[int, StoreId] = {}
        self._slow: set[int] = set()
        self._left = [[store for store in stores if links.is_up(store)] for stores in source.candidates]
        self._doubtful = [
            [store for store in stores if not links.is_up(store)] for stores in source.candidates
        ]
        self._tried: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.failures: list[tuple[int, StoreId, HoldfastError]] = []

    def preload(self, cells: Mapping[int, bytes]) -> None:
        """Cells of a one-stripe part that came some other way; those that do not verify are ignored."""
        for index, cell in cells.items():
            if 0 <= index < self._source.code.n:
                with contextlib.suppress(IntegrityError):
                    reply = ReadCellsReply((len(cell),), cell)
                    self._got[index] = verified(self._source, index, self._stripes, reply)

    def start(self) -> None:
        """Ask. Nothing more needs doing until `result` is wanted; `close` if it is not."""
        for index in self._wanted:
            if index not in self._got and not self._complete():
                self._ask(index)
        self._step()

    async def result(self) -> dict[int, list[bytes]]:
        """Index -> its cells in stripe order. Raises `Unavailable` if those that could be read do not give them."""
        try:
            await self._done
        finally:
            self.close()
        return self._result()

    async def run(self) -> dict[int, list[bytes]]:
        self.start()
        return await self.result()

    @property
    def bytes_read(self) -> int:
        """Of cells that came and are intact."""
        return sum(len(cell) for cells in self._got.values() for cell in cells)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._done.done():
            self._done.cancel()

    def evidence(self, name: Name) -> tuple[Evidence, ...]:
        """Who said what about which shard, and which shards nobody could be asked for."""
        said = [
            Evidence(name(store), f"shard {index}: {error.message}") for index, store, error in self.failures
        ]
        asked = {index for index, _, _ in self.failures} | set(self._got)
        alone = [index for index in range(self._source.code.n) if index not in asked]
        return (*said, *(Evidence("nobody", f"shard {index}: no holder is known") for index in alone))

    def _step(self) -> None:
        """Finish, or see to it that enough cells are on their way."""
        if self._done.done():
            return
        if self._complete():
            self._done.set_result(None)
            return
        while not self._enough_coming() and self._ask_another():
            pass
        if not self._pending:
            self._done.set_result(None)
        else:
            self._watch()

    def _complete(self) -> bool:
        return self._source.code.gives(self._got, self._wanted)

    def _enough_coming(self) -> bool:
        coming = self._got.keys() | (self._pending.keys() - self._slow)
        return self._source.code.gives(coming, self._wanted)

    def _ask_another(self) -> bool:
        """One more question, the least wasteful first: wanted shards elsewhere, then those that make them with the
        fewest reads, then doubtful stores."""
        others = self._source.code.helpers([index for index in self._wanted if index not in self._got])
        for index in (*self._wanted, *others):
            if index not in self._got and index not in self._pending and self._ask(index):
                return True
        for index in (*self._wanted, *others):
            if index not in self._got and index not in self._pending and self._doubtful[index]:
                self._left[index].append(self._doubtful[index].pop(0))
                return self._ask(index)
        return False

    def _ask(self, index: int) -> bool:
        if not self._left[index]:
            return False
        store = self._left[index].pop(0)
        self._pending[index] = store
        several = self._source.stripe_count > 1
        request = ReadCells(
            self._source.seed_id,
            self._source.part,
            index,
            self._stripes.start,
            len(self._stripes),
            self._fresh,
            several and index not in self._source.cell_checksums,
        )

        def done(answer: Answer) -> None:
            if not self._done.done():
                self._answered(index, store, answer)
                self._step()

        self._links.send(store, request, timeout_s=READ_TIMEOUT_S, done=failing(self._done, done))
        return True

    def _answered(self, index: int, store: StoreId, answer: Answer) -> None:
        if self._pending.get(index) == store:
            del self._pending[index]
            self._slow.discard(index)
        try:
            if not isinstance(answer, Answered):
                raise answer.error
            if not isinstance(answer.reply, ReadCellsReply):
                raise InternalError(f"cells were asked for, {type(answer.reply).__name__} came")
            self._got[index] = verified(self._source, index, self._stripes, answer.reply)
        except HoldfastError as error:
            self.failures.append((index, store, error))
            elsewhere = bool(self._left[index] or self._doubtful[index])
            if isinstance(error, IntegrityError) or (isinstance(error, ShardMissing) and not elsewhere):
                self._damage(store, self._source.seed_id, self._source.part, index)

    def _watch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        waiting = [store for index, store in self._pending.items() if index not in self._slow]
        if waiting:
            patience = max(PATIENCE_MIN_S, *(self._links.patience_s(store) for store in waiting))
            self._timer = self._loop.call_later(patience, failing(self._done, self._hurry))

    def _hurry(self) -> None:
        """Whoever has not answered by now is treated like an erasure; its answer still counts if it comes."""
        self._slow.update(self._pending)
        self._step()

    def _result(self) -> dict[int, list[bytes]]:
        missing = [index for index in self._wanted if index not in self._got]
        code = self._source.code
        if missing and not code.gives(self._got, missing):
            raise Unavailable(
                f"{len(self._got)} of the {code.k} shards needed of part {self._source.part} can be read"
                if len(self._got) < code.k
                else f"the {len(self._got)} shards of part {self._source.part} that can be read do not give it back"
            )
        result = {index: self._got[index] for index in self._wanted if index in self._got}
        if missing:
            result |= {index: [] for index in missing}
            for at in range(len(self._stripes)):
                cells = {index: self._got[index][at] for index in sorted(self._got)}
                for index, cell in rebuild_cells(self._codec, code, cells, missing).items():
                    result[index].append(cell)
        return result


def verified(source: PartSource, index: int, stripes: range, reply: ReadCellsReply) -> list[bytes]:
    """The cells of one shard, each agreeing with the digest the reader trusts. Raises `IntegrityError`."""
    cells = _cut(source, index, stripes, reply)
    own = [
        cell_checksum(source.seed_id, source.part, index, stripe, cell)
        for stripe, cell in zip(stripes, cells, strict=True)
    ]
    known = source.cell_checksums.get(index)
    if known is None:
        known = tuple(own) if source.stripe_count == 1 else reply.checksums
        if len(known) != source.stripe_count or shard_checksum(known) != source.shard_checksums[index]:
            raise IntegrityError(f"the checksums of shard {index} are not those the manifest names")
        source.cell_checksums[index] = known
    for stripe, checksum in zip(stripes, own, strict=True):
        if checksum != known[stripe]:
            raise IntegrityError(f"cell {stripe} of shard {index} does not match its checksum")
    return cells


def _cut(source: PartSource, index: int, stripes: range, reply: ReadCellsReply) -> list[bytes]:
    lengths = tuple(source.cell_size(stripe) for stripe in stripes)
    if reply.lengths != lengths or len(reply.payload) != sum(lengths):
        raise IntegrityError(f"shard {index} has cells of {list(reply.lengths)} bytes, not {list(lengths)}")
    if len(lengths) == 1:
        return [reply.payload]
    cells: list[bytes] = []
    at = 0
    for length in lengths:
        cells.append(reply.payload[at : at + length])
        at += length
    return cells
