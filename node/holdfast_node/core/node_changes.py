"""What an operator may ask to become of nodes: plain values, before anybody has looked whether it can be."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast_node.core.seed import SeedNode, SeedPool


@dataclass(frozen=True, slots=True)
class AddNode:
    """A new, empty store runs at the node's address; without an address, a draining node is to stay."""

    node: SeedNode


@dataclass(frozen=True, slots=True)
class DrainNodes:
    """Everything that is at these nodes moves to the others. `selector` is a node's name or tag=value."""

    selector: str


@dataclass(frozen=True, slots=True)
class RemoveNodes:
    """Drained nodes leave the map."""

    selector: str


@dataclass(frozen=True, slots=True)
class CancelChange:
    """The last change of homes is undone."""


@dataclass(frozen=True, slots=True)
class CreatePool:
    """One more pool, on all nodes that stay."""

    pool: SeedPool


@dataclass(frozen=True, slots=True)
class RecodePool:
    """Everything in the pool is to be in another code."""

    pool: str
    code: str


NodeChange = CreatePool | RecodePool | AddNode | DrainNodes | RemoveNodes | CancelChange
