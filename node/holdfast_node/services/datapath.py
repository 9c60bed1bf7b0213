"""What everything that moves bytes needs at hand: links, map, codec, registers, budget. Holds no behaviour of its own
beyond small questions to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from holdfast_node.core.codes import Code, parse_code
from holdfast_node.core.head import Ballot, Manifest
from holdfast_node.core.heal_order import away_from_home
from holdfast_node.core.ids import BlobId, BucketId, Digest, StoreId
from holdfast_node.core.messages import ShardHeader
from holdfast_node.core.topology import Topology
from holdfast_node.ports import Clock, Codec, Entropy, Links
from holdfast_node.services.budget import CoordinateMemory
from holdfast_node.services.cells import PartSource
from holdfast_node.services.events import Events
from holdfast_node.services.notices import Notices
from holdfast_node.services.places import Maps, current_topology
from holdfast_node.services.registers import Registers


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """A key as the data path knows it: ids, not names."""

    pool: int
    bucket: BucketId
    key: bytes


Report = Callable[[KeyPlace], None]
"""Something about this key's shards is not as it should be: the steward should look."""


@dataclass(frozen=True, slots=True)
class DataPath:
    """`coordinate` bounds what this node holds in memory for its callers."""

    me: StoreId
    links: Links
    maps: Maps
    codec: Codec
    entropy: Entropy
    clock: Clock
    events: Events
    registers: Registers
    coordinate: CoordinateMemory
    report_damage: Report
    notices: Notices

    @property
    def topology(self) -> Topology:
        """The map of this moment. Raises `NotInitialised`."""
        return current_topology(self.maps)

    def name(self, store: StoreId) -> str:
        topology = self.maps.topology
        return topology.name(store) if topology is not None else store.hex()[:8]

    def new_blob_id(self) -> BlobId:
        return BlobId(self.entropy.token(16))


@dataclass(frozen=True, slots=True)
class PartTarget:
    """One part to be written: everything its shard headers say but the checksums. `mending`: its blob was there
    before."""

    place: KeyPlace
    seed_id: BlobId
    part: int
    part_size: int
    code: Code
    stripe_bytes: int
    base: Ballot
    mending: bool = False

    def header(self, topology: Topology, index: int, checksums: Sequence[Digest]) -> ShardHeader:
        return ShardHeader(
            cluster_id=topology.map.cluster_id,
            bucket=self.place.bucket,
            key=self.place.key,
            seed_id=self.seed_id,
            part=self.part,
            index=index,
            code=str(self.code),
            part_size=self.part_size,
            stripe_bytes=self.stripe_bytes,
            cell_checksums=tuple(checksums),
            base=self.base,
        )

    def partition(self, topology: Topology) -> int:
        place = self.place
        return topology.part_partition(place.pool, place.bucket, place.key, self.seed_id, self.part)


def candidates_of(topology: Topology, place: KeyPlace, manifest: Manifest, part: int) -> list[list[StoreId]]:
    """Per shard of the part, who may hold it, likeliest first: its home, whom the manifest names, where it lived before
    the last move. While the move is open, whom the manifest names comes first. Stores that have left are not asked."""
    partition = topology.part_partition(place.pool, place.bucket, place.key, manifest.seed_id, part)
    entry = topology.entry(place.pool, partition)
    homes = topology.homes_for(place.pool, partition, parse_code(manifest.code))
    found: list[list[StoreId]] = []
    for index, named in enumerate(manifest.parts[part].holders):
        likely = (named, homes[index]) if entry.moving else (homes[index], named)
        before = (*entry.homes[index : index + 1], *entry.former[index : index + 1])
        places = dict.fromkeys((*likely, *before))
        found.append([store for store in places if topology.node(store) is not None])
    return found


def source_of(topology: Topology, place: KeyPlace, manifest: Manifest, part: int, code: Code) -> PartSource:
    """Where to read one part of a committed blob, and the digests its shards must agree with."""
    start = part * manifest.part_bytes
    return PartSource(
        seed_id=manifest.seed_id,
        part=part,
        part_size=min(manifest.part_bytes, manifest.size - start),
        code=code,
        stripe_bytes=manifest.stripe_bytes,
        shard_checksums=manifest.parts[part].checksums,
        candidates=candidates_of(topology, place, manifest, part),
    )


def homes_without_shard(
    topology: Topology, place: KeyPlace, manifest: Manifest, *, fresh: bool
) -> Iterator[StoreId]:
    """The homes of shards that were sealed elsewhere, or nowhere."""
    code = parse_code(manifest.code)
    for number, part in enumerate(manifest.parts):
        partition = topology.part_partition(place.pool, place.bucket, place.key, manifest.seed_id, number)
        homes = topology.homes_for(place.pool, partition, code)
        for index in away_from_home(topology, place.pool, partition, part.holders, code=code, fresh=fresh):
            yield homes[index]


def homes_to_fill(
    topology: Topology, place: KeyPlace, current: Manifest | None, *, fresh: bool
) -> Iterator[StoreId]:
    """The homes that lack something of a key's current version: all, if it is in a code that the pool had before."""
    if current is None:
        return
    if topology.is_current(place.pool, current.code):
        yield from homes_without_shard(topology, place, current, fresh=fresh)
    elif current.parts:
        yield from topology.shard_homes(
            place.pool, topology.key_partition(place.pool, place.bucket, place.key)
        )
