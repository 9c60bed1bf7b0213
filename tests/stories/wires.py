"""What a story sees of a cluster, and how it meddles: every message at its sender, some of them lost or late.

Messages that serve a command of the story are told; what nodes do by themselves only if the story asks for it. One
fan-out is one line. It knows no commands.
"""

from __future__ import annotations

import contextvars
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from holdfast_node.adapters.erasure import EclibCodec
from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import DeadlineExceeded
from holdfast_node.core.ids import RESERVED_BUCKET, StoreId
from holdfast_node.core.messages import Accept, Commit, Prepare, Reply, Request, StageWhole
from holdfast_node.ports import Answer, Answered, Buffer, Failed, Links
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.events import Events
from holdfast_node.services.node import LinkHooks
from tests.sim.cluster import Cluster, Machine, Topology
from tests.sim.loop import Life, SimLoop
from tests.sim.network import SimLinks
from tests.stories.wording import Names, Saying, Wording, places, together

_EVENTS: Final = {
    "store_suspect",
    "rot_found",
    "partitions_learned",
    "sources_left",
    "learning_again",
    "shard_not_intact",
    "key_quarantined",
    "store_failed",
    "task_failed",
}
MESSAGE_S: Final = 0.001
DISK_S: Final = 0.0002


@dataclass(frozen=True, slots=True)
class Act:
    """A command at work. `said` is the name of the blob it writes."""

    said: str = ""


_ACT: contextvars.ContextVar[Act | None] = contextvars.ContextVar("act", default=None)


@contextmanager
def acting(act: Act | None) -> Generator[None]:
    token = _ACT.set(act)
    try:
        yield
    finally:
        _ACT.reset(token)


@dataclass(slots=True)
class Exchange:
    target: str
    shard: int
    answer: str = ""
    line: Line | None = None


