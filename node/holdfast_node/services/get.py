"""A get: which cells a range needs, fetched ahead in bounded memory, given out in order and verified.

The last chunk of a whole read is held back until the blob's hash is known to be right. Knows no wire.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from holdfast_node.core.api import GetResult, Range
from holdfast_node.core.checksums import BlobHasher
from holdfast_node.core.errors import DeadlineExceeded, HoldfastError, IntegrityError, Unavailable
from holdfast_node.core.geometry import KIB, MIB, Layout, Span, layout_of, resolve_range
from holdfast_node.core.head import Manifest
from holdfast_node.core.ids import BlobId, StoreId
from holdfast_node.core.messages import FindShards, Holdings
from holdfast_node.services.budget import Grant
from holdfast_node.services.cells import CellFetch, PartSource
from holdfast_node.services.datapath import DataPath, KeyPlace, source_of
from holdfast_node.services.fanout import gather, replies
from holdfast_node.services.put import check_key
from holdfast_node.services.versions import info_of, manifest_of

RUN_BYTES: Final = 4 * MIB
"""Payload fetched with one message per holder, and given out as one chunk."""
RUNS_AHEAD_MAX: Final = 3
INLINE_BYTES_MAX: Final = 64 * KIB
"""Cells up to this ride with the register's answer. Larger ones are worth a second round on the bulk stream."""
FIND_TIMEOUT_S: Final = 5.0
FEW_READERS: Final = 8
CROWDED_CHUNK_BYTES: Final = MIB
READER_IDLE_S: Final = 60.0
"""A reader that takes nothing for this long loses its place in memory."""


@dataclass(frozen=True, slots=True)
class Run:
    """Stripes of one part that are fetched together. Several only if all of each is wanted."""

    spans: tuple[Span, ...]

    @property
    def part(self) -> int:
        return self.spans[0].part

    @property
    def stripes(self) -> range:
        return range(self.spans[0].stripe, self.spans[-1].stripe + 1)

    @property
    def cells(self) -> range:
        """The data cells wanted of each stripe."""
        return self.spans[0].cells

    @property
    def memory_bytes(self) -> int:
        """The cells, the chunk made of them, and what the wire makes of that."""
        return 3 * sum(len(span.cells) * span.cell_size for span in self.spans)


def plan_runs(layout: Layout, first: int, last: int) -> Iterator[Run]:
    """The bytes [first, last) as runs: neighbours that want the same cells join up to `RUN_BYTES`."""
    spans: list[Span] = []
    for span in layout.spans(first, last):
        size = sum(each.last - each.first for each in spans)
        if spans and (
            span.part != spans[0].part
            or span.cells != spans[0].cells
            or size + layout.stripe_bytes > RUN_BYTES
        ):
            yield Run(tuple(spans))
            spans = []
        spans.append(span)
    if spans:
        yield Run(tuple(spans))


def assemble(run: Run, cells: Mapping[int, list[bytes]]) -> bytes:
    """The run's bytes from its data cells."""
    found: list[bytes | memoryview] = []
    for at, span in enumerate(run.spans):
        for index in span.cells:
            cell = cells[index][at]
            start, end = span.slice_of(index)
            found.append(cell if end - start == len(cell) else memoryview(cell)[start:end])
    if len(found) == 1 and isinstance(found[0], bytes):
        return found[0]
    return b"".join(found)


@dataclass(slots=True)
class _Ahead:
    """A run on its way."""

    run: Run
    fetch: CellFetch
    grant: Grant


@dataclass(slots=True)
class Crowd:
    """How many read at once. The wire holds a chunk or two of each, which no budget sees: many get smaller ones."""

    readers: int = 0

    @property
    def chunk_bytes(self) -> int:
        return RUN_BYTES if self.readers <= FEW_READERS else CROWDED_CHUNK_BYTES


