"""What was found broken on this store, and how each thing is brought back: from memory, from the index, or from others.

A finding is a row of the index that rests on a broken record. It is healed when the row rests on another: nothing is
believed but that. Looks for no damage.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

from holdfast_node.core import index_keys, rot
from holdfast_node.core.errors import BucketClosing, HoldfastError, Unavailable
from holdfast_node.core.head import Ballot, Head, Manifest, seeds_of
from holdfast_node.core.ids import BlobId, BucketId, StoreId
from holdfast_node.core.index_keys import (
    BLANK_ROWS,
    CELL_ROWS,
    LINK_ROWS,
    MANIFEST_ROWS,
    REGISTER_ROWS,
    SHARD_ROWS,
    register_of,
)
from holdfast_node.core.index_rows import RegisterEntry
from holdfast_node.core.messages import ShardName
from holdfast_node.core.records import KillRecord, LinkRecord, ManifestRecord, RegisterRecord
from holdfast_node.core.topology import Topology
from holdfast_node.ports import Bodies
from holdfast_node.services.closed_doors import ClosedDoors
from holdfast_node.services.datapath import DataPath, KeyPlace
from holdfast_node.services.events import Events
from holdfast_node.services.log.verifier import Survey
from holdfast_node.services.naming import Namer
from holdfast_node.services.store import Entry, Store
from holdfast_node.services.turns import KeyId
from holdfast_node.services.versions import retained_manifest

RETRY_S: Final = 5.0
"""Before a finding that was dealt with, and is still there, is dealt with again: a big blob takes its time."""
LISTEN_S: Final = 1.0
"""Between looks at what readers have found."""
CHECKED_PER_DUE: Final = 64
"""Findings that are looked at again for each that may be dealt with."""
KILLS_AT_ONCE: Final = 1000
"""In one group of the log: nobody waits long for it, and it fits any volume."""
TOLD_MAX: Final = 20
FINDINGS_MAX: Final = 100_000
"""Some 20 MB. What is beyond is found again by the next cycle: nothing of it is buried."""


class Shards(Protocol):
    """`services.keeper.Keeper` has it."""

    async def write_again(self, name: ShardName, stripe: int) -> bool: ...

    async def seal_again(self, name: ShardName) -> bool: ...

    async def drop_again(self, name: ShardName) -> None: ...


class OwnRegisters(Protocol):
    """This store's side of the registers; `services.acceptor.Acceptor` has it."""

    async def renew(self, key: KeyId, *, blank: RegisterRecord | None = None) -> bool: ...

    async def blank(self, key: KeyId) -> None: ...


class Rewriter(Protocol):
    """`services.registers.Registers` has it."""

    async def rewrite(self, pool: int, bucket: BucketId, key: bytes, *, above: Ballot | None) -> None: ...


class BrokenRegisters(Protocol):
    """What of the store a register's restoring needs; `services.store.Store` has it."""

    def broken_register(self, bucket: BucketId, key: bytes) -> RegisterEntry | None: ...


class RegisterRestorer:
    """Brings one register back of which the ballots are known, but not the head."""

    def __init__(
        self,
        *,
        me: StoreId,
        store: BrokenRegisters,
        own: OwnRegisters,
        registers: Rewriter,
        closed: ClosedDoors,
    ) -> None:
        self._me: Final = me
        self._store: Final = store
        self._own: Final = own
        self._registers: Final = registers
        self._closed: Final = closed

    async def keep_blank(self, key: KeyId, blank: RegisterRecord | None) -> None:
        """What `blank` keeps from coming back is to be kept so, unless the key has been written since."""
        _ = await self._own.renew(key, blank=blank)

    async def restore(self, topology: Topology, key: KeyId) -> None:
        """From memory; else the other homes decide it once more, and this one accepts that. Raises `ClusterError`. Not
        while this store learns the partition: a newcomer begins blank, and must not have back what it held before."""
        entry = self._store.broken_register(*key)
        if entry is None:
            return
        placed = topology.entry(entry.pool, entry.partition)
        if self._me not in (*placed.homes, *placed.moving):
            await self._own.blank(key)
            return
        learning = self._me in placed.learners and not placed.moving
        if learning or self._me not in placed.homes or await self._own.renew(key):
            return
        try:
            await self._registers.rewrite(entry.pool, *key, above=entry.promised)
        except BucketClosing:
            if not await self._closed.nothing_behind(key[0]):
                raise
            await self._own.blank(key)


@dataclass(frozen=True, slots=True)
class Others:
    """Whom the restorer turns to. `report_shard` has a shard rebuilt."""

    shards: Shards
    registers: RegisterRestorer
    report_shard: Callable[[ShardName], None]


