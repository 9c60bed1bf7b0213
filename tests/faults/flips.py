"""Any single byte of any volume of a real cluster is flipped, at one node after another, and everything is read.

One round hits the store of one node of six: bytes of its volumes, and now and then of its superblock, are flipped while
it runs, or while it is dead (SIGKILL), with its index kept or removed. Then every blob, version and listing is asked
for through the hurt node and others. Only what the cluster cannot help may fail, and not through every endpoint: an
answer is right, or it is a ClusterError. An IntegrityError is wrong here, because five whole stores have the bytes.

Between rounds the cluster must be whole again, or two stores would be hurt at once. Putting back a copy of the
directory would be a rollback: the store has written since, and is rightly suspect then. So the same bytes are
flipped back in place, where nothing was written over them, and the cluster must become healthy; what the store has
already written down as rotten it has to learn anew. Where that is not enough the store is wiped and declared lost, as
an operator would: every few rounds, if it says that it does not vote any more, and if the last batch of its log was
hit before a restart, for that cannot be told from a torn write and the store goes on without it.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import holdfast
from holdfast.testing import LocalCluster, LocalRefused
from holdfast_node.services.log.opening import SUPERBLOCK
from tests.faults.known import Known, Question, Wrong
from tests.faults.places import KINDS, Flip, choose, flip, places, put_back, superblock
from tests.faults.scenarios import HEAL_LIMIT_S, Report

BUCKET: Final = "flips"
WAYS: Final = ("index kept", "superblock", "live", "index removed")
AT_ONCE: Final = (1, 40, 80, 120)
"""How many bytes a round flips."""
SOME_KINDS: Final = 3
OTHER_ENDPOINTS: Final = 2
BY_ITSELF_S: Final = 5.0
"""A store that lost records it cannot name waits for the operator, however long."""
WIPE_EVERY: Final = 5
MOVING_SIZES: Final = (50, 9000, 300_000)
READ_TIMEOUT: Final = holdfast.Timeout(total=30.0)


def flips(root: Path, *, seed: int, places: int, at_once: Sequence[int] = AT_ONCE) -> Report:
    """At least so many bytes, in rounds."""
    report = Report("flips", seed, 0)
    with LocalCluster(root, nodes=6, sans=3) as cluster, ExitStack() as stack:
        run = _Run(cluster, stack, random.Random(f"flips {seed}"), report, Known(seed))
        run.begin()
        while run.flipped < places:
            run.round(min(run.chooser.choice(at_once), places - run.flipped))
        report.seen = run.tell()
    return report


@dataclass
class _Run:
    cluster: LocalCluster
    stack: ExitStack
    chooser: random.Random
    report: Report
    known: Known
    kinds: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    buckets: dict[str, holdfast.Bucket] = field(default_factory=dict[str, holdfast.Bucket])

    @property
    def flipped(self) -> int:
        return self.kinds.total()

    def begin(self) -> None:
        """Everything is stored, and nothing is hurt: every question has its answer."""
        self.cluster.connect().create_bucket(BUCKET)
        for node in self.cluster.layout.nodes:
            client = self.stack.enter_context(holdfast.connect(node.address, timeout=READ_TIMEOUT))
            self.buckets[node.name] = client.bucket(BUCKET)
        self.known.store(next(iter(self.buckets.values())))
        self._ask_everything(sorted(self.buckets)[-OTHER_ENDPOINTS:], "before any damage")
        assert not self.errors, f"nothing is hurt, yet {self.errors}"

    def round(self, count: int) -> None:
        number, chooser = self.report.rounds, self.chooser
        self.report.rounds += 1
        way, name = WAYS[number % len(WAYS)], chooser.choice(sorted(self.buckets))
        kinds = KINDS if chooser.random() < 0.5 else chooser.sample(KINDS, SOME_KINDS)
        writer = self.buckets[chooser.choice(sorted(self.buckets))]
        self.known.put(writer, "moving", chooser.choice(MOVING_SIZES) + number)
        done = self._strike(name, way, kinds, count)
        self.kinds.update(flip.place.kind for flip in done)
        self.counts[way] += 1
        others = chooser.sample(sorted(set(self.buckets) - {name}), OTHER_ENDPOINTS)
        endpoints = chooser.sample([name, *others], OTHER_ENDPOINTS + 1)
        self._ask_everything(endpoints, f"round {number}, {name} hurt ({way}, {len(done)} bytes)", hurt=name)
        self._mend(name, done, torn=way != "live" and any(flip.place.tail for flip in done))

    # --- damage

    def _strike(self, name: str, way: str, kinds: Sequence[str], count: int) -> list[Flip]:
        directory = self.cluster.layout.node(name).data_dir
        if way != "live":
            self.cluster.kill(name)
        chosen = choose(places(directory), kinds, count - (way == "superblock"), self.chooser)
        if way == "superblock":
            chosen.append(superblock(directory))
        done = flip(chosen, self.chooser)
        if way == "live":
            return done
        if way == "index removed" or (way == "superblock" and self.chooser.random() < 0.5):
            shutil.rmtree(directory / "index")
        self._start(name, done)
        return done

    def _start(self, name: str, done: Sequence[Flip]) -> None:
        """With a broken superblock it must refuse to, and say so. Then that byte is put back."""
        broken = [flip for flip in done if flip.place.kind == SUPERBLOCK]
        try:
            self.cluster.start(name)
        except LocalRefused as refused:
            said = str(refused).splitlines()[-1]
            if _refusal(said) is None:
                self.report.wrong.append(f"{name} ended without a refusal: {refused}")
            elif not broken:
                self.report.wrong.append(f"{name} refused to start, yet its superblock is whole: {said}")
            self.counts["refusals"] += 1
            put_back(broken or done)
            self.cluster.start(name)
        else:
            if broken:
                self.report.wrong.append(f"{name} started, yet its superblock was changed: {broken}")

    # --- reads

    def _ask_everything(self, endpoints: Sequence[str], when: str, *, hurt: str = "") -> None:
        for question in self.known.questions():
            said = {name: self._ask(name, question, when, hurt=name == hurt) for name in endpoints}
            failed = [f"{name}: {error}" for name, error in said.items() if error]
            if len(failed) == len(endpoints):
                self.report.wrong.append(f"{when}: {question.about} fails everywhere: {'; '.join(failed)}")

    def _ask(self, name: str, question: Question, when: str, *, hurt: bool) -> str:
        """What went wrong that may go wrong through one endpoint; empty for an answer, right or not."""
        self.counts["reads"] += 1
        try:
            question.ask(self.buckets[name])
        except holdfast.ClusterError as error:
            self.errors[f"{type(error).__name__} at {'the hurt node' if hurt else 'another'}"] += 1
            return repr(error)
        except (Wrong, holdfast.Error) as error:
            self.report.wrong.append(f"{when}: {question.about} at {name}: {error!r}")
        return ""

    # --- mending

    def _mend(self, name: str, done: Sequence[Flip], *, torn: bool) -> None:
        self.counts["put back"] += put_back(flip for flip in done if flip.place.kind != SUPERBLOCK)
        if not torn and self.report.rounds % WIPE_EVERY and self._heals_by_itself():
            self.counts["healed by itself"] += 1
            return
        self.counts["wiped and replaced"] += 1
        self.cluster.lose(name)
        self.cluster.start(name)
        self.cluster.replace(name)
        self.cluster.wait_healthy(HEAL_LIMIT_S)

    def _heals_by_itself(self) -> bool:
        try:
            self.cluster.wait_healthy(BY_ITSELF_S)
        except holdfast.Unavailable:
            return False
        return True

    def tell(self) -> str:
        def listed(counter: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in sorted(counter.items())) or "none"

        return (
            f"{self.flipped} bytes flipped ({listed(self.kinds)}); {listed(self.counts)}; "
            f"errors callers saw: {listed(self.errors)}; wrong {len(self.report.wrong)}"
        )


def _refusal(line: str) -> str | None:
    """Why a node refused to start, if that is what this line of its log says."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return str(event["error"]) if event.get("event") == "node_refused" else None
