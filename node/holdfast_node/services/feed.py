"""A home's feed: what it has accepted lately, for the other homes of the same partitions.

Answers from the index, in the order in which registers changed. Rows are hints: who follows compares them with what it
has, and takes the whole register of a key it missed (`services.follower`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from holdfast_node.core.errors import InvalidArgument, NotVoting
from holdfast_node.core.ids import BucketId
from holdfast_node.core.messages import (
    Changes,
    CopyKeys,
    PartitionChanges,
    ReadChanges,
    RegisterCopies,
    Reply,
    Request,
)
from holdfast_node.services.dispatcher import Caller, Handler, handler
from holdfast_node.services.standings import Standings

CHANGES_MAX: Final = 256
"""Keys in one answer: a few milliseconds on either side, 300 KiB at most."""
FOLLOWED_MAX: Final = 256
"""Partitions in one question: some ten milliseconds if nothing changed in any."""
COPIES_MAX: Final = 64
"""Whole registers in one answer; their bytes are bounded besides."""


class FeedStore(Protocol):
    """What of the store a feed needs; `services.store.Store` has it."""

    def changes(self, pool: int, partition: int, after: int, limit: int) -> PartitionChanges: ...

    def forgotten_keys(self) -> tuple[tuple[BucketId, bytes], ...]: ...

    async def copies_of(self, keys: Sequence[tuple[BucketId, bytes]]) -> RegisterCopies: ...


class Feed:
    """Serves followers. Like every answer about registers, only in the generation adopted, and only what this store can
    vouch for."""

    def __init__(self, *, store: FeedStore, standings: Standings) -> None:
        self._store: Final = store
        self._standings: Final = standings

    def handlers(self) -> dict[type[Request], Handler]:
        return dict([handler(ReadChanges, self._changes), handler(CopyKeys, self._copy)])

    async def _changes(self, caller: Caller, request: ReadChanges) -> Reply:
        del caller
        if len(request.followed) > FOLLOWED_MAX:
            raise InvalidArgument(
                f"{len(request.followed)} partitions in one question, {FOLLOWED_MAX} at most"
            )
        _ = self._standings.vouched([each.scope for each in request.followed])
        if self._store.forgotten_keys():
            raise NotVoting("this store lost a register of which it knows nothing: its feed may lack it")
        left = max(1, min(request.limit, CHANGES_MAX))
        found: list[PartitionChanges] = []
        for each in request.followed:
            changes = self._store.changes(each.scope.pool, each.scope.partition, each.after, left)
            found.append(changes)
            left -= len(changes.keys)
            if left <= 0:
                break
        return Changes(tuple(found))

    async def _copy(self, caller: Caller, request: CopyKeys) -> Reply:
        del caller
        if len(request.keys) > COPIES_MAX:
            raise InvalidArgument(f"{len(request.keys)} registers in one question, {COPIES_MAX} at most")
        _ = self._standings.vouched((request.scope,))
        copies = await self._store.copies_of([(each.bucket, each.key) for each in request.keys])
        _ = self._standings.vouched((request.scope,))
        return copies
