"""Whose a shard is. Its seal says so; where that is broken, the seals of the seed's other shards do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.ids import BlobId, BucketId, StoreId
from holdfast_node.core.messages import NameSeeds, SeedNames, ShardHeader, ShardName
from holdfast_node.services.datapath import DataPath
from holdfast_node.services.fanout import gather, replies

NAME_TIMEOUT_S: Final = 5.0


class SealStore(Protocol):
    """What of the store is needed; `services.store.Store` has it."""

    async def shard_header(self, name: ShardName) -> ShardHeader | None: ...


@dataclass(frozen=True, slots=True)
class Named:
    """The keys that shards belong to. `certain`: if some were not named, every store was asked and answered."""

    keys: tuple[tuple[BucketId, bytes], ...]
    certain: bool


class Namer:
    def __init__(self, path: DataPath, store: SealStore) -> None:
        self._path: Final = path
        self._store: Final = store

    async def keys_of(self, shards: Sequence[ShardName]) -> Named:
        """The keys these shards of this store belong to, as far as anybody who is up can tell."""
        certain = True
        keys: dict[tuple[BucketId, bytes], None] = {}
        nameless: dict[BlobId, None] = {}
        for name in shards:
            try:
                header = await self._store.shard_header(name)
            except HoldfastError:
                nameless[name.seed_id] = None
                continue
            if header is not None:
                keys[header.bucket, header.key] = None
        if nameless:
            answers = await self._ask(list(nameless))
            for found in (found for store in sorted(answers) for found in answers[store].names):
                nameless.pop(found.seed_id, None)
                keys[found.bucket, found.key] = None
            certain = not nameless or len(answers) == len(self._path.topology.stores)
            for seed in nameless:
                self._path.events.emit("shard_nameless", seed=seed.hex())
        return Named(tuple(keys), certain)

    async def _ask(self, seeds: Sequence[BlobId]) -> dict[StoreId, SeedNames]:
        up = [store for store in self._path.topology.stores if self._path.links.is_up(store)]
        answers = await gather(
            self._path.links,
            dict.fromkeys(up, NameSeeds(tuple(seeds))),
            timeout_s=NAME_TIMEOUT_S,
            enough=lambda so_far: {
                name.seed_id for each in replies(so_far, SeedNames).values() for name in each.names
            }.issuperset(seeds),
        )
        return replies(answers, SeedNames)
