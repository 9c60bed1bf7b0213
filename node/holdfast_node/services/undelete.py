"""Undelete: a put whose stage step is a durable link from a new blob id to shards that are there already.

Moves no bytes. Refuses to drop anything: a link that no head names is harmless.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from holdfast_node.core.api import Call, PutOptions, PutResult
from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import Evidence, OutcomeUnknown, VersionNotFound
from holdfast_node.core.head import Head, HeadKind, Manifest, Retained
from holdfast_node.core.ids import ID_BYTES, BlobId, Era, RequestId, StoreId, Version
from holdfast_node.core.messages import Holdings, LinkShards
from holdfast_node.services.committing import check_ack, commit_known
from holdfast_node.services.datapath import DataPath, KeyPlace
from holdfast_node.services.fanout import gather, replies
from holdfast_node.services.put import Write, check_key, operation_of, part_of, result_of
from holdfast_node.services.versions import manifest_of, retained_manifest

LINK_TIMEOUT_S: Final = 10.0


class Undeleter:
    """Runs undeletes; one instance per node."""

    def __init__(self, path: DataPath) -> None:
        self._path: Final = path

    async def undelete(self, place: KeyPlace, version: int, call: Call, *, retain: bool) -> PutResult:
        """Make a kept version (0: the newest) the current one, under a new version number. A retry is told of what its
        first try brought back, whatever has been written since."""
        check_key(place.key)
        path = self._path
        reading = await path.registers.read(place.pool, place.bucket, place.key)
        request_id = call.request_id or RequestId(path.entropy.token(ID_BYTES))
        done = next((each.version for each in reading.head.recent if each.request_id == request_id), None)
        if done is not None:
            return await self._receipt(place, reading.head, done)
        stamp = Era(call.stamp or path.topology.map.era)
        attempt = path.registers.attempt(place.pool, place.bucket, place.key, stamp)
        kept = await retained_manifest(path, place, _chosen(reading.head, version))
        blob_id = path.new_blob_id()
        held = await self._link(kept, blob_id) if kept.parts else {}
        manifest = replace(
            kept,
            blob_id=blob_id,
            parts=tuple(
                part_of(part.size, held.get(number, {}), part.checksums)
                for number, part in enumerate(kept.parts)
            ),
            created_ms=path.clock.now_ms(),
        )
        check_ack(path, place, manifest)
        write = Write(
            place=place,
            options=PutOptions(),
            request_id=request_id,
            stamp=stamp,
            retain=retain,
            code=parse_code(manifest.code),
            stripe_bytes=manifest.stripe_bytes,
            part_bytes=manifest.part_bytes,
        )
        operation = operation_of(write, manifest, attempt.base)
        outcome = await commit_known(path, place, manifest, attempt, operation)
        if outcome.repeated:
            head = await path.registers.head(place.pool, place.bucket, place.key)
            return await self._receipt(place, head, outcome.version)
        return result_of(path, place, manifest, outcome.version)

    async def _receipt(self, place: KeyPlace, head: Head, version: Version) -> PutResult:
        """Of what an earlier try brought back. Nobody can say its size and hash if it is kept no more, but a
        refusal would say that no try was carried out."""
        try:
            manifest = await manifest_of(self._path, place, head, version)
        except VersionNotFound as gone:
            raise OutcomeUnknown(
                f"an earlier try brought it back as version {version}, which is kept no more",
                hint="read the key",
                evidence=gone.evidence,
            ) from gone
        return result_of(self._path, place, manifest, version)

    async def _link(self, kept: Manifest, blob_id: BlobId) -> dict[int, dict[int, StoreId]]:
        """Part -> shard index -> a store that durably links it. Every live store is asked: any may hold some."""
        links = self._path.links
        stores = [store for store in self._path.topology.stores if links.is_up(store)]
        answers = await gather(
            links,
            dict.fromkeys(stores, LinkShards(kept.seed_id, blob_id)),
            timeout_s=LINK_TIMEOUT_S,
            enough=lambda _: False,
        )
        held: dict[int, dict[int, StoreId]] = {}
        for store, holdings in sorted(replies(answers, Holdings).items()):
            for name in holdings.shards:
                own = held.setdefault(name.part, {})
                if kept.parts[name.part].holders[name.index] == store or name.index not in own:
                    own[name.index] = store
        return held


def _chosen(head: Head, version: int) -> Retained:
    blobs = [each for each in head.retained if each.kind is HeadKind.BLOB]
    if version == 0 and blobs:
        return max(blobs, key=lambda each: each.version)
    found = next((each for each in blobs if each.version == version), None)
    if found is None:
        kept = ", ".join(str(each.version) for each in blobs) or "none"
        raise VersionNotFound(
            f"version {version} is not kept" if version else "no older version is kept",
            evidence=(Evidence("versions kept", kept),),
        )
    return found
