"""One node, put together from its services. The same in production and in the simulator: only the ports differ.

Holds no behaviour but the order in which things start and stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Protocol

from holdfast_node.core.absence import NO_LIMIT, Patience
from holdfast_node.core.head import Manifest
from holdfast_node.core.ids import NodeName, StoreId
from holdfast_node.core.messages import NoteDegraded, Reply, Request
from holdfast_node.core.records import Superblock
from holdfast_node.ports import Bodies, Clock, Codec, Disk, Entropy, Index, Links
from holdfast_node.services.absences import Absences
from holdfast_node.services.acceptor import Acceptor, Helpers
from holdfast_node.services.admin import Admin, AdminServices
from holdfast_node.services.ballots import Ballots
from holdfast_node.services.blobs import Blobs
from holdfast_node.services.bucket_book import BucketBook
from holdfast_node.services.buckets import UNDO_SECONDS_DEFAULT, Buckets
from holdfast_node.services.budget import Budget, CoordinateMemory
from holdfast_node.services.cartographer import Cartographer
from holdfast_node.services.closed_doors import ClosedDoors
from holdfast_node.services.collection import Collection
from holdfast_node.services.collector import Collector
from holdfast_node.services.compaction import Compaction
from holdfast_node.services.coordinator import Coordinator
from holdfast_node.services.datapath import DataPath
from holdfast_node.services.dispatcher import Caller, Dispatcher
from holdfast_node.services.eras import Eras
from holdfast_node.services.events import Events
from holdfast_node.services.expiry import Expiry
from holdfast_node.services.explain import Explainer
from holdfast_node.services.feed import Feed
from holdfast_node.services.findings import Findings
from holdfast_node.services.follower import Follower
from holdfast_node.services.foreground import Foreground, HealBounds
from holdfast_node.services.forgetting import Forgetter, ForgettingHome
from holdfast_node.services.healer import Healer
from holdfast_node.services.keeper import Keeper
from holdfast_node.services.learner import Learner
from holdfast_node.services.listing import Listing
from holdfast_node.services.membership import Membership
from holdfast_node.services.notices import Notices
from holdfast_node.services.prove import Prover
from holdfast_node.services.quotas import Quotas
from holdfast_node.services.registers import Registers
from holdfast_node.services.rehoming import Rehoming
from holdfast_node.services.restoring import Others, RegisterRestorer, Restorer
from holdfast_node.services.scrubber import Scrubber
from holdfast_node.services.status import StatusService
from holdfast_node.services.store import Store, StoreSettings
from holdfast_node.services.tasks import Tasks
from holdfast_node.services.wards import DeletedBuckets


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """`seeds` are the addresses of the configured nodes, this one's own included."""

    name: NodeName
    seeds: tuple[str, ...]
    format_if_empty: bool
    store: StoreSettings
    coordinate_bytes: int
    keep_bytes: int
    repair_bytes: int
    scrub_cycle_s: float
    version: str
    patience: Patience = NO_LIMIT
    undo_seconds: int = UNDO_SECONDS_DEFAULT


@dataclass(frozen=True, slots=True)
class NodePorts:
    """The doors to the world that exist before the node does."""

    disk: Disk
    index: Index
    codec: Codec
    bodies: Bodies
    entropy: Entropy
    clock: Clock
    events: Events


@dataclass(frozen=True, slots=True)
class LinkHooks:
    """What a transport needs of the node it serves."""

    superblock: Callable[[], Superblock]
    failure: Callable[[], str]
    handle: Callable[[Caller, Request], Awaitable[Reply]]
    epoch: Callable[[], int]
    catch_up: Callable[[int, StoreId], Awaitable[None]]
    tasks: Tasks


class MakeLinks(Protocol):
    """Opens the node's way to its peers. Called once, before any service exists."""

    def __call__(self, hooks: LinkHooks) -> Links: ...


