"""Messages between simulated nodes: delayed, lost, doubled, reordered, partitioned, and never an object shared.

Every request and reply goes through the product's own `Bodies`, so what arrives is what the wire would carry. The
fakes implement `ports.Links` with the same promises as the real link: identities are checked, each frame carries its
sender's map epoch and whoever is behind catches up before it answers, `done` is called once. It knows no meanings.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, TypeVar, cast

from holdfast_node.core.errors import (
    DeadlineExceeded,
    Evidence,
    HoldfastError,
    InternalError,
    PeerUnreachable,
    error_from_code,
)
from holdfast_node.core.ids import NodeName, StoreId
from holdfast_node.core.messages import REPLY_TO, Commit, Introduce, IntroduceReply, Reply, Request
from holdfast_node.ports import Answer, Answered, Bodies, Failed
from holdfast_node.services.dispatcher import Caller
from tests.sim.coverage import Coverage
from tests.sim.loop import Life, SimLoop

DOWN_AFTER_S: Final = 2.0
PATIENCE_FLOOR_S: Final = 0.2
RESET_S: Final = 0.0005
AT_MOST_ONCE: Final = (Commit,)
"""A link runs no request twice (ADR 0074). All but these must bear it all the same."""

M = TypeVar("M")


class Resident(Protocol):
    """What the network needs of the process at an address."""

    async def handle(self, caller: Caller, request: Request) -> Reply: ...

    def epoch(self) -> int: ...

    def failure(self) -> str:
        """Why its store is dead, empty while it lives: nobody else is served then."""
        ...

    def saw(self, store: StoreId, epoch: int) -> None:
        """A reply of `store` carried this epoch: catch up in the background if behind."""
        ...

    async def caught_up(self, store: StoreId, epoch: int) -> None:
        """A request of `store` carried this epoch: catch up first if behind, within bounds."""
        ...


@dataclass(frozen=True)
class Residence:
    """One process at one address, from attach to detach."""

    address: str
    store: StoreId
    node: NodeName
    life: Life
    resident: Resident


@dataclass
class Weather:
    """How messages fare. Delays are uniform in seconds; `slow` multiplies them for one address, `clogged` is the most
    that is added on one path."""

    delay_low_s: float = 0.0001
    delay_high_s: float = 0.002
    loss: float = 0.0
    duplicates: float = 0.0
    stragglers: float = 0.0
    straggle_s: float = 3.0
    slow: dict[str, float] = field(default_factory=dict[str, float])
    clogged: dict[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])


@dataclass
class Tally:
    sent: int = 0
    lost: int = 0
    doubled: int = 0
    refused: int = 0
    timed_out: int = 0


def _ignore(_: str) -> None:
    pass


class Network:
    """Everybody's wires."""

    def __init__(
        self,
        loop: SimLoop,
        bodies: Bodies,
        *,
        chooser: random.Random,
        note: Callable[[str], None] = _ignore,
        coverage: Coverage | None = None,
    ) -> None:
        self.loop = loop
        self.bodies = bodies
        self.coverage = coverage or Coverage()
        self.weather = Weather()
        self.tally = Tally()
        self.note = note
        self.problems: list[str] = []
        self.losing: Callable[[Request], bool] | None = None
        """Set by a story: requests that never arrive."""
        self.holding_up_s: Callable[[Request], float] | None = None
        """Set by a story: how much later than others a request arrives."""
        self._chooser = chooser
        self._residences: dict[str, Residence] = {}
        self._gone_since: dict[str, float] = {}
        self._blocked: dict[tuple[str, str], float] = {}
        self._waiting: dict[int, _Exchange] = {}
        self._exchanges = 0

    # --- who lives where

    def attach(self, residence: Residence) -> None:
        assert residence.address not in self._residences, f"{residence.address} is in use"
        self._residences[residence.address] = residence
        self._gone_since.pop(residence.address, None)
        residence.life.when_dead(lambda: self._detach(residence))

    def detach(self, address: str) -> None:
        residence = self._residences.get(address)
        if residence is not None:
            self._detach(residence)

    def _detach(self, residence: Residence) -> None:
        if self._residences.get(residence.address) is not residence:
            return
        del self._residences[residence.address]
        self._gone_since[residence.address] = self.loop.time()
        for number in sorted(self._waiting):
            exchange = self._waiting[number]
            if exchange.address == residence.address and self._chooser.random() < 0.8:
                exchange.fail_later(PeerUnreachable(f"the connection to {residence.node} was reset"))

    def resident_at(self, address: str) -> Residence | None:
        return self._residences.get(address)

    # --- partitions

    def block(self, source: str, target: str) -> None:
        """Nothing sent from `source` reaches `target` any more. One way."""
        self._blocked.setdefault((source, target), self.loop.time())

    def unblock_all(self) -> None:
        self._blocked.clear()

    def passes(self, source: str, target: str) -> bool:
        return (source, target) not in self._blocked

    def silent_since(self, me: str, peer: str) -> float | None:
        """Since when `me` cannot have heard anything from `peer`; None if it hears it."""
        residence = self._residences.get(peer)
        since = [self._gone_since.get(peer, 0.0)] if residence is None else []
        since += [self._blocked[path] for path in ((me, peer), (peer, me)) if path in self._blocked]
        if residence is not None and residence.life.paused:
            since.append(residence.life.paused_since)
        return min(since) if since else None

    # --- messages

    def copy(self, message: M) -> M:
        """What the wire makes of a message: equal, and another object."""
        cls = type(message)
        arrived = self.bodies.decode(cls, self.bodies.encode(message))
        payload = getattr(message, "payload", b"")
        if payload:
            arrived = cast("M", replace(cast("Any", arrived), payload=bytes(payload)))
        return arrived

    def delay_s(self, source: str, target: str) -> float:
        weather = self.weather
        slow = max(weather.slow.get(source, 1.0), weather.slow.get(target, 1.0))
        if weather.stragglers and self._chooser.random() < weather.stragglers:
            return self._chooser.uniform(0, weather.straggle_s) * slow
        if weather.clogged and (source, target) in weather.clogged:
            return self._chooser.uniform(0, weather.clogged[source, target])
        return self._chooser.uniform(weather.delay_low_s, weather.delay_high_s) * slow

    def lost(self, source: str, target: str) -> bool:
        if not self.passes(source, target) or self._chooser.random() < self.weather.loss:
            self.tally.lost += 1
            return True
        return False

    def deliveries(self, request: Request) -> int:
        """How often it may arrive. Links promise more than the network does for `AT_MOST_ONCE`."""
        self.tally.sent += 1
        if self._chooser.random() < self.weather.duplicates and not isinstance(request, AT_MOST_ONCE):
            self.tally.doubled += 1
            return 2
        return 1

    def enter(self, exchange: _Exchange) -> int:
        self._exchanges += 1
        self._waiting[self._exchanges] = exchange
        return self._exchanges

    def leave(self, number: int) -> None:
        self._waiting.pop(number, None)


