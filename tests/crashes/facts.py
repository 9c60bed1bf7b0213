"""What was asked of a store, what it acknowledged, and whether a store still says so.

A fact is one thing that a store can be asked about; a group changes some facts at once. After a crash every fact has
its acknowledged value, or that of a group that was on its way; groups land whole, and in the order they were asked in.
Knows nothing of disks or of crashes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast_node.core.errors import HoldfastError, ShardMissing
from holdfast_node.core.head import Head, HeadKind
from holdfast_node.core.ids import BlobId, BucketId, ClusterId, StoreId
from holdfast_node.core.index_keys import LINK_ROWS, SMALL_ROWS
from holdfast_node.core.messages import ShardName
from holdfast_node.core.records import RecordType, RegisterRecord, Superblock
from holdfast_node.services.store import Store
from tests.support.stores import BODIES, BUCKET

PAGE: Final = 1000
CLUSTER: Final = ClusterId(b"C" * 16)


@dataclass(frozen=True, slots=True, order=True)
class Fact:
    """`kind` says how it is read; the rest names it among its kind."""

    kind: str
    name: bytes = b""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Facts that become true together. A fact that is not there has the value None."""

    number: int
    bulk: bool
    facts: Mapping[Fact, object]


@dataclass(slots=True)
class Known:
    """`settled` has to be there; of the groups in flight, each may be. `boots` are the boot ids seen so far."""

    settled: dict[Fact, object] = field(default_factory=dict[Fact, object])
    in_flight: dict[int, Group] = field(default_factory=dict[int, Group])
    store: StoreId | None = None
    boot: int = 0
    boot_ids: set[bytes] = field(default_factory=set[bytes])
    clusters: tuple[bytes, ...] = (b"",)
    """The cluster ids that the superblock may have."""

    def copy(self) -> Known:
        return Known(
            dict(self.settled),
            dict(self.in_flight),
            self.store,
            self.boot,
            set(self.boot_ids),
            self.clusters,
        )

    def ask(self, group: Group) -> None:
        self.in_flight[group.number] = group

    def ack(self, number: int) -> None:
        self.settled.update(self.in_flight.pop(number).facts)

    def opened(self, superblock: Superblock, landed: Iterable[int]) -> None:
        """A store is open and says which groups landed: from now on that has to stay so."""
        for number in landed:
            self.ack(number)
        self.in_flight.clear()
        self.store, self.boot = superblock.store, superblock.boot
        self.boot_ids.add(superblock.boot_id)
        self.clusters = (superblock.cluster_id,)

    def facts(self) -> list[Fact]:
        found = set(self.settled)
        for group in self.in_flight.values():
            found.update(group.facts)
        return sorted(found)


async def read_fact(store: Store, fact: Fact) -> object:
    """What the store says. An error is told as a string, which no fact's value is."""
    try:
        return await _read(store, fact)
    except ShardMissing:
        return None
    except HoldfastError as error:
        return f"{type(error).__name__}: {error}"


async def _read(store: Store, fact: Fact) -> object:
    match fact.kind:
        case "register":
            return await store.register(BUCKET, fact.name)
        case "manifest":
            return await store.manifest(BUCKET, fact.name, BlobId(fact.number.to_bytes(16, "big")))
        case "shard":
            state = store.shard(ShardName(BlobId(fact.name), 0, 0))
            return state and ("sealed" if state.sealed else "staged").encode()
        case "header":
            return await store.shard_header(ShardName(BlobId(fact.name), 0, 0))
        case "cell":
            return (await store.cells(ShardName(BlobId(fact.name), 0, 0), fact.number, 1))[0]
        case _:
            return await _read_small(store, fact)


async def _read_small(store: Store, fact: Fact) -> object:
    match fact.kind:
        case "map":
            return store.map() or None
        case "vote":
            return await store.map_vote(fact.number)
        case "partition":
            found = store.partition(0, fact.number)
            return found if found.version_floor else None
        case "closing":
            return store.bucket_closing(BucketId(fact.name)) or None
        case "peer":
            return store.peer(StoreId(fact.name))
        case "followed":
            followed = store.followed(StoreId(fact.name))
            return followed if followed.cursors else None
        case "link":
            return _has_row(store, LINK_ROWS + fact.name)
        case "kill":
            return _has_row(store, SMALL_ROWS[RecordType.KILL] + fact.name)
        case _:
            raise AssertionError(fact)


