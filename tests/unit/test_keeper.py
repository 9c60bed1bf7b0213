"""A holder of shards on a real store: what it takes in, what it seals, what it drops."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from holdfast_node.core.checksums import cell_checksum
from holdfast_node.core.errors import IntegrityError, ShardMissing, StoreFull, Unavailable
from holdfast_node.core.ids import ClusterId, Digest
from holdfast_node.core.messages import (
    DropShards,
    FindShards,
    Prepare,
    PrepareReply,
    Request,
    Seal,
    ShardHeader,
    ShardName,
    StageCell,
    StageWhole,
)
from holdfast_node.core.records import DropRecord
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.keeper import Keeper
from holdfast_node.services.store import Entry, Store
from tests.support.maps import node, store_id
from tests.support.stores import BUCKET, Bench, ballot, blob_id

SEED = blob_id(7)
NAME = ShardName(SEED, 0, 2)
CELLS = (b"first cell, here", b"another cell, 16")
STRIPE_BYTES = 4 * len(CELLS[0])


class Holder:
    """A keeper; `ask` begins a request and does not wait for its answer."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.damaged: list[ShardName] = []
        self.epoch = 1
        self._keeper = Keeper(
            store=store,
            prepare_with=no_promise,
            report_damage=self.damaged.append,
            epoch=lambda: self.epoch,
        )

    def ask(self, request: Request) -> asyncio.Task[Any]:
        serve = self._keeper.handlers()[type(request)]

        async def asked() -> object:
            return await serve(Caller(store_id(2), node(2).name), request)

        return asyncio.get_running_loop().create_task(asked())


async def no_promise(request: Prepare, entries: Sequence[Entry]) -> PrepareReply:
    raise AssertionError("no prepare comes along here")


