"""Forgets keys that were deleted: what all homes hold, and nobody can want any more, goes from all of them.

The steward of a partition looks for them, asks every home, and only if all of them say yes tells them to forget; itself
last, so that it finds again what was not forgotten everywhere. A home that is told checks once more, in the key's turn.
Between the first and the last the key reads as absent either way. The rules are in `core.forgetting`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Collection, Iterator, Sequence
from functools import reduce
from typing import Final

from holdfast_node.core.acceptance import check_generation, check_voting
from holdfast_node.core.catch_up import higher_floors, with_floors
from holdfast_node.core.errors import HoldfastError, InvalidArgument, NotVoting, StoreFailed
from holdfast_node.core.forgetting import Word, floors_of, has_rested, is_over, is_void, remembers, word
from holdfast_node.core.head import Head
from holdfast_node.core.ids import BucketId, StoreId
from holdfast_node.core.messages import (
    Floors,
    ForgetRegisters,
    ForgetReply,
    HeldKey,
    Reply,
    Request,
    Scope,
)
from holdfast_node.core.records import RegisterRecord
from holdfast_node.ports import Bodies
from holdfast_node.services.bucket_book import BucketBook
from holdfast_node.services.datapath import DataPath
from holdfast_node.services.dispatcher import Caller, Handler, handler
from holdfast_node.services.eras import Eras
from holdfast_node.services.fanout import gather, replies
from holdfast_node.services.leftovers import Forgetful
from holdfast_node.services.log.inventory import HeldRegister
from holdfast_node.services.standings import Standings
from holdfast_node.services.store import Store
from holdfast_node.services.wards import stewarded

REST_S: Final = 24 * 3600
"""A deleted key is left alone for so long: floors end attempts that are as old, and an upload may take a day."""
ERA_REST_S: Final = 24 * 3600
"""Era by era old requests are refused, and this is how old one may get at the least."""
ASK_TIMEOUT_S: Final = 5.0
KEYS_PER_QUESTION: Final = 256
KEY_BYTES_PER_QUESTION: Final = 64 * 1024
"""Much less than a control frame takes."""
PAGES_AT_ONCE: Final = 8
"""Of the index, for one step: the keys of each partition in them are asked about together."""


class ForgettingHome:
    """Serves stewards."""

    def __init__(self, *, store: Store, bodies: Bodies, own: Forgetful, standings: Standings) -> None:
        self._store: Final = store
        self._bodies: Final = bodies
        self._own: Final = own
        self._standings: Final = standings

    def handlers(self) -> dict[type[Request], Handler]:
        return dict([handler(ForgetRegisters, self._serve)])

    async def _serve(self, caller: Caller, request: ForgetRegisters) -> Reply:
        del caller
        if len(request.keys) > KEYS_PER_QUESTION:
            raise InvalidArgument(f"{len(request.keys)} keys in one question, {KEYS_PER_QUESTION} at most")
        for held in request.keys:
            self._check(request.scope, held)
        if request.sure:
            await self._forget(request.scope, request.keys)
        words = tuple([self._word_of(request.scope, held, await self._held(held)) for held in request.keys])
        for held in request.keys:
            self._check(request.scope, held)
        return ForgetReply(words)

    def _check(self, scope: Scope, held: HeldKey) -> None:
        """A home votes for it, in this generation, and nobody is learning."""
        standing = self._standings.of(scope, held.bucket)
        check_generation(standing, scope)
        check_voting(standing)
        topology = self._standings.topology()
        if not topology.entry(scope.pool, scope.partition).is_settled:
            raise NotVoting("homes of the partition are changing, or learning it")
        if topology.key_partition(scope.pool, held.bucket, held.key) != scope.partition:
            raise InvalidArgument(f"the key is not in partition {scope.partition} of pool {scope.pool}")

    async def _held(self, held: HeldKey) -> RegisterRecord | NotVoting | None:
        try:
            return await self._store.register(held.bucket, held.key)
        except NotVoting as error:  # broken: scrub looks after it
            return error

    def _word_of(self, scope: Scope, held: HeldKey, record: RegisterRecord | NotVoting | None) -> Word:
        if isinstance(record, NotVoting):
            return Word.NO
        head = None
        if record is not None and record.accepted is not None:
            if not has_rested(record.ages, self._store.store_time_s, REST_S):
                return Word.NO
            head = self._bodies.decode(Head, record.head)
        return word(record, head, self._standings.of(scope, held.bucket), held)

    async def _forget(self, scope: Scope, keys: Sequence[HeldKey]) -> None:
        """The floors first: what is under them is durable before anything is forgotten."""
        agreed: list[HeldKey] = []
        floors: list[Floors] = []
        for held in keys:
            record = await self._held(held)
            if isinstance(record, RegisterRecord) and self._may_go(scope, held, record):
                agreed.append(held)
                floors.append(floors_of(record, self._bodies.decode(Head, record.head)))
        if not floors:
            return
        highest = reduce(higher_floors, floors)
        at = (scope.pool, scope.partition)
        await self._store.partitions.change({at: lambda own: with_floors(own, highest)})

        async def forget(held: HeldKey) -> None:
            def is_still(own: RegisterRecord) -> bool:
                self._check(scope, held)
                return self._may_go(scope, held, own)

            _ = await self._own.forget((held.bucket, held.key), is_still)

        _ = await asyncio.gather(*(forget(held) for held in agreed))

    def _may_go(self, scope: Scope, held: HeldKey, record: RegisterRecord) -> bool:
        return record.accepted is not None and self._word_of(scope, held, record) is Word.YES


class Forgetter:
    """The steward's side. `forgotten` counts keys since the process started."""

    def __init__(
        self,
        *,
        path: DataPath,
        store: Store,
        bodies: Bodies,
        own: Forgetful,
        book: BucketBook,
        eras: Eras,
    ) -> None:
        self._path: Final = path
        self._store: Final = store
        self._bodies: Final = bodies
        self._own: Final = own
        self._book: Final = book
        self._eras: Final = eras
        self._doubting = False
        self._closed: frozenset[BucketId] = frozenset()
        self.forgotten = 0

    def begin(self, *, doubting: bool) -> None:
        """A round. `doubting`: it looks at all this store is a home of. What was told to forget while one home was away
        may be left there, and its steward knows nothing of it any more."""
        self._doubting = doubting
        self._closed = frozenset(self._store.closed_buckets())

    async def step(self, start: bytes) -> bytes:
        """The registers from row `start` on, some pages of them; where the next page starts, empty after the last.
        Raises `StoreFailed`, and `ClusterError` if buckets cannot be listed."""
        topology = self._path.topology
        kept = frozenset((scope.pool, scope.partition) for scope in topology.kept_by(self._path.me))
        wards = kept if self._doubting else frozenset(stewarded(topology, self._path))
        settled = frozenset(at for at in kept if topology.entry(*at).is_settled)
        wards = frozenset(at for at in wards & settled if self._are_up(topology.entry(*at).homes))
        due: defaultdict[tuple[int, int], list[HeldKey]] = defaultdict(list)
        for _ in range(PAGES_AT_ONCE):
            page, start = self._store.inventory.spent(kept, self._closed, start)
            alone: list[Awaitable[None]] = []
            for each in page:
                at = (each.pool, each.partition)
                if await self._book.is_gone(each.bucket):
                    alone.append(self._forget_gone(each))
                elif each.promised is not None:
                    if at in settled and is_void(each.promised, self._store.partition(*at).ballot_floor):
                        alone.append(self._forget_void(each))
                elif at in wards and (held := await self._is_due(each)) is not None:
                    due[at].append(held)
            _ = await asyncio.gather(*alone)
            if not start:
                break
            await asyncio.sleep(0)
        for at, keys in sorted(due.items()):
            for some in _questions(keys):
                await self._forget(at, some)
        return start

    def _are_up(self, homes: Collection[StoreId]) -> bool:
        return all(home == self._path.me or self._path.links.is_up(home) for home in homes)

    async def _forget_gone(self, each: HeldRegister) -> None:
        """Behind a door that is closed for ever nobody asks for anything, so nobody has to be asked."""
        try:
            self.forgotten += await self._own.forget((each.bucket, each.key), lambda _: True)
        except NotVoting:  # broken: scrub looks after it
            return

    async def _forget_void(self, each: HeldRegister) -> None:
        try:
            _ = await self._own.forget(
                (each.bucket, each.key),
                lambda own: own.accepted is None and own.promised == each.promised,
            )
        except NotVoting:
            return

    async def _is_due(self, each: HeldRegister) -> HeldKey | None:
        """As far as this store can tell."""
        try:
            record = await self._store.register(each.bucket, each.key)
        except NotVoting:
            return None
        if record is None or record.accepted is None:
            return None
        if not has_rested(record.ages, self._store.store_time_s, REST_S):
            return None
        head = self._bodies.decode(Head, record.head)
        if not is_over(head):
            return None
        if remembers(head, self._path.topology.map.era):
            self._eras.ask(ERA_REST_S)
            return None
        return HeldKey(each.bucket, each.key, record.accepted, head.version)

    async def _forget(self, at: tuple[int, int], keys: Sequence[HeldKey]) -> None:
        topology = self._path.topology
        scope, homes = topology.scope(*at), topology.entry(*at).homes
        if not self._are_up(homes):
            return
        said = await self._ask(homes, ForgetRegisters(scope, tuple(keys), sure=False))
        if said is None:
            return
        sure: list[HeldKey] = []
        for number, held in enumerate(keys):
            words = {reply[number] for reply in said}
            if Word.NO in words:
                continue
            if Word.PROMISED in words:
                await self._decide_again(scope.pool, held)
            else:
                sure.append(held)
        if sure:
            await self._tell(homes, ForgetRegisters(scope, tuple(sure), sure=True))

    async def _tell(self, homes: Collection[StoreId], request: ForgetRegisters) -> None:
        others = [home for home in homes if home != self._path.me]
        said = await self._ask(others, request)
        if said is None:
            return
        done = tuple(
            held
            for number, held in enumerate(request.keys)
            if all(reply[number] == Word.YES for reply in said)
        )
        if not done:
            return
        own = await self._ask([self._path.me], ForgetRegisters(request.scope, done, sure=True))
        if own is not None:
            self.forgotten += len(done)
            self._path.events.emit("keys_forgotten", keys=len(done), partition=request.scope.partition)

    async def _ask(
        self, stores: Collection[StoreId], request: ForgetRegisters
    ) -> list[tuple[int, ...]] | None:
        """What all of them say; None if one does not."""
        answers = await gather(
            self._path.links,
            dict.fromkeys(stores, request),
            timeout_s=ASK_TIMEOUT_S,
            enough=lambda _: False,
        )
        heard = [
            reply.words
            for reply in replies(answers, ForgetReply).values()
            if len(reply.words) == len(request.keys)
        ]
        return heard if len(heard) == len(stores) else None

    async def _decide_again(self, pool: int, held: HeldKey) -> None:
        """Under a new ballot, which ends what may be under way under the one promised. It rests anew."""
        try:
            await self._path.registers.rewrite(pool, held.bucket, held.key, above=None)
        except StoreFailed:
            raise
        except HoldfastError as error:
            self._path.events.emit("key_not_decided_again", key=held.key.hex(), error=str(error))


def _questions(keys: Sequence[HeldKey]) -> Iterator[Sequence[HeldKey]]:
    """All of the keys, as many at once as one question takes."""
    first = size = 0
    for number, held in enumerate(keys):
        size += len(held.key)
        if number - first == KEYS_PER_QUESTION or size > KEY_BYTES_PER_QUESTION:
            yield keys[first:number]
            first, size = number, len(held.key)
    yield keys[first:]
