"""What a local cluster is made of: names, ports, tags, directories, and the file that says so. It starts nothing."""

from __future__ import annotations

import json
import re
import socket
import time
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, cast

from holdfast.core.requests import utf8
from holdfast.errors import InvalidArgument
from holdfast.testing.refusals import LocalRefused

HOST: Final = "127.0.0.1"
CONFIG_NAME: Final = "cluster.toml"
PARTITIONS: Final = 64
NODES_MAX: Final = 100
NAME_CHARS_MAX: Final = 63
PORT_FIRST: Final = 7101
PORT_STEP: Final = 100
PORT_LAST: Final = 32_000
"""Above are ports that the kernel hands out to outgoing connections."""
VOLUME: Final = "64 MiB"
"""One file of a node's log, and what it takes at least."""
SCRUB: Final = "10m"

Toml: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    address: str
    data_dir: Path
    tags: Mapping[str, str]
    weight: int = 1

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def matches(self, selector: str) -> bool:
        """`n1` or `tag=value`."""
        tag, equals, value = selector.partition("=")
        return self.tags.get(tag) == value if equals else self.name == selector


@dataclass(frozen=True, slots=True)
class Pool:
    name: str
    code: str
    partitions: int
    protected_tags: tuple[str, ...] = ()
    ack_floor: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the cluster's file says of it, as far as the front door needs to know."""

    name: str
    simulated_domains: bool
    pools: tuple[Pool, ...]
    nodes: tuple[Node, ...]

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(node.address for node in self.nodes)

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def select(self, selectors: Iterable[str]) -> tuple[Node, ...]:
        """The nodes any of the selectors names, in order; raises InvalidArgument for one that names none."""
        wanted = tuple(selectors)
        for selector in wanted:
            if not any(node.matches(selector) for node in self.nodes):
                raise InvalidArgument(f"{selector!r} names no node", hint=f"there are {self._choices()}")
        return tuple(node for node in self.nodes if any(node.matches(selector) for selector in wanted))

    def _choices(self) -> str:
        names = [node.name for node in self.nodes]
        domains = {
            f"{tag}={value}" for node in self.nodes for tag, value in node.tags.items() if tag != "host"
        }
        return ", ".join([*names, *sorted(domains)])


@dataclass(frozen=True, slots=True)
class Shape:
    """What to build. `sans` and `racks` are how many domains of that kind; 0: the tag is not set. Nodes are spread
    over them in contiguous blocks for SANs and in turn for racks, so that the two overlap. `port_base` 0: the first
    free ports from `port_first` on."""

    nodes: int = 6
    sans: int = 3
    racks: int = 0
    code: str = "rs:4+2"
    port_base: int = 0
    port_first: int = PORT_FIRST
    partitions: int = PARTITIONS
    volume: str = VOLUME

    def check(self) -> None:
        if not self.code.isascii() or not self.code.isprintable():
            raise InvalidArgument(f"{self.code!r} is no erasure code", hint="for example rs:4+2")
        if not 1 <= self.nodes <= NODES_MAX:
            raise InvalidArgument(f"a local cluster has 1 to {NODES_MAX} nodes, not {self.nodes}")
        for what, count in (("sans", self.sans), ("racks", self.racks)):
            if not 0 <= count <= self.nodes:
                raise InvalidArgument(f"{self.nodes} nodes cannot be spread over {count} {what}")
        if self.port_base and not 1024 <= self.port_base <= 65535 - self.nodes:
            raise InvalidArgument(
                f"ports from {self.port_base} on are not free for use", hint="1024 to 65000"
            )


def cluster_name(root: Path) -> str:
    """After its directory, as far as that can be a cluster's name."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", root.name).lstrip("._-")
    return plain[:NAME_CHARS_MAX] or "local"


def build(shape: Shape, root: Path, name: str) -> Layout:
    """A layout for this machine, with ports nobody listens on now."""
    shape.check()
    utf8(str(root), "the directory")
    base = shape.port_base or free_ports(shape.nodes, shape.port_first)
    nodes: list[Node] = []
    for index in range(shape.nodes):
        tags = {"host": f"h{index + 1}"}
        if shape.racks:
            tags["rack"] = f"r{index % shape.racks + 1}"
        if shape.sans:
            tags["san"] = letters(index * shape.sans // shape.nodes)
        node = f"n{index + 1}"
        nodes.append(Node(node, f"{HOST}:{base + index}", root / node, tags))
    layout = Layout(name, True, (Pool("main", shape.code, shape.partitions),), tuple(nodes))
    if shape.port_base:
        require_free(layout.nodes)
    return layout


def letters(index: int) -> str:
    """a, b ... z, aa, ab ..."""
    text = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        text = chr(ord("a") + digit) + text
    return text


def to_toml(layout: Layout, *, volume: str = VOLUME) -> str:
    """The file nodes are started with. JSON strings are TOML strings."""
    lines = [
        "# Written by `clusterctl local up`; see cluster.example.toml for what else can be said.",
        "[cluster]",
        f"name = {json.dumps(layout.name)}",
        f"simulated_domains = {json.dumps(layout.simulated_domains)}",
    ]
    for pool in layout.pools:
        lines += ["", "[[pool]]", f"name = {json.dumps(pool.name)}", f"code = {json.dumps(pool.code)}"]
        lines.append(f"partitions = {pool.partitions}")
    for node in layout.nodes:
        lines += _node_lines(node)
    lines += ["", "[limits]", f"volume_bytes = {json.dumps(volume)}", ""]
    lines += ["[scrub]", f"cycle = {json.dumps(SCRUB)}", ""]
    return "\n".join(lines)


def _node_lines(node: Node) -> list[str]:
    tags = ", ".join(f"{tag} = {json.dumps(value)}" for tag, value in node.tags.items())
    lines = ["", "[[node]]", f"name = {json.dumps(node.name)}", f"address = {json.dumps(node.address)}"]
    return [*lines, f"data_dir = {json.dumps(str(node.data_dir))}", f"tags = {{ {tags} }}"]


def with_node(text: str, node: Node) -> str:
    """The file with one more node at its end; everything else stays as it is."""
    return text + "\n".join([*_node_lines(node), ""])


def without_node(text: str, name: str) -> str:
    """The file without the node's table; everything else stays as it is."""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines(keepends=True):
        if line.startswith("["):
            blocks.append([])
        blocks[-1].append(line)
    kept = [block for block in blocks if not _describes("".join(block), name)]
    return "".join(line for block in kept for line in block)


