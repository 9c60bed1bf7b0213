"""The keys that heal has in hand: each read as it is now, every version of it mended, and what became of it noted.

They begin together, for the stores are asked about all of them at once, and end each in its own time: a large blob is
in nobody's way. Refuses to choose which keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from holdfast_node.core.api import Margin
from holdfast_node.core.errors import BucketClosing, HoldfastError, Unavailable
from holdfast_node.core.head import NO_BALLOT, Ballot, HeadKind
from holdfast_node.core.heal_order import Ailing, HealOrder
from holdfast_node.core.ids import StoreId
from holdfast_node.core.margin import least
from holdfast_node.services.datapath import DataPath, KeyPlace
from holdfast_node.services.foreground import HealBounds
from holdfast_node.services.mending import Census, Mended, Mender, take_census
from holdfast_node.services.progress import Progress
from holdfast_node.services.recoding import Recoder
from holdfast_node.services.versions import retained_manifest
from holdfast_node.services.wards import WAIT_S, DeletedBuckets, Found

TOGETHER_S: Final = 1.0
"""So long those that began together are waited for: what ends by then is replaced by as many that are asked about at
once."""
TRIES_MAX: Final = 8
"""After so many failures a key is in quarantine: shown, and tried rarely."""
WHY_CHARS_MAX: Final = 500
QUARANTINE_S: Final = 60.0
"""A home whose disk was full or unreadable for long has room again: a minute later its keys must be whole."""
BACKOFF_S: Final = 0.5


class Hands:
    """Mends keys of `order`. The return of who is not `up` will be noticed. `freed` is set when one has ended."""

    def __init__(
        self,
        path: DataPath,
        deleted: DeletedBuckets,
        bounds: HealBounds,
        order: HealOrder,
        *,
        up: Callable[[], AbstractSet[StoreId]],
        freed: asyncio.Event,
    ) -> None:
        self._path: Final = path
        self._closed: Final = deleted.closed
        self._book: Final = deleted.book
        self._mender: Final = Recoder(path, Mender(path, bounds.repair))
        self._order: Final = order
        self._up: Final = up
        self._freed: Final = freed
        self._tasks: Final = bounds.tasks
        self.last_error = ""
        self.progress: Final = Progress()

    async def mend(self, urgent: Sequence[Ailing]) -> None:
        """Begin with these, and wait a while for them."""
        found = await asyncio.gather(*(self._manifests(ailing) for ailing in urgent))
        seeds = dict.fromkeys(
            m.seed_id for each in found if each is not None for m in each[0].manifests if m.parts
        )
        census = await take_census(self._path, list(seeds))
        begun: list[asyncio.Task[None]] = []
        for ailing, key in zip(urgent, found, strict=True):
            if key is not None:
                self._order.in_hand[ailing.name] = ailing
                begun.append(self._tasks.spawn(self._mend_one(ailing, key, census), "mend"))
        if begun:
            _ = await asyncio.wait(begun, timeout=TOGETHER_S)

    async def _manifests(self, ailing: Ailing) -> tuple[Found, Ballot | None] | None:
        """The key as it is now; None (and put off) if that cannot be known."""
        place = KeyPlace(ailing.pool, ailing.bucket, ailing.key)
        try:
            if await self._book.is_gone(place.bucket):
                self._order.remove(ailing)
                return None
            reading = await self._path.registers.read(place.pool, place.bucket, place.key)
            if (reading.ballot or reading.floor or NO_BALLOT) < ailing.accepted:
                if ailing.tries:  # whoever proposed it has had its time
                    await self._path.registers.rewrite(*ailing.name, above=ailing.accepted)
                raise Unavailable("the head that lacks shards is not decided yet")
            head = reading.head
            manifests = [head.manifest] if head.manifest is not None else []
            kept = [entry for entry in head.retained if entry.kind is HeadKind.BLOB]
            manifests += [await retained_manifest(self._path, place, entry) for entry in kept]
        except HoldfastError as error:
            if isinstance(error, BucketClosing) and await self._closed.nothing_behind(place.bucket):
                self._order.remove(ailing)
                return None
            self._failed(ailing, str(error), ailing.margin)
            return None
        except Exception as error:  # noqa: BLE001 - a mistake of ours over one key, which no other is to wait for
            self._path.events.emit("task_failed", task="mend", error=repr(error))
            self._failed(ailing, repr(error), ailing.margin)
            return None
        return Found(place, head, tuple(manifests)), reading.ballot

    async def _mend_one(self, ailing: Ailing, key: tuple[Found, Ballot | None], census: Census) -> None:
        try:
            await self._mend_versions(ailing, key, census)
        except Exception as error:
            self._failed(ailing, repr(error), ailing.margin)
            raise
        finally:
            del self._order.in_hand[ailing.name]
            self._freed.set()

    async def _mend_versions(self, ailing: Ailing, key: tuple[Found, Ballot | None], census: Census) -> None:
        found, base = key
        epoch = census.topology.map.unsettled_epoch
        results: list[Mended] = []
        for manifest in found.manifests:
            try:
                results.append(await self._mender.mend(found, manifest, census, base=base, deep=ailing.deep))
            except HoldfastError as error:
                results.append(Mended(failed=str(error), margin=ailing.margin))
        margin = least(result.margin for result in results)
        failure = next((result.failed for result in results if result.failed), "")
        waiting = {store for result in results for store in result.waiting}
        moved = self._path.topology.map.unsettled_epoch != epoch
        if failure:
            self._failed(ailing, failure, margin)
        elif waiting:
            self._wait(ailing, waiting, margin)
        elif moved:  # a look may have passed it before it was brought to what were its homes
            self._order.put_off(ailing, margin=margin, due_s=0.0, tries=ailing.tries)
        else:
            self._order.remove(ailing)
            self.last_error = ""
        self.progress.step(
            asyncio.get_running_loop().time(),
            bytes_made=sum(result.bytes_written for result in results),
            bytes_read=sum(result.bytes_read for result in results),
            finished=not failure and not waiting and not moved,
        )

    def _wait(self, ailing: Ailing, waiting: set[StoreId], margin: Margin) -> None:
        """For a store that is down: its return is noticed. One that is up missed a question, or had not the map yet:
        that is tried again soon."""
        if waiting <= self._up():
            names = ", ".join(sorted(map(self._path.name, waiting)))
            self._failed(ailing, f"to be asked again: {names}", margin)
        else:
            due_s = asyncio.get_running_loop().time() + WAIT_S
            self._order.put_off(ailing, margin=margin, due_s=due_s, tries=ailing.tries)

    def _failed(self, ailing: Ailing, why: str, margin: Margin) -> None:
        tries = ailing.tries + 1
        pause_s = QUARANTINE_S if tries >= TRIES_MAX else BACKOFF_S * 2**tries
        due_s = asyncio.get_running_loop().time() + pause_s
        self._order.put_off(ailing, margin=margin, due_s=due_s, tries=tries, why=why[:WHY_CHARS_MAX])
        self.last_error = why
        if tries == TRIES_MAX:
            self._path.events.emit(
                "key_quarantined", key=ailing.key.hex(), bucket=ailing.bucket.hex(), error=why
            )
