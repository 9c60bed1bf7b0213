"""A cluster whose every node has a network, a disk and a clock of its own, as far as this machine allows.

`LocalCluster` starts and ends the processes; this says in which surroundings. It knows no load and no nemesis.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from holdfast.admin import Admin
from holdfast.errors import Error
from holdfast.testing import LocalCluster, layout, processes, state
from holdfast.testing.layout import CONFIG_NAME, Node, Shape
from holdfast.testing.local import seed_of
from holdfastpb.v1 import admin_pb2
from tests.thrash.enclosure import sh
from tests.thrash.network import Network

PORT: Final = 7101
VOLUME: Final = "16 MiB"
"""Small, so that volumes are begun and finished under every kind of trouble."""
LOST_AFTER_S: Final = 30
"""Longer than any other nemesis is at work."""
DISK_BYTES: Final = 12 * 1024**3
"""Of a sparse file: what a node never writes takes no room."""
FAKETIME: Final = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")


def faketime_library() -> str:
    """Where libfaketime is, or empty."""
    found = [str(path) for pattern in FAKETIME for path in Path("/").glob(pattern.lstrip("/"))]
    return found[0] if found else ""


def _path(program: str) -> str:
    found = shutil.which(program)
    assert found is not None, f"{program} is not installed"
    return found


class ThrashCluster(LocalCluster):
    """`network` None: all nodes share 127.0.0.1. `disks`: each data directory is on a file system of its own. `spare`:
    so many nodes run beside the cluster, each on a SAN of its own, until they are added."""

    def __init__(
        self, root: Path, *, nodes: int, sans: int, network: Network | None, disks: bool, spare: int = 0
    ) -> None:
        super().__init__(root, nodes=nodes, sans=sans)
        self.spare = spare
        self.network = network
        self.disks = disks
        self.clock_library = faketime_library()
        self._size = (nodes, sans)

    def prepare(self) -> None:
        """Write the cluster's file and make the disks. `up` does the rest."""
        nodes, sans = self._size
        planned = layout.build(Shape(nodes, sans, port_first=self._shape.port_first), self.root, "thrash")
        for number in range(self.spare):
            extra = layout.newcomer(planned, self.root, {"san": f"spare{number}"})
            planned = replace(planned, nodes=(*planned.nodes, extra))
        places = self.network.places if self.network else {}
        moved = tuple(
            replace(
                node,
                address=f"{places[node.name].address}:{PORT}" if node.name in places else node.address,
                data_dir=self.root / "disks" / node.name / "data",
            )
            for node in planned.nodes
        )
        for node in moved:
            self._make_disk(node)
            self.clock_file(node.name).write_text("+0\n")
        text = layout.to_toml(replace(planned, nodes=moved))
        text = text.replace(json.dumps(layout.VOLUME), json.dumps(VOLUME))
        lost = f'[lost]\nnode_after = "{LOST_AFTER_S}s"\nseveral_after = "1h"\n'
        (self.root / CONFIG_NAME).write_text(f"{text}\n{lost}")

    def _found(self) -> None:
        """The spare nodes are not asked to the birth."""
        planned = self.layout
        founders = planned.nodes[: len(planned.nodes) - self.spare]
        with self.admin() as admin:
            admin.init(seed_of(replace(planned, nodes=founders)))
        self.wait_healthy()

    def _make_disk(self, node: Node) -> None:
        at = node.data_dir.parent
        at.mkdir(parents=True)
        if self.disks:
            image = self.root / f"{node.name}.image"
            with image.open("wb") as file:
                file.truncate(DISK_BYTES)
            sh("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", str(image))
            sh("mount", "-o", "loop,noatime", str(image), str(at))

    def clock_file(self, name: str) -> Path:
        return self.root / f"{name}.clock"

    def _command(self, node: Node) -> list[str]:
        """The surroundings are programs that become the next one: the process id stays what it was."""
        command: Sequence[str] = super()._command(node)
        if self.clock_library:
            settings = {
                "LD_PRELOAD": self.clock_library,
                "FAKETIME_TIMESTAMP_FILE": str(self.clock_file(node.name)),
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # its fix makes every timed wait of the interpreter late
                "FAKETIME_CACHE_DURATION": "1",
            }
            command = [_path("env"), *(f"{name}={value}" for name, value in settings.items()), *command]
        if self.network:
            enter, *options = self.network.places[node.name].within
            command = [_path(enter), *options, *command]
        return list(command)

    def process(self, name: str) -> processes.Process | None:
        """The process of a node that runs."""
        known = state.load(self.root).get(name)
        return known if known is not None and known.alive() else None

    def terminate(self, name: str) -> None:
        """SIGTERM, then wait: a stop in order."""
        process = self.process(name)
        if process is not None:
            process.signal(signal.SIGTERM)
            processes.kill(processes.wait_gone([process], 15.0))

    def is_of_the_map(self, name: str) -> bool:
        """Whether the store that runs under this name now is the one that the cluster's map names."""
        try:
            with self.admin() as admin, Admin(self.layout.node(name).address) as there:
                held = {node.name: node.store for node in admin.map().nodes}
                return held.get(name) == there.identify().store
        except Error:
            return False

    def names(self) -> list[str]:
        return [node.name for node in self.layout.nodes]

    def members(self) -> list[str]:
        """Those of the map. All nodes if nobody can say."""
        try:
            with self.admin() as admin:
                return [node.name for node in admin.map().nodes]
        except Error:
            return self.names()

    def renew(self, name: str) -> None:
        """It has left the cluster: it starts again with an empty store, as somebody who may be added."""
        self.lose(name)
        self.start(name)

    def go_on(self) -> None:
        """What a lost store has interrupted is not taken up by itself: the operator says it again."""
        with contextlib.suppress(Error), self.admin() as admin:
            status = admin.status()
            draining = [node.name for node in status.nodes if node.state == "draining"]
            if draining and not admin.plan().open:
                admin.change(admin_pb2.ChangeRequest(drain=draining[0], apply=True))

    def domain(self, selector: str) -> list[str]:
        return [node.name for node in self.layout.select([selector])]

    def sans(self) -> list[str]:
        return sorted({f"san={node.tags['san']}" for node in self.layout.nodes})

    def directories(self) -> dict[str, Path]:
        return {node.name: node.data_dir for node in self.layout.nodes}

    def log_tail(self, name: str, from_byte: int) -> str:
        with self.log_path(name).open("rb") as file:
            file.seek(from_byte)
            return file.read().decode(errors="replace")

    def events(self) -> Counter[str]:
        """How often which event is in the logs of all nodes."""
        logs = (self.log_tail(name, 0) for name in self.names() if self.log_size(name))
        return Counter(event for text in logs for event in re.findall(r'"event": "(\w+)"', text))

    def log_size(self, name: str) -> int:
        path = self.log_path(name)
        return path.stat().st_size if path.exists() else 0

    def free_bytes(self, name: str) -> int:
        stat = os.statvfs(self.layout.node(name).data_dir.parent)
        return stat.f_bavail * stat.f_frsize
