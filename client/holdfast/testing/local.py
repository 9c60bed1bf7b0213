"""A cluster of real node processes on this machine. It speaks to the nodes as any client does."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from holdfast.admin import Admin
from holdfast.errors import CallerError, Error, Unavailable
from holdfast.testing import layout as layouts
from holdfast.testing import processes, state
from holdfast.testing.layout import CONFIG_NAME, Layout, Node, Shape
from holdfast.testing.processes import Process
from holdfast.testing.refusals import LocalRefused
from holdfastpb.v1 import admin_pb2

if TYPE_CHECKING:
    import holdfast

TEST_PORTS: Final = (10_000, 30_000)
READY_WAIT_S: Final = 30.0
HEALTHY_WAIT_S: Final = 120.0
DRAIN_WAIT_S: Final = 15.0
POLL_S: Final = 0.02
LOG_TAIL_BYTES: Final = 4096
NODE_MODULE: Final = "holdfast_node"


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node of a local cluster. `state`: running or stopped; `pid` 0 when stopped."""

    node: Node
    state: str
    pid: int


class LocalCluster:
    """As a context manager it is `up` inside and stopped afterwards. Its data stays in `root`, with its file and its
    logs, and the next cluster there goes on with it. Selectors (of `kill`, `lose`, `start` ...) are a node's
    name or `tag=value`: `n1`, `san=a`.

    `nodes`, `sans`, `racks`, `code`: what is made if `root` holds no cluster yet; one that is there stays as it is.
    `port_base`: the first node's port, 0 for free ones. `leashed`: the nodes die with this process, however it ends;
    otherwise they run on until `stop`. `volume`: the size of one file of a node's log."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        nodes: int = 6,
        sans: int = 3,
        racks: int = 0,
        code: str = "rs:4+2",
        port_base: int = 0,
        leashed: bool = True,
        volume: str = layouts.VOLUME,
    ) -> None:
        self.root = Path(root).absolute()
        # Test clusters start side by side: each looks for its ports from somewhere else on.
        first = random.randrange(*TEST_PORTS, 10) if leashed else layouts.PORT_FIRST  # noqa: S311
        self._shape = Shape(nodes, sans, racks, code, port_base, first, volume=volume)
        self._leash: tuple[int, int] | None = os.pipe() if leashed else None
        self._clients: list[holdfast.Client] = []

    @classmethod
    def at(cls, root: str | os.PathLike[str]) -> LocalCluster:
        """The cluster that is in the directory; raises LocalRefused if there is none."""
        cluster = cls(root, leashed=False)
        if not cluster.exists:
            raise LocalRefused(
                f"there is no local cluster in {cluster.root}", hint="`clusterctl local up` makes one"
            )
        return cluster

    @property
    def exists(self) -> bool:
        return self.config_path.exists()

    @property
    def config_path(self) -> Path:
        return self.root / CONFIG_NAME

    @property
    def layout(self) -> Layout:
        return layouts.read(self.config_path)

    @property
    def endpoints(self) -> str:
        return ",".join(self.layout.endpoints)

    def up(self) -> Self:
        """Makes the cluster if there is none, starts what is stopped, waits until all nodes answer and the cluster is
        healthy. Raises LocalRefused with the last words of a node that ended."""
        with state.locked(self.root):
            fresh = not self.exists
            if fresh:
                self._shape.check()
                self._refuse_what_is_there()
                layout = layouts.build(self._shape, self.root, layouts.cluster_name(self.root))
                self.config_path.write_text(layouts.to_toml(layout, volume=self._shape.volume))
            try:
                self._start(self.layout.nodes)
                if not any(_identity(node).cluster_id for node in self.layout.nodes):
                    self._found()
            except CallerError:
                if fresh:
                    self._remove()
                raise
        return self

    def start(self, *selectors: str) -> tuple[str, ...]:
        """Starts what is stopped of the selection (all without one); a wiped node comes up with a new, empty store.
        Returns the names of those that were started."""
        with state.locked(self.root):
            return self._start(self._selected(selectors))

    def kill(self, *selectors: str) -> tuple[str, ...]:
        """SIGKILL. The data stays."""
        with state.locked(self.root):
            return self._kill(self.layout.select(selectors))

    def lose(self, *selectors: str) -> tuple[str, ...]:
        """SIGKILL, then the data directories are emptied: the machine is gone, disks and all."""
        with state.locked(self.root):
            nodes = self.layout.select(selectors)
            self._kill(nodes)
            for node in nodes:
                shutil.rmtree(node.data_dir, ignore_errors=True)
            return tuple(node.name for node in nodes)

    def pause(self, *selectors: str) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._signal(selectors, signal.SIGSTOP)

    def resume(self, *selectors: str) -> None:
        self._signal(selectors, signal.SIGCONT)

    def replace(self, *selectors: str) -> tuple[str, ...]:
        """Declares the stores lost; the new, empty ones that run under their names take their places. `start` first."""
        with self.admin() as admin:
            return tuple(name for selector in selectors for name in admin.replace_lost(selector).nodes)

    def add(self, **tags: str) -> admin_pb2.PlanReply:
        """Starts one more node, on a host of its own and with these tags, and lets it take its share, which goes on
        after this returns: `wait_moved`. Its name is the reply's `nodes[0]`. If it may have become a member although
        the answer was lost, it runs on: `add` once more, or drain it."""
        with state.locked(self.root):
            node = layouts.newcomer(self.layout, self.root, tags)
            before = self.config_path.read_text()
            self.config_path.write_text(layouts.with_node(before, node))
            try:
                self._start([node])
                with self.admin() as admin:
                    return admin.change(admin_pb2.ChangeRequest(add=seed_node(node), apply=True))
            except CallerError:
                self._kill([node])
                self.config_path.write_text(before)
                shutil.rmtree(node.data_dir, ignore_errors=True)
                raise

    def recode(self, pool: str, code: str) -> admin_pb2.PlanReply:
        """Begin to bring everything in a pool into another code; `wait_moved` until it is."""
        asked = admin_pb2.RecodePool(pool=pool, code=code)
        with self.admin() as admin:
            return admin.change(admin_pb2.ChangeRequest(recode=asked, apply=True))

    def create_pool(self, name: str, code: str, *, partitions: int = layouts.PARTITIONS) -> None:
        """One more pool on all nodes; buckets say `pool=` to be in it."""
        pool = admin_pb2.SeedPool(name=name, code=code, partitions=partitions)
        with self.admin() as admin:
            admin.change(admin_pb2.ChangeRequest(create_pool=pool, apply=True))

    def drain(self, selector: str) -> admin_pb2.PlanReply:
        """Everything at these nodes begins to move to the others."""
        with self.admin() as admin:
            return admin.change(admin_pb2.ChangeRequest(drain=selector, apply=True))

    def remove(self, name: str) -> None:
        """Takes a drained node out of the cluster, ends its process and deletes its data. Refused while anything there
        is needed."""
        with state.locked(self.root):
            [node] = self.layout.select([name])
            with self.admin() as admin:
                admin.change(admin_pb2.ChangeRequest(remove=node.name, apply=True))
            self._kill([node])
            self.config_path.write_text(layouts.without_node(self.config_path.read_text(), node.name))
            shutil.rmtree(node.data_dir, ignore_errors=True)

    def wait_moved(self, limit_s: float = HEALTHY_WAIT_S) -> None:
        """Until the last change of nodes is done and every shard is where it belongs."""
        deadline = time.monotonic() + limit_s
        with self.admin() as admin:
            while not (found := admin.plan()).settled:
                if time.monotonic() >= deadline:
                    raise Unavailable(
                        f"{found.open} of {found.partitions} partitions move after {limit_s:g} s"
                    )
                time.sleep(POLL_S * 5)

    def stop(self) -> tuple[str, ...]:
        """SIGTERM, then SIGKILL for what has not ended. Returns the names of those that ran."""
        if not self.exists:
            return ()
        with state.locked(self.root):
            running = {name: process for name, process in state.load(self.root).items() if process.alive()}
            for process in running.values():
                process.signal(signal.SIGTERM)
                process.signal(signal.SIGCONT)
            processes.kill(processes.wait_gone(running.values(), DRAIN_WAIT_S))
            state.save(self.root, {})
            return tuple(running)

    def wipe(self) -> None:
        """Stops the cluster and removes its data, logs and file; nothing else that may lie in the directory."""
        if self.exists:
            with state.locked(self.root):
                self._remove()
            if not any(self.root.iterdir()):
                self.root.rmdir()

    def nodes(self) -> tuple[NodeState, ...]:
        """What this machine knows of the nodes; `status` asks the cluster itself."""
        known = state.load(self.root)
        found: list[NodeState] = []
        for node in self.layout.nodes:
            process = known.get(node.name)
            if process is not None and process.alive():
                found.append(NodeState(node, "running", process.pid))
            else:
                found.append(NodeState(node, "stopped", 0))
        return tuple(found)

    def log_path(self, name: str) -> Path:
        return self.root / "logs" / f"{name}.log"

    def admin(self) -> Admin:
        return Admin(self.layout.endpoints)

    def status(self) -> admin_pb2.StatusReply:
        with self.admin() as admin:
            return admin.status()

    def wait_healthy(self, limit_s: float = HEALTHY_WAIT_S) -> admin_pb2.StatusReply:
        """Until every blob is at full margin and every store votes; raises Unavailable with what is still wrong."""
        deadline = time.monotonic() + limit_s
        with self.admin() as admin:
            while True:
                status, wrong = _asked(admin)
                if status is not None and status.healthy:
                    return status
                if time.monotonic() >= deadline:
                    raise Unavailable(f"the cluster is not healthy after {limit_s:g} s: {wrong}")
                time.sleep(POLL_S * 5)

    def connect(self, *, timeout: holdfast.Timeout | None = None) -> holdfast.Client:
        """A client of this cluster, closed with it."""
        import holdfast

        client = holdfast.connect(self.endpoints, timeout=timeout)
        self._clients.append(client)
        return client

    def close(self) -> None:
        """Stops the nodes and what belongs to this process; the data stays."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        self.stop()
        if self._leash is not None:
            os.close(self._leash[0])
            os.close(self._leash[1])
            self._leash = None

    def __enter__(self) -> Self:
        try:
            return self.up()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _refuse_what_is_there(self) -> None:
        """Whatever a cluster would write to, and what is removed again if it cannot be made."""
        names = ["logs", *(f"n{number + 1}" for number in range(self._shape.nodes))]
        found = [name for name in names if (self.root / name).exists()]
        if found:
            raise LocalRefused(
                f"{self.root} has no {CONFIG_NAME}, but {', '.join(found)}: they may be a cluster's whose file is gone",
                hint="choose another --dir, or bring the file back",
            )

    def _remove(self) -> None:
        nodes = self.layout.nodes
        self._kill(nodes)
        for node in nodes:
            shutil.rmtree(node.data_dir, ignore_errors=True)
        shutil.rmtree(self.root / "logs", ignore_errors=True)
        for name in (CONFIG_NAME, state.STATE_NAME, state.LOCK_NAME):
            (self.root / name).unlink(missing_ok=True)

    def _selected(self, selectors: tuple[str, ...]) -> tuple[Node, ...]:
        return self.layout.select(selectors) if selectors else self.layout.nodes

    def _signal(self, selectors: tuple[str, ...], number: signal.Signals) -> None:
        known = state.load(self.root)
        for node in self.layout.select(selectors):
            if node.name in known:
                known[node.name].signal(number)

    def _start(self, nodes: Iterable[Node]) -> tuple[str, ...]:
        """All at once: they start side by side. State is saved before waiting, so that an interrupt loses none."""
        known = state.load(self.root)
        stopped = [node for node in nodes if node.name not in known or not known[node.name].alive()]
        layouts.require_free(stopped)
        (self.root / "logs").mkdir(mode=0o700, exist_ok=True)
        for node in stopped:
            node.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            log, stdin = self.log_path(node.name), self._leash[0] if self._leash else None
            known[node.name] = processes.spawn(self._command(node), log=log, stdin=stdin)
            try:
                state.save(self.root, known)
            except BaseException:
                state.save(self.root, known)  # interrupted: what runs must be known
                raise
        self._wait_answering([(node, known[node.name]) for node in stopped])
        return tuple(node.name for node in stopped)

    def _command(self, node: Node) -> list[str]:
        leash = ["holdfast.testing.leash", NODE_MODULE] if self._leash is not None else [NODE_MODULE]
        config = ["--config", str(self.config_path), "--node", node.name]
        return [sys.executable, "-P", "-m", *leash, *config, "--format-if-empty"]

    def _wait_answering(self, started: Sequence[tuple[Node, Process]]) -> None:
        deadline = time.monotonic() + READY_WAIT_S
        for node, process in started:
            with Admin(node.address, timeout_s=2.0) as admin:
                while not (process.listens_at(node.port) and _answers(admin, node)):
                    if not process.alive():
                        raise LocalRefused(f"{node.name} ended as it started: {self._last_words(node)}")
                    if time.monotonic() >= deadline:
                        raise LocalRefused(f"{node.name} does not answer: {self._last_words(node)}")
                    time.sleep(POLL_S)

    def _last_words(self, node: Node) -> str:
        tail = self.log_path(node.name).read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return "\n".join(tail.splitlines()[-8:]) or "its log is empty"

    def _found(self) -> None:
        """The birth of the cluster, from its file."""
        with self.admin() as admin:
            admin.init(seed_of(self.layout))
        self.wait_healthy()

    def _kill(self, nodes: Iterable[Node]) -> tuple[str, ...]:
        known = state.load(self.root)
        hit = {
            node.name: known[node.name] for node in nodes if node.name in known and known[node.name].alive()
        }
        processes.kill(hit.values())
        return tuple(hit)


def seed_of(layout: Layout) -> admin_pb2.InitRequest:
    """What `clusterctl init` tells the first node."""
    return admin_pb2.InitRequest(
        nodes=[seed_node(node) for node in layout.nodes],
        pools=[
            admin_pb2.SeedPool(
                name=pool.name,
                code=pool.code,
                partitions=pool.partitions,
                protected_tags=pool.protected_tags,
                ack_floor=pool.ack_floor,
            )
            for pool in layout.pools
        ],
        simulated_domains=layout.simulated_domains,
    )


def seed_node(node: Node) -> admin_pb2.SeedNode:
    """A node as the file describes it."""
    return admin_pb2.SeedNode(name=node.name, address=node.address, tags=node.tags, weight=node.weight)


def _identity(node: Node) -> admin_pb2.IdentifyReply:
    with Admin(node.address) as admin:
        return admin.identify()


def _answers(admin: Admin, node: Node) -> bool:
    try:
        return admin.identify().node == node.name
    except Error:
        return False


def _asked(admin: Admin) -> tuple[admin_pb2.StatusReply | None, str]:
    try:
        status = admin.status()
    except Error as error:
        return None, str(error)
    return status, "; ".join(status.problems)
