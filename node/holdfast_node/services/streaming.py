"""A part of many stripes to its holders: cells as they are encoded, a seal at the end, rebuilds for who fell behind.

A holder that fails or dawdles loses its shard of this part; the others go on, and before the part counts as
finished a replacement rebuilds that shard from sealed ones. Refuses to know where the bytes come from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Final

from holdfast_node.core.checksums import shard_checksum
from holdfast_node.core.errors import HoldfastError, InternalError, Unavailable
from holdfast_node.core.ids import BlobId, Digest, StoreId
from holdfast_node.core.messages import Seal, SealReply, StageCell, StageCellReply
from holdfast_node.ports import Answer, Answered
from holdfast_node.services.answers import Answers
from holdfast_node.services.cells import PartSource
from holdfast_node.services.datapath import DataPath, PartTarget
from holdfast_node.services.placing import Placing
from holdfast_node.services.rebuild import Rebuild
from holdfast_node.services.staging import HEDGE_FACTOR
from holdfast_node.services.striping import EncodedStripe
from holdfast_node.services.trail import Trail

CELL_TIMEOUT_S: Final = 10.0
SEAL_TIMEOUT_S: Final = 30.0
LAG_MIN_S: Final = 1.0
"""Giving up on a holder of a large part costs a rebuild of its shard, so it is given longer than a small one."""
REBUILDS_MAX: Final = 4

Release = Callable[[], None]


@dataclass(slots=True)
class _Flight:
    """One stripe on its way. `release` gives its memory back, once."""

    waiting: set[int]
    release: Release | None
    timer: asyncio.TimerHandle | None = field(default=None)


class PartWriter:
    """`send` each stripe in order, then `finish`. The target's `part_size` is not known before."""

    def __init__(
        self, path: DataPath, target: PartTarget, *, trail: Trail, shunned: Collection[StoreId] = ()
    ) -> None:
        self._path: Final = path
        self._target = target
        self._trail: Final = trail
        self._loop: Final = asyncio.get_running_loop()
        self._checksums: list[list[Digest]] = [[] for _ in range(target.code.n)]
        self._lost: set[int] = set()
        self._flights: set[int] = set()
        self._landed: asyncio.Future[None] | None = None
        self.placing: Final = Placing(path, target, shunned)

    @property
    def stripe_count(self) -> int:
        return len(self._checksums[0])

    def send(self, stripe: int, encoded: EncodedStripe, release: Release) -> None:
        """`release` is called once, as soon as no holder that still counts has to take the stripe in.

        Raises `Unavailable` if too many holders have failed for the part ever to be readable.
        """
        assert stripe == self.stripe_count, "stripes come in order"
        for own, checksum in zip(self._checksums, encoded.checksums, strict=True):
            own.append(checksum)
        live = [index for index in sorted(self.placing.assigned) if index not in self._lost]
        if not self._target.code.decodes(live):
            release()
            raise self.placing.refusal()
        flight = _Flight(set(live), release)
        self._flights.add(stripe)
        for index in live:
            self._send_cell(stripe, index, encoded, flight)
        self._watch(stripe, flight)

    def _send_cell(self, stripe: int, index: int, encoded: EncodedStripe, flight: _Flight) -> None:
        store, target = self.placing.assigned[index], self._target
        request = StageCell(
            bucket=target.place.bucket,
            key=target.place.key,
            seed_id=target.seed_id,
            part=target.part,
            index=index,
            stripe=stripe,
            checksum=encoded.checksums[index],
            base=target.base,
            payload=encoded.cells[index],
        )

        def done(answer: Answer) -> None:
            try:
                if not isinstance(answer, Answered):
                    self._lose(index, answer.error)
                elif not isinstance(answer.reply, StageCellReply):
                    self._lose(index, InternalError("a cell was answered with something else"))
            finally:
                flight.waiting.discard(index)
                self._land(stripe, flight)

        self._trail.send(store, request, timeout_s=CELL_TIMEOUT_S, done=done)

    def _lose(self, index: int, error: HoldfastError | str) -> None:
        if index not in self._lost:
            self._lost.add(index)
            self.placing.failed(self.placing.assigned[index], error)

    def _watch(self, stripe: int, flight: _Flight) -> None:
        lag_s = self._lag_s([self.placing.assigned[index] for index in flight.waiting])
        flight.timer = self._loop.call_later(lag_s, self._lagging, stripe, flight)

    def _lagging(self, stripe: int, flight: _Flight) -> None:
        """Give up on the few that are far behind the rest; when most are slow, it is not theirs."""
        late = flight.waiting - self._lost
        if flight.release is None:
            return
        rest = [index for index in self.placing.assigned if index not in self._lost and index not in late]
        if not self._target.code.decodes(rest):
            self._watch(stripe, flight)
            return
        for index in late:
            self._lose(index, "took too long over a cell")
        flight.waiting.clear()
        self._land(stripe, flight)

    def _land(self, stripe: int, flight: _Flight) -> None:
        if flight.release is None or flight.waiting - self._lost:
            return
        if flight.timer is not None:
            flight.timer.cancel()
        release, flight.release = flight.release, None
        self._flights.discard(stripe)
        if not self._flights and self._landed is not None and not self._landed.done():
            self._landed.set_result(None)
        release()

    def _lag_s(self, stores: Collection[StoreId]) -> float:
        patience = [self._path.links.patience_s(store) for store in sorted(stores)]
        return max(LAG_MIN_S, HEDGE_FACTOR * max(patience, default=0.0))

    # --- the end of the part --------------------------------------------------------------------------------

    async def finish(self, part_size: int) -> tuple[Digest, ...]:
        """Seal what arrived, rebuild what did not. Returns the shards' checksums; who sealed is in `placing`.

        Raises `Unavailable` if what is sealed in the end may not be acked.
        """
        self._target = replace(self._target, part_size=part_size)
        if self._flights:
            self._landed = self._loop.create_future()
            await self._landed
        digests = tuple(shard_checksum(own) for own in self._checksums)
        seals: Answers[tuple[int, StoreId]] = Answers(self._trail)
        try:
            self._ask_seals(seals)
            await self._await_seals(seals)
            for _ in range(REBUILDS_MAX):
                if not self.placing.missing or not await self._rebuild(seals, digests):
                    break
            while self.placing.missing and await seals.wait():
                self._note_seals(seals)
        finally:
            seals.close()
        self.placing.check_ack()
        return digests

    def _ask_seals(self, seals: Answers[tuple[int, StoreId]]) -> None:
        for index, store in sorted(self.placing.assigned.items()):
            if index not in self._lost:
                header = self._target.header(self._path.topology, index, self._checksums[index])
                seals.ask((index, store), store, Seal(header), timeout_s=SEAL_TIMEOUT_S)

    async def _await_seals(self, seals: Answers[tuple[int, StoreId]]) -> None:
        """Until all have answered, or enough to rebuild the rest have and those have had their time."""
        lag_s = self._lag_s(list(seals.pending.values()))
        until_s = self._loop.time() + lag_s
        while seals.pending:
            if not await seals.wait(until_s):
                if self._target.code.decodes(self.placing.sealed):
                    return
                until_s = self._loop.time() + lag_s
            self._note_seals(seals)

    def _note_seals(self, seals: Answers[tuple[int, StoreId]]) -> None:
        for (index, store), answer in seals.take():
            if isinstance(answer, Answered) and isinstance(answer.reply, SealReply):
                self.placing.sealed.setdefault(index, store)
            else:
                self.placing.failed(store, "did not seal" if isinstance(answer, Answered) else answer.error)

    async def _rebuild(self, seals: Answers[tuple[int, StoreId]], digests: tuple[Digest, ...]) -> bool:
        """One try for all missing shards; False if there is nobody to try with, or nothing to rebuild from."""
        sealed = self.placing.sealed
        targets = self._stand_ins()
        if not targets or not self._target.code.decodes(sealed):
            return False

        def wanted(index: int) -> bool:
            self._note_seals(seals)
            return index not in sealed

        rebuild = Rebuild(
            self._path,
            source=self._source(digests),
            target=self._target,
            targets=targets,
            budget=self._path.coordinate.stripes,
            damage=_ignore_damage,
            sender=self._trail,
            wanted=wanted,
        )
        try:
            for index, store in (await rebuild.run()).items():
                sealed.setdefault(index, store)
        except Unavailable:
            return False
        for index, error in rebuild.failed.items():
            self.placing.failed(targets[index], error)
        return True

    def _stand_ins(self) -> dict[int, StoreId]:
        missing = self.placing.missing
        for index in missing:
            self.placing.bad.setdefault(self.placing.assigned[index], "not sealed in time")
        found = {index: self.placing.replace(index) for index in missing}
        return {index: store for index, store in found.items() if store is not None}

    def _source(self, digests: tuple[Digest, ...]) -> PartSource:
        target, sealed = self._target, self.placing.sealed
        return PartSource(
            seed_id=target.seed_id,
            part=target.part,
            part_size=target.part_size,
            code=target.code,
            stripe_bytes=target.stripe_bytes,
            shard_checksums=digests,
            candidates=[[sealed[index]] if index in sealed else [] for index in range(target.code.n)],
            cell_checksums={index: tuple(own) for index, own in enumerate(self._checksums)},
        )


def _ignore_damage(store: StoreId, seed_id: BlobId, part: int, index: int) -> None:
    """The part is not committed: what its own writer finds broken is simply not sealed."""
    del store, seed_id, part, index
