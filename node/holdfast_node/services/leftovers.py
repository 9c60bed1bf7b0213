"""What a store that learns a partition holds there of an earlier time, and nobody shows it.

Whatever was decided is among what enough voting homes show, unless they have forgotten it since. So what they do not
show is known to be nothing, in this generation and from now on: what rotted here as well as what is whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

from holdfast_node.core.catch_up import KeyId, Window
from holdfast_node.core.ids import StoreId
from holdfast_node.core.index_keys import register_row_key
from holdfast_node.core.messages import Scope
from holdfast_node.core.records import RegisterRecord
from holdfast_node.core.topology import Topology
from holdfast_node.services.store import Entry, Store


class Forgetful(Protocol):
    """This store's registers; `services.acceptor.Acceptor` has it."""

    async def forget(self, key: KeyId, wanted: Callable[[RegisterRecord], bool]) -> bool: ...


def older_than(generation: int) -> Callable[[RegisterRecord], bool]:
    """Whether nothing was promised or accepted in a register since an earlier generation."""

    def is_older(own: RegisterRecord) -> bool:
        return own.promised is not None and own.promised.generation < generation

    return is_older


def partitions_of(topology: Topology, key: KeyId) -> list[tuple[int, int]]:
    """Where the key's register may be: its bucket's record, which names the pool, is not for a store to read."""
    return [(pool, topology.key_partition(pool, *key)) for pool in range(len(topology.map.pools))]


class Leftovers:
    """Of one store."""

    def __init__(self, me: StoreId, store: Store, own: Forgetful) -> None:
        self._me: Final = me
        self._store: Final = store
        self._own: Final = own
        self.beyond_learning: Final[set[KeyId]] = set()
        """Rotten keys for which learning their partition again has changed nothing."""

    async def forget(
        self, topology: Topology, relearned: Collection[Scope], after: KeyId, window: Window
    ) -> None:
        """What no source shows in this window of partitions that are learned once more. What they show is learned, and
        stays so if it rots after that: the index knows what was accepted, as of any other register (ADR 0083)."""
        if not relearned:
            return
        shown = {(copy.bucket, copy.key) for copy in window.known}

        def is_unseen(key: KeyId) -> bool:
            return key > after and (window.end is None or key <= window.end) and key not in shown

        generations = {(scope.pool, scope.partition): scope.generation for scope in relearned}
        rotten = [key for key in self._store.rotten_keys() if is_unseen(key)]
        if blanks := self.blank_rot(topology, generations, rotten):
            await self._store.append(blanks)
        start = register_row_key(*after)
        end = register_row_key(*window.end) + b"\0" if window.end is not None else b""
        while start:
            page, start = self._store.inventory.accepted(generations, start, end)
            _ = await asyncio.gather(
                *(
                    self._own.forget(
                        (held.bucket, held.key), older_than(generations[held.pool, held.partition])
                    )
                    for held in page
                    if is_unseen((held.bucket, held.key))
                )
            )
            await asyncio.sleep(0)

    def blank_rot(
        self, topology: Topology, learned: Collection[tuple[int, int]], rotten: Sequence[KeyId]
    ) -> list[Entry]:
        """What rotted here and nobody else has accepted: now known to be nothing, promises of past generations
        included. Where the key may belong to a partition not learned now, it stays unvouched for."""
        kept = {(scope.pool, scope.partition) for scope in topology.kept_by(self._me)}
        blanks: list[Entry] = []
        for key in rotten:
            places = kept.intersection(partitions_of(topology, key))
            if len(places) == 1 and places <= set(learned):
                (at,) = places
                blanks.append(Entry(RegisterRecord(*key, *at, promised=None, accepted=None, head=b"")))
            elif not places.isdisjoint(learned):
                self.beyond_learning.add(key)
        return blanks
