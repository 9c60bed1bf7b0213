"""Forgets keys that were deleted: what all homes hold, and nobody can want any more, goes from all of them.

The steward of a partition looks for them, asks every home, and only if all of them say yes tells them to forget; itself
last, so that it finds again what was not forgotten everywhere. A home that is told checks once more, in the key's turn.
Between the first and the last the key reads as absent either way. The rules are in `core.forgetting`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from functools import reduce
from typing import Final

from holdfast_node.core.acceptance import check_generation, check_voting
from holdfast_node.core.catch_up import higher_floors, with_floors
from holdfast_node.core.errors import HoldfastError, InvalidArgument, NotVoting, StoreFailed
from holdfast_node.core.forgetting import Word, floors_of, has_rested, is_over, remembers, word
from holdfast_node.core.head import Head
from holdfast_node.core.ids import StoreId
from holdfast_node.core.messages import ForgetRegisters, ForgetReply, HeldKey, Reply, Request, Scope
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
        words = await self._words(request)
        if request.sure:
            agreed = [held for held, said in zip(request.keys, words, strict=True) if said is Word.YES]
            await self._forget(request.scope, agreed)
            words = await self._words(request)
        for held in request.keys:
            self._check(request.scope, held)
        return ForgetReply(words)

    async def _words(self, request: ForgetRegisters) -> tuple[Word, ...]:
        return tuple([await self._word(request.scope, held) for held in request.keys])

    def _check(self, scope: Scope, held: HeldKey) -> None:
        """A home votes for it, in this generation, and nobody is learning."""
        standing = self._standings.of(scope, held.bucket)
        check_generation(standing, scope)
        check_voting(standing)
        if not self._standings.is_settled(scope.pool, scope.partition):
            raise NotVoting("homes of the partition are changing, or learning it")
        topology = self._standings.topology()
        if topology.key_partition(scope.pool, held.bucket, held.key) != scope.partition:
            raise InvalidArgument(f"the key is not in partition {scope.partition} of pool {scope.pool}")

    async def _word(self, scope: Scope, held: HeldKey) -> Word:
        try:
            record = await self._store.register(held.bucket, held.key)
        except NotVoting:
            return Word.NO
        return self._word_of(scope, held, record)

    def _word_of(self, scope: Scope, held: HeldKey, record: RegisterRecord | None) -> Word:
        head = None
        if record is not None and record.accepted is not None:
            if not has_rested(record.ages, self._store.store_time_s, REST_S):
                return Word.NO
            head = self._bodies.decode(Head, record.head)
        return word(record, head, self._standings.of(scope, held.bucket), held)

    async def _forget(self, scope: Scope, agreed: Sequence[HeldKey]) -> None:
        """The floors first: what is under them is durable before anything is forgotten."""
        records = [await self._store.register(held.bucket, held.key) for held in agreed]
        floors = [
            floors_of(record, self._bodies.decode(Head, record.head))
            for record in records
            if record is not None and record.accepted is not None
        ]
        if not floors:
            return
        highest = reduce(higher_floors, floors)
        at = (scope.pool, scope.partition)
        await self._store.partitions.change({at: lambda own: with_floors(own, highest)})
        for held in agreed:

            def is_still(own: RegisterRecord, held: HeldKey = held) -> bool:
                self._check(scope, held)
                return own.accepted is not None and self._word_of(scope, held, own) is Word.YES

            _ = await self._own.forget((held.bucket, held.key), is_still)


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
        self.forgotten = 0

    def begin(self, *, doubting: bool) -> None:
        """A round. `doubting`: it looks at all this store is a home of. What was told to forget while one home was away
        may be left there, and its steward knows nothing of it any more."""
        self._doubting = doubting

    async def step(self, start: bytes) -> bytes:
        """The registers from row `start` on, a page of them; where the next page starts, empty after the last. Raises
        `StoreFailed`, and `ClusterError` if buckets cannot be listed."""
        topology = self._path.topology
        kept = frozenset((scope.pool, scope.partition) for scope in topology.kept_by(self._path.me))
        wards = kept if self._doubting else frozenset(stewarded(topology, self._path))
        page, following = self._store.inventory.deleted(kept, self._store.closed_buckets(), start)
        due: defaultdict[tuple[int, int], list[HeldKey]] = defaultdict(list)
        for each in page:
            at = (each.pool, each.partition)
            if await self._book.is_gone(each.bucket):
                await self._forget_here(each)
            elif at in wards and (held := await self._is_due(each)) is not None:
                due[at].append(held)
        for at, keys in sorted(due.items()):
            for first in range(0, len(keys), KEYS_PER_QUESTION):
                await self._forget(at, keys[first : first + KEYS_PER_QUESTION])
        return following

    async def _forget_here(self, each: HeldRegister) -> None:
        """Behind a door that is closed for ever nobody asks for anything, so nobody has to be asked."""
        try:
            self.forgotten += await self._own.forget((each.bucket, each.key), lambda _: True)
        except NotVoting:  # broken: scrub looks after it
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
        if not all(home == self._path.me or self._path.links.is_up(home) for home in homes):
            return
        said = await self._ask(homes, ForgetRegisters(scope, tuple(keys), sure=False))
        if said is None:
            return
        agreed = [held for number, held in enumerate(keys) if all(reply[number] != Word.NO for reply in said)]
        promised = [
            held for number, held in enumerate(keys) if any(reply[number] == Word.PROMISED for reply in said)
        ]
        for held in agreed:
            if held in promised:
                await self._decide_again(scope.pool, held)
        if sure := tuple(held for held in agreed if held not in promised):
            await self._tell(homes, ForgetRegisters(scope, sure, sure=True))

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
        own = await self._ask([self._path.me], ForgetRegisters(request.scope, done, sure=True))
        if own is not None and done:
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
