"""A home's side of the register: every promise and acceptance is durable before it is spoken.

Decides nothing itself (`core.acceptance` does). Requests for one key are decided in the order they came,
each on the state the one before left, also while that state is still on its way to the disk; each answer
waits for its own record. Answers are given only in the generation that is adopted when they leave.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Protocol

from holdfast_node.core.acceptance import (
    Acceptance,
    Late,
    Promise,
    accept,
    blank,
    check_generation,
    late,
    learn,
    missed,
    prepare,
    under_promise,
    view,
)
from holdfast_node.core.ages import aged, superseded_below
from holdfast_node.core.errors import ChecksumMismatch, HoldfastError, InvalidArgument, NotVoting
from holdfast_node.core.geometry import is_inlinable
from holdfast_node.core.head import Head, Manifest
from holdfast_node.core.ids import BlobId, BucketId
from holdfast_node.core.index_rows import RegisterEntry
from holdfast_node.core.messages import (
    Accept,
    CloseBucket,
    CloseBucketReply,
    Commit,
    CommitReply,
    CopyRegisters,
    Floors,
    FloorsReply,
    ListRegisters,
    ManifestReply,
    Prepare,
    PrepareReply,
    ReadFloors,
    ReadManifest,
    ReadRegister,
    ReadSuperseded,
    RegisterCopies,
    RegisterCopy,
    RegisterPage,
    RegisterView,
    Reply,
    Request,
    Scope,
    SupersededReply,
    WindowedKey,
)
from holdfast_node.core.operation import Operation
from holdfast_node.core.records import BucketRecord, PartitionRecord, RegisterRecord
from holdfast_node.core.register import HeadCodec, head_hash
from holdfast_node.services.ballots import Ballots
from holdfast_node.services.dispatcher import Caller, Handler, handler
from holdfast_node.services.standings import MapSource, Standings
from holdfast_node.services.store import Entry
from holdfast_node.services.turns import KeyId, Turns

KEY_WAITERS_MAX: Final = 4096
"""Requests queued on one key at one home: 32 writers on each of 100 nodes, with room."""
LIST_ROWS_MAX: Final = 1024
COPY_ROWS_MAX: Final = 256
SUPERSEDED_KEYS_MAX: Final = 256

_WHOLE_BUCKET: Final = b""
"""Not a key: opening and closing of one bucket take turns under it."""


class Registry(Protocol):
    """What of the store a home's registers need; `services.store.Store` has it."""

    @property
    def store_time_s(self) -> int: ...

    async def register(self, bucket: BucketId, key: bytes) -> RegisterRecord | None: ...

    def broken_register(self, bucket: BucketId, key: bytes) -> RegisterEntry | None: ...

    async def manifest(self, bucket: BucketId, key: bytes, blob_id: BlobId) -> Manifest | None: ...

    def append(self, entries: Sequence[Entry], *, bulk: bool = False) -> asyncio.Future[None]: ...

    def partition(self, pool: int, partition: int) -> PartitionRecord: ...

    def bucket_closing(self, bucket: BucketId) -> bool: ...

    def closed_buckets(self) -> tuple[BucketId, ...]: ...

    def register_rows(
        self,
        partitions: frozenset[tuple[int, int]],
        bucket: BucketId,
        prefix: bytes,
        start: bytes,
        limit: int,
    ) -> RegisterPage: ...

    async def register_copies(
        self, partitions: frozenset[tuple[int, int]], after_bucket: BucketId, after_key: bytes, limit: int
    ) -> RegisterCopies: ...


class Steward(Protocol):
    """Runs other nodes' commits in a queue; `services.registers.Registers` does."""

    async def serve_commit(self, scope: Scope, key: KeyId, operation: Operation) -> CommitReply: ...


class Doors(Protocol):
    """What buckets know of themselves; `services.buckets.Buckets` does."""

    def forget(self, bucket: BucketId) -> None: ...

    async def is_open(self, bucket: BucketId) -> bool: ...


Inline = Callable[[Manifest], Awaitable[tuple[int, bytes] | None]]
"""The keeper's own only cell of a one-stripe blob: its shard index and bytes."""


@dataclass(frozen=True, slots=True)
class Helpers:
    """Other services of this node. `may_vote` says why this store may not, empty if it may."""

    steward: Steward
    doors: Doors
    may_vote: Callable[[], str]
    inline: Inline


class Learned(Enum):
    """What became of another home's pair: taken, not newer than what is here, or in the way of a promise."""

    TAKEN = 0
    KNOWN = 1
    PROMISED = 2


@dataclass(slots=True)
class _Tail:
    """The newest state of a key that is still on its way to the disk."""

    record: RegisterRecord
    durable: asyncio.Future[None]