@dataclass(slots=True)
class _Finding:
    """`sequence` of the broken record; 0: the shard lacks cells."""

    sequence: int
    due_s: float = 0.0
    why: str = ""


class Restorer:
    """Deals with findings until they are none. `found`, `healed` and `garbage` count since the process started."""

    def __init__(self, *, store: Store, path: DataPath, bodies: Bodies, others: Others) -> None:
        self._store: Final = store
        self._path: Final = path
        self._bodies: Final = bodies
        self._others: Final = others
        self._events: Final[Events] = path.events
        self._open: dict[bytes, _Finding] = {}
        self._rows: Counter[int] = Counter()
        """How many open findings rest on one broken record."""
        self._lives: dict[int, int] = {}
        self._dead: list[int] = []
        self._listen_s = 0.0
        self._namer: Final = Namer(path, store)
        self.found = 0
        self.healed = 0
        self.garbage = 0

    def __len__(self) -> int:
        return len(self._open)

    def add(self, survey: Survey) -> None:
        """Broken records, and what of the index rests on them. A row that was made anew while the others were looked at
        is none of them any more."""
        self._lives |= survey.broken
        for row_key, sequence in (*survey.resting, *((row_key, 0) for row_key in survey.incomplete)):
            if len(self._open) < FINDINGS_MAX and self._is_there(row_key, sequence):
                self._add(row_key, sequence)
        needed = {sequence for _, sequence in survey.resting}
        garbage = [sequence for sequence in survey.broken if sequence not in needed]
        self.garbage += len(garbage)
        self._dead += garbage

    def _add(self, row_key: bytes, sequence: int) -> None:
        if row_key in self._open:
            return
        self._open[row_key] = _Finding(sequence)
        self._rows[sequence] += 1
        self.found += not sequence or self._rows[sequence] == 1
        self._events.emit("rot_found", what=told(row_key))
        if row_key.startswith(REGISTER_ROWS):
            self._store.mark_rotten(*register_of(row_key[1:]), sequence)

    def waiting(self) -> tuple[str, ...]:
        """Some of what is not healed yet, and why."""
        some = islice(self._open.items(), TOLD_MAX)
        return tuple(f"{told(row_key)}: {each.why or 'being healed'}" for row_key, each in some)

    async def work(self, *, at_once: int) -> bool:
        """Deal with some of what is due. Whether anything was done. Raises `StoreFailed`."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._listen_s:
            self._hear_of_readers()
            self._listen_s = now_s + LISTEN_S
        due = [row_key for row_key, each in self._open.items() if each.due_s <= now_s][:at_once]
        self._see_what_is_healed(due)
        self._see_what_is_healed(list(islice(self._open, CHECKED_PER_DUE * at_once)))
        await self._bury()
        topology = self._path.maps.topology
        due = [row_key for row_key in due if row_key in self._open]
        if topology is None or not due:
            return False
        await asyncio.gather(*(self._deal_with(topology, row_key) for row_key in due))
        return True

    def _see_what_is_healed(self, some: Sequence[bytes]) -> None:
        """Those that are not go to the end: a store may have thousands, and others want the loop too."""
        for row_key in some:
            finding = self._open.pop(row_key)
            self._open[row_key] = finding
            if not self._is_there(row_key, finding.sequence):
                self.healed += self._close(row_key)
                self._events.emit("rot_healed", what=told(row_key))

    async def _bury(self) -> None:
        """Write down which broken records nothing rests on any more: who reads the whole log again, because the index
        is gone, need not fear for what they said. Not on a store whose index was made from a log with holes: what
        rested on what was in them, nobody knows."""
        dead, self._dead = self._dead, []
        if self._store.lost_records:
            return
        kills = [KillRecord(self._lives.pop(each), each) for each in dead if each in self._lives]
        for first in range(0, len(kills), KILLS_AT_ONCE):
            await self._store.append([Entry(kill) for kill in kills[first : first + KILLS_AT_ONCE]])

    def _hear_of_readers(self) -> None:
        """A register that somebody wanted to read, and could not."""
        forgotten = set(self._store.forgotten_keys())  # their whole partition is learned again
        for bucket, key in self._store.rotten_keys():
            row_key = index_keys.register_row_key(bucket, key)
            if (bucket, key) not in forgotten and row_key not in self._open:
                self._add(row_key, self._store.verifier.rests_on(row_key))

    def _close(self, row_key: bytes, *, bury: bool = True) -> bool:
        """Whether that was the last row that rested on its record."""
        sequence = self._open.pop(row_key).sequence
        self._rows[sequence] -= 1
        if self._rows[sequence]:
            return not sequence
        del self._rows[sequence]
        if bury:
            self._dead.append(sequence)
        return True

    def _write_off(self, row_key: bytes, *, bury: bool = True) -> None:
        """Nobody needs what the row stands for."""
        last = self._close(row_key, bury=bury)
        self.found -= last
        self.garbage += last

    def _is_there(self, row_key: bytes, sequence: int) -> bool:
        if not sequence:
            return self._store.verifier.lacks_cells(row_key)
        return self._store.verifier.rests_on(row_key) == sequence

    async def _deal_with(self, topology: Topology, row_key: bytes) -> None:
        finding = self._open[row_key]
        finding.why = ""
        try:
            await self._restore(topology, row_key)
        except HoldfastError as error:
            finding.why = error.message
        finding.due_s = asyncio.get_running_loop().time() + RETRY_S

    async def _restore(self, topology: Topology, row_key: bytes) -> None:
        letter = row_key[:1]
        if letter == REGISTER_ROWS:
            await self._others.registers.restore(topology, register_of(row_key[1:]))
        elif letter == BLANK_ROWS:
            key = register_of(row_key[1:])
            await self._others.registers.keep_blank(key, self._store.inventory.blank(*key))
        elif letter == MANIFEST_ROWS:
            await self._manifest(row_key)
        elif letter in (SHARD_ROWS, CELL_ROWS):
            await self._shard(topology, row_key)
        elif letter == LINK_ROWS:
            await self._store.append([Entry(LinkRecord(*index_keys.link_of(row_key)))])
        else:
            assert rot.is_small(row_key), "every row that rests on a record is of one of these kinds"
            durable = self._store.rewrite(row_key)
            if durable is not None:
                await durable

    async def _shard(self, topology: Topology, row_key: bytes) -> None:
        """Written again if its bytes are whole. Else the healer makes the shard anew, if a version is kept that has it:
        it may be what is left of a write that failed."""
        name, shards = index_keys.shard_name(row_key), self._others.shards
        state = self._store.shard(name)
        if row_key.startswith(CELL_ROWS):
            if state is None or not state.sealed:
                self._write_off(row_key)
                return
            whole = await shards.write_again(name, index_keys.stripe_of(row_key))
        elif state is None:
            await shards.drop_again(name)
            return
        else:
            whole = self._open[row_key].sequence > 0 and await shards.seal_again(name)
        if whole:
            return
        named = await self._namer.keys_of([name])
        if named.keys and await self._is_kept(topology, *named.keys[0], name.seed_id):
            self._others.report_shard(name)
        elif named.certain:
            self._write_off(row_key, bury=bool(named.keys))
        else:
            raise Unavailable("no store that is up says whose it is")

    async def _is_kept(self, topology: Topology, bucket: BucketId, key: bytes, seed_id: BlobId) -> bool:
        """Whether some version of the key has this seed. Its bucket's record, which names the pool, need not be asked:
        there are few pools."""
        for pool in range(len(topology.map.pools)):
            if seed_id in seeds_of(await self._path.registers.head(pool, bucket, key)):
                return True
        return False

    async def _manifest(self, row_key: bytes) -> None:
        bucket, key, blob_id = index_keys.manifest_of(row_key)
        own = await self._store.register(bucket, key)
        head = self._bodies.decode(Head, own.head) if own is not None and own.head else None
        manifest = await self._named(KeyPlace(own.pool, bucket, key), head, blob_id) if own and head else None
        if manifest is None:  # no version is kept that needs it
            self._write_off(row_key)
            return
        await self._store.append([Entry(ManifestRecord(bucket, key, self._bodies.encode(manifest)))])

    async def _named(self, place: KeyPlace, head: Head, blob_id: BlobId) -> Manifest | None:
        if head.manifest is not None and head.manifest.blob_id == blob_id:
            return head.manifest
        kept = next((each for each in head.retained if each.blob_id == blob_id), None)
        return await retained_manifest(self._path, place, kept) if kept is not None else None


_KINDS: Final = {
    REGISTER_ROWS: "a register",
    BLANK_ROWS: "a forgotten key",
    MANIFEST_ROWS: "a kept version's manifest",
    SHARD_ROWS: "a shard",
    CELL_ROWS: "a cell",
    LINK_ROWS: "a link",
}


def told(row_key: bytes) -> str:
    """What a finding is about, for people."""
    return f"{_KINDS.get(row_key[:1], 'a note of this store')} {row_key[1:].hex()}".rstrip()
