"""The composition root: one node of real parts, its start and its end.

Start-up: tune the allocator, take the data directory, open the store, put the services around it, listen, begin the
background work, say ready. Shutdown on SIGTERM or SIGINT is the same backwards: not ready, drain, links, tasks, store.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import signal
import sys
from typing import Final

from holdfast_node.adapters.disk import FILES_MAX as DISK_FILES_MAX
from holdfast_node.adapters.disk import FileDisk
from holdfast_node.adapters.erasure import EclibCodec, tune_allocator
from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.adapters.rocks import OPEN_FILES_MAX as INDEX_FILES_MAX
from holdfast_node.adapters.rocks import RocksIndex
from holdfast_node.adapters.rpc.carrier import grpc_dial
from holdfast_node.adapters.rpc.options import RpcLimits
from holdfast_node.adapters.rpc.server import Doors, RpcPorts, RpcServer
from holdfast_node.adapters.system import LogEvents, SystemClock, SystemEntropy, raise_open_files
from holdfast_node.config import Config, NodeConfig
from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.ids import NodeName, StoreId
from holdfast_node.services.events import Events
from holdfast_node.services.link.epochs import Epochs
from holdfast_node.services.link.hello import Identity
from holdfast_node.services.link.inbound import LinkServer
from holdfast_node.services.link.limits import bulk_window_bytes
from holdfast_node.services.link.peers import PeerLinks
from holdfast_node.services.link.surroundings import Surroundings, failure_of
from holdfast_node.services.node import LinkHooks, Node, NodePorts, NodeSettings
from holdfast_node.services.store import StoreSettings

OTHER_FILES: Final = 64
"""Besides the disk's, the index's and connections: the interpreter's libraries, the event loop, gRPC's own."""
DRAIN_S: Final = 5.0
"""How long requests in flight may take to finish after SIGTERM."""
SWITCH_INTERVAL_S: Final = 0.0005
"""A thread back from fdatasync may wait this long for the interpreter; the default of 5 ms is ten fsyncs."""
INDEX_ROOM_BYTES: Final = 64 * 1024 * 1024
"""Of the disk, that the log leaves to the index: what is in memory, written, and once more, merged."""
INDEX_DIRECTORY: Final = "index"
"""Below the data directory: RocksDB's files, which may be deleted while the node is down."""


def run(config: Config, name: str, *, format_if_empty: bool) -> int:
    """Serve until a signal comes; a store without an index is started again. Returns the process's exit status."""
    tune_allocator()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    events = LogEvents(name)
    claim_files(config, events)
    try:
        while asyncio.run(_App(config, config.node(name), events, format_if_empty=format_if_empty).serve()):
            events.emit("node_starts_again", reason="its index has to be made anew")
    except HoldfastError as error:
        events.emit("node_refused", error=error.message, hint=error.hint)
        return 1
    return 0


def claim_files(config: Config, events: Events) -> None:
    """Have the process open as many files as it may, and say so if it may come to need more: what it cannot open then
    is refused, be it a read or a connection, and a volume that it cannot open for writing fails its store."""
    allowed = raise_open_files()
    connections = config.limits.connections + len(config.nodes)
    needed = DISK_FILES_MAX + INDEX_FILES_MAX + connections + OTHER_FILES
    if allowed < needed:
        events.emit("few_open_files", allowed=allowed, needed=needed, hint="raise `ulimit -Hn`")


class _App:
    """The parts of one running process."""

    def __init__(self, config: Config, me: NodeConfig, events: LogEvents, *, format_if_empty: bool) -> None:
        self._config = config
        self._me = me
        self._events = events
        self._format_if_empty = format_if_empty
        self._bodies = ProtobufBodies()
        self._entropy = SystemEntropy()

    async def serve(self) -> bool:
        """Everything from the first file opened to the last one closed. Whether to do it all again."""
        stop = _stop_signal()
        disk = FileDisk(self._me.data_dir)
        index = RocksIndex(self._me.data_dir / INDEX_DIRECTORY)
        ports = NodePorts(
            disk=disk,
            index=index,
            codec=EclibCodec(),
            bodies=self._bodies,
            entropy=self._entropy,
            clock=SystemClock(),
            events=self._events,
        )
        try:
            node = await Node.open(self._settings(), ports, self._make_links)
            server = self._server(node)
            port = await server.start()
            node.start()
            await server.set_ready(ready=True)
            self._events.emit(
                "node_started", address=self._me.address, port=port, boot=node.store.superblock.boot
            )
            _ = node.tasks.spawn(self._withdraw(node, server), "end of service")
            over = asyncio.Event()
            for reason in (stop, node.store.index_gone):
                _ = node.tasks.spawn(_pass_on(reason, over), "end of the node")
            await over.wait()
            self._events.emit("node_stopping", grace_s=DRAIN_S)
            await server.stop(DRAIN_S)
            await self._links.close()
            await node.stop()
        finally:
            index.close()
            disk.close()
        self._events.emit("node_stopped")
        return not stop.is_set()

    async def _withdraw(self, node: Node, server: RpcServer) -> None:
        """A node whose store has failed asks nobody and serves nobody any more; it only says why (ADR 0096)."""
        await node.store.failed.wait()
        await server.set_ready(ready=False)
        await self._links.close()

    def _settings(self) -> NodeSettings:
        limits = self._config.limits
        return NodeSettings(
            name=NodeName(self._me.name),
            seeds=tuple(node.address for node in self._config.nodes),
            format_if_empty=self._format_if_empty,
            store=StoreSettings(volume_bytes=limits.volume_bytes, index_room_bytes=INDEX_ROOM_BYTES),
            coordinate_bytes=limits.coordinate_bytes,
            keep_bytes=limits.keep_bytes,
            repair_bytes=limits.repair_bytes,
            scrub_cycle_s=self._config.scrub.cycle_s,
            undo_seconds=self._config.undo.window_s,
            patience=self._config.lost.patience,
            version=importlib.metadata.version("holdfast"),
        )

    def _make_links(self, hooks: LinkHooks) -> PeerLinks:
        def identity() -> Identity:
            block = hooks.superblock()
            return Identity(NodeName(block.node), block.store, block.cluster_id, block.boot, block.boot_id)

        async def on_epoch(store: StoreId, epoch: int) -> None:
            await hooks.catch_up(epoch, store)

        self._around = Surroundings(
            bodies=self._bodies,
            tasks=hooks.tasks,
            events=self._events,
            entropy=self._entropy,
            identity=identity,
            failure=hooks.failure,
            epochs=Epochs(mine=hooks.epoch, on_epoch=on_epoch, tasks=hooks.tasks, events=self._events),
        )
        self._links = PeerLinks(self._around, dial=grpc_dial(hooks.tasks), handle=hooks.handle)
        return self._links

    def _server(self, node: Node) -> RpcServer:
        limits = self._config.limits
        peers = len(self._config.nodes) - 1
        links = LinkServer(
            self._around,
            handle=node.dispatcher.handle,
            bulk_window_bytes=lambda: bulk_window_bytes(limits.keep_bytes, peers),
        )
        return RpcServer(
            Doors(blobs=node.coordinator, buckets=node.buckets, admin=node.admin, links=links),
            RpcPorts(self._bodies, self._entropy, self._events, lambda: failure_of(self._around)),
            address=self._me.address,
            limits=RpcLimits(
                message_bytes=limits.message_bytes,
                metadata_bytes=limits.metadata_bytes,
                connections=limits.connections,
                streams=limits.streams,
            ),
        )


async def _pass_on(event: asyncio.Event, to: asyncio.Event) -> None:
    await event.wait()
    to.set()


def _stop_signal() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
