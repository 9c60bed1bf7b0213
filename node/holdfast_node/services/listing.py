"""LIST, from any node: asks enough voting homes of every partition, settles what they disagree on, fills a page.

Sees everything that was acknowledged before it began. Knows nothing of bucket names or of shards.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Final

from holdfast_node.core.api import ListOptions, ListResult
from holdfast_node.core.errors import Evidence, HoldfastError, StaleGeneration, Unavailable
from holdfast_node.core.head import Head, HeadKind
from holdfast_node.core.ids import BucketId, StoreId
from holdfast_node.core.listing import (
    PAGE_SIZE_MAX,
    Electorate,
    Merged,
    Page,
    Query,
    Sighting,
    check_query,
    decode_token,
    encode_token,
    info_of_head,
    info_of_row,
    merge,
    plan,
)
from holdfast_node.core.messages import ListRegisters, RegisterPage, Scope
from holdfast_node.core.topology import Topology
from holdfast_node.ports import Failed, Links
from holdfast_node.services.fanout import gather, replies
from holdfast_node.services.places import Maps, current_topology, newer_map
from holdfast_node.services.registers import Registers

LIST_TIMEOUT_S: Final = 5.0
SETTLE_PARALLEL: Final = 16
"""Register reads in flight for one listing."""
FETCHES_MAX: Final = 64
"""Rounds for one page: a long run of deleted keys gives a short page with a token instead of a long wait."""
GENERATIONS_MAX: Final = 4


class Listing:
    """Pages over the registers of a bucket."""

    def __init__(self, *, me: StoreId, links: Links, maps: Maps, registers: Registers) -> None:
        self._me: Final = me
        self._links: Final = links
        self._maps: Final = maps
        self._registers: Final = registers

    async def page(self, pool: int, bucket: BucketId, options: ListOptions) -> ListResult:
        """Raises `InvalidArgument` for a foreign token, `Unavailable` naming who did not answer."""
        query = Query(bucket, options.prefix, options.delimiter)
        check_query(query, options.page_size)
        page = Page(query, options.page_size, decode_token(query, options.page_token))
        for _ in range(FETCHES_MAX):
            if page.position is None or page.full:
                break
            merged = await self._fetch(pool, query, page.position, options.page_size)
            await self._fill(pool, query, page, merged)
        token = encode_token(query, page.position) if page.position is not None else b""
        return ListResult(
            tuple(page.blobs), tuple(page.prefixes), token, current_topology(self._maps).map.era
        )

    async def scan(self, pool: int, bucket: BucketId) -> AsyncIterator[tuple[bytes, Head]]:
        """Every live key of the bucket in order with its decided head, a page at a time."""
        query = Query(bucket, b"", b"")
        position: bytes | None = b""
        while position is not None:
            page = Page(query, PAGE_SIZE_MAX + 1, position)
            merged = await self._fetch(pool, query, position, PAGE_SIZE_MAX)
            page.reached(merged.last)
            keys = [s.key for s in merged.sightings if s.row is None or s.row.kind == HeadKind.BLOB]
            for at in range(0, len(keys), SETTLE_PARALLEL):
                batch = keys[at : at + SETTLE_PARALLEL]
                heads = await self._heads(pool, bucket, batch)
                for key in batch:
                    if heads[key].kind is HeadKind.BLOB:
                        yield key, heads[key]
            position = page.position

    async def _fill(self, pool: int, query: Query, page: Page, merged: Merged) -> None:
        """Add the sightings in order, settling a few disputed ones ahead at a time."""
        pending = list(merged.sightings)
        heads: dict[bytes, Head] = {}
        for at, sighting in enumerate(pending):
            if page.full:
                return
            if not page.wants(sighting.key):
                continue
            if sighting.row is None and sighting.key not in heads:
                heads |= await self._heads(pool, query.bucket, _disputed(pending[at:], page))
            info = (
                info_of_row(sighting.row)
                if sighting.row is not None
                else info_of_head(sighting.key, heads[sighting.key])
            )
            page.add(sighting.key, info)
        if not page.full or merged.last is None:
            page.reached(merged.last)

    async def _heads(self, pool: int, bucket: BucketId, keys: Iterable[bytes]) -> dict[bytes, Head]:
        """Register reads of up to `SETTLE_PARALLEL` keys at once; the first failure is raised when all have ended."""
        heads: dict[bytes, Head] = {}
        errors: list[HoldfastError] = []

        async def read(key: bytes) -> None:
            try:
                heads[key] = await self._registers.head(pool, bucket, key)
            except HoldfastError as error:
                errors.append(error)

        async with asyncio.TaskGroup() as group:
            for key in keys:
                group.create_task(read(key))
        if errors:
            raise errors[0]
        return heads

    async def _fetch(self, pool: int, query: Query, start: bytes, limit: int) -> Merged:
        """One page of every store that has to be asked; stores that fail are replaced by others."""
        excluded: dict[StoreId, HoldfastError] = {}
        generations = 0
        while True:
            topology = current_topology(self._maps)
            asked = self._plan(topology, pool, excluded)
            requests = {
                store: ListRegisters(scopes, query.bucket, query.prefix, start, limit)
                for store, scopes in asked.items()
            }
            answers = await gather(self._links, requests, timeout_s=LIST_TIMEOUT_S, enough=lambda _: False)
            pages = replies(answers, RegisterPage)
            failed = {s: a.error for s, a in answers.items() if isinstance(a, Failed)}
            if not failed:
                return merge(asked, pages, _moves(topology, pool))
            stale = next((s for s in sorted(failed) if isinstance(failed[s], StaleGeneration)), None)
            if stale is not None and generations < GENERATIONS_MAX:
                generations += 1
                await newer_map(self._maps, asked[stale][0], stale)
                continue
            excluded |= failed

    def _plan(
        self, topology: Topology, pool: int, excluded: Mapping[StoreId, HoldfastError]
    ) -> dict[StoreId, tuple[Scope, ...]]:
        electorates = [
            Electorate(
                scope,
                self._best_first(topology.voting_homes(pool, scope.partition)),
                topology.enough_to_see(pool, scope.partition),
            )
            for scope in topology.scopes(pool)
        ]
        try:
            return plan(electorates, frozenset(excluded))
        except Unavailable as error:
            said = [Evidence(topology.name(store), excluded[store].message) for store in sorted(excluded)]
            raise Unavailable(error.message, evidence=said) from error

    def _best_first(self, voters: Iterable[StoreId]) -> tuple[StoreId, ...]:
        return tuple(
            sorted(voters, key=lambda s: (s != self._me and not self._links.is_up(s), s != self._me))
        )


def _moves(topology: Topology, pool: int) -> dict[int, int]:
    entries = enumerate(topology.pool(pool).partitions)
    return {number: entry.generation for number, entry in entries if entry.moving}


def _disputed(sightings: Iterable[Sighting], page: Page) -> list[bytes]:
    """The next few keys that will need a register read if the page gets that far."""
    found = [s.key for s in sightings if s.row is None and page.wants(s.key)]
    return found[:SETTLE_PARALLEL]