class BlobReader:
    """Reads one version's bytes [first, last) as an async generator that frees its memory when closed.

    With a `hasher`, which has seen what is before `first`, the last chunk leaves only if the whole is what was stored.
    """

    def __init__(
        self,
        path: DataPath,
        place: KeyPlace,
        manifest: Manifest,
        *,
        span: tuple[int, int],
        crowd: Crowd,
        hasher: BlobHasher | None,
    ) -> None:
        self._path: Final = path
        self._place: Final = place
        self._manifest: Final = manifest
        self._layout: Final = layout_of(manifest)
        self._crowd: Final = crowd
        self._hasher: Final = hasher
        self._runs: Final = plan_runs(self._layout, *span)
        self._upcoming: Run | None = next(self._runs, None)
        self._sources: dict[int, PartSource] = {}
        self._ahead: Final[deque[_Ahead]] = deque()
        self._held: Grant | None = None
        self._elsewhere: dict[tuple[int, int], list[StoreId]] | None = None
        self._reported = False
        self._stalled = False

    async def chunks(self, inlined: Mapping[int, bytes]) -> AsyncGenerator[bytes, None]:
        """First an empty chunk, once the first run is known to be readable; then the bytes, in order.

        `inlined` are cells of a one-stripe blob that are here already.
        """
        loop = asyncio.get_running_loop()
        self._crowd.readers += 1
        try:
            chunk = await self._take(inlined)
            yield b""
            while chunk is not None:
                if self._hasher is not None:
                    self._hasher.update(chunk)
                    self._check_end(self._hasher)
                step = self._crowd.chunk_bytes
                for start in range(0, len(chunk), step):
                    timer = loop.call_later(READER_IDLE_S, self._give_up)
                    try:
                        yield chunk if len(chunk) <= step else chunk[start : start + step]
                    finally:
                        timer.cancel()
                    self._check_awake()
                self._release()
                chunk = await self._take({})
        finally:
            self._crowd.readers -= 1
            self._close()

    def _give_up(self) -> None:
        """The reader has taken nothing for so long that others get its memory."""
        self._stalled = True
        self._close()

    def _check_awake(self) -> None:
        if self._stalled:
            raise DeadlineExceeded(
                f"the reader took nothing for {READER_IDLE_S:.0f} s",
                hint="read on with a range from where it stopped",
            )

    def _check_end(self, hasher: BlobHasher) -> None:
        """Before the last chunk leaves: the whole must be what was stored."""
        if not self._ahead and self._upcoming is None and hasher.digest() != self._manifest.hash:
            raise IntegrityError(
                "the bytes do not hash to what was stored", hint="the last of them were held back"
            )

    async def _take(self, inlined: Mapping[int, bytes]) -> bytes | None:
        """The next run's bytes; None at the end. Its memory is held until `_release`."""
        if not self._ahead:
            if self._upcoming is None:
                return None
            self._begin(await self._path.coordinate.reads.take(self._upcoming.memory_bytes), inlined)
        self._prefetch()
        ahead = self._ahead.popleft()
        self._held = ahead.grant
        return assemble(ahead.run, await self._cells(ahead))

    def _prefetch(self) -> None:
        """More runs, if there is memory without waiting: whoever waits holds nothing."""
        while self._upcoming is not None and len(self._ahead) < RUNS_AHEAD_MAX:
            grant = self._path.coordinate.reads.try_take(self._upcoming.memory_bytes)
            if grant is None:
                return
            self._begin(grant, {})

    def _begin(self, grant: Grant, inlined: Mapping[int, bytes]) -> None:
        run = self._upcoming
        assert run is not None
        self._upcoming = next(self._runs, None)
        fetch = self._fetch(run)
        if inlined:
            fetch.preload(inlined)
        self._ahead.append(_Ahead(run, fetch, grant))
        fetch.start()

    def _release(self) -> None:
        if self._held is not None:
            self._held.release()
            self._held = None

    def _close(self) -> None:
        self._release()
        while self._ahead:
            ahead = self._ahead.popleft()
            ahead.fetch.close()
            ahead.grant.release()

    # --- cells ----------------------------------------------------------------------------------------------

    async def _cells(self, ahead: _Ahead) -> Mapping[int, list[bytes]]:
        try:
            cells: Mapping[int, list[bytes]] = await ahead.fetch.result()
        except Unavailable:
            cells = await self._search(ahead)
        if self._layout.code.kind == "copy":
            return {0: next(iter(cells.values()))}
        return cells

    async def _search(self, ahead: _Ahead) -> Mapping[int, list[bytes]]:
        """Those who should have the shards do not: ask every live store before giving up."""
        if self._elsewhere is None:
            self._elsewhere = await find_elsewhere(self._path, self._manifest.seed_id)
        self._sources.clear()
        again = self._fetch(ahead.run)
        try:
            return await again.run()
        except Unavailable as error:
            name = self._path.name
            said = (*ahead.fetch.evidence(name), *again.evidence(name))
            raise Unavailable(
                error.message,
                evidence=dict.fromkeys(said),
                hint="bring nodes back: `clusterctl status` names them",
            ) from error

    def _fetch(self, run: Run) -> CellFetch:
        source = self._source(run.part)
        return CellFetch(
            self._path.links,
            self._path.codec,
            source,
            stripes=run.stripes,
            wanted=run.cells if self._layout.code.kind != "copy" else (self._nearest(source),),
            damage=self._damaged,
        )

    def _nearest(self, source: PartSource) -> int:
        """Which of several whole copies to read: our own, else one that is up."""
        firsts = [stores[0] if stores else None for stores in source.candidates]
        if self._path.me in firsts:
            return firsts.index(self._path.me)
        up = (
            index for index, store in enumerate(firsts) if store is not None and self._path.links.is_up(store)
        )
        return next(up, 0)

    def _source(self, part: int) -> PartSource:
        source = self._sources.get(part)
        if source is None:
            self._sources = {at: known for at, known in self._sources.items() if at >= part - 1}
            source = source_of(self._path.topology, self._place, self._manifest, part, self._layout.code)
            for index, stores in enumerate(source.candidates):
                found = (self._elsewhere or {}).get((part, index), [])
                stores[:0] = [store for store in found if store not in stores]
            self._sources[part] = source
        return source

    def _damaged(self, store: StoreId, seed_id: BlobId, part: int, index: int) -> None:
        if not self._reported:
            self._reported = True
            self._path.events.emit(
                "shard_not_intact", node=self._path.name(store), seed=seed_id.hex(), part=part, index=index
            )
            self._path.report_damage(self._place)