class Node:
    """Made by `Node.open`; serves peers from then on, votes once `start` has introduced it."""

    def __init__(self, settings: NodeSettings, ports: NodePorts, store: Store, make_links: MakeLinks) -> None:
        self.store = store
        self.tasks = Tasks(ports.events)
        self.dispatcher = Dispatcher()
        self.foreground = Foreground()
        hooks = LinkHooks(
            superblock=lambda: store.superblock,
            handle=self.dispatcher.handle,
            failure=lambda: store.failure,
            epoch=lambda: self.cartographer.epoch,
            catch_up=self._catch_up,
            tasks=self.tasks,
        )
        self.links = make_links(hooks)
        self._patience = settings.patience
        self._join_cluster(settings, ports)
        self._keep_registers(settings, ports)
        self._keep_shards(settings, ports)
        self._answer_operators(settings)
        self._dispatch()

    @classmethod
    async def open(cls, settings: NodeSettings, ports: NodePorts, make_links: MakeLinks) -> Node:
        """Open the store and put the services around it. Raises `StoreRefused`."""
        store = await Store.open(
            disk=ports.disk,
            index=ports.index,
            bodies=ports.bodies,
            entropy=ports.entropy,
            events=ports.events,
            node=settings.name,
            settings=settings.store,
            format_if_empty=settings.format_if_empty,
        )
        return cls(settings, ports, store, make_links)

    async def _catch_up(self, epoch: int, source: StoreId) -> None:
        await self.cartographer.catch_up(epoch, source)

    def _join_cluster(self, settings: NodeSettings, ports: NodePorts) -> None:
        self.cartographer = Cartographer(
            store=self.store,
            links=self.links,
            bodies=ports.bodies,
            entropy=ports.entropy,
            events=ports.events,
            tasks=self.tasks,
        )
        self.membership = Membership(cartographer=self.cartographer, seeds=settings.seeds)
        self.cartographer.guard_votes(self.membership.may_vote)

    def _keep_registers(self, settings: NodeSettings, ports: NodePorts) -> None:
        block = self.store.superblock
        ballots = Ballots(block.store, block.boot)
        self.eras = Eras(maps=self.cartographer, tasks=self.tasks, events=ports.events)
        self.registers = Registers(
            links=self.links,
            maps=self.cartographer,
            codec=ports.bodies,
            entropy=ports.entropy,
            ballots=ballots,
            eras=self.eras,
        )
        self.listing = Listing(
            me=block.store, links=self.links, maps=self.cartographer, registers=self.registers
        )
        self.budget = CoordinateMemory(settings.coordinate_bytes)
        self.path = DataPath(
            me=block.store,
            links=self.links,
            maps=self.cartographer,
            codec=ports.codec,
            entropy=ports.entropy,
            clock=ports.clock,
            events=ports.events,
            registers=self.registers,
            coordinate=self.budget,
            report_damage=lambda place: self.healer.report(place),
            notices=Notices(
                me=block.store, links=self.links, maps=self.cartographer, tasks=self.tasks, own=self
            ),
        )
        self.blobs = Blobs(self.path)
        self.buckets = Buckets(
            blobs=self.blobs,
            listing=self.listing,
            path=self.path,
            undo_seconds_default=settings.undo_seconds,
        )
        self.bucket_book = BucketBook(self.buckets, self.store.bucket_closing)
        self.closed_doors = ClosedDoors(self.buckets)
        self.quotas = Quotas(path=self.path, store=self.store)
        self.coordinator = Coordinator(
            blobs=self.blobs, buckets=self.buckets, listing=self.listing, quotas=self.quotas
        )
        self.acceptor = Acceptor(
            store=self.store,
            maps=self.cartographer,
            codec=ports.bodies,
            ballots=ballots,
            helpers=Helpers(self.registers, self.buckets, self.membership.may_vote, self._inline),
        )
        self.forgetting = ForgettingHome(
            store=self.store,
            bodies=ports.bodies,
            own=self.acceptor,
            standings=self.acceptor.standings,
        )

    def note(self, notice: NoteDegraded) -> None:
        self.healer.note(notice)

    async def _inline(self, manifest: Manifest) -> tuple[int, bytes] | None:
        return await self.keeper.inline(manifest)

    def _keep_shards(self, settings: NodeSettings, ports: NodePorts) -> None:
        self.keeper = Keeper(
            store=self.store,
            prepare_with=self.acceptor.prepare_with,
            report_damage=lambda name: self.healer.report_shard(name),
            epoch=lambda: self.cartographer.epoch,
            budget=Budget("keep", settings.keep_bytes),
        )
        self.learner = Learner(
            cartographer=self.cartographer,
            pupil=self.acceptor,
            settler=self.registers,
            doors=self.buckets,
        )
        self._catch_up_and_heal(settings, ports)
        me = self.store.superblock.store
        broken = RegisterRestorer(
            me=me,
            store=self.store,
            own=self.acceptor,
            registers=self.registers,
            closed=self.closed_doors,
        )
        restorer = Restorer(
            store=self.store,
            path=self.path,
            bodies=ports.bodies,
            others=Others(self.keeper, broken, self.healer.report_shard),
        )
        self.scrubber = Scrubber(
            me=me,
            store=self.store,
            restorer=restorer,
            maps=self.cartographer,
            foreground=self.foreground,
            cycle_s=settings.scrub_cycle_s,
        )
        self.compaction = Compaction(store=self.store, foreground=self.foreground)
        self._collect_garbage(ports)

    def _catch_up_and_heal(self, settings: NodeSettings, ports: NodePorts) -> None:
        self.feed = Feed(store=self.store, standings=self.acceptor.standings)
        self.follower = Follower(
            path=self.path,
            store=self.store,
            bodies=ports.bodies,
            home=self.acceptor,
            closed=self.closed_doors,
            foreground=self.foreground,
        )
        self.healer = Healer(
            path=self.path,
            store=self.store,
            bodies=ports.bodies,
            level=self.follower,
            deleted=DeletedBuckets(self.bucket_book, self.closed_doors),
            bounds=HealBounds(Budget("repair", settings.repair_bytes), self.foreground, self.tasks),
        )
        self.follower.taken = self.healer.caught_up

    def _collect_garbage(self, ports: NodePorts) -> None:
        path, store, book = self.path, self.store, self.bucket_book
        self.collection = Collection(
            path=path,
            store=store,
            bodies=ports.bodies,
            shards=self.keeper,
            book=book,
            closed=self.closed_doors,
        )
        self.forgetter = Forgetter(
            path=path, store=store, bodies=ports.bodies, own=self.acceptor, book=book, eras=self.eras
        )
        self.collector = Collector(
            path=path,
            store=store,
            expiry=Expiry(path=path, store=store, bodies=ports.bodies, book=book),
            collection=self.collection,
            forgetter=self.forgetter,
            compaction=self.compaction,
        )

    def _answer_operators(self, settings: NodeSettings) -> None:
        self.absences = Absences(
            cartographer=self.cartographer, picture=lambda: self.status.picture(), patience=settings.patience
        )
        self.status = StatusService(
            cartographer=self.cartographer,
            membership=self.membership,
            health=(self.healer.health, self.path.notices.health),
            workers=(
                self.learner.status,
                self.follower.status,
                self.healer.status,
                self.scrubber.status,
                self.compaction.status,
                self.collector.status,
                self.absences.status,
            ),
            scrubber=self.scrubber,
            absences=self.absences,
        )
        prover = Prover(path=self.path, listing=self.listing, buckets=self.buckets)
        explainer = Explainer(path=self.path, resolve=self.buckets.resolve)
        self.admin = Admin(
            AdminServices(
                store=self.store,
                cartographer=self.cartographer,
                membership=self.membership,
                status=self.status,
                rehoming=Rehoming(cartographer=self.cartographer, status=self.status),
                findings=Findings(path=self.path, buckets=self.buckets),
                prover=prover,
                explainer=explainer,
            ),
            version=settings.version,
        )

    def _dispatch(self) -> None:
        for service in (
            self.cartographer,
            self.membership,
            self.scrubber,
            self.status,
            self.feed,
            self.quotas,
            self.forgetting,
        ):
            self.dispatcher.add(service.handlers())
        for handlers in (self.keeper.handlers(), self.healer.watch(self.acceptor.handlers())):
            self.dispatcher.add(self.foreground.watch(handlers))
        self.dispatcher.check_complete()

    def start(self) -> None:
        """Begin the background work. Peers and clients may be served before and after."""
        work: dict[str, Coroutine[object, object, None]] = {
            "membership": self.membership.run(),
            "learner": self.learner.run(),
            "follower": self.follower.run(),
            "healer": self.healer.run(),
            "scrubber": self.scrubber.run(),
            "compactor": self.compaction.run(),
            "collector": self.collector.run(),
        }
        if not self._patience.endless:
            work["absences"] = self.absences.run()
        running = [self.tasks.spawn(each, name) for name, each in work.items()]
        _ = self.tasks.spawn(self._rest(running), "end of the background work")

    async def _rest(self, running: Sequence[asyncio.Task[None]]) -> None:
        """Without a store nothing is left to do here: to its peers this node is down, and they do it (ADR 0096)."""
        await self.store.failed.wait()
        for task in running:
            _ = task.cancel()

    async def stop(self) -> None:
        """End the background work, then the store. Whoever serves requests must have stopped before."""
        await self.tasks.close()
        await self.store.close()
