"""From the shards that are really there: what would be undecodable if a selection of stores went, and what survives
the least.

Asks every live store what it holds for every current blob and bucket record; believes neither manifests nor the map.
Changes nothing, and keeps in memory one batch of keys and the gravest of what it lists.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from holdfast_node.core.api import Bucket, Margin
from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import Unavailable
from holdfast_node.core.head import Head, Manifest
from holdfast_node.core.ids import RESERVED_BUCKET, RESERVED_POOL, BucketId
from holdfast_node.core.margin import gravity, least, margin_of, weakest
from holdfast_node.core.report import AtRisk, BlobAtRisk, ProveReply, RiskReply
from holdfast_node.core.topology import NODE_TAG, Topology
from holdfast_node.services.datapath import DataPath, KeyPlace
from holdfast_node.services.listing import Listing
from holdfast_node.services.mending import Census, take_census

BATCH_KEYS: Final = 256
"""Keys whose shards are asked for in one round."""
BUCKET_RECORDS: Final = "(buckets)"
"""Where the records of buckets are said to be: no bucket can have this name."""
LISTED_MAX: Final = 1000
"""Blobs at risk that are told by name, as many as a page of LIST: a megabyte if all their keys are long."""


class BucketSource(Protocol):
    """`services.buckets.Buckets`."""

    def all_buckets(self) -> AsyncIterator[tuple[int, Bucket]]: ...


@dataclass(frozen=True, slots=True)
class Loss:
    """Stores imagined gone, and what to call them."""

    label: str
    stores: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Specimen:
    """One current blob, or the record of a bucket, without which nobody finds the bucket's blobs."""

    bucket: str
    place: KeyPlace
    head: Head
    manifest: Manifest

    @property
    def is_record(self) -> bool:
        return self.place.bucket == RESERVED_BUCKET


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some blobs, and who holds what of them."""

    topology: Topology
    specimens: Sequence[Specimen]
    census: Census


@dataclass(slots=True)
class _Tally:
    """What was counted so far."""

    blobs: int = 0
    bytes: int = 0
    shards: int = 0
    least: Margin | None = None
    unreachable: set[str] = field(default_factory=set[str])

    def count(self, batch: _Batch) -> Iterator[tuple[Specimen, Margin]]:
        """Each blob of the batch with its margin, once it is counted. The records of buckets have margins too, and are
        nobody's blobs."""
        self.unreachable.update(batch.topology.name(store) for store in batch.census.silent)
        for specimen in batch.specimens:
            manifest = specimen.manifest
            if not specimen.is_record:
                self.blobs += 1
                self.bytes += manifest.size
                self.shards += sum(map(len, batch.census.found.get(manifest.seed_id, {}).values()))
            margin = observed_margin(batch.topology, specimen.place, manifest, batch.census)
            self.least = margin if self.least is None else least((self.least, margin))
            yield specimen, margin

    def conclusion(self, *, finished: bool) -> Margin:
        return self.least if finished and self.least is not None else Margin((), full=False)


class Prover:
    """Recounts the cluster on demand; see `prove` and `risks`."""

    def __init__(self, *, path: DataPath, listing: Listing, buckets: BucketSource) -> None:
        self._path = path
        self._listing = listing
        self._buckets = buckets

    async def prove(self, selectors: Sequence[str]) -> AsyncIterator[ProveReply]:
        """Yields progress with the findings since the last reply, at last one reply with `finished`."""
        tests = losses(self._path.topology, selectors)
        tally = _Tally()

        def report(found: Sequence[AtRisk], *, finished: bool = False) -> ProveReply:
            return ProveReply(
                blobs=tally.blobs,
                bytes=tally.bytes,
                shards=tally.shards,
                at_risk=tuple(found),
                finished=finished,
                tested=tuple(loss.label for loss in tests) if finished else (),
                unreachable=tuple(sorted(tally.unreachable)),
                least_margin=tally.conclusion(finished=finished),
            )

        async for batch in self._batches(None):
            found: list[AtRisk] = []
            for specimen, _ in tally.count(batch):
                for loss in tests:
                    found.extend(_risks(batch.topology, specimen, batch.census, loss))
            yield report(found)
        yield report((), finished=True)

    async def risks(self, margin: int, pool: str) -> AsyncIterator[RiskReply]:
        """Yields progress, at last one reply with `finished` and the gravest blobs that survive `margin` losses of some
        protected tag or fewer. All pools if none is named; raises `InvalidArgument` for one that does not exist."""
        chosen = self._path.topology.pool_index(pool) if pool else None
        tally = _Tally()
        gravest: list[BlobAtRisk] = []
        total = 0

        def report(*, finished: bool = False) -> RiskReply:
            return RiskReply(
                blobs=tally.blobs,
                bytes=tally.bytes,
                shards=tally.shards,
                finished=finished,
                at_risk=tuple(gravest) if finished else (),
                total=total,
                unreachable=tuple(sorted(tally.unreachable)),
                least_margin=tally.conclusion(finished=finished),
            )

        async for batch in self._batches(chosen):
            for specimen, survives in tally.count(batch):
                if gravity(survives)[0] <= margin:
                    total += 1
                    gravest.append(_at_risk(batch, specimen, survives))
            gravest = sorted(gravest, key=_gravest_first)[:LISTED_MAX]
            yield report()
        yield report(finished=True)

    async def _batches(self, pool: int | None) -> AsyncIterator[_Batch]:
        """Every current blob, of one pool or of all, with what the stores hold of it."""
        specimens: list[Specimen] = []
        async for specimen in self._specimens(pool):
            specimens.append(specimen)
            if len(specimens) == BATCH_KEYS:
                yield await self._recounted(specimens)
                specimens = []
        if specimens:
            yield await self._recounted(specimens)

    async def _specimens(self, wanted: int | None) -> AsyncIterator[Specimen]:
        try:
            if wanted in (None, RESERVED_POOL):
                async for specimen in self._of(RESERVED_POOL, BUCKET_RECORDS, RESERVED_BUCKET):
                    yield specimen
            async for pool, bucket in self._buckets.all_buckets():
                if wanted in (None, pool):
                    async for specimen in self._of(pool, bucket.name, bucket.id):
                        yield specimen
        except Unavailable as error:
            raise Unavailable(
                f"nobody can say now which blobs there are: {error.message}",
                hint="start what does not answer, then ask again",
                evidence=error.evidence,
            ) from error

    async def _of(self, pool: int, name: str, bucket: BucketId) -> AsyncIterator[Specimen]:
        async for key, head in self._listing.scan(pool, bucket):
            if head.manifest is not None:
                yield Specimen(name, KeyPlace(pool, bucket, key), head, head.manifest)

    async def _recounted(self, specimens: Sequence[Specimen]) -> _Batch:
        topology = self._path.topology
        census = await take_census(self._path, [each.manifest.seed_id for each in specimens])
        return _Batch(topology, specimens, census)


