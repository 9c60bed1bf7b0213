"""From the shards that are really there: what would be undecodable if a selection of stores went.

Asks every live store what it holds for every current blob; believes neither manifests nor the map. Changes nothing,
and keeps one batch of keys in memory.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from holdfast_node.core.api import Bucket, Margin
from holdfast_node.core.codes import parse_code
from holdfast_node.core.head import Head, Manifest
from holdfast_node.core.margin import least, margin_of
from holdfast_node.core.report import AtRisk, ProveReply
from holdfast_node.core.topology import NODE_TAG, Topology
from holdfast_node.services.datapath import DataPath, KeyPlace
from holdfast_node.services.listing import Listing
from holdfast_node.services.mending import Census, take_census

BATCH_KEYS: Final = 256
"""Keys whose shards are asked for in one round."""


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
    """One current blob."""

    bucket: str
    place: KeyPlace
    head: Head
    manifest: Manifest


@dataclass(slots=True)
class _Tally:
    blobs: int = 0
    bytes: int = 0
    shards: int = 0
    least: Margin | None = None
    unreachable: set[str] = field(default_factory=set[str])
    risks: list[AtRisk] = field(default_factory=list[AtRisk])

    def report(self, finished: Sequence[Loss] = ()) -> ProveReply:
        """What was counted so far, and the findings since the last report."""
        risks, self.risks = tuple(self.risks), []
        return ProveReply(
            blobs=self.blobs,
            bytes=self.bytes,
            shards=self.shards,
            at_risk=risks,
            finished=bool(finished),
            tested=tuple(loss.label for loss in finished),
            unreachable=tuple(sorted(self.unreachable)),
            least_margin=self.least if finished and self.least is not None else Margin((), full=False),
        )


class Prover:
    """Recounts the cluster on demand; see `prove`."""

    def __init__(self, *, path: DataPath, listing: Listing, buckets: BucketSource) -> None:
        self._path = path
        self._listing = listing
        self._buckets = buckets

    async def prove(self, selectors: Sequence[str]) -> AsyncIterator[ProveReply]:
        """Yields progress with the findings so far, at last one reply with `finished`."""
        tests = losses(self._path.topology, selectors)
        tally = _Tally()
        batch: list[Specimen] = []
        async for specimen in self._specimens():
            batch.append(specimen)
            if len(batch) == BATCH_KEYS:
                await self._examine(tests, batch, tally)
                batch.clear()
                yield tally.report()
        if batch:
            await self._examine(tests, batch, tally)
        yield tally.report(finished=tests)

    async def _specimens(self) -> AsyncIterator[Specimen]:
        async for pool, bucket in self._buckets.all_buckets():
            async for key, head in self._listing.scan(pool, bucket.id):
                if head.manifest is not None:
                    yield Specimen(bucket.name, KeyPlace(pool, bucket.id, key), head, head.manifest)

    async def _examine(self, tests: Sequence[Loss], batch: Sequence[Specimen], tally: _Tally) -> None:
        topology = self._path.topology
        census = await take_census(self._path, [each.manifest.seed_id for each in batch])
        tally.unreachable.update(topology.name(store) for store in census.silent)
        for specimen in batch:
            tally.blobs += 1
            tally.bytes += specimen.manifest.size
            tally.shards += sum(map(len, census.found.get(specimen.manifest.seed_id, {}).values()))
            for loss in tests:
                tally.risks.extend(_risks(topology, specimen, census, loss))
            margin = observed_margin(topology, specimen.place, specimen.manifest, census)
            tally.least = margin if tally.least is None else least((tally.least, margin))


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
    for members in (roster.voters, roster.moving):
        left = len(members - census.silent - loss.stores) if members is not None else roster.quorum
        if left < roster.quorum:
            found.append(risk(0, left, roster.quorum, "register"))
    return found
