"""The read side of a register: one round when a quorum agrees, more only when it does not. Rule R6.

Asks as few stores as can agree and give the data, the head from one of them, digests from the rest;
somebody slow or different is answered by asking the others. Knows nothing of shards beyond passing on cells
sent along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Final

from holdfast_node.core.catch_up import higher_ballot
from holdfast_node.core.errors import (
    Evidence,
    HoldfastError,
    IntegrityError,
    InternalError,
    StaleGeneration,
    Unavailable,
)
from holdfast_node.core.head import ABSENT_HEAD, Ballot, Head
from holdfast_node.core.ids import BucketId, StoreId
from holdfast_node.core.messages import ReadRegister, RegisterView
from holdfast_node.core.quorum import Agreement, Sight, agreement
from holdfast_node.core.register import HeadCodec, head_hash
from holdfast_node.ports import Answer, Answered, Entropy, Links
from holdfast_node.services.fanout import failing
from holdfast_node.services.pace import Pace
from holdfast_node.services.places import Maps, Place, newer_map, place_of

READ_TIMEOUT_S: Final = 2.0
REPOLLS_MAX: Final = 3
REPOLL_JITTER_S: Final = 0.01
GENERATIONS_MAX: Final = 4
"""How many maps in a row a read follows before it gives up."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A decided head. `inlined`: shard index -> its only cell, unverified. `agreed` are stores that hold
    this head; a quorum, unless another node had to finish the value: then nobody's answer is known and it
    is empty. `floor`: of a key that is absent; some home refuses what is based at or under it."""

    head: Head
    ballot: Ballot | None
    inlined: Mapping[int, bytes]
    agreed: frozenset[StoreId]
    floor: Ballot | None = None


_HASH_OF_NOTHING: Final = head_hash(b"")

Settle = Callable[[int, BucketId, bytes], Awaitable[Reading]]
"""Finish whatever may be half-accepted (prepare, accept) and say what is decided."""


class _Poll:
    """One round of questions. `views` keeps each store's last answer."""

    def __init__(
        self, links: Links, place: Place, *, order: tuple[StoreId, ...], first: int, pace: Pace, inline: int
    ) -> None:
        self._links: Final = links
        self._place: Final = place
        self._order: Final = order
        self._first: Final = order[:first]
        self._pace: Final = pace
        self._inline: Final = inline
        self._loop: Final = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._outstanding: dict[StoreId, int] = {}
        self._asked: set[StoreId] = set()
        self._asked_for_head: set[StoreId] = set()
        self._hurried = False
        self.views: dict[StoreId, RegisterView] = {}
        self.errors: dict[StoreId, HoldfastError] = {}

    async def run(self) -> None:
        for at, store in enumerate(self._first):
            self._ask(store, want_head=at == 0, inline=self._inline)
        timer = self._loop.call_later(self._pace.hedge_s(self._first), failing(self._done, self._hurry))
        try:
            await self._done
        finally:
            timer.cancel()
            if not self._done.done():
                self._done.cancel()

    def agreed(self) -> Agreement | None:
        sights: dict[StoreId, Sight] = {s: (v.ballot, v.head_hash) for s, v in self.views.items()}
        return agreement(sights, self._place.roster)

    def head_of(self, agreed: Agreement) -> bytes | None:
        """The agreed head's bytes, None if nobody sent them (yet). An absent head takes none, decided or not."""
        if agreed.ballot is None or agreed.head_hash == _HASH_OF_NOTHING:
            return b""
        return next((v.head for s in sorted(agreed.stores) if (v := self.views[s]).head), None)

    def _ask(self, store: StoreId, *, want_head: bool, inline: int = 0) -> None:
        self._asked.add(store)
        if want_head:
            self._asked_for_head.add(store)
        self._outstanding[store] = self._outstanding.get(store, 0) + 1
        began = self._loop.time()

        def done(answer: Answer) -> None:
            self._pace.observe(store, self._loop.time() - began)
            self._outstanding[store] -= 1
            if self._outstanding[store] == 0:
                del self._outstanding[store]
            self._record(answer)
            if not self._done.done():
                self._step()

        place = self._place
        request = ReadRegister(place.scope, place.bucket, place.key, want_head, inline)
        self._links.send(store, request, timeout_s=READ_TIMEOUT_S, done=failing(self._done, done))

    def _record(self, answer: Answer) -> None:
        store = answer.store
        if not isinstance(answer, Answered):
            self.errors[store] = answer.error
        elif not isinstance(answer.reply, RegisterView):
            self.errors[store] = InternalError(f"a read was answered with {type(answer.reply).__name__}")
        elif answer.reply.head and head_hash(answer.reply.head) != answer.reply.head_hash:
            self.errors[store] = IntegrityError("the head does not hash to what the home said")
        else:
            self.views[store] = answer.reply

    def _step(self) -> None:
        agreed = self.agreed()
        if agreed is None:
            differ = len({(v.ballot, v.head_hash) for v in self.views.values()}) > 1
            if self.errors or differ or not self._outstanding:
                self._ask_rest()
            if not self._outstanding:
                self._done.set_result(None)
            return
        if self.head_of(agreed) is None:
            self._fetch_head(agreed)
        elif agreed.ballot is None or self._cells_suffice():
            self._done.set_result(None)

    def _fetch_head(self, agreed: Agreement) -> None:
        """Nobody who agrees has sent the head: ask one who does, and nobody twice."""
        if self._outstanding and not self._hurried and self._first[0] in self._outstanding:
            return
        for store in sorted(agreed.stores, key=self._order.index):
            if store not in self._outstanding and store not in self._asked_for_head:
                self._ask(store, want_head=True, inline=self._inline)
                return
        if not self._outstanding:
            self._done.set_result(None)

    def _cells_suffice(self) -> bool:
        if self._inline <= 0 or self._hurried:
            return True
        return not any(store in self._outstanding for store in self._first)

    def _hurry(self) -> None:
        """Somebody is slow: ask everybody, and wait for nothing that is not needed."""
        self._hurried = True
        if self._done.done():
            return
        if self.agreed() is None:
            self._ask_rest()
        else:
            self._step()

    def _ask_rest(self) -> None:
        for store in self._order:
            if store not in self._asked:
                self._ask(store, want_head=not any(v.head for v in self.views.values()), inline=self._inline)