@dataclass(slots=True)
class Line:
    """One node says one thing to some others, and what they answer; or `who` is empty and it is an event."""

    who: str
    text: str
    at_s: float
    exchanges: list[Exchange] = field(default_factory=list[Exchange])
    cells: set[int] = field(default_factory=set[int])
    told: bool = False

    def tell(self) -> str:
        self.told = True
        if not self.who:
            return f"{together(exchange.target for exchange in self.exchanges)}: {self.text}"
        if all(exchange.shard >= 0 for exchange in self.exchanges):
            to = places((exchange.shard, exchange.target) for exchange in self.exchanges)
        else:
            to = together(exchange.target for exchange in self.exchanges)
        return f"{self.who} -> {to}  {self.text} | {self._answers()}"

    def _answers(self) -> str:
        said: dict[str, list[str]] = {}
        targets = {exchange.target for exchange in self.exchanges}
        for target in sorted(targets):
            for text in self._said_by(target):
                said.setdefault(text, []).append(target)
        texts = [
            text if set(names) == targets else f"{together(names)} {text}"
            for text, names in sorted(said.items(), key=lambda item: together(item[1]))
        ]
        cells = f"; with cells {' '.join(map(str, sorted(self.cells)))}" if self.cells else ""
        return "; ".join(texts) + cells

    def _said_by(self, target: str) -> list[str]:
        """What one of them answered, the same or less of the same only once."""
        texts = {each.answer or "no answer yet" for each in self.exchanges if each.target == target}
        return sorted(
            text for text in texts if not any(other.startswith(text) and other != text for other in texts)
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of messages of a kind from one node to some. `late_s` 0: lost."""

    kind: str
    source: str
    targets: frozenset[str]
    late_s: float = 0.0
    answers: bool = False
    """Not the message is lost, but the answer to it."""

    @property
    def loses(self) -> bool:
        return not self.late_s and not self.answers


class Watch:
    """The story's eyes and fingers."""

    def __init__(self, loop: SimLoop, names: Names, wording: Wording) -> None:
        self.loop: Final = loop
        self.names: Final = names
        self.wording: Final = wording
        self.telling: tuple[str, ...] = ()
        self.buckets = False
        self.rules: list[Rule] = []
        self.losing = False
        self.late_s = 0.0
        self.highest = 0
        self._lines: list[Line] = []
        self._open: dict[tuple[object, ...], Line] = {}
        self._commits: dict[tuple[StoreId, Commit], Act | None] = {}

    # --- seeing

    def sent(self, who: str, to: StoreId, request: Request) -> Exchange | None:
        act = _ACT.get()
        self.highest = max(self.highest, _counter(request))
        if not self._is_told(act, request):
            return None
        said = "record" if _about_buckets(request) else act.said if act is not None else ""
        saying = self.wording.request(request, said)
        if saying is None:
            return None
        exchange = Exchange(self.names.store(to), saying.shard)
        exchange.line = self._line(who, type(request).__name__, saying)
        exchange.line.exchanges.append(exchange)
        return exchange

    def heard(self, exchange: Exchange | None, answer: Answer) -> None:
        if exchange is None or exchange.line is None:
            return
        said = (
            self.wording.reply(answer.reply)
            if isinstance(answer, Answered)
            else self.wording.error(answer.error)
        )
        line = exchange.line
        index = getattr(answer.reply, "shard_index", -1) if isinstance(answer, Answered) else -1
        if index >= 0:
            line.cells.add(index)
        exchange.answer = said
        if line.told:
            late = self._line(line.who, "late", Saying(f"late: {line.text}", (line.text,)))
            late.exchanges.append(Exchange(exchange.target, exchange.shard, said))

    def event(self, who: str, text: str) -> None:
        line = self._line("", text, Saying(text, ()))
        line.exchanges.append(Exchange(who, -1))

    def flush(self) -> list[str]:
        lines, self._lines = self._lines, []
        self._open.clear()
        return [line.tell() for line in lines]

    def _is_told(self, act: Act | None, request: Request) -> bool:
        if _about_buckets(request) and not self.buckets:
            return False
        return act is not None or type(request).__name__.startswith(self.telling or ("-",))

    def _line(self, who: str, kind: str, saying: Saying) -> Line:
        group = (who, kind, *saying.group)
        line = self._open.get(group)
        now = self.loop.time()
        if line is None or (not saying.lasting and line.at_s != now):
            line = Line(who, saying.text, now)
            self._lines.append(line)
            self._open[group] = line
        elif len(saying.text) > len(line.text):
            line.text = saying.text
        return line

    # --- meddling

    def rule(self, source: str, to: StoreId, request: Request) -> Rule | None:
        target = self.names.store(to)
        kind = type(request).__name__
        return next(
            (
                rule
                for rule in self.rules
                if kind.startswith(rule.kind) and rule.source in {source, "all"} and target in rule.targets
            ),
            None,
        )

    # --- commits carried out by others

    def handed_over(self, sender: StoreId, request: Request) -> None:
        if isinstance(request, Commit):
            self._commits[sender, request] = _ACT.get()

    def taken_over(self, sender: StoreId, request: Request) -> Act | None:
        return self._commits.get((sender, request)) if isinstance(request, Commit) else None


def _counter(request: Request) -> int:
    """Of the ballot a message about registers carries, 0 if it carries none."""
    if isinstance(request, Prepare | Accept):
        return request.ballot.counter
    return request.header.base.counter if isinstance(request, StageWhole) else 0


def _about_buckets(request: Request) -> bool:
    about = getattr(request, "header", request)
    return getattr(about, "bucket", None) == RESERVED_BUCKET


class WatchedLinks(SimLinks):
    """Everything a node sends, seen and perhaps meddled with."""

    def __init__(self, links: SimLinks, watch: Watch) -> None:
        super().__init__(links.network, links.me)
        self._watch = watch

    def send(
        self, to: StoreId, request: Request, *, timeout_s: float, done: Callable[[Answer], None]
    ) -> None:
        watch, act, loop = self._watch, _ACT.get(), self.network.loop
        if self.me.life.dead:
            return
        who = watch.names.store(self.me.store)
        exchange = watch.sent(who, to, request)
        watch.handed_over(self.me.store, request)
        rule = watch.rule(who, to, request)

        def answered(answer: Answer) -> None:
            watch.heard(exchange, answer)
            with acting(act):
                done(answer)

        def silence() -> None:
            lost = Failed(to, DeadlineExceeded("no answer"))
            loop.call_later(timeout_s, answered, lost, context=self.me.life.context)

        def swallowed(_: Answer) -> None:
            silence()

        def deliver() -> None:
            watch.losing = rule is not None and rule.loses
            watch.late_s = rule.late_s if rule is not None else 0.0
            told = swallowed if rule is not None and rule.answers else answered
            super(WatchedLinks, self).send(to, request, timeout_s=timeout_s, done=told)
            watch.losing, watch.late_s = False, 0.0

        if to != self.me.store or rule is None:
            deliver()
        elif rule.loses:
            silence()
        else:
            # Words to oneself cross no network, but a slow disk delays them all the same.
            loop.call_later(rule.late_s, deliver, context=self.me.life.context)


class StoryCodec(EclibCodec):
    """The product's codec, in memory that flips a bit of one parity cell when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.flips_next = -1

    def encode(self, code: str, data: Sequence[Buffer]) -> list[bytes]:
        cells = super().encode(code, data)
        if self.flips_next >= 0:
            at, self.flips_next = self.flips_next - parse_code(code).k, -1
            cells[at] = bytes([cells[at][0] ^ 1]) + cells[at][1:]
        return cells


class StoryCluster(Cluster):
    """A cluster without chance: every message takes a millisecond, every disk access a fifth of one."""

    def __init__(self, loop: SimLoop, topology: Topology) -> None:
        self.names = Names()
        super().__init__(loop, topology, seed=1, note=self._noted)
        self.codec = self.faulty_codec = StoryCodec()
        self.wording = Wording(self.names, self.bodies)
        self.watch = Watch(loop, self.names, self.wording)
        weather = self.network.weather
        weather.delay_low_s = weather.delay_high_s = MESSAGE_S
        self.disk_delay_s = (DISK_S, DISK_S)
        self.network.losing = lambda _: self.watch.losing
        self.network.holding_up_s = lambda _: self.watch.late_s

    def _links(self, machine: Machine, life: Life, hooks: LinkHooks, events: Events) -> Links:
        self.names.meet(hooks.superblock().store, machine.name)

        async def handle(caller: Caller, request: Request) -> Reply:
            with acting(self.watch.taken_over(caller.store, request)):
                return await hooks.handle(caller, request)

        links = super()._links(machine, life, replace(hooks, handle=handle), events)
        assert isinstance(links, SimLinks)
        return WatchedLinks(links, self.watch)

    def _noted(self, what: str) -> None:
        who, _, said = what.partition(" ")
        event, _, fields = said.partition(" ")
        if event in _EVENTS:
            text = re.sub(r"(seed|reason|what|error)=([0-9a-f]{32} )?", "", fields)
            self.watch.event(self.names.latest(who), f"{event} {text}".strip())
