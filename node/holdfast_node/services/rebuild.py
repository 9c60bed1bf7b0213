"""Missing shards of one part, made from others and sealed elsewhere: what heal does, and a put whose holder failed.

Reads verified cells, stripe by stripe, and stages what is wanted; seals a shard only if its checksums agree with the
digest the part is known by. Refuses to decide who should hold what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from holdfast_node.core.checksums import cell_checksum, shard_checksum
from holdfast_node.core.errors import HoldfastError, IntegrityError
from holdfast_node.core.geometry import MIB
from holdfast_node.core.ids import Digest, StoreId
from holdfast_node.core.messages import (
    Seal,
    SealReply,
    StageCell,
    StageCellReply,
    StageWhole,
    StageWholeReply,
)
from holdfast_node.ports import Answered
from holdfast_node.services.answers import Answers, Sender
from holdfast_node.services.budget import Budget
from holdfast_node.services.cells import CellFetch, Damage, PartSource
from holdfast_node.services.datapath import DataPath, PartTarget

RUN_BYTES: Final = 4 * MIB
"""Payload read in one go: one wide stripe, or several ordinary ones."""
STAGE_TIMEOUT_S: Final = 10.0
SEAL_TIMEOUT_S: Final = 30.0


class Rebuild:
    """Shards `targets` (index -> store) of one part. `run` returns those that were sealed; `failed` says why not.

    What is staged goes through `sender` if one is given.
    """

    def __init__(
        self,
        path: DataPath,
        *,
        source: PartSource,
        target: PartTarget,
        targets: Mapping[int, StoreId],
        budget: Budget,
        damage: Damage,
        sender: Sender | None = None,
        wanted: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self._links: Final = path.links
        self._codec: Final = path.codec
        self._topology: Final = path.topology
        self._source: Final = source
        self._target: Final = target
        self._targets: Final = dict(targets)
        self._budget: Final = budget
        self._damage: Final = damage
        self._sender: Final = sender or path.links
        self._wanted: Final = wanted
        self._checksums: dict[int, list[Digest]] = {index: [] for index in targets}
        self.failed: dict[int, HoldfastError] = {}
        self.bytes_written = 0
        self.bytes_read = 0

    async def run(self) -> dict[int, StoreId]:
        """Raises `Unavailable` if too few shards of some stripe can be read."""
        if self._source.stripe_count == 1:
            return await self._whole()
        for stripes in self._runs():
            indexes = self._open()
            if not indexes:
                return {}
            async with self._budget.lease(self._charge(stripes)):
                cells = await self._read(stripes, indexes)
                await self._stage(stripes, cells)
        return await self._seal()

    def _open(self) -> list[int]:
        """Shards that are still worth the work."""
        return [index for index in sorted(self._targets) if index not in self.failed and self._wanted(index)]

    def _runs(self) -> list[range]:
        per_run = max(1, RUN_BYTES // self._source.stripe_bytes)
        count = self._source.stripe_count
        return [range(first, min(first + per_run, count)) for first in range(0, count, per_run)]

    def _charge(self, stripes: range) -> int:
        return (self._source.code.k + 2 * len(self._targets)) * sum(
            self._source.cell_size(s) for s in stripes
        )

    async def _read(self, stripes: range, indexes: list[int]) -> dict[int, list[bytes]]:
        fetch = CellFetch(
            self._links, self._codec, self._source, stripes=stripes, wanted=indexes, damage=self._damage
        )
        cells = await fetch.run()
        self.bytes_read += fetch.bytes_read
        return cells

    async def _whole(self) -> dict[int, StoreId]:
        indexes = self._open()
        answers: Answers[int] = Answers(self._sender)
        async with self._budget.lease(self._charge(range(1))):
            cells = await self._read(range(1), indexes)
            for index in indexes:
                cell = cells[index][0]
                self._checksums[index] = [self._checksum(index, 0, cell)]
                if self._agrees(index):
                    header = self._target.header(self._topology, index, self._checksums[index])
                    request = StageWhole(header, None, cell, mending=self._target.mending)
                    answers.ask(index, self._targets[index], request, timeout_s=STAGE_TIMEOUT_S)
                    self.bytes_written += len(cell)
            sealed = await self._collect(answers, StageWholeReply)
        return {index: self._targets[index] for index in sealed}

    async def _stage(self, stripes: range, cells: Mapping[int, list[bytes]]) -> None:
        answers: Answers[tuple[int, int]] = Answers(self._sender)
        for index, own in cells.items():
            for stripe, cell in zip(stripes, own, strict=True):
                checksum = self._checksum(index, stripe, cell)
                self._checksums[index].append(checksum)
                place, target = self._target.place, self._target
                request = StageCell(
                    bucket=place.bucket,
                    key=place.key,
                    seed_id=target.seed_id,
                    part=target.part,
                    index=index,
                    stripe=stripe,
                    checksum=checksum,
                    base=target.base,
                    payload=cell,
                    mending=target.mending,
                )
                answers.ask((index, stripe), self._targets[index], request, timeout_s=STAGE_TIMEOUT_S)
                self.bytes_written += len(cell)
        while answers.pending:
            await answers.wait()
            for (index, _), answer in answers.take():
                if not isinstance(answer, Answered):
                    self.failed[index] = answer.error
                elif not isinstance(answer.reply, StageCellReply):
                    self.failed[index] = IntegrityError("a cell was answered with something else")

    async def _seal(self) -> dict[int, StoreId]:
        answers: Answers[int] = Answers(self._sender)
        for index in self._open():
            if self._agrees(index):
                header = self._target.header(self._topology, index, self._checksums[index])
                answers.ask(index, self._targets[index], Seal(header), timeout_s=SEAL_TIMEOUT_S)
        sealed = await self._collect(answers, SealReply)
        return {index: self._targets[index] for index in sealed}

    async def _collect(self, answers: Answers[int], expect: type[object]) -> list[int]:
        sealed: list[int] = []
        while answers.pending:
            await answers.wait()
            for index, answer in answers.take():
                if not isinstance(answer, Answered):
                    self.failed[index] = answer.error
                elif isinstance(answer.reply, expect):
                    sealed.append(index)
        return sorted(sealed)

    def _checksum(self, index: int, stripe: int, cell: bytes) -> Digest:
        return cell_checksum(self._source.seed_id, self._source.part, index, stripe, cell)

    def _agrees(self, index: int) -> bool:
        """What was rebuilt is what was written."""
        if shard_checksum(self._checksums[index]) == self._source.shard_checksums[index]:
            return True
        self.failed[index] = IntegrityError(f"shard {index} was rebuilt into something else")
        return False