class Acceptor:
    """Serves the register messages of every partition this store is a home of."""

    def __init__(
        self,
        *,
        store: Registry,
        maps: MapSource,
        codec: HeadCodec,
        ballots: Ballots,
        helpers: Helpers,
    ) -> None:
        self._store: Final = store
        self._helpers: Final = helpers
        self.standings: Final = Standings(
            ballots.store,
            maps=maps,
            store=store,
            may_vote=helpers.may_vote,
            closing=lambda bucket: bucket in self._closing,
        )
        self._codec: Final = codec
        self._ballots: Final = ballots
        self._turns: Final = Turns(KEY_WAITERS_MAX)
        self._tails: dict[KeyId, _Tail] = {}
        self._closing: set[BucketId] = set()
        self._closings = 0

    def handlers(self) -> dict[type[Request], Handler]:
        return dict(
            [
                handler(ReadRegister, self._read),
                handler(Prepare, self._prepare),
                handler(Accept, self._accept),
                handler(ReadManifest, self._manifest),
                handler(ReadSuperseded, self._superseded),
                handler(Commit, self._commit),
                handler(ListRegisters, self._list),
                handler(CopyRegisters, self._copy),
                handler(ReadFloors, self._floors),
                handler(CloseBucket, self._close_bucket),
            ]
        )

    # --- one key --------------------------------------------------------------------------------------------

    async def prepare_with(self, request: Prepare, extra: Sequence[Entry]) -> PrepareReply:
        """A prepare and the shard that came with it, committed together.

        `extra` is durable when this returns and also when it raises a refusal of the prepare. The promise
        goes with the control records: behind bulk it could end up older than an accept decided after it.
        """
        key = (request.bucket, request.key)
        durable: asyncio.Future[None] | None = None
        async with self._turns.turn(key):
            promise = await self._promise_or_refusal(key, request)
            staged = self._store.append(extra, bulk=True)
            if isinstance(promise, Promise):
                try:
                    durable = self._write(key, promise.record)
                except HoldfastError as error:
                    promise = error
        await asyncio.shield(staged)
        if not isinstance(promise, Promise):
            raise promise
        if durable is not None:
            await asyncio.shield(durable)
        return self._spoken(request, promise)

    async def _promise_or_refusal(self, key: KeyId, request: Prepare) -> Promise | HoldfastError:
        try:
            return prepare(await self._newest(key), self.standings.of_key(request), request)
        except HoldfastError as error:
            return error

    async def _prepare(self, caller: Caller, request: Prepare) -> Reply:
        del caller
        key = (request.bucket, request.key)
        async with self._turns.turn(key):
            promise = prepare(await self._newest(key), self.standings.of_key(request), request)
            durable = self._write(key, promise.record)
        if durable is not None:
            await asyncio.shield(durable)
        return self._spoken(request, promise)

    def _spoken(self, request: Prepare, promise: Promise) -> PrepareReply:
        self._ballots.observe(request.ballot.counter)
        self.standings.recheck(request.scope)
        return promise.reply

    async def _accept(self, caller: Caller, request: Accept) -> Reply:
        del caller
        key = (request.bucket, request.key)
        async with self._turns.turn(key):
            own = await self._newest_to_accept(key)
            outcome = accept(own, self.standings.of_key(request), request)
            durable = self._write(key, self._aged(own, outcome.record)) or self._repeated(key, outcome)
        if durable is not None:
            await asyncio.shield(durable)
        self._ballots.observe(request.ballot.counter)
        self.standings.recheck(request.scope)
        return outcome.reply

    def _aged(self, own: RegisterRecord | None, record: RegisterRecord | None) -> RegisterRecord | None:
        """With the ages of the versions in a head that is new here."""
        if record is None:
            return None
        known = own.ages if own is not None else ()
        head = self._codec.decode(Head, record.head)
        return replace(record, ages=aged(known, head, self._store.store_time_s))

    def _repeated(self, key: KeyId, outcome: Acceptance) -> asyncio.Future[None] | None:
        """A duplicate is answered like the original: not before that is durable."""
        tail = self._tails.get(key)
        return tail.durable if outcome.reply.accepted and tail is not None else None

    async def learn(self, copy: RegisterCopy) -> Learned:
        """Take what another home holds of a key, if it is newer. Durable on return.

        Checks neither generation nor votes: the learner asked the right homes. During a move, in which it promises
        before it has learned, it does not take what is under a promise of its own: that would be an accept it said it
        would not give. Nor does a home that stays take what it missed before: old homes alone decide such a pair.
        """
        key = (copy.bucket, copy.key)
        theirs = RegisterRecord(*key, copy.pool, copy.partition, copy.accepted, copy.accepted, copy.head)
        async with self._turns.turn(key):
            try:
                own = await self._newest(key)
            except NotVoting:
                if self.standings.is_moving(copy.pool, copy.partition):
                    return Learned.PROMISED  # rotted: nobody knows what it promised
                own = None  # rotted: what it had promised was of a generation that is over
            if self.standings.is_moving(copy.pool, copy.partition) and under_promise(own, theirs):
                return Learned.PROMISED
            if missed(own, theirs, before=self.standings.stays_from(copy.pool, copy.partition)):
                return Learned.PROMISED
            durable = self._write(key, self._aged(own, learn(own, theirs)))
        if durable is not None:
            await asyncio.shield(durable)
        return Learned.TAKEN if durable is not None else Learned.KNOWN

    async def follow(self, copy: RegisterCopy, scope: Scope) -> Late:
        """As a home that votes, take what another one accepted in this generation or before, as if its accept came late
        here. Durable on return. Raises `ChecksumMismatch` for a head that is not what it says."""
        key = (copy.bucket, copy.key)
        if head_hash(copy.head) != copy.head_hash:
            raise ChecksumMismatch("the head of a register copied does not hash to what the message says")
        theirs = RegisterRecord(*key, scope.pool, scope.partition, copy.accepted, copy.accepted, copy.head)
        async with self._turns.turn(key):
            own = await self._newest_to_accept(key)
            standing = self.standings.of(scope, copy.bucket)
            check_generation(standing, scope)
            outcome = late(own, standing, theirs)
            durable = self._write(key, self._aged(own, outcome.record))
        if durable is not None:
            await asyncio.shield(durable)
        return outcome

    async def forget(self, key: KeyId, wanted: Callable[[RegisterRecord], bool]) -> bool:
        """Make the register blank if it is `wanted` of what is here when its turn comes. Durable on return; whether it
        was done."""
        durable: asyncio.Future[None] | None = None
        async with self._turns.turn(key):
            own = await self._newest(key)
            if own is not None and not own.is_blank and wanted(own):
                durable = self._write(key, blank(own))
        if durable is not None:
            await asyncio.shield(durable)
        return durable is not None

    async def renew(self, key: KeyId, *, blank: RegisterRecord | None = None) -> bool:
        """Write a register again whose record is broken, from what is still known of it; durable on return. False: what
        was accepted is lost here, so that it has to be decided once more. `blank` is written where nothing is."""
        async with self._turns.turn(key):
            tail = self._tails.get(key)
            if tail is not None:
                durable = tail.durable
            else:
                record = await self._known(key) or blank
                if record is None:
                    return False
                durable = self._store.append([Entry(record)])
                self._follow(key, record, durable)
        await asyncio.shield(durable)
        return True

    async def _known(self, key: KeyId) -> RegisterRecord | None:
        """The register from memory, or all of it from the index: nothing was accepted in it."""
        try:
            return await self._store.register(*key)
        except NotVoting:
            entry = self._store.broken_register(*key)
        if entry is None or entry.accepted is not None:
            return None
        return RegisterRecord(*key, entry.pool, entry.partition, entry.promised, accepted=None, head=b"")

    async def blank(self, key: KeyId) -> None:
        """Forget a broken register of which nobody will ask this store again. Durable on return."""
        async with self._turns.turn(key):
            entry = self._store.broken_register(*key)
            if entry is None or key in self._tails:
                return
            gone = RegisterRecord(*key, entry.pool, entry.partition, promised=None, accepted=None, head=b"")
            durable = self._store.append([Entry(gone)])
            self._follow(key, gone, durable)
        await asyncio.shield(durable)

    async def _newest(self, key: KeyId) -> RegisterRecord | None:
        """The state the next decision is made on, durable or not. Only inside the key's turn."""
        tail = self._tails.get(key)
        return tail.record if tail is not None else await self._store.register(*key)

    async def _newest_to_accept(self, key: KeyId) -> RegisterRecord | None:
        """Also of a register whose record is broken: whether it may accept depends on what it promised, which the index
        knows, and not on what it had accepted (docs/adr/0083-a-broken-register-still-accepts.md)."""
        try:
            return await self._newest(key)
        except NotVoting:
            entry = self._store.broken_register(*key)
            if entry is None:
                raise
        return RegisterRecord(*key, entry.pool, entry.partition, entry.promised, accepted=None, head=b"")

    def _write(self, key: KeyId, record: RegisterRecord | None) -> asyncio.Future[None] | None:
        if record is None:
            return None
        durable = self._store.append([Entry(record)])
        self._follow(key, record, durable)
        return durable

    def _follow(self, key: KeyId, record: RegisterRecord, durable: asyncio.Future[None]) -> None:
        tail = self._tails[key] = _Tail(record, durable)

        def settle(done: asyncio.Future[None]) -> None:
            if not done.cancelled():
                done.exception()  # whoever awaits it handles it; a lone failure is the store's to report
            if self._tails.get(key) is tail:
                del self._tails[key]

        durable.add_done_callback(settle)

    async def _read(self, caller: Caller, request: ReadRegister) -> Reply:
        del caller
        check_generation(self.standings.of_key(request), request.scope)
        record = await self._store.register(request.bucket, request.key)
        answer = view(record, self.standings.of_key(request), request)
        if record is None or not record.head or request.inline_bytes_max <= 0:
            return answer
        return await self._with_payload(record.head, request, answer)

    async def _with_payload(self, head: bytes, request: ReadRegister, answer: RegisterView) -> RegisterView:
        manifest = self._codec.decode(Head, head).manifest
        if manifest is None or not is_inlinable(manifest, request.inline_bytes_max, whole=request.want_head):
            return answer
        own = await self._helpers.inline(manifest)
        self.standings.recheck(request.scope)
        if own is None or len(own[1]) > request.inline_bytes_max:
            return answer
        return replace(answer, shard_index=own[0], payload=own[1])

    async def _manifest(self, caller: Caller, request: ReadManifest) -> Reply:
        del caller
        check_generation(self.standings.of(request.scope, request.bucket), request.scope)
        return ManifestReply(await self._store.manifest(request.bucket, request.key, request.blob_id))

    async def _superseded(self, caller: Caller, request: ReadSuperseded) -> Reply:
        del caller
        if len(request.keys) > SUPERSEDED_KEYS_MAX:
            raise InvalidArgument(f"{len(request.keys)} keys in one question, {SUPERSEDED_KEYS_MAX} at most")
        _ = self.standings.vouched((request.scope,))
        return SupersededReply(tuple([await self._superseded_below(each) for each in request.keys]))

    async def _superseded_below(self, asked: WindowedKey) -> int:
        try:
            record = await self._store.register(asked.bucket, asked.key)
        except NotVoting:
            return 0
        ages = record.ages if record is not None else ()
        return superseded_below(ages, self._store.store_time_s, asked.window_s)

    async def _commit(self, caller: Caller, request: Commit) -> Reply:
        del caller
        check_generation(self.standings.of(request.scope, request.bucket), request.scope)
        operation = self._codec.decode(Operation, request.operation)
        return await self._helpers.steward.serve_commit(
            request.scope, (request.bucket, request.key), operation
        )

    # --- whole partitions -----------------------------------------------------------------------------------

    async def _list(self, caller: Caller, request: ListRegisters) -> Reply:
        del caller
        partitions = self.standings.vouched(request.scopes)
        limit = max(1, min(request.limit, LIST_ROWS_MAX))
        return self._store.register_rows(partitions, request.bucket, request.prefix, request.start, limit)

    async def _copy(self, caller: Caller, request: CopyRegisters) -> Reply:
        del caller
        partitions = self.standings.vouched(request.scopes)
        limit = max(1, min(request.limit, COPY_ROWS_MAX))
        copies = await self._store.register_copies(partitions, request.after_bucket, request.after_key, limit)
        self.standings.vouched(request.scopes)
        return copies

    async def _floors(self, caller: Caller, request: ReadFloors) -> Reply:
        del caller
        partitions = sorted(self.standings.vouched(request.scopes))
        records = [self._store.partition(*at) for at in partitions]
        floors = tuple(Floors(r.pool, r.partition, r.version_floor, r.ballot_floor) for r in records)
        closed = self._closing.union(self._store.closed_buckets())
        return FloorsReply(floors, self.standings.topology().map.era, tuple(sorted(closed)))

    async def _close_bucket(self, caller: Caller, request: CloseBucket) -> Reply:
        """Closing: from the first moment no accept is let in; those before are durable when this answers.

        Opening is believed only if the bucket's record, read now, says so, and only if nobody closed it meanwhile:
        an old message may come late.
        """
        del caller
        bucket = request.bucket
        before = self._closings
        if request.closing:
            self._closings += 1
            self._closing.add(bucket)
        elif not await self._helpers.doors.is_open(bucket):
            return CloseBucketReply()
        async with self._turns.turn((bucket, _WHOLE_BUCKET)):
            if not request.closing and self._closings != before:
                return CloseBucketReply()
            if request.closing != self._store.bucket_closing(bucket):
                await asyncio.shield(self._store.append([Entry(BucketRecord(bucket, request.closing))]))
            if not request.closing and self._closings == before:
                self._closing.discard(bucket)
        self._helpers.doors.forget(bucket)
        return CloseBucketReply()
