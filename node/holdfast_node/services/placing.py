"""Who holds each shard of one part while it is being written: who sealed, who failed, who may step in.

Wraps `core.holders` with what this attempt has learned of each store. Sends nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from holdfast_node.core.errors import Evidence, HoldfastError, StoreFull, Unavailable
from holdfast_node.core.holders import ack_allowed, choose, replacement
from holdfast_node.core.ids import StoreId
from holdfast_node.services.datapath import DataPath, PartTarget

TRIES_MAX: Final = 4
"""Stores tried for one shard before the part is left without it."""


class Placing:
    """`assigned[i]` is meant to hold shard i, `sealed[i]` does. `bad` stores get nothing more of this part;
    those of them that are `faulty` rather than slow are best avoided for the next part too."""

    def __init__(self, path: DataPath, target: PartTarget, shunned: Collection[StoreId]) -> None:
        self._path: Final = path
        self._target: Final = target
        self._topology: Final = path.topology
        self._partition: Final = target.partition(self._topology)
        up = path.links.is_up
        place = target.place
        try:
            chosen = choose(self._topology, place.pool, self._partition, up, shunned, code=target.code)
        except Unavailable:
            chosen = choose(self._topology, place.pool, self._partition, up, code=target.code)
        self.assigned: dict[int, StoreId] = dict(enumerate(chosen))
        self.sealed: dict[int, StoreId] = {}
        self.bad: dict[StoreId, str] = dict.fromkeys(shunned, "failed an earlier part")
        self.faulty: set[StoreId] = set(shunned)
        self._refused: dict[StoreId, HoldfastError] = {}
        self._tries: dict[int, int] = dict.fromkeys(self.assigned, 1)

    @property
    def missing(self) -> list[int]:
        return [index for index in sorted(self.assigned) if index not in self.sealed]

    def failed(self, store: StoreId, error: HoldfastError | str) -> None:
        self.bad[store] = error if isinstance(error, str) else error.message
        if isinstance(error, HoldfastError):
            self.faulty.add(store)
            self._refused[store] = error

    def replace(self, index: int) -> StoreId | None:
        """Another store for a shard, now assigned to it; None if there is nobody or enough were tried."""
        if self._tries[index] >= TRIES_MAX:
            return None
        store = replacement(
            self._topology,
            self._target.place.pool,
            self._partition,
            index=index,
            holders=self.assigned | self.sealed,
            usable=lambda each: each not in self.bad and self._path.links.is_up(each),
            code=self._target.code,
        )
        if store is None or store == self.assigned[index]:
            return None
        self._tries[index] += 1
        self.assigned[index] = store
        return store

    def check_ack(self) -> None:
        """Raises `Unavailable` or `StoreFull`, naming who answered what, if what is sealed may not be acked."""
        if not ack_allowed(self._topology, self._target.place.pool, self.sealed, self._target.code):
            raise self.refusal()

    def refusal(self) -> Unavailable | StoreFull:
        """Too few shards were sealed: for want of room, if that is all that anybody complained of."""
        said = [Evidence(self._path.name(store), self.bad[store]) for store in sorted(self.bad)]
        held = [
            Evidence(self._path.name(store), f"sealed shard {index}")
            for index, store in sorted(self.sealed.items())
        ]
        told = (
            f"{len(self.sealed)} of {self._target.code.n} shards of part {self._target.part} were sealed, which the "
            "loss of one more could undo"
        )
        full = [store for store, error in self._refused.items() if isinstance(error, StoreFull)]
        if full and len(full) == len(self._refused):
            names = ", ".join(sorted(map(self._path.name, full)))
            return StoreFull(
                f"{told}: only the reserve is left at {names}",
                evidence=(*held, *said),
                hint="delete blobs, add nodes or enlarge the disks",
            )
        return Unavailable(
            told,
            evidence=(*held, *said),
            hint="bring nodes back, or replace lost ones",
        )