def _describes(block: str, name: str) -> bool:
    found = tomllib.loads(block).get("node") if block.startswith("[[node]]") else None
    return isinstance(found, list) and _table(cast("list[object]", found)[0]).get("name") == name


def newcomer(layout: Layout, root: Path, tags: Mapping[str, str]) -> Node:
    """One more node: the next name, a host of its own, a port that nobody listens on."""
    for text in (*tags, *tags.values()):
        utf8(text, "the tag")
    number = max((int(node.name[1:]) for node in layout.nodes if node.name[1:].isdigit()), default=0) + 1
    port = max(node.port for node in layout.nodes) + 1
    while not is_free(port):
        port += 1
    return Node(f"n{number}", f"{HOST}:{port}", root / f"n{number}", {"host": f"h{number}", **tags})


def read(path: Path) -> Layout:
    """The layout in a cluster's file. The node itself checks the file; here a broken one is only refused."""
    try:
        content = tomllib.loads(path.read_text())
        cluster = _table(content.get("cluster", {}))
        return Layout(
            name=str(cluster["name"]),
            simulated_domains=bool(cluster.get("simulated_domains", False)),
            pools=tuple(_pool(table) for table in _tables(content["pool"])),
            nodes=tuple(_node(table, path.parent) for table in _tables(content["node"])),
        )
    except FileNotFoundError as error:
        raise LocalRefused(
            f"there is no {path}", hint="`clusterctl local up` makes a local cluster"
        ) from error
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise InvalidArgument(
            f"{path} is not a cluster's file: {error!r}",
            hint=f"`clusterctl config check {path}` says all that is wrong",
        ) from error


def _pool(table: Toml) -> Pool:
    tags = cast("list[str]", table.get("protected_tags", []))
    return Pool(
        str(table["name"]),
        str(table["code"]),
        int(str(table.get("partitions", PARTITIONS))),
        tuple(tags),
        str(table.get("ack_floor", "")),
    )


def _node(table: Toml, root: Path) -> Node:
    tags = {tag: str(value) for tag, value in _table(table.get("tags", {})).items()}
    data_dir = root / str(table["data_dir"])
    return Node(str(table["name"]), str(table["address"]), data_dir, tags, int(str(table.get("weight", 1))))


def _table(value: object) -> Toml:
    if not isinstance(value, dict):
        raise TypeError("a table was expected")
    return cast("Toml", value)


def _tables(value: object) -> list[Toml]:
    if not isinstance(value, list):
        raise TypeError("a list of tables was expected")
    return [_table(item) for item in cast("list[object]", value)]


def free_ports(count: int, first: int = PORT_FIRST) -> int:
    """The first of `count` ports in a row that nobody listens on."""
    for base in range(first, PORT_LAST, PORT_STEP):
        if all(is_free(port) for port in range(base, base + count)):
            return base
    raise LocalRefused(
        f"no {count} free ports in a row from {first} to {PORT_LAST}", hint="--port-base chooses others"
    )


PORT_WAIT_S: Final = 3.0


def is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # not stopped by connections that are closing
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def require_free(nodes: Iterable[Node]) -> None:
    """A process that was killed a moment ago may still be closing its port: it gets `PORT_WAIT_S` for that."""
    deadline = time.monotonic() + PORT_WAIT_S
    taken = [node for node in nodes if not is_free(node.port)]
    while taken and time.monotonic() < deadline:
        time.sleep(0.02)
        taken = [node for node in taken if not is_free(node.port)]
    if taken:
        said = ", ".join(f"{node.address} ({node.name})" for node in taken)
        raise LocalRefused(
            f"another program listens at {said}",
            hint="stop it, or choose other ports: `clusterctl local wipe` and `local up --port-base`",
        )
