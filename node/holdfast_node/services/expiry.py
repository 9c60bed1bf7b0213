"""Ends undo windows: versions that a majority of homes has seen superseded for long enough leave the head.

The steward of a partition looks for them among its own registers; its word alone ends nothing. Frees no bytes: what no
head names any more is the collection's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from holdfast_node.core.ages import agreed, superseded_below
from holdfast_node.core.errors import HoldfastError, NotVoting, StoreFailed
from holdfast_node.core.head import Head
from holdfast_node.core.ids import StoreId
from holdfast_node.core.messages import ReadSuperseded, SupersededReply, WindowedKey
from holdfast_node.ports import Bodies
from holdfast_node.services.bucket_book import BucketBook
from holdfast_node.services.datapath import DataPath
from holdfast_node.services.fanout import gather, replies
from holdfast_node.services.store import Store
from holdfast_node.services.wards import stewarded

ASK_TIMEOUT_S: Final = 5.0
KEYS_PER_QUESTION: Final = 256


class Expiry:
    """`expired` counts keys since the process started."""

    def __init__(self, *, path: DataPath, store: Store, bodies: Bodies, book: BucketBook) -> None:
        self._path: Final = path
        self._store: Final = store
        self._bodies: Final = bodies
        self._book: Final = book
        self.expired = 0

    async def step(self, start: bytes) -> bytes:
        """The registers from row `start` on, a page of them; where the next page starts, empty after the last. What
        cannot be decided now is left for another time. Raises `StoreFailed`, and `ClusterError` if buckets cannot be
        listed."""
        wards = frozenset(stewarded(self._path.topology, self._path))
        page, following = self._store.inventory.retaining(wards, start)
        due: defaultdict[tuple[int, int], list[WindowedKey]] = defaultdict(list)
        for each in page:
            gone = await self._book.is_gone(each.bucket)  # remembered, unlike that there is no record
            facts = None if gone else await self._book.facts(each.bucket)
            if facts is not None:
                key = WindowedKey(each.bucket, each.key, facts.undo_seconds)
                if await self._is_due(key):
                    due[each.pool, each.partition].append(key)
        for at, keys in sorted(due.items()):
            for first in range(0, len(keys), KEYS_PER_QUESTION):
                await self._expire(at, keys[first : first + KEYS_PER_QUESTION])
        return following

    async def _is_due(self, asked: WindowedKey) -> bool:
        """As far as this store can tell."""
        try:
            record = await self._store.register(asked.bucket, asked.key)
        except NotVoting:
            return False
        if record is None or record.accepted is None:
            return False
        retained = self._bodies.decode(Head, record.head).retained
        below = superseded_below(record.ages, self._store.store_time_s, asked.window_s)
        return any(each.version < below for each in retained)

    async def _expire(self, at: tuple[int, int], keys: list[WindowedKey]) -> None:
        pool, partition = at
        answers = await self._ask(at, keys)
        roster = self._path.topology.roster(pool, partition)
        for number, each in enumerate(keys):
            said = {store: reply.below[number] for store, reply in answers.items()}
            below = agreed(said, roster)
            if not below:
                continue
            try:
                if await self._is_longer_now(each):
                    continue
                await self._path.registers.expire(pool, each.bucket, each.key, below)
            except StoreFailed:
                raise
            except HoldfastError as error:
                self._path.events.emit("versions_not_expired", key=each.key.hex(), error=str(error))
                continue
            self.expired += 1
            self._path.events.emit("versions_expired", key=each.key.hex(), below=below)

    async def _is_longer_now(self, asked: WindowedKey) -> bool:
        """Whether an operator has made the window longer than what the homes were asked about, or took the bucket away.
        Raises `ClusterError`."""
        window_s = await self._book.undo_seconds_now(asked.bucket)
        return window_s is None or window_s > asked.window_s

    async def _ask(self, at: tuple[int, int], keys: list[WindowedKey]) -> Mapping[StoreId, SupersededReply]:
        topology = self._path.topology
        homes = topology.register_homes(*at)
        request = ReadSuperseded(topology.scope(*at), tuple(keys))
        answers = await gather(
            self._path.links,
            {store: request for store in homes if self._path.links.is_up(store)},
            timeout_s=ASK_TIMEOUT_S,
            enough=lambda _: False,
        )
        heard = replies(answers, SupersededReply)
        return {store: reply for store, reply in heard.items() if len(reply.below) == len(keys)}
