"""A network namespace for every node, a bridge between them, and what can be done to the packets on the way.

Each node lives at 127.77.0.N behind a wire of its own; callers sit on the bridge. Rules are put where packets arrive,
so that each direction can be cut alone. It knows names and addresses, not clusters.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.thrash.enclosure import NAMED, allow_loopback_routes, label, narrow_loopback, python, sh

HUB: Final = "127.77.0.254"
BRIDGE: Final = "hub"
WIRE: Final = "wire"
QUEUE: Final = 1
"""Queues are numbered per namespace."""
DELAYER_WAIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where one node lives."""

    node: str
    address: str

    @property
    def namespace(self) -> Path:
        return NAMED / f"{label()}-{self.node}"

    @property
    def within(self) -> tuple[str, ...]:
        """In front of a command that is to run there. It becomes the command: the process id stays."""
        return ("nsenter", f"--net={self.namespace}", "--")


class Network:
    """All places, joined by a bridge. `cut`, `lose`, `delay` add up; `mend` takes all of them back."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self.places = {name: Place(name, f"127.77.0.{number + 1}") for number, name in enumerate(nodes)}
        self._delayers: list[subprocess.Popen[bytes]] = []

    def build(self) -> None:
        sh("ip", "link", "add", BRIDGE, "type", "bridge")
        sh("ip", "link", "set", BRIDGE, "up")
        sh("ip", "address", "add", f"{HUB}/24", "dev", BRIDGE)
        for number, place in enumerate(self.places.values()):
            self._join(place, f"v{number}")

    def _join(self, place: Place, end: str) -> None:
        name = place.namespace.name
        sh("ip", "netns", "add", name)
        sh("ip", "link", "add", end, "type", "veth", "peer", "name", WIRE, "netns", name)
        sh("ip", "link", "set", end, "master", BRIDGE, "up")
        within = place.within
        for kind in ("all", "default", WIRE):
            allow_loopback_routes(kind, within)
        sh(*within, "ip", "link", "set", "lo", "up")
        narrow_loopback(within)
        sh(*within, "ip", "link", "set", WIRE, "up")
        sh(*within, "ip", "address", "add", f"{place.address}/24", "dev", WIRE)

    def cut(self, senders: Iterable[str], receivers: Iterable[str]) -> None:
        """Nothing that one of `senders` says reaches one of `receivers`; the other direction stays."""
        sources = [self.places[name].address for name in senders]
        for receiver in receivers:
            for source in sources:
                if source != self.places[receiver].address:
                    self._rule(receiver, "-s", source, "-j", "DROP")

    def cut_off(self, node: str) -> None:
        """From everybody, callers included."""
        self._rule(node, "-i", WIRE, "-j", "DROP")

    def lose(self, node: str, share: float) -> None:
        """A share of the packets that arrive at a node never do."""
        self._rule(
            node,
            "-i",
            WIRE,
            "-m",
            "statistic",
            "--mode",
            "random",
            "--probability",
            f"{share:.3f}",
            "-j",
            "DROP",
        )

    def delay(self, node: str, *, delay_ms: int, jitter_ms: int) -> None:
        """Packets that arrive at a node are held back and may overtake each other."""
        place = self.places[node]
        command = [
            *place.within,
            python(),
            "-m",
            "tests.thrash.delayer",
            str(QUEUE),
            str(delay_ms),
            str(jitter_ms),
        ]
        delayer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self._delayers.append(delayer)
        assert delayer.stdout is not None
        if not delayer.stdout.readline():
            raise OSError("the delayer did not get its queue")
        self._rule(node, "-i", WIRE, "-j", "NFQUEUE", "--queue-num", str(QUEUE), "--queue-bypass")

    def mend(self) -> None:
        for place in self.places.values():
            sh(*place.within, "iptables", "-F", "INPUT")
        for delayer in self._delayers:
            delayer.kill()
            delayer.wait()
            if delayer.stdout is not None:
                delayer.stdout.close()
        self._delayers.clear()

    def _rule(self, node: str, *rule: str) -> None:
        sh(*self.places[node].within, "iptables", "-A", "INPUT", *rule)
