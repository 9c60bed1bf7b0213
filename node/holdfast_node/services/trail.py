"""Which shards one attempt sent where, so that a failed attempt leaves nothing behind.

Everything an attempt stages is sent through its trail. Dropping is for attempts that never sent an accept; only the
attempt knows that, the trail does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from holdfast_node.core.ids import StoreId
from holdfast_node.core.messages import DropShards, Request, Seal, ShardName, StageCell, StageWhole
from holdfast_node.ports import Answer, Links

DROP_TIMEOUT_S: Final = 10.0


class Trail:
    """Sends like `Links` and remembers. After `drop`, each store is told as soon as nothing is on its way to it."""

    def __init__(self, links: Links) -> None:
        self._links: Final = links
        self._sent: dict[StoreId, dict[ShardName, None]] = {}
        self._open: dict[StoreId, int] = {}
        self._dropped = False

    def send(
        self, to: StoreId, request: Request, *, timeout_s: float, done: Callable[[Answer], None]
    ) -> None:
        if (name := _staged(request)) is not None:
            self._sent.setdefault(to, {})[name] = None
        self._open[to] = self._open.get(to, 0) + 1

        def landed(answer: Answer) -> None:
            self._open[to] -= 1
            try:
                if self._dropped:
                    self._drop_at(to)
            finally:
                done(answer)

        self._links.send(to, request, timeout_s=timeout_s, done=landed)

    def drop(self) -> None:
        """Tell the holders, without waiting: what a lost message leaves behind is collected later."""
        self._dropped = True
        for store in list(self._sent):
            self._drop_at(store)

    def _drop_at(self, store: StoreId) -> None:
        if self._open.get(store, 0) == 0 and (names := self._sent.pop(store, None)):
            self._links.send(store, DropShards(tuple(names)), timeout_s=DROP_TIMEOUT_S, done=_ignore)


def _staged(request: Request) -> ShardName | None:
    if isinstance(request, StageCell):
        return ShardName(request.seed_id, request.part, request.index)
    if isinstance(request, (StageWhole, Seal)):
        header = request.header
        return ShardName(header.seed_id, header.part, header.index)
    return None


def _ignore(answer: Answer) -> None:
    del answer
