"""How far feeds have been followed: other stores' by the follower, this store's own by its steward.

Written down with other records, a little later: what is lost of it is followed again.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from holdfast_node.core.ids import StoreId
from holdfast_node.core.records import FeedCursor, FollowedRecord, PartitionRecord
from holdfast_node.services.store import Entry

NOTED_S: Final = 30.0
"""How old a cursor on the disk may be while changes come in: so much is followed again after a start."""

At = tuple[int, int]
"""Pool and partition."""


class CursorStore(Protocol):
    """What of the store cursors need; `services.store.Store` has it."""

    def followed(self, store: StoreId) -> FollowedRecord: ...

    def partition(self, pool: int, partition: int) -> PartitionRecord: ...

    def piggyback(self, name: bytes, entry: Entry) -> None: ...


class Cursors:
    """By feed and partition. One that was made in another tenure of this store in the partition means nothing."""

    def __init__(self, store: CursorStore) -> None:
        self._store: Final = store
        self._known: dict[StoreId, dict[At, FeedCursor]] = {}
        self._noted_s: dict[StoreId, float] = {}
        self._to_note: set[StoreId] = set()

    def tenure(self, at: At) -> int:
        return self._store.partition(*at).learned_generation

    def sequence(self, feed: StoreId, at: At) -> int:
        """Up to which the feed of this partition was followed; 0: from the start."""
        cursor = self._of(feed).get(at)
        return cursor.sequence if cursor is not None and cursor.tenure == self.tenure(at) else 0

    def advance(self, feed: StoreId, cursor: FeedCursor, *, worth_noting: bool) -> None:
        """Not worth noting is that nothing changed."""
        self._of(feed)[cursor.pool, cursor.partition] = cursor
        if worth_noting:
            self._to_note.add(feed)

    def note(self) -> None:
        """Have written down what is due."""
        now_s = asyncio.get_running_loop().time()
        for feed in sorted(self._to_note):
            if now_s >= self._noted_s[feed] + NOTED_S:
                self._to_note.remove(feed)
                self._noted_s[feed] = now_s
                cursors = tuple(cursor for _, cursor in sorted(self._of(feed).items()))
                self._store.piggyback(b"followed" + feed, Entry(FollowedRecord(feed, cursors)))

    def _of(self, feed: StoreId) -> dict[At, FeedCursor]:
        known = self._known.get(feed)
        if known is None:
            written = self._store.followed(feed).cursors
            known = self._known[feed] = {(each.pool, each.partition): each for each in written}
            self._noted_s[feed] = asyncio.get_running_loop().time()
        return known
