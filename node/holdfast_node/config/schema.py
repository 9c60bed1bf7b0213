"""The shape of the file: tables, keys, defaults, bounds. Each key's type says what is allowed and what to write.

A key is a field; its `Annotated` type carries what msgspec checks and a `Leaf`, which says in words what is expected
and shows an example. Rules that look at more than one key are in `checks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from holdfast_node.config import values
from holdfast_node.config.mistakes import ConfigError, Mistake, suggestion
from holdfast_node.config.values import GIB, KIB, MIB, split_address
from holdfast_node.core.absence import Patience


def as_written(raw: object) -> object:
    """No syntax of its own: the value as TOML has it."""
    return raw


@dataclass(frozen=True, slots=True)
class Leaf:
    """How one value is read: `expected` completes "... is not", `example` is TOML, `parse` raises ValueError."""

    expected: str
    example: str
    parse: Callable[[object], object] = as_written


def _size(low: int, high: int, example: str) -> Leaf:
    expected = f"a size from {values.size_text(low)} to {values.size_text(high)}"

    def parse(raw: object) -> int:
        size = values.size_bytes(raw)
        if not low <= size <= high:
            raise ValueError(f"is not {expected}")
        return size

    return Leaf(expected, f'"{example}"', parse)


def _duration(low_s: int, high_s: int, example: str) -> Leaf:
    expected = f"a duration from {values.duration_text(low_s)} to {values.duration_text(high_s)}"

    def parse(raw: object) -> int:
        seconds = values.duration_s(raw)
        if not low_s <= seconds <= high_s:
            raise ValueError(f"is not {expected}")
        return seconds

    return Leaf(expected, f'"{example}"', parse)


def _count(low: int, high: int, example: int) -> Leaf:
    expected = f"a whole number from {low} to {high}"

    def parse(raw: object) -> object:
        if isinstance(raw, int) and not low <= raw <= high:
            raise ValueError(f"is not {expected}")
        return raw

    return Leaf(expected, str(example), parse)


PARTITIONS_MAX: Final = 4096
"""More would make the map too large to send around (`core.seed`)."""


def _power_of_two(raw: object) -> object:
    if isinstance(raw, int) and (not 1 <= raw <= PARTITIONS_MAX or raw & (raw - 1)):
        raise ValueError(f"is not a power of two from 1 to {PARTITIONS_MAX}")
    return raw


AckFloor = Literal["any-node", "any-domain"]
"""What an acknowledged write must at least survive: the loss of any one node, or of any one protected domain."""

Name = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"),
    Leaf("a name of 1 to 63 letters, digits, '.', '_' and '-' that starts with a letter or digit", '"n1"'),
]
TagName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
TagValue = Annotated[str, Meta(min_length=1, max_length=63)]
Tags = tuple[tuple[TagName, TagValue], ...]


def _pairs(raw: object) -> object:
    """A table as sorted pairs, which are hashable and have one order."""
    table = values.as_table(raw)
    return raw if table is None else sorted(table.items())


def _path(raw: object) -> object:
    """Empty is refused here; relative paths are the loader's business."""
    if raw == "":
        raise ValueError("is empty")
    return raw


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """`[cluster]`. With `simulated_domains` the nodes share a machine and only play at being apart; status says so."""

    name: Name
    simulated_domains: Annotated[bool, Leaf("true or false", "true")] = False


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """`[[pool]]`. `protected_tags` is None where the file leaves it out; see `Config.protected_tags`."""

    name: Name
    code: Annotated[str, Leaf("a code", '"rs:4+2"', values.code)]
    partitions: Annotated[int, Leaf("a power of two", "64", _power_of_two)] = 64
    protected_tags: Annotated[tuple[TagName, ...] | None, Leaf("a list of tag names", '["host", "san"]')] = (
        None
    )
    ack_floor: Annotated[AckFloor, Leaf('"any-node" or "any-domain"', '"any-node"')] = "any-node"


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """`[[node]]`. `tags` are sorted (name, value) pairs; `weight` is its share of the load beside the others'."""

    name: Name
    address: Annotated[str, Leaf("an address", '"127.0.0.1:7101"', values.address)]
    data_dir: Annotated[Path, Leaf("a path", '"/var/lib/holdfast/n1"', _path)]
    tags: Annotated[
        Tags,
        Leaf(
            "a table of tags (names of small letters, digits, '_' and '-'; values of 1 to 63 characters)",
            '{ host = "h1", rack = "r1", san = "a" }',
            _pairs,
        ),
    ] = ()
    weight: Annotated[int, _count(1, 1_000_000, 1)] = 1

    @property
    def host(self) -> str:
        """The host part of the address, without brackets."""
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        """The port part of the address."""
        return split_address(self.address)[1]


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """`[limits]`. The three byte budgets are never taken inside one another, so no two requests can wait in a ring."""

    coordinate_bytes: Annotated[int, _size(16 * MIB, 64 * GIB, "128 MiB")] = 128 * MIB
    """Payload that requests of clients may hold. The least: two stripes of 4 MiB at a code rate of one half."""
    keep_bytes: Annotated[int, _size(8 * MIB, 64 * GIB, "64 MiB")] = 64 * MIB
    """Cells granted to peers as credits. The least: two bulk frames of 4 MiB."""
    repair_bytes: Annotated[int, _size(8 * MIB, 64 * GIB, "32 MiB")] = 32 * MIB
    """What healing and scrubbing may hold."""
    volume_bytes: Annotated[int, _size(16 * MIB, 64 * GIB, "1 GiB")] = GIB
    """One preallocated file of the log. The least: four of the largest records (4 MiB each)."""
    connections: Annotated[int, _count(8, 65536, 256)] = 256
    """gRPC connections a node accepts, peers and clients together."""
    streams: Annotated[int, _count(8, 65536, 256)] = 256
    """Requests in flight on one connection."""
    message_bytes: Annotated[int, _size(4 * MIB + 64 * KIB, 64 * MIB, "5 MiB")] = 5 * MIB
    """The largest gRPC message. The least: a bulk frame of 4 MiB and 64 KiB of header."""
    metadata_bytes: Annotated[int, _size(8 * KIB, MIB, "16 KiB")] = 16 * KIB
    """The largest set of gRPC headers of one call."""


