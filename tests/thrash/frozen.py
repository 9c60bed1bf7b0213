"""How much slower is a cluster of which one node has stopped answering? Calls are timed before, and once it is noticed.

The node is stopped, not ended: its connections stay open and nobody is told. Callers use the other nodes; whether those
hide the silent one is the question. It judges time alone: whether answers are right is the load's business.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from typing import Final

import holdfast
from tests.thrash.cluster import ThrashCluster

NOTICED_WITHIN_S: Final = 2.0
SLOWER_MAX: Final = 3.0
CALL_MAX_S: Final = 5.0
CALLERS: Final = 2
KEYS: Final = 96
"""With 64 partitions, most of which the frozen node is a home of, and the steward of some."""
SIZES: Final = (200, 20_000)
TRIES: Final = 3
WARM_UP_CALLS: Final = 40


@dataclass
class Times:
    """Seconds that calls took, by kind."""

    get: list[float] = field(default_factory=list[float])
    put: list[float] = field(default_factory=list[float])

    def worst(self) -> float:
        return max([*self.get, *self.put], default=0.0)


def percentile(times: list[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


@dataclass
class Frozen:
    """One comparison. `wrong` empty: within the bars."""

    node: str
    healthy: Times
    noticing: Times
    frozen: Times
    errors: list[str]

    @property
    def wrong(self) -> list[str]:
        found = [f"with {self.node} frozen: {error}" for error in self.errors]
        slowest = max(self.noticing.worst(), self.frozen.worst())
        if slowest > CALL_MAX_S:
            found.append(f"with {self.node} frozen, a call took {slowest:.1f} s")
        return found + self.slow

    @property
    def slow(self) -> list[str]:
        """What only time can tell, and a busy machine tells wrongly now and then."""
        found: list[str] = []
        for kind, before, after in (
            ("get", self.healthy.get, self.frozen.get),
            ("put", self.healthy.put, self.frozen.put),
        ):
            was, now = percentile(before, 0.99), percentile(after, 0.99)
            if now > SLOWER_MAX * was:
                found.append(
                    f"with {self.node} frozen, p99 of {kind} is {now * 1000:.0f} ms; it was {was * 1000:.0f}"
                )
        return found

    def __str__(self) -> str:
        lines = [f"{'one node frozen (' + self.node + ')':<28}{'p50 ms':>9}{'p99 ms':>9}{'calls':>8}"]
        for name, times in (
            ("healthy", self.healthy),
            ("until noticed", self.noticing),
            ("frozen", self.frozen),
        ):
            for kind, taken in (("get", times.get), ("put", times.put)):
                middle, late = percentile(taken, 0.5) * 1000, percentile(taken, 0.99) * 1000
                lines.append(f"  {name + ' ' + kind:<26}{middle:>9.1f}{late:>9.1f}{len(taken):>8}")
        worst = max(self.noticing.worst(), self.frozen.worst())
        return "\n".join([*lines, f"  slowest call with it frozen: {worst:.2f} s"])


class _Clock(threading.Thread):
    """Times calls into whatever `into` is at the time they begin."""

    def __init__(self, bucket: holdfast.Bucket, seed: int, into: Times) -> None:
        super().__init__(daemon=True)
        self._bucket = bucket
        self._random = random.Random(seed)
        self.into = into
        self.stop = threading.Event()
        self.errors: list[str] = []
        self.calls = 0

    def run(self) -> None:
        while not self.stop.is_set():
            into, key = self.into, f"frozen/{self._random.randrange(KEYS)}"
            began = time.monotonic()
            try:
                if self._random.random() < 0.5:
                    self._bucket.put(key, self._random.randbytes(self._random.choice(SIZES)))
                    into.put.append(time.monotonic() - began)
                else:
                    self._bucket.get(key).read()
                    into.get.append(time.monotonic() - began)
            except holdfast.Error as error:
                self.errors.append(repr(error))
            self.calls += 1


def measure(cluster: ThrashCluster, bucket_name: str, *, seed: int, seconds: float) -> Frozen:
    """Freeze one node and compare; as often as it takes to tell a slow product from a busy machine."""
    nodes = cluster.members()
    result = _once(cluster, bucket_name, random.Random(seed).choice(nodes), seconds)
    for attempt in range(1, TRIES):
        if not result.slow:
            break
        cluster.wait_healthy()
        again = _once(cluster, bucket_name, random.Random(seed + attempt).choice(nodes), seconds)
        if len(again.wrong) < len(result.wrong):
            result = again
    return result


def _once(cluster: ThrashCluster, bucket_name: str, node: str, seconds: float) -> Frozen:
    members = cluster.members()
    others = [each.address for each in cluster.layout.nodes if each.name in members and each.name != node]
    clients = [holdfast.connect([*others[n:], *others[:n]]) for n in range(CALLERS)]
    healthy, noticing, frozen, warm = Times(), Times(), Times(), Times()
    bucket = clients[0].create_bucket(bucket_name, exist_ok=True)
    for number in range(KEYS):
        bucket.put(f"frozen/{number}", b"x" * SIZES[number % len(SIZES)])
    clocks = [_Clock(client.bucket(bucket_name), number, warm) for number, client in enumerate(clients)]
    wait = threading.Event().wait
    try:
        for clock in clocks:
            clock.start()
        while min(clock.calls for clock in clocks) < WARM_UP_CALLS:
            wait(0.05)
        for times, length_s in ((healthy, seconds), (noticing, NOTICED_WITHIN_S), (frozen, seconds)):
            if times is noticing:
                cluster.pause(node)
            for clock in clocks:
                clock.into = times
            wait(length_s)
    finally:
        for clock in clocks:
            clock.stop.set()
            clock.join(60.0)
        cluster.resume(node)
        for client in clients:
            client.close()
    return Frozen(node, healthy, noticing, frozen, [error for clock in clocks for error in clock.errors])
