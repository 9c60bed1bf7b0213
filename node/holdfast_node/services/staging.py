"""A part of one stripe to its holders: one message, one fsync each, and the key's prepare rides along.

Whoever fails or dawdles is replaced while the rest go on; whichever store seals a shard first is its holder.
Refuses to know what happens to the part afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Final

from holdfast_node.core.ids import StoreId
from holdfast_node.core.messages import StageWhole, StageWholeReply
from holdfast_node.ports import Answer, Answered
from holdfast_node.services.answers import Answers
from holdfast_node.services.datapath import DataPath, PartTarget
from holdfast_node.services.placing import Placing
from holdfast_node.services.registers import Attempt
from holdfast_node.services.striping import EncodedStripe
from holdfast_node.services.trail import Trail

STAGE_TIMEOUT_S: Final = 10.0
HEDGE_MIN_S: Final = 0.2
HEDGE_FACTOR: Final = 4


class WholeStaging:
    """One part of one stripe. `run` returns when every shard is sealed or nothing more can be done for it."""

    def __init__(
        self,
        path: DataPath,
        target: PartTarget,
        encoded: EncodedStripe,
        *,
        attempt: Attempt,
        trail: Trail,
        shunned: Collection[StoreId] = (),
    ) -> None:
        self._path: Final = path
        self._target: Final = target
        self._encoded: Final = encoded
        self._attempt: Final = attempt
        self._prepared: set[StoreId] = set()
        self._answers: Final[Answers[tuple[int, StoreId]]] = Answers(trail)
        self.placing: Final = Placing(path, target, shunned)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for index, store in sorted(self.placing.assigned.items()):
            self._send(index, store)
        patience = [
            self._path.links.patience_s(store) for store in sorted(set(self.placing.assigned.values()))
        ]
        hedge_s = max(HEDGE_MIN_S, HEDGE_FACTOR * max(patience))
        hedge_at = loop.time() + hedge_s
        try:
            while self.placing.missing and self._answers.pending:
                if await self._answers.wait(hedge_at):
                    for (index, store), answer in self._answers.take():
                        self._answered(index, store, answer)
                else:
                    self._hedge()
                    hedge_at = loop.time() + hedge_s
        finally:
            self._answers.close()

    def _send(self, index: int, store: StoreId) -> None:
        header = self._target.header(self._path.topology, index, (self._encoded.checksums[index],))
        prepare = None
        if store in self._attempt.place.homes and store not in self._prepared:
            self._prepared.add(store)
            prepare = self._attempt.prepare
        request = StageWhole(header, prepare, self._encoded.cells[index])
        self._answers.ask((index, store), store, request, timeout_s=STAGE_TIMEOUT_S)

    def _answered(self, index: int, store: StoreId, answer: Answer) -> None:
        if isinstance(answer, Answered) and isinstance(answer.reply, StageWholeReply):
            self.placing.sealed.setdefault(index, store)
            if answer.reply.promise is not None:
                self._attempt.promised(store, answer.reply.promise)
            return
        said = "answered something else" if isinstance(answer, Answered) else answer.error
        self.placing.failed(store, said)
        if index not in self.placing.sealed and self.placing.assigned[index] == store:
            self._replace(index)

    def _hedge(self) -> None:
        """Whoever is still silent gets a stand-in; its own answer counts if it comes first."""
        for index in self.placing.missing:
            self.placing.failed(self.placing.assigned[index], "not sealed in time")
        for index in self.placing.missing:
            self._replace(index)

    def _replace(self, index: int) -> None:
        store = self.placing.replace(index)
        if store is not None and (index, store) not in self._answers.pending:
            self._send(index, store)
