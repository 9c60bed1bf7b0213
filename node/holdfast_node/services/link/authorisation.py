"""Who may send which frame. A closed table: what has no row is denied. Knows nothing of credentials yet, because a
node that listens beyond loopback is refused at start until there are any.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from holdfast_node.services.link.frames import FrameType


class Row(Enum):
    LOOPBACK = "loopback"
    """Allowed to whoever connects from this machine, denied to everyone else."""


FRAME_ROWS: Final[dict[int, Row]] = {
    FrameType.HELLO: Row.LOOPBACK,
    FrameType.PING: Row.LOOPBACK,
    FrameType.READ_REGISTER: Row.LOOPBACK,
    FrameType.PREPARE: Row.LOOPBACK,
    FrameType.ACCEPT: Row.LOOPBACK,
    FrameType.READ_MANIFEST: Row.LOOPBACK,
    FrameType.COMMIT: Row.LOOPBACK,
    FrameType.LIST_REGISTERS: Row.LOOPBACK,
    FrameType.COPY_REGISTERS: Row.LOOPBACK,
    FrameType.READ_FLOORS: Row.LOOPBACK,
    FrameType.STAGE_WHOLE: Row.LOOPBACK,
    FrameType.STAGE_CELL: Row.LOOPBACK,
    FrameType.SEAL: Row.LOOPBACK,
    FrameType.READ_CELLS: Row.LOOPBACK,
    FrameType.DROP_SHARDS: Row.LOOPBACK,
    FrameType.LINK_SHARDS: Row.LOOPBACK,
    FrameType.FIND_SHARDS: Row.LOOPBACK,
    FrameType.READ_MAP: Row.LOOPBACK,
    FrameType.MAP_PREPARE: Row.LOOPBACK,
    FrameType.MAP_ACCEPT: Row.LOOPBACK,
    FrameType.MAP_DECIDED: Row.LOOPBACK,
    FrameType.INTRODUCE: Row.LOOPBACK,
    FrameType.CLOSE_BUCKET: Row.LOOPBACK,
    FrameType.READ_STATUS: Row.LOOPBACK,
    FrameType.NOTE_DEGRADED: Row.LOOPBACK,
    FrameType.READ_QUARANTINE: Row.LOOPBACK,
    FrameType.NAME_SEEDS: Row.LOOPBACK,
    FrameType.READ_SCRUB: Row.LOOPBACK,
    FrameType.READ_SUPERSEDED: Row.LOOPBACK,
    FrameType.READ_CHANGES: Row.LOOPBACK,
    FrameType.COPY_KEYS: Row.LOOPBACK,
    FrameType.READ_USAGE: Row.LOOPBACK,
    FrameType.FORGET_REGISTERS: Row.LOOPBACK,
}


def may_send(frame_type: int, *, loopback: bool) -> bool:
    return FRAME_ROWS.get(frame_type) is Row.LOOPBACK and loopback
