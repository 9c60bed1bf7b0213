"""Ballots of this store's proposers: each above everything this process has met, each used once.

A counter that runs ahead of what others use costs nothing; one that lags costs a refusal. So every ballot
that passes by, as proposer or as home, is observed. Correctness needs only that no ballot is minted twice.
"""

from __future__ import annotations

from typing import Final

from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import StoreId


class Ballots:
    """Of `store`, this node's own; `boot` makes the ballots of its different runs different."""

    def __init__(self, store: StoreId, boot: int) -> None:
        self.store: Final = store
        self._boot: Final = boot
        self._attempt = 0
        self._highest = 0

    def observe(self, counter: int) -> None:
        self._highest = max(self._highest, counter)

    def mint(self, generation: int) -> Ballot:
        self._highest += 1
        self._attempt += 1
        return Ballot(generation, self._highest, self.store, self._boot, self._attempt)