class Reader:
    """Reads registers of any key from any node."""

    def __init__(
        self, *, me: StoreId, links: Links, maps: Maps, codec: HeadCodec, entropy: Entropy, settle: Settle
    ) -> None:
        self._me: Final = me
        self._links: Final = links
        self._maps: Final = maps
        self._codec: Final = codec
        self._entropy: Final = entropy
        self._settle: Final = settle
        self._pace: Final = Pace()

    async def read(self, pool: int, bucket: BucketId, key: bytes, *, inline_bytes_max: int = 0) -> Reading:
        """The decided head, `ABSENT_HEAD` if there is none. Raises `Unavailable` naming who did not
        answer."""
        polls = generations = 0
        while True:
            place = place_of(self._maps, pool, bucket, key)
            poll = self._poll(place, inline_bytes_max)
            await poll.run()
            if (reading := self._conclude(poll)) is not None:
                return reading
            stale = next(
                (s for s in sorted(poll.errors) if isinstance(poll.errors[s], StaleGeneration)), None
            )
            if stale is not None and generations < GENERATIONS_MAX:
                generations += 1
                await newer_map(self._maps, place.scope, stale)
                continue
            polls += 1
            if polls > REPOLLS_MAX:
                return await self._finish(place, poll)
            await asyncio.sleep(self._entropy.jitter(0.0, REPOLL_JITTER_S))

    async def _finish(self, place: Place, poll: _Poll) -> Reading:
        if len(place.roster.voters.intersection(poll.views)) < place.roster.quorum:
            raise Unavailable(
                f"{len(poll.views)} homes of the key answered, {place.roster.quorum} are needed",
                evidence=_said(self._maps, poll.errors),
            )
        return await self._settle(place.scope.pool, place.bucket, place.key)

    def _poll(self, place: Place, inline: int) -> _Poll:
        order = self._order(place, inline)
        first = max(place.roster.quorum, min(place.k, len(order)) if inline > 0 else 0)
        return _Poll(self._links, place, order=order, first=first, pace=self._pace, inline=inline)

    def _order(self, place: Place, inline: int) -> tuple[StoreId, ...]:
        """Whom to ask first: live and quick ones, then homes of data shards if their cells are wanted, then
        us."""
        index = {store: at for at, store in enumerate(place.homes)}

        def rank(store: StoreId) -> tuple[bool, bool, bool, bool, int]:
            down = store != self._me and not self._links.is_up(store)
            parity = inline > 0 and index[store] >= place.k
            return (down, self._pace.slow(store), parity, store != self._me, index[store])

        return tuple(sorted(place.voters, key=rank))

    def _conclude(self, poll: _Poll) -> Reading | None:
        agreed = poll.agreed()
        if agreed is None:
            return None
        if agreed.ballot is None:
            floor = reduce(higher_ballot, (poll.views[store].floor for store in agreed.stores))
            return Reading(ABSENT_HEAD, None, {}, agreed.stores, floor)
        data = poll.head_of(agreed)
        if data is None:
            return None
        head = self._codec.decode(Head, data)
        views = [poll.views[store] for store in sorted(agreed.stores)]
        inlined = {view.shard_index: view.payload for view in views if view.shard_index >= 0}
        return Reading(head, agreed.ballot, inlined, agreed.stores)


def _said(maps: Maps, errors: Mapping[StoreId, HoldfastError]) -> tuple[Evidence, ...]:
    topology = maps.topology
    names = {store: topology.name(store) if topology is not None else store.hex()[:8] for store in errors}
    return tuple(Evidence(names[store], errors[store].message) for store in sorted(errors))