@dataclass(frozen=True, slots=True)
class UndoConfig:
    """`[undo]`. `window_s`: how long overwritten and deleted versions can be brought back, unless a bucket differs."""

    window: Annotated[int, _duration(0, 365 * 86400, "24h")] = 86400

    @property
    def window_s(self) -> int:
        """The window in seconds."""
        return self.window


@dataclass(frozen=True, slots=True)
class ScrubConfig:
    """`[scrub]`. `cycle_s`: within this time a node reads back everything it holds, and has mended what is
    broken."""

    cycle: Annotated[int, _duration(10, 365 * 86400, "7d")] = 7 * 86400

    @property
    def cycle_s(self) -> int:
        """The cycle in seconds."""
        return self.cycle


@dataclass(frozen=True, slots=True)
class LostConfig:
    """`[lost]`. How long nodes may be silent before others take over what is theirs; 0: for ever."""

    node_after: Annotated[int, _duration(0, 365 * 86400, "10m")] = 600
    several_after: Annotated[int, _duration(0, 365 * 86400, "60m")] = 3600

    @property
    def patience(self) -> Patience:
        """The same for the services."""
        return Patience(self.node_after, self.several_after)


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file. The first pool is the default one and holds the reserved bucket."""

    cluster: ClusterConfig
    pools: tuple[PoolConfig, ...]
    nodes: tuple[NodeConfig, ...]
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    undo: UndoConfig = field(default_factory=UndoConfig)
    scrub: ScrubConfig = field(default_factory=ScrubConfig)
    lost: LostConfig = field(default_factory=LostConfig)
    path: Path | None = None

    def node(self, name: str) -> NodeConfig:
        """The entry of that name; ConfigError names those there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        names = [node.name for node in self.nodes]
        instead = suggestion(name, names) or f"the nodes of this file are {', '.join(names)}"
        raise ConfigError((Mistake(0, "", f'no [[node]] is named "{name}"', instead),), self.path)

    def common_tags(self) -> tuple[str, ...]:
        """Names of the tags that every node has, sorted."""
        every = {name for node in self.nodes for name, _ in node.tags}
        return tuple(sorted(tag for tag in every if all(tag in dict(node.tags) for node in self.nodes)))

    def partial_tags(self) -> tuple[str, ...]:
        """Names of the tags that some nodes have and some do not, sorted: worth a warning, for they protect nothing."""
        every = {name for node in self.nodes for name, _ in node.tags}
        return tuple(sorted(every.difference(self.common_tags())))

    def protected_tags(self, pool: PoolConfig) -> tuple[str, ...]:
        """The tags whose domains the pool's blobs must survive: as written, else those that every node has."""
        return self.common_tags() if pool.protected_tags is None else pool.protected_tags