class _Exchange:
    """One request and its one answer."""

    def __init__(
        self,
        links: SimLinks,
        address: str,
        to: StoreId | None,
        done: Callable[[StoreId, Reply | HoldfastError], None],
    ) -> None:
        self._links = links
        self._network = links.network
        self.address = address
        self._to = to
        self._done = done
        self._open = True
        self._arrivals = 0
        self._number = self._network.enter(self)
        self._timer: asyncio.TimerHandle | None = None
        self._serving: asyncio.Task[None] | None = None

    def start(self, request: Request, timeout_s: float) -> None:
        network, me = self._network, self._links.me
        name = type(request).__name__
        self._timer = network.loop.call_later(timeout_s, self._time_out, name, context=me.life.context)
        epoch = me.resident.epoch()
        for _ in range(network.deliveries(request)):
            aimed = network.losing is not None and network.losing(request)
            if aimed or network.lost(me.address, self.address):
                network.note(f"{me.node} -> {self.address} {name} lost")
                network.coverage.lost(request)
                continue
            delay = network.delay_s(me.address, self.address)
            delay += network.holding_up_s(request) if network.holding_up_s is not None else 0.0
            network.loop.call_later(delay, self._arrive, network.copy(request), epoch, context=_WORLD)

    def _arrive(self, request: Request, epoch: int) -> None:
        """On the other side, outside any life."""
        network, me = self._network, self._links.me
        peer = network.resident_at(self.address)
        if peer is None:
            network.tally.refused += 1
            self.fail_later(PeerUnreachable(f"nobody listens at {self.address}"))
            return
        if self._to is not None and peer.store != self._to:
            self.fail_later(PeerUnreachable(f"another store lives at {self.address} now"))
            return
        if why := peer.resident.failure():
            said = Evidence(peer.node, f"its store failed: {why}")
            self.fail_later(PeerUnreachable(f"{self.address}: the store failed: {why}", evidence=(said,)))
            return
        network.note(f"{me.node} -> {peer.node} {type(request).__name__}")
        if self._arrivals:
            network.coverage.doubled(request)
        else:
            network.coverage.arrived(request, awaited=self._open)
        self._arrivals += 1
        self._serving = network.loop.start(peer.life, self._serve(peer, request, epoch))

    async def _serve(self, peer: Residence, request: Request, epoch: int) -> None:
        """In the life of the peer."""
        me = self._links.me
        outcome: Reply | HoldfastError
        try:
            await peer.resident.caught_up(me.store, epoch)
            outcome = await peer.resident.handle(Caller(me.store, me.node), request)
        except HoldfastError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001 - a handler's bug is a finding, and the peer still gets an answer
            self._network.problems.append(f"{peer.node} {type(request).__name__}: {error!r}")
            outcome = InternalError(repr(error))
        self._reply(peer, type(request), outcome)

    def _reply(self, peer: Residence, asked: type[Request], outcome: Reply | HoldfastError) -> None:
        network, me = self._network, self._links.me
        epoch = peer.resident.epoch()
        name = f"{type(outcome).__name__} to {asked.__name__}"
        lost = network.lost(peer.address, me.address)
        network.coverage.answered(asked, outcome, heard=not lost)
        if lost:
            network.note(f"{peer.node} -> {me.node} {name} lost")
            return
        if isinstance(outcome, HoldfastError):
            answer: Reply | HoldfastError = _copy_error(outcome)
        else:
            answer = network.copy(outcome)
            if not isinstance(answer, REPLY_TO[asked]):
                network.problems.append(f"{peer.node} answered {asked.__name__} with {type(answer).__name__}")
        delay = network.delay_s(peer.address, me.address)
        network.loop.call_later(
            delay, self._answered, answer, peer.store, epoch, name, context=me.life.context
        )

    def _answered(self, answer: Reply | HoldfastError, store: StoreId, epoch: int, name: str) -> None:
        """Back in the life of the asker."""
        if not self._open:
            return
        self._network.note(f"{self._links.me.node} <- {self.address} {name}")
        self._links.me.resident.saw(store, epoch)
        self._finish(store, answer)

    def fail_later(self, error: HoldfastError) -> None:
        life = self._links.me.life
        self._network.loop.call_later(RESET_S, self._finish, self._to or _NOBODY, error, context=life.context)

    def _time_out(self, name: str) -> None:
        self._network.tally.timed_out += 1
        self._finish(self._to or _NOBODY, DeadlineExceeded(f"no answer to {name} in time"))

    def _finish(self, store: StoreId, outcome: Reply | HoldfastError) -> None:
        if not self._open:
            return
        self._open = False
        self._network.leave(self._number)
        if self._timer is not None:
            self._timer.cancel()
        self._done(store, outcome)


