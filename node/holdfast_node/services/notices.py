"""A write whose shards are not all at home is known to its partition's steward before it is acknowledged.

The steward hears of heads by the accepts it gets, and may miss one: it was lost, or its own store was full. Whoever
wrote then tells it, and goes on telling until some steward has taken note; until then it says so itself to whoever asks
for status. Nobody else need remember: a store that dies, or comes back, makes all stewards look again. Mends nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Protocol

from holdfast_node.core.api import Margin
from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.heal_order import NO_MARGIN_KNOWN
from holdfast_node.core.ids import StoreId
from holdfast_node.core.margin import gravity, least
from holdfast_node.core.messages import DegradedKey, NoteDegraded, NoteDegradedReply, PartitionHealth
from holdfast_node.core.picture import worse
from holdfast_node.core.topology import Topology
from holdfast_node.ports import Links
from holdfast_node.services.fanout import call
from holdfast_node.services.places import Maps
from holdfast_node.services.status import STATUS_TIMEOUT_S
from holdfast_node.services.tasks import Tasks

TELL_TIMEOUT_S: Final = 0.5
"""Acknowledgements of degraded writes wait so long at most."""
RETRY_S: Final = 0.5
KEYS_MAX: Final = 128
"""Named in one notice, and remembered for one partition: 1.3 KiB each at most, and a control frame takes 256 KiB."""
UNTOLD_MAX: Final = 4096
"""Remembered for all partitions together."""
LINGER_S: Final = 2 * STATUS_TIMEOUT_S
"""So long status hears of it here as well: it may have asked the steward just before that one was told."""

At = tuple[int, int]


class Stewardship(Protocol):
    """This store's own healer; `services.healer.Healer` is one."""

    def note(self, notice: NoteDegraded) -> None:
        """Raises `NotVoting` if this store is not the steward."""
        ...


@dataclass(slots=True)
class _Untold:
    keys: dict[DegradedKey, None] = field(default_factory=dict[DegradedKey, None])
    more: bool = False


class Notices:
    """Use `before_ack` before a degraded write is acknowledged, `later` where nothing waits."""

    def __init__(self, *, me: StoreId, links: Links, maps: Maps, tasks: Tasks, own: Stewardship) -> None:
        self._me: Final = me
        self._links: Final = links
        self._maps: Final = maps
        self._tasks: Final = tasks
        self._own: Final = own
        self._untold: dict[At, _Untold] = {}
        self._lately: dict[At, tuple[float, PartitionHealth]] = {}
        """What stewards have been told, and until when it is told here as well."""

    def health(self) -> tuple[PartitionHealth, ...]:
        """What this node wrote and the steward may not know of, as one would report it that knows nothing else."""
        untold = [NoteDegraded(*at, tuple(each.keys), each.more) for at, each in self._untold.items()]
        now_s = asyncio.get_running_loop().time()
        lately = [row for until_s, row in self._lately.values() if until_s > now_s]
        return (*map(_reported, untold), *lately)

    async def before_ack(self, at: At, key: DegradedKey, heard: Collection[StoreId]) -> None:
        """`heard` are stores that have accepted the head: the steward among them knows. Raises nothing."""
        topology = self._maps.topology
        steward = self._steward(topology, at) if topology is not None else None
        if steward is not None and steward in heard:
            return
        if not await self._told(NoteDegraded(*at, (key,), more=False)):
            self.later(at, key)

    def later(self, at: At, key: DegradedKey) -> None:
        """Tell, until a steward has taken note. Not while this node shuts down: its return makes all look again."""
        untold = self._untold.get(at)
        if untold is None:
            untold = self._untold[at] = _Untold()
            with contextlib.suppress(RuntimeError):
                _ = self._tasks.spawn(self._tell(at, untold), "notices")
        remembered = sum(len(each.keys) for each in self._untold.values())
        if len(untold.keys) < KEYS_MAX and remembered < UNTOLD_MAX:
            untold.keys[key] = None
        else:
            untold.more = True

    async def _tell(self, at: At, untold: _Untold) -> None:
        while untold.keys or untold.more:
            notice = NoteDegraded(*at, tuple(untold.keys), untold.more)
            if await self._told(notice):
                self._remember(notice)
                for key in notice.keys:
                    untold.keys.pop(key, None)
                untold.more = untold.more and not notice.more
            else:
                await asyncio.sleep(RETRY_S)
        del self._untold[at]

    def _remember(self, notice: NoteDegraded) -> None:
        """One row a partition, however many notices there were: of a busy one it lingers longer."""
        at, row = (notice.pool, notice.partition), _reported(notice)
        now_s = asyncio.get_running_loop().time()
        until_s, before = self._lately.get(at, (now_s, row))
        self._lately[at] = (now_s + LINGER_S, worse(row, before) if until_s > now_s else row)

    async def _told(self, notice: NoteDegraded) -> bool:
        topology = self._maps.topology
        steward = self._steward(topology, (notice.pool, notice.partition)) if topology is not None else None
        if steward is None:
            return False
        try:
            if steward == self._me:
                self._own.note(notice)
            else:
                await call(self._links, steward, notice, expect=NoteDegradedReply, timeout_s=TELL_TIMEOUT_S)
        except HoldfastError:
            return False
        return True

    def _steward(self, topology: Topology, at: At) -> StoreId | None:
        """The first voting home that is up."""
        homes = topology.voting_homes(*at)
        return next((home for home in homes if home == self._me or self._links.is_up(home)), None)


def _reported(notice: NoteDegraded) -> PartitionHealth:
    margin = least(Margin(key.survives, full=False) for key in notice.keys)
    return PartitionHealth(
        notice.pool,
        notice.partition,
        blobs=0,
        bytes=0,
        healed_epoch=0,
        exceptions=len(notice.keys),
        least_margin=min(gravity(margin), default=NO_MARGIN_KNOWN),
        survives=margin.entries,
        former=-1,
    )
