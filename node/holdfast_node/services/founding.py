"""How a cluster is born: the founding stores agree on one first map, whoever asks and however often.

A single-decree Paxos at epoch 1 whose quorum is every store of the seed, so that two races end in one cluster
and a half-done birth is finished by the next attempt. Refuses, naming each store, when one is missing or
belongs elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from holdfast_node.core.cluster_map import ClusterMap
from holdfast_node.core.errors import Evidence, HoldfastError, OutcomeUnknown, Refused, Unavailable
from holdfast_node.core.ids import ID_BYTES, ClusterId, StoreId
from holdfast_node.core.messages import IntroduceReply, MapDecided, MapDecidedReply, MapReply, ReadMap
from holdfast_node.core.report import InitReply
from holdfast_node.core.seed import Birth, Seed, born, check, same_founding
from holdfast_node.services.fanout import call, gather, replies
from holdfast_node.services.map_ballots import Instance, MapProposer, Round
from holdfast_node.services.map_ports import MapPorts, Met

INIT_TIMEOUT_S: Final = 20.0
TELL_TIMEOUT_S: Final = 5.0
RETRY_S: Final = (0.02, 0.3)
"""A founding ballot needs every store, so rivals are in each other's way longer than in later epochs."""

NO_CLUSTER: Final = ClusterId(b"")


class Founding:
    """One attempt to found a cluster. `decide` returns the encoded first map, or an existing one of this
    seed."""

    def __init__(self, ports: MapPorts, proposer: MapProposer, seed: Seed) -> None:
        check(seed)
        self._ports = ports
        self._proposer = proposer
        self._seed = seed
        self._birth: Birth | None = None
        self._accept_sent = False
        self._last = Round()

    async def decide(self) -> tuple[bytes, InitReply]:
        """Raises `Refused`, `Unavailable` or `OutcomeUnknown`; trying again is always safe."""
        try:
            async with asyncio.timeout(INIT_TIMEOUT_S):
                while True:
                    stores = await self._meet_all()
                    existing = await self._existing(stores)
                    if existing is not None:
                        return self._answer(existing, already=True)
                    round_ = await self._ballot({name: reply.store for name, reply in stores.items()})
                    if round_.decided:
                        return self._answer(round_.decided, already=bool(round_.found))
                    await asyncio.sleep(self._ports.entropy.jitter(*RETRY_S))
        except TimeoutError:
            error = OutcomeUnknown if self._accept_sent else Unavailable
            raise error(
                f"the stores of the seed did not agree within {INIT_TIMEOUT_S:g} s",
                hint="run `clusterctl init` again: it finishes what was begun",
                evidence=self._last.evidence,
            ) from None

    def _answer(self, encoded: bytes, *, already: bool) -> tuple[bytes, InitReply]:
        first = self._ports.bodies.decode(ClusterMap, encoded)
        warnings = self._birth.warnings if self._birth is not None else ()
        return encoded, InitReply(first.cluster_id, first.epoch, already, warnings)

    async def _meet_all(self) -> dict[str, IntroduceReply]:
        """Every node of the seed, each with its own store. Links can reach those stores afterwards."""
        if self._ports.store.superblock.node not in {node.name for node in self._seed.nodes}:
            raise Refused("this node is not in the seed", hint="send the seed to one of its nodes")
        met = await self._ports.meet({node.name: node.address for node in self._seed.nodes})
        wrong = [Evidence(name, said) for name, reply in met.items() if (said := _unfit(name, reply))]
        found = {name: reply for name, reply in met.items() if isinstance(reply, IntroduceReply)}
        if not wrong and len({reply.store for reply in found.values()}) < len(found):
            wrong = [Evidence(name, f"store {reply.store.hex()[:8]}") for name, reply in found.items()]
        if wrong:
            raise Refused("not every node of the seed is there and itself", evidence=wrong)
        self._ports.links.learn({found[node.name].store: node.address for node in self._seed.nodes})
        return found

    async def _existing(self, stores: Mapping[str, IntroduceReply]) -> bytes | None:
        """A map that a store of the seed has already; refused unless it was born of the same seed."""
        encoded = self._ports.store.map()
        for name in sorted(stores):
            if not encoded and stores[name].epoch > 0:
                encoded = await self._read(stores[name].store)
        if not encoded:
            return None
        existing = self._ports.bodies.decode(ClusterMap, encoded)
        difference = same_founding(self._seed, existing)
        strangers = [
            Evidence(name, f"belongs to cluster {reply.cluster_id.hex()}")
            for name, reply in stores.items()
            if reply.cluster_id not in (NO_CLUSTER, existing.cluster_id)
        ]
        if difference or strangers:
            raise Refused(
                f"cluster {existing.cluster_id.hex()} exists already"
                + (f" and {difference}" if difference else ""),
                hint="a seed only founds a cluster; change a living one with `clusterctl node ...`",
                evidence=strangers,
            )
        return encoded

    async def _read(self, store: StoreId) -> bytes:
        reply = await call(self._ports.links, store, ReadMap(), expect=MapReply, timeout_s=TELL_TIMEOUT_S)
        return reply.map

    async def _ballot(self, stores: dict[str, StoreId]) -> Round:
        if self._birth is None or {node.store for node in self._birth.map.nodes} != set(stores.values()):
            cluster_id = ClusterId(self._ports.entropy.token(ID_BYTES))
            self._birth = born(self._seed, stores, cluster_id)
        own = self._ports.bodies.encode(self._birth.map)

        def choose(found: bytes) -> bytes:
            if found:
                self._refuse_other(self._ports.bodies.decode(ClusterMap, found), stores)
            return found or own

        def accept_sent() -> None:
            self._accept_sent = True

        names = {store: name for name, store in stores.items()}
        everyone = tuple(sorted(names))
        instance = Instance(NO_CLUSTER, 1, everyone, len(everyone), names)
        self._last = await self._proposer.ballot(instance, choose, accept_sent)
        return self._last

    def _refuse_other(self, found: ClusterMap, stores: Mapping[str, StoreId]) -> None:
        """A birth that was begun can be finished only by the stores it was begun with."""
        begun = {node.store for node in found.nodes}
        if begun == set(stores.values()) and not same_founding(self._seed, found):
            return
        said = [
            Evidence(node.name, f"store {node.store.hex()[:8]} at {node.address}") for node in found.nodes
        ]
        raise Refused(
            "a birth with other nodes, stores or pools was begun and not finished",
            hint="finish it with its own seed, or empty the data directories of all seed nodes (they hold no blobs)",
            evidence=said,
        )


async def tell_all(ports: MapPorts, encoded: bytes, names: Mapping[StoreId, str]) -> tuple[str, ...]:
    """Tell these stores of a decided map and wait; returns a warning for each that did not confirm."""
    answers = await gather(
        ports.links,
        dict.fromkeys(sorted(names), MapDecided(encoded)),
        timeout_s=TELL_TIMEOUT_S,
        enough=lambda _: False,
    )
    confirmed = replies(answers, MapDecidedReply)
    return tuple(
        f"{names[store]} has not confirmed the map yet" for store in sorted(names) if store not in confirmed
    )


def _unfit(name: str, reply: Met) -> str:
    if isinstance(reply, HoldfastError):
        return reply.message
    if reply.node != name:
        return f"the node there calls itself {reply.node}"
    return ""
