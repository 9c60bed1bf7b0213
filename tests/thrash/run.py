"""One run of the thrasher: trouble and calm in turns, then the judgement.

In trouble, nemeses strike from a shuffled deck, so that each comes at least once; data is destroyed only when the
cluster called itself healthy. In calm, faults stop, callers wait, and the cluster must become healthy by itself; then
everything is read back and judged, and the disks are compared with what the cluster claims.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import holdfast
from holdfast.testing.refusals import LocalRefused
from tests.thrash.auditor import Audit, audit
from tests.thrash.cluster import ThrashCluster
from tests.thrash.deck import ALL, able
from tests.thrash.frozen import Frozen, measure
from tests.thrash.load import BUCKET, Loss, ThrashLoad
from tests.thrash.nemeses import MAP, NETWORK, KillAll, Nemesis, NotNowError, Pause, Stage, WipeNode
from tests.thrash.network import Network
from tests.thrash.screen import Screen

HEAL_LIMIT_S: Final = 180.0
SLOW_HEAL_S: Final = 20.0
"""In a calm; after so long the run says what is not healthy yet."""
HEALTHY_UNDER_LOAD_S: Final = 45.0
CALM_EVERY: Final = 5
"""Nemeses between two calms."""
OVERLAP_SHARE: Final = 0.35
PAUSE_S: Final = (0.5, 2.5)
POLL_S: Final = 0.2
AUDIT_RECORDS_MAX: Final = 1_500_000
"""Beyond so many records on all disks only the last calm is audited: reading them takes a minute."""
BULK_BYTES_A_SECOND: Final = 1024 * 1024
SETTLED_LIMIT_S: Final = 120.0
"""The end of a change of code waits for undo windows, and these for a round of the collectors, who take a minute."""
SETTLED_POLL_S: Final = 1.0
OVERTIME_S: Final = 240.0
SAID_CHARS_MAX: Final = 600
LINES_MAX: Final = 10
"""Of one kind, at one time; the table has more."""
SHORT: Final[tuple[type[Nemesis], ...]] = (KillAll, Pause, WipeNode)


@dataclass(frozen=True, slots=True)
class Plan:
    """`kinds`: the nemeses wanted. `frozen_s`: of each part of the measurement of a frozen node; 0: none."""

    root: Path
    seed: int
    seconds: float
    nodes: int = 6
    sans: int = 3
    kinds: tuple[type[Nemesis], ...] = ALL
    frozen_s: float = 10.0
    hold_share: float = 1.0
    spare: int = 0


@dataclass
class Verdict:
    """What the run found; `wrong` empty: every promise was kept."""

    seed: int
    wrong: list[str] = field(default_factory=list[str])
    undecided: list[str] = field(default_factory=list[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    audits: list[Audit] = field(default_factory=list[Audit])
    heal_s: list[float] = field(default_factory=list[float])
    histories: int = 0
    told: Counter[str] = field(default_factory=Counter[str])
    """Events in the logs of all nodes."""
    frozen: Frozen | None = None
    load: ThrashLoad | None = None
    seconds: float = 0.0


class Run:
    """Use `play` once."""

    def __init__(self, plan: Plan, cluster: ThrashCluster, network: Network | None, screen: Screen) -> None:
        self._plan = plan
        self._cluster = cluster
        self._screen = screen
        self._chooser = random.Random(plan.seed)
        self.verdict = Verdict(plan.seed)
        self._stage = Stage(cluster, network, self._chooser, self._about_to_lose)
        self._active: list[Nemesis] = []
        self._healthy_at = 0.0
        self._last_problem = ""
        self._wait = threading.Event().wait

    def play(self) -> Verdict:
        began = time.monotonic()
        ready, self.verdict.missing = able(self._stage, self._plan.kinds)
        self.verdict.counts = Counter({nemesis.name: 0 for nemesis in ready})
        self._load = ThrashLoad(
            self._cluster.layout.endpoints, seed=self._plan.seed, bytes_a_second=BULK_BYTES_A_SECOND
        )
        self.verdict.load = self._load
        try:
            if self._plan.frozen_s:
                self._freeze()
            self._load.start()
            self._trouble(ready, began + self._plan.seconds)
            self._load.every_key_again()
            self._calm(last=True)
        finally:
            self._undo_all()
            self._load.close()
            self.verdict.told = self._cluster.events()
            self.verdict.wrong += [*self._load.record.wrong, *self._load.failures(), *self._stage.wrong]
            self.verdict.seconds = time.monotonic() - began
        return self.verdict

    def _freeze(self) -> None:
        self._screen.say("one node will be frozen; calls are timed")
        self.verdict.frozen = measure(
            self._cluster, BUCKET, seed=self._plan.seed, seconds=self._plan.frozen_s
        )
        self.verdict.wrong += self.verdict.frozen.wrong
        self._cluster.wait_healthy(HEAL_LIMIT_S)

    # --- trouble

    def _trouble(self, ready: list[Nemesis], until: float) -> None:
        """Until the time is over and each has struck at least once, but not for ever."""
        deck: list[Nemesis] = []
        struck = 0
        while self._more(until):
            if not deck:
                deck = self._chooser.sample(ready, len(ready))
            self._turn(deck)
            struck += 1
            if struck % CALM_EVERY == 0 and self._more(until):
                self._calm()
            self._idle(self._chooser.uniform(*PAUSE_S))

    def _more(self, until: float) -> bool:
        now = time.monotonic()
        unused = any(not count for count in self.verdict.counts.values())
        return now < until or (unused and now < until + OVERTIME_S)

    def _turn(self, deck: list[Nemesis]) -> None:
        """One nemesis, at times with another of a different kind before it ends."""
        nemesis = deck.pop()
        if nemesis.destructive and not self._healthy_now():
            self.verdict.wrong.append(f"not healthy {HEAL_LIMIT_S:g} s after faults stopped")
            return
        if nemesis.hits == MAP:
            self._let_settle()
        self._strike(nemesis)
        self._idle(self._hold_s(nemesis) / 2)
        second = next((other for other in deck if other.hits != nemesis.hits and not other.destructive), None)
        if second is not None and not nemesis.destructive and self._chooser.random() < OVERLAP_SHARE:
            deck.remove(second)
            self._strike(second)
            self._idle(self._hold_s(second))
        self._idle(self._hold_s(nemesis) / 2)
        self._undo_all()

    def _hold_s(self, nemesis: Nemesis) -> float:
        return nemesis.hold_s * self._plan.hold_share * self._chooser.uniform(0.5, 1.0)

    def _strike(self, nemesis: Nemesis) -> None:
        self._active.append(nemesis)
        try:
            hit = nemesis.strike(self._stage)
        except NotNowError as refusal:
            hit = f"not now: {refusal}"
        else:
            self.verdict.counts[nemesis.name] += 1
        self._screen.say(f"{nemesis.name}: {hit}")

    def _undo_all(self) -> None:
        """The network first: nodes that start need it. One that cannot start is tried again in the calm."""
        self._active.sort(key=lambda nemesis: nemesis.hits == NETWORK)
        while self._active:
            nemesis = self._active.pop()
            try:
                nemesis.undo(self._stage)
            except LocalRefused as error:
                self._screen.say(f"after {nemesis.name}: {str(error)[:SAID_CHARS_MAX]}")

    def _let_settle(self) -> None:
        """An operator waits for the end of the last change before the next one, unless it can be undone."""
        deadline = time.monotonic() + SETTLED_LIMIT_S
        while time.monotonic() < deadline and not self._may_change():
            self._idle(SETTLED_POLL_S)

    def _may_change(self) -> bool:
        try:
            with self._cluster.admin() as admin:
                plan = admin.plan()
        except holdfast.Error:
            return False
        return plan.settled or plan.open > 0

    def _healthy_now(self) -> bool:
        """Before data is destroyed. Under load if that is possible, else while callers wait."""
        self._healthy_at = time.monotonic()
        if self._healthy_within(HEALTHY_UNDER_LOAD_S):
            return True
        self._load.gate.close()
        try:
            return self._healthy_within(HEAL_LIMIT_S)
        finally:
            self._load.gate.open()

    def _healthy_within(self, limit_s: float) -> bool:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            self._healthy_at = time.monotonic()
            try:
                self._cluster.wait_healthy(min(2.0, limit_s))
            except holdfast.Unavailable as error:
                self._last_problem = str(error)
                self._cluster.go_on()
                self._idle(POLL_S)
            else:
                return True
        return False

    def _about_to_lose(self, tag: str) -> None:
        self._load.losses.append(Loss(tag, self._healthy_at, time.monotonic()))

    def _idle(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._load.advance_if_due()
            self._screen.tick(self._progress())
            self._wait(min(POLL_S, left))

    def _progress(self) -> str:
        at_work = ", ".join(nemesis.name for nemesis in self._active) or "no fault"
        return f"{self._load.calls.total()} operations, {len(self.verdict.wrong)} wrong; {at_work}"

    # --- calm

    def _calm(self, *, last: bool = False) -> None:
        self._undo_all()
        self._load.gate.close()
        began = time.monotonic()
        self._start_what_is_down()
        if not self._healthy_within(SLOW_HEAL_S):
            self._screen.say(f"calm: after {SLOW_HEAL_S:g} s {self._last_problem[:SAID_CHARS_MAX]}")
        if self._healthy_within(HEAL_LIMIT_S):
            self.verdict.heal_s.append(time.monotonic() - began)
        else:
            self.verdict.wrong.append(f"not healthy by itself: {self._last_problem}")
        self._load.advance()
        found = self._load.read_back()
        wrong, undecided, judged = self._load.judge()
        self.verdict.wrong += [*found, *wrong]
        self.verdict.undecided += undecided
        self.verdict.histories += judged
        said = f"calm: healthy after {time.monotonic() - began:.1f} s, {judged} histories judged"
        if last or not self.verdict.audits or self.verdict.audits[-1].records < AUDIT_RECORDS_MAX:
            said += f", audit: {self._audit()}"
        self._screen.say(f"{said}; {len(self.verdict.wrong)} wrong so far")
        for line in [*found, *wrong][:LINES_MAX]:
            self._screen.say(f"WRONG: {line}")
        if not last:
            self._load.gate.open()

    def _start_what_is_down(self) -> None:
        try:
            self._cluster.start()
        except LocalRefused as error:
            self.verdict.wrong.append(f"a node does not start: {error}")

    def _audit(self) -> Audit:
        with self._cluster.admin() as admin:
            found = audit(admin, self._load.clients[0], self._cluster.directories(), seed=self._plan.seed)
        self.verdict.audits.append(found)
        for line in found.disagreements[:LINES_MAX]:
            self._screen.say(f"AUDIT: {line}")
        return found
