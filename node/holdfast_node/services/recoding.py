"""A blob in a code that its pool had before, made anew in the one it has: copied, read back, and only then pointed at.

The version, its bytes and everything a caller sees of it stay; whoever writes the key meanwhile wins. What the blob
survives is never less for it, unless every new shard is at its home: then that is what the operator asked for.
Refuses to choose what to mend and to know how bytes are written (`put`). ADR 0092.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from holdfast_node.core.api import Margin
from holdfast_node.core.errors import BucketClosing, Evidence, HoldfastError, Unavailable
from holdfast_node.core.geometry import MIB
from holdfast_node.core.head import Ballot, Manifest
from holdfast_node.core.margin import is_grave, least
from holdfast_node.services.budget import CoordinateMemory
from holdfast_node.services.datapath import DataPath, KeyPlace
from holdfast_node.services.get import BlobReader, Crowd
from holdfast_node.services.mending import Census, Mended, Mender, plans_of, take_census
from holdfast_node.services.put import Putter, Recoding
from holdfast_node.services.wards import Found

AT_ONCE: Final = 2
"""Blobs made anew at once. Each waits for memory to write in while it holds what it reads: few enough cannot wait in a
circle."""
MEMORY_BYTES: Final = 128 * MIB
"""Beside what callers share: they never wait for a change of code, nor it for them."""


class Recoder:
    """Mends what is in the pool's code, and makes anew the current version that is not."""

    def __init__(self, path: DataPath, mender: Mender) -> None:
        own = CoordinateMemory(MEMORY_BYTES)
        self._path: Final = replace(path, coordinate=own)
        self._mender: Final = mender
        self._putter: Final = Putter(self._path)
        self._crowd: Final = Crowd()
        self._turns: Final = asyncio.Semaphore(AT_ONCE)

    async def mend(
        self, found: Found, manifest: Manifest, census: Census, *, base: Ballot | None, deep: bool
    ) -> Mended:
        """One version of the key `found`. Versions kept for undo stay in the code they are in, until they expire.

        What is damaged, or grave, waits for no turn: it is mended in the code it is in, and made anew once a look has
        found it again."""
        if manifest is found.head.manifest and found.in_former_code(self._path.topology):
            if deep or _can_be_saved(found.place, manifest, census):
                saved = await self._mender.mend(found.place, manifest, census, base=base, deep=deep)
                if saved.in_order:
                    return saved
            # Behind a closed door nobody can point at anything, and nobody has to yet.
            with contextlib.suppress(BucketClosing):
                async with self._turns:
                    return await self._recode(found.place, manifest, census)
        return await self._mender.mend(found.place, manifest, census, base=base, deep=deep)

    async def _recode(self, place: KeyPlace, old: Manifest, census: Census) -> Mended:
        before = least(plan.margin for plan in plans_of(place, old, census))
        result = Mended(margin=before)

        async def proven(new: Manifest, base: Ballot) -> None:
            found = await take_census(self._path, [new.seed_id, old.seed_id])
            made = await self._mender.mend(place, new, found, base=base, deep=True)
            if made.failed or not self._path.topology.is_current(place.pool, new.code):
                raise Unavailable(made.failed or "the pool's code has changed again")
            unproven = any(store in found.silent for part in new.parts for store in part.holders)
            if unproven or not made.in_order:
                # As the old ones are now: what was down when heal took the key in hand may be back.
                _refuse_less(least(plan.margin for plan in plans_of(place, old, found)), made.margin)
            result.margin = made.margin
            result.shards_made = sum(map(len, (part.holders for part in new.parts)))
            result.bytes_read, result.bytes_written = old.size, new.size

        span = (0, old.size)
        chunks = BlobReader(self._path, place, old, span=span, crowd=self._crowd, hasher=None).chunks({})
        try:
            await self._putter.recode(place, Recoding(old, proven), chunks)
        except BucketClosing:
            raise
        except HoldfastError as error:
            result.failed = str(error)
        else:
            self._path.events.emit(
                "blob_recoded", bucket=place.bucket.hex(), key=place.key.hex(), before=old.code
            )
        finally:
            await chunks.aclose()
        return result


def _can_be_saved(place: KeyPlace, manifest: Manifest, census: Census) -> bool:
    """It is grave, and some home that said what it holds lacks its shard."""
    plans = plans_of(place, manifest, census)
    return is_grave(least(plan.margin for plan in plans)) and any(plan.missing for plan in plans)


def _refuse_less(before: Margin, after: Margin) -> None:
    """Raises `Unavailable` if the new shards, some of them away from home, survive less than the old ones."""
    now: Mapping[str, int] = dict(after.entries)
    worse = [Evidence(tag, f"{now[tag]}, not {count}") for tag, count in before.entries if now[tag] < count]
    if worse:
        raise Unavailable(
            "in the new code it would survive fewer losses than it does: not all homes are there",
            evidence=worse,
            hint="bring nodes back, or replace lost ones",
        )
