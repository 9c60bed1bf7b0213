"""Which version a caller means, and its manifest: the current one from the head, older ones from the homes.

Reads registers and manifests; touches no shard.
"""

from __future__ import annotations

from typing import Final, Protocol

from holdfast_node.core.api import BlobInfo, VersionEntry
from holdfast_node.core.errors import BlobNotFound, Evidence, IntegrityError, Unavailable, VersionNotFound
from holdfast_node.core.head import Head, HeadKind, Manifest, Retained
from holdfast_node.core.ids import BlobId, BucketId, StoreId, Version
from holdfast_node.core.messages import ManifestReply, ReadManifest, RegisterCopy
from holdfast_node.core.records import ManifestRecord
from holdfast_node.ports import Bodies, Failed
from holdfast_node.services.datapath import DataPath, KeyPlace
from holdfast_node.services.fanout import Answers, gather, replies
from holdfast_node.services.store import Entry

MANIFEST_TIMEOUT_S: Final = 5.0


class ManifestStore(Protocol):
    """What of the store is asked here; `services.store.Store` has it."""

    async def manifest(self, bucket: BucketId, key: bytes, blob_id: BlobId) -> Manifest | None: ...


async def missing_manifests(store: ManifestStore, bodies: Bodies, copy: RegisterCopy) -> list[Entry]:
    """Of the versions a register copied from elsewhere keeps: what has to be written down before it. A broken one is
    missing."""
    missing: list[Entry] = []
    for manifest in copy.manifests:
        try:
            known = await store.manifest(copy.bucket, copy.key, manifest.blob_id)
        except IntegrityError:
            known = None
        if known is None:
            missing.append(Entry(ManifestRecord(copy.bucket, copy.key, bodies.encode(manifest))))
    return missing


async def manifest_of(path: DataPath, place: KeyPlace, head: Head, version: int) -> Manifest:
    """The manifest of `version` (0: the current one). Raises `BlobNotFound`, `VersionNotFound`, `Unavailable`."""
    if version in (0, head.version) and head.kind is HeadKind.BLOB and head.manifest is not None:
        return head.manifest
    if version == 0:
        raise BlobNotFound("there is no such blob", hint=_undo_hint(head))
    entry = next((each for each in head.retained if each.version == version), None)
    if entry is None or entry.kind is not HeadKind.BLOB:
        raise VersionNotFound(f"version {version} is not kept", evidence=_kept(head))
    return await retained_manifest(path, place, entry)


async def applied_manifest(path: DataPath, place: KeyPlace, version: Version) -> Manifest | None:
    """What the first try of a repeated request wrote, which need not be what this one would; None if it is gone."""
    head = (await path.registers.read(place.pool, place.bucket, place.key)).head
    try:
        return await manifest_of(path, place, head, version)
    except VersionNotFound:
        return None


async def retained_manifest(path: DataPath, place: KeyPlace, entry: Retained) -> Manifest:
    """Ask the homes for the manifest of a version they keep."""
    topology = path.topology
    partition = topology.key_partition(place.pool, place.bucket, place.key)
    scope = topology.scope(place.pool, partition)
    request = ReadManifest(scope, place.bucket, place.key, entry.blob_id)
    homes = topology.register_homes(place.pool, partition)

    def found(answers: Answers) -> Manifest | None:
        for reply in replies(answers, ManifestReply).values():
            if reply.manifest is not None and reply.manifest.blob_id == entry.blob_id:
                return reply.manifest
        return None

    answers = await gather(
        path.links,
        {store: request for store in homes if path.links.is_up(store)} or dict.fromkeys(homes, request),
        timeout_s=MANIFEST_TIMEOUT_S,
        enough=lambda answers: found(answers) is not None,
    )
    manifest = found(answers)
    if manifest is None:
        raise Unavailable(
            f"no home that answered has the manifest of version {entry.version}",
            evidence=[Evidence(path.name(store), _said(answers, store)) for store in homes],
        )
    return manifest


def entries_of(head: Head) -> tuple[VersionEntry, ...]:
    """The current version and those kept, newest first."""
    current: list[VersionEntry] = []
    if head.kind is not HeadKind.ABSENT:
        size = head.manifest.size if head.manifest is not None else 0
        deleted = head.kind is HeadKind.TOMBSTONE
        current = [VersionEntry(head.version, deleted, size, head.created_ms, current=True)]
    older = [
        VersionEntry(each.version, each.kind is HeadKind.TOMBSTONE, each.size, each.created_ms, current=False)
        for each in head.retained
    ]
    return tuple(current + sorted(older, key=lambda each: each.version, reverse=True))


def info_of(key: bytes, version: int, manifest: Manifest) -> BlobInfo:
    return BlobInfo(
        key=key,
        version=version,
        size=manifest.size,
        hash=manifest.hash,
        content_type=manifest.content_type,
        metadata=manifest.metadata,
        created_ms=manifest.created_ms,
        code=manifest.code,
    )


def _undo_hint(head: Head) -> str:
    return (
        "an older version can be undeleted"
        if any(each.kind is HeadKind.BLOB for each in head.retained)
        else ""
    )


def _kept(head: Head) -> tuple[Evidence, ...]:
    versions = [each.version for each in entries_of(head) if not each.deleted]
    return (Evidence("versions kept", ", ".join(map(str, versions)) or "none"),)


def _said(answers: Answers, store: StoreId) -> str:
    answer = answers.get(store)
    if answer is None:
        return "is down"
    return answer.error.message if isinstance(answer, Failed) else "does not have it"
