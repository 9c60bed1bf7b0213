"""Changes what a store has written down of whole partitions: what it learned, where it may not vote, its floors.

Several services change different fields of the same record. They take turns here: two that go by the same record would
each undo what the other wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from holdfast_node.core.index_keys import RecordBody
from holdfast_node.core.records import PartitionRecord

At = tuple[int, int]
"""Pool and partition."""
Changed = Callable[[PartitionRecord], PartitionRecord]


class PartitionFacts:
    """`read` gives what is durable, `append` makes one group of records durable."""

    def __init__(
        self,
        *,
        read: Callable[[int, int], PartitionRecord],
        append: Callable[[Sequence[RecordBody]], asyncio.Future[None]],
    ) -> None:
        self._read: Final = read
        self._append: Final = append
        self._turn: Final = asyncio.Lock()
        self._writing: asyncio.Future[None] | None = None

    async def change(self, changes: Mapping[At, Changed], *, beside: Sequence[RecordBody] = ()) -> None:
        """Replace each record by what its change makes of it, `beside` other things; one group, durable on return.
        Raises what appending does: then all of it may have happened, or nothing."""
        async with self._turn:
            if self._writing is not None:  # for somebody who has given up waiting, perhaps
                _ = await asyncio.wait([self._writing])
            bodies = list(beside)
            for at, changed in sorted(changes.items(), key=lambda each: each[0]):
                own = self._read(*at)
                then = changed(own)
                if then != own:
                    bodies.append(then)
            if bodies:
                self._writing = self._append(bodies)
                await asyncio.shield(self._writing)
