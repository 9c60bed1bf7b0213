"""Pages of registers for learners: however much they pass over, others go on."""

from __future__ import annotations

import asyncio

import pytest

from holdfast_node.core.ids import BucketId
from holdfast_node.services.log import register_reader
from holdfast_node.services.store import Entry
from tests.sim.loop import SimLoop
from tests.support.stores import BUCKET, Bench, register


def test_a_page_is_looked_for_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million registers of other partitions took a second in which a node did nothing else."""
    monkeypatch.setattr(register_reader, "ROWS_AT_ONCE", 4)
    nothing: frozenset[tuple[int, int]] = frozenset()
    everything = frozenset({(0, 0)})

    async def scenario() -> None:
        async with Bench().store() as store:
            keys = [b"k%02d" % number for number in range(40)]
            await store.append([Entry(register(key, 1)) for key in keys])
            page = asyncio.ensure_future(store.register_copies(nothing, BucketId(b""), b"", 2))
            turns = 0
            while not page.done():
                turns += 1
                await asyncio.sleep(0)
            assert turns >= 10
            assert (await page).complete
            seen: list[bytes] = []
            complete, after = False, (BucketId(b""), b"")
            while not complete:
                copies = await store.register_copies(everything, *after, 6)
                seen += [copy.key for copy in copies.copies]
                complete, after = copies.complete, (BUCKET, seen[-1])
            assert seen == keys

    SimLoop(1).run(scenario())
