"""What the services of the map meet the world through, in one hand. Decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from holdfast_node.core.errors import ClusterError, HoldfastError
from holdfast_node.core.ids import NodeName
from holdfast_node.core.messages import Introduce, IntroduceReply
from holdfast_node.ports import Bodies, Entropy, Links
from holdfast_node.services.events import Events
from holdfast_node.services.store import Store
from holdfast_node.services.tasks import Tasks

MEET_TIMEOUT_S: Final = 3.0

Met = IntroduceReply | HoldfastError


@dataclass(frozen=True, slots=True)
class MapPorts:
    store: Store
    links: Links
    bodies: Bodies
    entropy: Entropy
    events: Events
    tasks: Tasks

    def introduction(self) -> Introduce:
        """Of this life as it began: who has seen more of an earlier one can tell by that, and not by what was written
        since."""
        block = self.store.superblock
        return Introduce(
            node=NodeName(block.node),
            store=block.store,
            cluster_id=block.cluster_id,
            boot=block.boot,
            boot_id=block.boot_id,
            durable_sequence=self.store.recovered_sequence,
        )

    async def meet(self, addresses: Mapping[str, str]) -> dict[str, Met]:
        """Who lives at each address (by node name), or why nobody answered. All are asked at once."""
        names = list(addresses)
        found = await asyncio.gather(*(self._meet(addresses[name]) for name in names))
        return dict(zip(names, found, strict=True))

    async def _meet(self, address: str) -> Met:
        try:
            return await self.links.introduce(address, self.introduction(), timeout_s=MEET_TIMEOUT_S)
        except ClusterError as error:
            return error
