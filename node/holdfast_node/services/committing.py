"""The last step of a write that names shards: its head is decided, and whoever must mend it knows of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import Evidence, Unavailable
from holdfast_node.core.head import Manifest
from holdfast_node.core.holders import ack_allowed
from holdfast_node.core.ids import StoreId
from holdfast_node.core.messages import DegradedKey
from holdfast_node.core.operation import Operation
from holdfast_node.services.datapath import DataPath, KeyPlace, homes_to_fill
from holdfast_node.services.margins import manifest_margin
from holdfast_node.services.registers import Attempt, Outcome

NOBODY: Final = StoreId(b"")


async def commit_known(
    path: DataPath, place: KeyPlace, manifest: Manifest, attempt: Attempt, operation: Operation
) -> Outcome:
    """Decide the head. If some shard is not at its home, the partition's steward has taken note when this returns, or
    is told as soon as it can be. Raises what the commit raises; then, too, what may be named is told."""
    try:
        outcome = await path.registers.commit(attempt, operation)
    except BaseException:
        if attempt.accept_sent and (key := _degraded(path, place, manifest)) is not None:
            path.notices.later(_at(path, place), key)
        raise
    if (key := _degraded(path, place, manifest)) is not None:
        await path.notices.before_ack(_at(path, place), key, outcome.accepted)
    return outcome


def check_ack(path: DataPath, place: KeyPlace, manifest: Manifest) -> None:
    """Raises `Unavailable` if the holders that some part names are fewer than the pool's floor."""
    code = parse_code(manifest.code)
    for number, part in enumerate(manifest.parts):
        holders = {index: store for index, store in enumerate(part.holders) if store}
        if not ack_allowed(path.topology, place.pool, holders, code):
            raise Unavailable(
                f"{len(holders)} of {code.n} shards of part {number} are within reach",
                evidence=[Evidence(path.name(store), f"shard {i}") for i, store in holders.items()],
                hint="bring nodes back",
            )


def within_reach(path: DataPath, manifest: Manifest) -> Manifest:
    """As if whoever is down had none of its shards."""
    parts = (
        replace(part, holders=tuple(store if path.links.is_up(store) else NOBODY for store in part.holders))
        for part in manifest.parts
    )
    return replace(manifest, parts=tuple(parts))


def _at(path: DataPath, place: KeyPlace) -> tuple[int, int]:
    return place.pool, path.topology.key_partition(place.pool, place.bucket, place.key)


def _degraded(path: DataPath, place: KeyPlace, manifest: Manifest) -> DegradedKey | None:
    """None if every shard was sealed at its home."""
    lacking = dict.fromkeys(homes_to_fill(path.topology, place, manifest, fresh=True))
    if not lacking:
        return None
    survives = manifest_margin(path, place, manifest).entries
    least = min(count for _, count in survives)
    return DegradedKey(place.bucket, place.key, least, tuple(lacking), survives)
