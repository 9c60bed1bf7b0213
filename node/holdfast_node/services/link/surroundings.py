"""What both ends of a link need from the node around them, and how a request is run with every outcome caught."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from holdfast_node.core.errors import Evidence, HoldfastError, InternalError, StoreFailed
from holdfast_node.core.messages import (
    CopyKeys,
    CopyRegisters,
    FindShards,
    ListRegisters,
    MapPrepare,
    ReadCells,
    ReadCellsReply,
    ReadChanges,
    ReadFloors,
    ReadMap,
    ReadRegister,
    ReadStatus,
    ReadUsage,
    RegisterView,
    Reply,
    Request,
    Seal,
    StageCell,
    StageWhole,
)
from holdfast_node.ports import Bodies, Entropy
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.events import Events
from holdfast_node.services.link.epochs import Epochs
from holdfast_node.services.link.frames import HEADER_BYTES
from holdfast_node.services.link.hello import Identity
from holdfast_node.services.link.limits import CONTROL_FRAME_BYTES_MAX, LinkTiming
from holdfast_node.services.tasks import Tasks

Handle = Callable[[Caller, Request], Awaitable[Reply]]
M = TypeVar("M")

LARGE_REPLIES = (
    ReadCells,
    CopyRegisters,
    CopyKeys,
    ReadChanges,
    ListRegisters,
    ReadMap,
    MapPrepare,
    ReadStatus,
    ReadFloors,
    ReadUsage,
    FindShards,
)
_ALWAYS_BULK = (*LARGE_REPLIES, StageCell, Seal)
"""A seal must not overtake its cells; the other replies may exceed a control frame."""
_INLINE_BYTES_CONTROL_MAX = CONTROL_FRAME_BYTES_MAX // 2
"""The head that comes with an inlined cell may have 64 KiB."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """`failure`: why the store of this node is dead, empty while it lives."""

    bodies: Bodies
    tasks: Tasks
    events: Events
    entropy: Entropy
    identity: Callable[[], Identity]
    failure: Callable[[], str]
    epochs: Epochs
    timing: LinkTiming = LinkTiming()


def failure_of(around: Surroundings) -> HoldfastError | None:
    """What whoever asks a node without a working store is told; None while it works."""
    if not (why := around.failure()):
        return None
    said = f"its store failed: {why}"
    return StoreFailed(
        f"the store failed: {why}",
        hint="mend its disk and start the node again; if its data is gone, `clusterctl node replace --lost`",
        evidence=(Evidence(around.identity().node, said),),
    )


def payload_of(message: Request | Reply) -> bytes:
    match message:
        case StageWhole() | StageCell() | RegisterView() | ReadCellsReply():
            return message.payload
        case _:
            return b""


def with_payload(message: M, payload: bytes) -> M:
    """The decoded body with the bytes that travelled behind it, if its class has room for any."""
    if payload and isinstance(message, StageWhole | StageCell | RegisterView | ReadCellsReply):
        return replace(message, payload=payload)
    return message


def rides_bulk(request: Request, body_bytes: int, payload_bytes: int) -> bool:
    """Whether the request, or the reply it asks for, may be too large for the control stream."""
    if isinstance(request, _ALWAYS_BULK):
        return True
    if isinstance(request, ReadRegister) and request.inline_bytes_max > _INLINE_BYTES_CONTROL_MAX:
        return True
    return HEADER_BYTES + body_bytes + payload_bytes > CONTROL_FRAME_BYTES_MAX


async def outcome_of(around: Surroundings, work: Awaitable[Reply], what: str) -> Reply | HoldfastError:
    """The reply or a typed error. What nobody expected becomes an event and an incident number, never a traceback."""
    try:
        return await work
    except HoldfastError as error:
        return error
    except Exception as error:  # noqa: BLE001 - the last line of defence of one request; the stream must go on
        incident = around.entropy.token(4).hex()
        around.events.emit("request_failed", request=what, incident=incident, error=repr(error))
        return InternalError(f"{what} failed unexpectedly", hint=f"see incident {incident} in the node's log")