def _has_row(store: Any, key: bytes) -> bool | None:
    """Of records that no caller can ask for yet, the index alone says that they were replayed."""
    return store._ports.index.get(key) is not None or None


async def compare(store: Store, known: Known) -> tuple[list[str], list[int]]:
    """What is wrong with this store, and the groups in flight that landed."""
    seen = {fact: await read_fact(store, fact) for fact in known.facts()}
    landed: list[int] = []
    wrong: list[str] = []
    moving: set[Fact] = set()
    for number, group in known.in_flight.items():
        moving.update(group.facts)
        new = [fact for fact, value in group.facts.items() if seen[fact] == value]
        old = [fact for fact in group.facts if seen[fact] == known.settled.get(fact)]
        if len(new) == len(group.facts):
            landed.append(number)
        elif len(old) != len(group.facts):
            neither = [fact for fact in group.facts if fact not in new and fact not in old]
            said = [f"{fact} is {_brief(seen[fact])}" for fact in neither] or [
                f"only {new} of {[*new, *old]}"
            ]
            wrong.append(f"group {number} landed in part: " + "; ".join(said))
    wrong += [
        f"{fact} was acked as {_brief(value)} and is {_brief(seen[fact])}"
        for fact, value in known.settled.items()
        if fact not in moving and seen[fact] != value
    ]
    wrong += _out_of_order(known, landed)
    wrong += _wrong_identity(store, known)
    wrong += _wrong_listing(store, seen)
    return wrong, landed


def _out_of_order(known: Known, landed: list[int]) -> list[str]:
    found: list[str] = []
    for bulk in (False, True):
        asked = [
            group.number
            for group in known.in_flight.values()
            if group.bulk is bulk
            and any(known.settled.get(fact) != value for fact, value in group.facts.items())
        ]
        there = [number in landed for number in asked]
        if sorted(there, reverse=True) != there:
            found.append(f"groups landed out of order: of {asked} only {landed}")
    return found


def _wrong_identity(store: Store, known: Known) -> list[str]:
    superblock, found = store.superblock, list[str]()
    if known.store is not None and superblock.store != known.store:
        found.append("the store has another id")
    if superblock.boot <= known.boot:
        found.append(f"boot {superblock.boot} is not above {known.boot}")
    if superblock.boot_id in known.boot_ids:
        found.append("a boot id came twice")
    if superblock.cluster_id not in known.clusters:
        found.append(f"the store is of cluster {superblock.cluster_id.hex()}")
    if store.rotten():
        found.append(f"a power cut was taken for rot: {store.rotten()}")
    if store.partition(0, 999).not_voting:
        found.append("a power cut took the vote from a partition")
    return found


def _wrong_listing(store: Store, seen: Mapping[Fact, object]) -> list[str]:
    """LIST, the counts and the feeds follow from the registers that are there."""
    accepted = {
        fact.name: value
        for fact, value in seen.items()
        if fact.kind == "register" and isinstance(value, RegisterRecord) and value.accepted is not None
    }
    scopes = frozenset((record.pool, record.partition) for record in accepted.values())
    found: list[str] = []
    try:
        page = store.register_rows(scopes, BUCKET, b"", b"", PAGE)
    except HoldfastError as error:
        return [f"LIST fails: {error}"]
    if [row.key for row in page.rows] != sorted(accepted):
        found.append(f"LIST says {[row.key for row in page.rows]}, there are {sorted(accepted)}")
    heads = {key: BODIES.decode(Head, record.head) for key, record in accepted.items()}
    wrong = [row.key for row in page.rows if row.key in heads and row.version != heads[row.key].version]
    found += [f"LIST has another version of {key!r}" for key in wrong]
    blobs = Counter(
        (accepted[key].pool, accepted[key].partition)
        for key, head in heads.items()
        if head.kind is HeadKind.BLOB
    )
    found += [
        f"partition {scope} counts {store.count(*scope)[0]} blobs, there are {blobs[scope]}"
        for scope in scopes
        if store.count(*scope)[0] != blobs[scope]
    ]
    for scope in scopes:
        changed = sorted(change.key for change in store.changes(*scope, 0, PAGE).keys)
        there = sorted(key for key, record in accepted.items() if (record.pool, record.partition) == scope)
        if changed != there:
            found.append(f"the feed of {scope} has {changed}, there are {there}")
    return found


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) < 120 else f"{text[:117]}..."