async def find_elsewhere(path: DataPath, seed_id: BlobId) -> dict[tuple[int, int], list[StoreId]]:
    """(part, index) -> the live stores that hold that shard of the seed."""
    stores = [store for store in path.topology.stores if path.links.is_up(store)]
    request = FindShards((seed_id,))
    answers = await gather(
        path.links, dict.fromkeys(stores, request), timeout_s=FIND_TIMEOUT_S, enough=lambda _: False
    )
    found: dict[tuple[int, int], list[StoreId]] = {}
    for store, holdings in sorted(replies(answers, Holdings).items()):
        for name in holdings.shards:
            found.setdefault((name.part, name.index), []).append(store)
    return found


class Getter:
    """Runs gets; one instance per node."""

    def __init__(self, path: DataPath) -> None:
        self._path: Final = path
        self._crowd: Final = Crowd()

    async def get(self, place: KeyPlace, version: int, wanted: Range) -> GetResult:
        """Raises before the first byte where it can. Close `chunks` when done, or memory stays taken."""
        check_key(place.key)
        inline = INLINE_BYTES_MAX if version == 0 and wanted == Range() else 0
        for last_start in (False, True):
            reading = await self._path.registers.read(
                place.pool, place.bucket, place.key, inline_bytes_max=inline
            )
            manifest = await manifest_of(self._path, place, reading.head, version)
            span = resolve_range(manifest.size, wanted.first, wanted.last)
            number = version or reading.head.version
            chunks = self._chunks(place, number, manifest, span=span, inlined=reading.inlined)
            try:
                await anext(chunks)
            except Unavailable:
                if last_start:
                    raise
                continue
            return GetResult(info_of(place.key, number, manifest), *span, chunks, self._path.topology.map.era)
        raise AssertionError("the last start returns or raises")

    async def _chunks(
        self,
        place: KeyPlace,
        version: int,
        manifest: Manifest,
        *,
        span: tuple[int, int],
        inlined: Mapping[int, bytes],
    ) -> AsyncGenerator[bytes, None]:
        """First an empty chunk; then the bytes, from new shards once the version was made anew in another code."""
        first, last = span
        hasher = BlobHasher() if span == (0, manifest.size) else None
        while True:
            chunks = BlobReader(
                self._path, place, manifest, span=(first, last), crowd=self._crowd, hasher=hasher
            ).chunks(inlined)
            try:
                async for chunk in chunks:
                    first += len(chunk)
                    yield chunk
                return
            except Unavailable:
                anew = await self._made_anew(place, version, manifest)
                if anew is None:
                    raise
                manifest, inlined = anew, {}
            finally:
                await chunks.aclose()

    async def _made_anew(self, place: KeyPlace, version: int, old: Manifest) -> Manifest | None:
        """The same version in other shards than those of `old`; None if there is none."""
        with contextlib.suppress(HoldfastError):
            head = await self._path.registers.head(place.pool, place.bucket, place.key)
            found = await manifest_of(self._path, place, head, version)
            if found.seed_id != old.seed_id and (found.hash, found.size) == (old.hash, old.size):
                return found
        return None