def losses(topology: Topology, selectors: Sequence[str]) -> list[Loss]:
    """One combined loss of what is named, or by default each protected domain and each node in turn."""
    if selectors:
        stores = frozenset(node.store for selector in selectors for node in topology.select(selector))
        return [Loss(" + ".join(selectors), stores)]
    tags = sorted({tag for pool in topology.map.pools for tag in pool.protected_tags} - {NODE_TAG})
    by_tag = [
        Loss(f"{tag}={value}", stores)
        for tag in tags
        for value, stores in sorted(topology.domains(tag).items())
    ]
    return by_tag + [Loss(node.name, frozenset({node.store})) for node in topology.map.nodes]


def observed_margin(topology: Topology, place: KeyPlace, manifest: Manifest, census: Census) -> Margin:
    """The margin that the shards found give this version; stores that did not say count as gone."""
    partitions = [
        topology.part_partition(place.pool, place.bucket, place.key, manifest.seed_id, part)
        for part in range(max(1, len(manifest.parts)))
    ]
    return margin_of(
        topology,
        place.pool,
        partitions,
        [census.held(manifest.seed_id, part) for part in range(len(manifest.parts))],
        lambda store: store not in census.silent,
        code=parse_code(manifest.code),
    )


def _risks(topology: Topology, specimen: Specimen, census: Census, loss: Loss) -> list[AtRisk]:
    """What of this blob would be short: the shards of a part, or the copies of its register."""

    def risk(part: int, left: int, needed: int, what: str) -> AtRisk:
        name, key, version = specimen.bucket, specimen.place.key, specimen.head.version
        return AtRisk(name, key, version, loss.label, part, left, needed, what)

    found: list[AtRisk] = []
    code = parse_code(specimen.manifest.code)
    for part in range(len(specimen.manifest.parts)):
        held = census.held(specimen.manifest.seed_id, part)
        rest = [index for index, at in held.items() if any(store not in loss.stores for store in at)]
        if not code.decodes(rest):
            found.append(risk(part, len(rest), max(code.k, len(rest) + 1), "shards"))
    place = specimen.place
    partition = topology.key_partition(place.pool, place.bucket, place.key)
    roster = topology.roster(place.pool, partition)
    for members, needed in ((roster.voters, roster.quorum), (roster.moving, roster.new_quorum)):
        left = len(members - census.silent - loss.stores) if members is not None else needed
        if left < needed:
            found.append(risk(0, left, needed, "register"))
    return found


def _at_risk(batch: _Batch, specimen: Specimen, margin: Margin) -> BlobAtRisk:
    place, manifest = specimen.place, specimen.manifest
    low = weakest(
        batch.topology,
        place.pool,
        batch.topology.key_partition(place.pool, place.bucket, place.key),
        [batch.census.held(manifest.seed_id, part) for part in range(len(manifest.parts))],
        lambda store: store not in batch.census.silent,
        code=parse_code(manifest.code),
    )
    version = specimen.head.version
    return BlobAtRisk(specimen.bucket, place.key, version, manifest.size, manifest.code, margin, low)


def _gravest_first(blob: BlobAtRisk) -> tuple[tuple[int, ...], str, bytes]:
    return gravity(blob.margin), blob.bucket, blob.key
