"""Rules that look at more than one key. Each takes what could be read, so that one mistake does not hide another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from holdfast_node.config.mistakes import KeyPath
from holdfast_node.config.schema import ClusterConfig, LimitsConfig, NodeConfig, PoolConfig
from holdfast_node.config.values import is_loopback

BLOCK_BYTES = 4096
"""Volumes are written around the page cache, whole blocks at a time."""

Finding = tuple[KeyPath, str, str]
"""Where, what is wrong, what to write instead."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What of the file could be read; positions are those in the file."""

    cluster: ClusterConfig | None
    pools: Mapping[int, PoolConfig]
    nodes: Mapping[int, NodeConfig]
    limits: LimitsConfig | None


def check(parts: Parts) -> Iterator[Finding]:
    """Every finding, in no particular order."""
    yield from _names(parts)
    yield from _addresses(parts)
    yield from _directories(parts)
    yield from _tags(parts)
    if parts.limits and parts.limits.volume_bytes % BLOCK_BYTES:
        yield (
            ("limits", "volume_bytes"),
            f"{parts.limits.volume_bytes} is not a multiple of {BLOCK_BYTES}",
            "write a whole number of MiB or GiB",
        )


def _names(parts: Parts) -> Iterator[Finding]:
    for table, entries in (("pool", parts.pools), ("node", parts.nodes)):
        seen: set[str] = set()
        for index, entry in entries.items():
            if entry.name in seen:
                yield (
                    (table, index, "name"),
                    f'"{entry.name}" is taken by another {table}',
                    "choose another name",
                )
            seen.add(entry.name)


def _addresses(parts: Parts) -> Iterator[Finding]:
    seen: dict[str, str] = {}
    for index, node in parts.nodes.items():
        key = ("node", index, "address")
        if node.address in seen:
            yield key, f'"{node.address}" is also the address of {seen[node.address]}', "choose another port"
        seen.setdefault(node.address, node.name)
        if is_loopback(node.host):
            continue
        yield (
            key,
            f'"{node.host}" is not loopback, and nodes do not listen in the open without TLS, which there is not yet',
            f'write "127.0.0.1:{node.port}"',
        )
        if parts.cluster and parts.cluster.simulated_domains:
            yield (
                ("cluster", "simulated_domains"),
                f'simulated domains are for nodes of one machine, but {node.name} listens on "{node.host}"',
                "write false, or loopback addresses",
            )


def _directories(parts: Parts) -> Iterator[Finding]:
    seen: dict[tuple[str, str], str] = {}
    for index, node in parts.nodes.items():
        host = "loopback" if is_loopback(node.host) else node.host
        where = (host, str(node.data_dir))
        if where in seen:
            yield (
                ("node", index, "data_dir"),
                f"{seen[where]} on the same host has this directory too",
                "give each node a directory of its own",
            )
        seen.setdefault(where, node.name)


def _tags(parts: Parts) -> Iterator[Finding]:
    used = {name for node in parts.nodes.values() for name, _ in node.tags}
    for index, pool in parts.pools.items():
        for place, tag in enumerate(pool.protected_tags or ()):
            if parts.nodes and tag not in used:
                yield (
                    ("pool", index, "protected_tags", place),
                    f'no node has the tag "{tag}", so nothing could be protected by it',
                    f"give it to the nodes or leave it out; their tags are {', '.join(sorted(used)) or 'none'}",
                )
    if any(pool.protected_tags is None for pool in parts.pools.values()):
        for index, node in parts.nodes.items():
            if "host" not in dict(node.tags):
                yield (
                    ("node", index, "tags"),
                    f'{node.name} has no tag "host", which is always protected unless a pool lists its tags',
                    'write tags = { host = "h1" }, with the machine\'s own name',
                )