_NOBODY: Final = StoreId(b"")
_WORLD: Final = contextvars.Context()
"""Deliveries belong to nobody: they happen whoever died meanwhile."""


def _copy_error(error: HoldfastError) -> HoldfastError:
    return error_from_code(
        error.code,
        error.message,
        hint=error.hint,
        evidence=error.evidence,
        retry_after_ms=error.retry_after_ms,
    )


class SimLinks:
    """Implements `ports.Links` for one life of one node."""

    def __init__(self, network: Network, me: Residence) -> None:
        self.network = network
        self.me = me
        self._addresses: dict[StoreId, str] = {}
        self._background: asyncio.Task[None] | None = None

    def send(
        self, to: StoreId, request: Request, *, timeout_s: float, done: Callable[[Answer], None]
    ) -> None:
        if self.me.life.dead:
            return
        assert type(request) in REPLY_TO, f"{type(request).__name__} is no request"
        if to == self.me.store:
            self._serve_here(request, done)
            return
        address = self._addresses.get(to)
        if address is None:
            error = PeerUnreachable(f"no address is known for store {to.hex()[:8]}")
            self.network.loop.call_soon(done, Failed(to, error))
            return

        def finish(_: StoreId, outcome: Reply | HoldfastError) -> None:
            done(Failed(to, outcome) if isinstance(outcome, HoldfastError) else Answered(to, outcome))

        _Exchange(self, address, to, finish).start(request, timeout_s)

    def _serve_here(self, request: Request, done: Callable[[Answer], None]) -> None:
        async def serve() -> None:
            me = self.me
            try:
                reply = await me.resident.handle(Caller(me.store, me.node), request)
            except HoldfastError as error:
                done(Failed(me.store, error))
            except Exception as error:  # noqa: BLE001 - as for a peer: a finding, and an answer
                self.network.problems.append(f"{me.node} {type(request).__name__} of its own: {error!r}")
                done(Failed(me.store, InternalError(repr(error))))
            else:
                done(Answered(me.store, reply))

        self._background = self.network.loop.start(self.me.life, serve())

    async def introduce(self, address: str, me: Introduce, *, timeout_s: float) -> IntroduceReply:
        future: asyncio.Future[IntroduceReply] = self.network.loop.create_future()

        def finish(_: StoreId, outcome: Reply | HoldfastError) -> None:
            if future.done():
                return
            if isinstance(outcome, IntroduceReply):
                future.set_result(outcome)
            elif isinstance(outcome, DeadlineExceeded | PeerUnreachable):
                future.set_exception(PeerUnreachable(outcome.message))
            elif isinstance(outcome, HoldfastError):
                future.set_exception(outcome)
            else:
                future.set_exception(InternalError(f"introduced, got {type(outcome).__name__}"))

        _Exchange(self, address, None, finish).start(me, timeout_s)
        return await future

    def learn(self, addresses: Mapping[StoreId, str]) -> None:
        self._addresses = dict(addresses)

    def is_up(self, store: StoreId) -> bool:
        if store == self.me.store:
            return True
        address = self._addresses.get(store)
        if address is None:
            return True
        peer = self.network.resident_at(address)
        if peer is not None and (peer.store != store or peer.resident.failure()):
            return False
        since = self.network.silent_since(self.me.address, address)
        return since is None or self.network.loop.time() - since < DOWN_AFTER_S

    def patience_s(self, store: StoreId) -> float:
        return PATIENCE_FLOOR_S


Serve = Callable[[Caller, Request], Awaitable[Reply]]


class PlainResident:
    """A resident made of one function and one number, for tests below the node."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.known_epoch = 0
        self.catches: list[tuple[int, StoreId]] = []

    async def handle(self, caller: Caller, request: Request) -> Reply:
        return await self._serve(caller, request)

    def epoch(self) -> int:
        return self.known_epoch

    def failure(self) -> str:
        return ""

    def saw(self, store: StoreId, epoch: int) -> None:
        if epoch > self.known_epoch:
            self.catches.append((epoch, store))
            self.known_epoch = epoch

    async def caught_up(self, store: StoreId, epoch: int) -> None:
        self.saw(store, epoch)