def play(story: Callable[[Holder], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Bench().store() as store:
            await story(Holder(store))

    asyncio.run(main())


def stage(stripe: int, payload: bytes | None = None) -> StageCell:
    payload = CELLS[stripe] if payload is None else payload
    checksum = cell_checksum(SEED, NAME.part, NAME.index, stripe, payload)
    return StageCell(BUCKET, b"key", SEED, NAME.part, NAME.index, stripe, checksum, ballot(1), payload)


def header(cells: Sequence[bytes] = CELLS) -> ShardHeader:
    digests = [cell_checksum(SEED, NAME.part, NAME.index, at, cell) for at, cell in enumerate(cells)]
    return ShardHeader(
        cluster_id=ClusterId(b"C" * 16),
        bucket=BUCKET,
        key=b"key",
        seed_id=SEED,
        part=NAME.part,
        index=NAME.index,
        code="rs:4+2",
        part_size=STRIPE_BYTES * len(cells),
        stripe_bytes=STRIPE_BYTES,
        cell_checksums=tuple(digests),
        base=ballot(1),
    )


WRONG = {
    "a bit of it": replace(stage(0), payload=bytes([CELLS[0][0] ^ 1]) + CELLS[0][1:]),
    "the end of it": replace(stage(0), payload=CELLS[0][:-1]),
    "its checksum": replace(stage(0), checksum=Digest(bytes(16))),
    "its stripe": replace(stage(0), stripe=1),
    "its shard": replace(stage(0), index=3),
    "its part": replace(stage(0), part=1),
    "its blob": replace(stage(0), seed_id=blob_id(8)),
}


@pytest.mark.parametrize("cell", WRONG.values(), ids=WRONG)
def test_what_did_not_arrive_as_it_was_sent_is_not_kept(cell: StageCell) -> None:
    async def story(holder: Holder) -> None:
        with pytest.raises(IntegrityError):
            await holder.ask(cell)
        assert holder.store.cell_checksum(cell.seed_id, cell.part, cell.index, cell.stripe) is None

    play(story)


def test_a_whole_shard_that_did_not_arrive_as_it_was_sent_is_not_kept() -> None:
    async def story(holder: Holder) -> None:
        with pytest.raises(IntegrityError):
            await holder.ask(StageWhole(header(CELLS[:1]), None, CELLS[1]))
        assert holder.store.shard(NAME) is None
        await holder.ask(StageWhole(header(CELLS[:1]), None, CELLS[0]))
        assert holder.store.shards_of(SEED) == (NAME,)

    play(story)


def test_a_seal_waits_for_the_cells_that_are_on_their_way() -> None:
    async def story(holder: Holder) -> None:
        asked = [holder.ask(stage(0)), holder.ask(stage(1)), holder.ask(Seal(header()))]
        for answer in asked:
            await answer
        assert await holder.store.cells(NAME, 0, 2) == list(CELLS)

    play(story)


def test_a_seal_is_refused_while_a_cell_is_missing_or_another() -> None:
    async def story(holder: Holder) -> None:
        await holder.ask(stage(0))
        with pytest.raises(ShardMissing, match="cell 1"):
            await holder.ask(Seal(header()))
        await holder.ask(stage(1, b"not what is said"))
        with pytest.raises(IntegrityError, match="cell 1"):
            await holder.ask(Seal(header()))
        assert holder.store.shards_of(SEED) == ()
        await holder.ask(stage(1))
        await holder.ask(Seal(header()))
        assert holder.store.shards_of(SEED) == (NAME,)

    play(story)


def test_a_sealed_shard_is_written_again_only_with_the_same_bytes() -> None:
    async def story(holder: Holder) -> None:
        for request in (stage(0), stage(1), Seal(header()), stage(0)):
            await holder.ask(request)
        with pytest.raises(IntegrityError, match="sealed"):
            await holder.ask(stage(0, b"something else 1"))
        with pytest.raises(IntegrityError, match="sealed"):
            await holder.ask(StageWhole(header((b"something else 1",)), None, b"something else 1"))
        assert await holder.store.cells(NAME, 0, 2) == list(CELLS)

    play(story)


def test_a_drop_does_not_overtake_the_cells_it_is_for() -> None:
    async def story(holder: Holder) -> None:
        asked = [holder.ask(stage(0)), holder.ask(stage(1))]
        dropped = holder.ask(DropShards((NAME,)))
        for answer in (*asked, dropped):
            await answer
        await holder.store.append([], bulk=True)
        assert holder.store.shard(NAME) is None
        assert holder.store.cell_checksum(SEED, 0, 2, 0) is None
        assert holder.store.cell_checksum(SEED, 0, 2, 1) is None

    play(story)


def test_what_was_decided_under_an_older_map_is_not_dropped() -> None:
    """This store may be the home now, and the one that was read back may have been told to drop its own."""

    async def story(holder: Holder) -> None:
        await holder.ask(stage(0))
        holder.epoch = 3
        with pytest.raises(Unavailable, match="newer than 2"):
            await holder.ask(DropShards((NAME,), epoch=2))
        assert holder.store.shard(NAME) is not None
        assert (await holder.ask(DropShards((NAME,), epoch=3))).dropped == 1
        assert holder.store.shard(NAME) is None

    play(story)


def test_whoever_has_said_what_it_holds_drops_nothing_by_an_older_map() -> None:
    """Not before it has the map of the question; and what it is about to drop by that time, it does not hold."""

    async def story(holder: Holder) -> None:
        for request in (stage(0), stage(1), Seal(header())):
            await holder.ask(request)
        with pytest.raises(Unavailable, match="not yet 2"):
            await holder.ask(FindShards((SEED,), epoch=2))
        assert (await holder.ask(FindShards((SEED,), epoch=1))).shards == (NAME,)
        append = holder.store.append
        found: list[asyncio.Task[Any]] = []

        def ask_meanwhile(
            entries: Sequence[Entry], *, bulk: bool = False, reserve: bool = False
        ) -> asyncio.Future[None]:
            holder.epoch = 2
            found.append(holder.ask(FindShards((SEED,), epoch=2)))
            return append(entries, bulk=bulk, reserve=reserve)

        holder.store.append = ask_meanwhile  # type: ignore[method-assign]
        await holder.ask(DropShards((NAME,), epoch=1))
        assert (await found[0]).shards == ()

    play(story)


async def _all_so_far(holder: Holder) -> None:
    """Bulk keeps its order: what was taken before this is durable."""
    other = StageWhole(replace(header(CELLS[:1]), seed_id=blob_id(9)), None, CELLS[0])
    checksum = cell_checksum(blob_id(9), NAME.part, NAME.index, 0, CELLS[0])
    await holder.ask(replace(other, header=replace(other.header, cell_checksums=(checksum,))))


def test_no_cell_is_kept_without_a_word_whose_it_is() -> None:
    """The first is refused while it is on its way, and those behind it are not."""

    async def story(holder: Holder) -> None:
        append = holder.store.append
        refused: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def refuse_the_first(
            entries: Sequence[Entry], *, bulk: bool = False, reserve: bool = False
        ) -> asyncio.Future[None]:
            if not refused.done():
                refused.set_exception(StoreFull("planted"))
                return refused
            return append(entries, bulk=bulk, reserve=reserve)

        holder.store.append = refuse_the_first  # type: ignore[method-assign]
        _ = await asyncio.gather(holder.ask(stage(0)), holder.ask(stage(1)))
        with pytest.raises(StoreFull):
            await holder.ask(Seal(header()))
        await _all_so_far(holder)
        origin = await holder.store.origin(NAME)
        assert origin is not None
        assert origin.key == b"key"
        await holder.ask(DropShards((NAME,)))
        assert holder.store.cell_checksum(SEED, NAME.part, NAME.index, 1) is None

    play(story)


def test_a_cell_that_comes_while_its_shard_goes_says_whose_it_is() -> None:
    async def story(holder: Holder) -> None:
        await holder.ask(stage(0))
        await _all_so_far(holder)
        append = holder.store.append
        late: list[asyncio.Task[Any]] = []

        def drop_with_a_cell_behind(
            entries: Sequence[Entry], *, bulk: bool = False, reserve: bool = False
        ) -> asyncio.Future[None]:
            if not late and isinstance(entries[0].body, DropRecord):
                late.append(holder.ask(stage(1)))
            return append(entries, bulk=bulk, reserve=reserve)

        holder.store.append = drop_with_a_cell_behind  # type: ignore[method-assign]
        await holder.ask(DropShards((NAME,)))
        await late[0]
        await _all_so_far(holder)
        assert await holder.store.origin(NAME) is not None
        await holder.ask(DropShards((NAME,)))
        assert holder.store.cell_checksum(SEED, NAME.part, NAME.index, 1) is None

    play(story)
