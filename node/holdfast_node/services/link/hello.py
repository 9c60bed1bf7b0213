"""What two ends of a stream tell each other first, and how errors cross. Values and checks; no stream, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from holdfast_node.core.errors import (
    Evidence,
    HoldfastError,
    PeerUnreachable,
    Refused,
    Unimplemented,
    error_from_code,
)
from holdfast_node.core.ids import BootId, ClusterId, NodeName, StoreId
from holdfast_node.core.records import Superblock
from holdfast_node.services.link.limits import ERROR_EVIDENCE_MAX, ERROR_TEXT_CHARS_MAX

PROTOCOL_MIN: Final = 1
PROTOCOL_MAX: Final = 1


class Role(IntEnum):
    UNSPECIFIED = 0
    NODE = 1
    CLIENT = 2


@dataclass(frozen=True, slots=True)
class Hello:
    """First frame of each direction. `window_bytes`: request frames its sender takes before it has answered any."""

    protocol_min: int
    protocol_max: int
    cluster_id: ClusterId
    node: NodeName
    store_id: StoreId
    boot_number: int
    boot_id: BootId
    features: tuple[str, ...]
    cluster_level: int
    role: Role
    auth: bytes
    bulk: bool
    window_bytes: int


@dataclass(frozen=True, slots=True)
class Context:
    """Who asks, on whose behalf, which try. In frames, deadline and epoch are in the header instead."""

    principal: str = ""
    trace: str = ""
    deadline_ms: int = 0
    attempt: int = 0
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """`code` may be a number this build does not know."""

    code: int
    message: str
    hint: str = ""
    evidence: tuple[Evidence, ...] = ()
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is now; `cluster_id` is empty until it has joined."""

    node: NodeName
    store: StoreId
    cluster_id: ClusterId
    boot: int
    boot_id: BootId
    cluster_level: int = 1


def identity_of(block: Superblock, cluster_level: int = 1) -> Identity:
    return Identity(
        NodeName(block.node), block.store, block.cluster_id, block.boot, block.boot_id, cluster_level
    )


def hello_of(me: Identity, *, bulk: bool, window_bytes: int) -> Hello:
    return Hello(
        protocol_min=PROTOCOL_MIN,
        protocol_max=PROTOCOL_MAX,
        cluster_id=me.cluster_id,
        node=me.node,
        store_id=me.store,
        boot_number=me.boot,
        boot_id=me.boot_id,
        features=(),
        cluster_level=me.cluster_level,
        role=Role.NODE,
        auth=b"",
        bulk=bulk,
        window_bytes=window_bytes,
    )


def check_hello(mine: Hello, theirs: Hello) -> None:
    """Raises what is in the way of talking at all."""
    if max(mine.protocol_min, theirs.protocol_min) > min(mine.protocol_max, theirs.protocol_max):
        raise Unimplemented(
            f"{theirs.node} speaks protocol {theirs.protocol_min} to {theirs.protocol_max}, "
            f"this node {mine.protocol_min} to {mine.protocol_max}",
            hint="upgrade the older of the two",
        )
    if theirs.role is not Role.NODE:
        raise Unimplemented("links serve nodes only; clients call the public services")
    if mine.cluster_id and theirs.cluster_id and mine.cluster_id != theirs.cluster_id:
        raise Refused(
            f"{theirs.node} belongs to another cluster",
            evidence=(
                Evidence(theirs.node, f"cluster {theirs.cluster_id.hex()}"),
                Evidence(mine.node, f"cluster {mine.cluster_id.hex()}"),
            ),
        )
    if mine.bulk != theirs.bulk:
        raise Refused("one end opened a bulk stream, the other a control stream")


def check_store(address: str, expected: StoreId, theirs: Hello) -> None:
    """A wiped or replaced directory is another store and speaks for itself only."""
    if theirs.store_id != expected:
        raise PeerUnreachable(
            f"another store answers at {address}",
            hint="the node lost its store; see `clusterctl status` and `clusterctl node replace --lost`",
            evidence=(Evidence(theirs.node, f"store {theirs.store_id.hex()}, not {expected.hex()}"),),
        )


def detail_of(error: HoldfastError) -> ErrorDetail:
    return ErrorDetail(
        code=int(error.code),
        message=_clip(error.message),
        hint=_clip(error.hint),
        evidence=tuple(Evidence(_clip(e.who), _clip(e.said)) for e in error.evidence[:ERROR_EVIDENCE_MAX]),
        retry_after_ms=max(0, min(error.retry_after_ms, 2**31)),
    )


def error_of(detail: ErrorDetail) -> HoldfastError:
    return error_from_code(
        detail.code,
        detail.message,
        hint=detail.hint,
        evidence=detail.evidence,
        retry_after_ms=detail.retry_after_ms,
    )


def _clip(text: str) -> str:
    """Bounded, and encodable whatever a key or an operating system put into it."""
    return text[:ERROR_TEXT_CHARS_MAX].encode("utf-8", "replace").decode("utf-8")
