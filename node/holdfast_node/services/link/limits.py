"""Every limit of a link, by name, with its arithmetic. Numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

CONTROL_FRAME_BYTES_MAX: Final = 256 * KIB
"""A control message waits for at most one such write before it."""
PAYLOAD_BYTES_MAX: Final = 4 * MIB
"""Four 1 MiB cells or sixteen of 256 KiB: beyond that a larger message buys little."""
BULK_FRAME_BYTES_MAX: Final = PAYLOAD_BYTES_MAX + 60 * KIB
"""A payload, the frame's header and its body. With the carrier's own few bytes it stays under 4 MiB + 64 KiB, the least
that a node may be told to accept."""
CONTEXT_BYTES_MAX: Final = 4 * KIB

CONTROL_WINDOW_BYTES: Final = 8 * MIB
"""Unanswered control requests of one peer; some 16 000 register messages."""
KEEP_BUDGET_BYTES: Final = 64 * MIB
"""What a node holds of shards that others have sent and it has not answered, over all links."""
BULK_WINDOW_BYTES_MIN: Final = BULK_FRAME_BYTES_MAX
"""Any legal frame fits, or it would wait for ever."""

WAITING_REQUESTS_MAX: Final = 4096
WAITING_BYTES_MAX: Final = 32 * MIB
"""Requests of one stream that wait for credit or for the connection. Beyond either: `Overloaded`."""
REPLY_BYTES_QUEUED_MAX: Final = 96 * MIB
"""A peer that asks on without reading its replies is cut off here; `READS_PER_STREAM_MAX` of the largest fit."""
REQUESTS_PER_STREAM_MAX: Final = 1024
"""Requests of one stream being handled here. Beyond: `Overloaded`."""
READS_PER_STREAM_MAX: Final = 16
"""Requests of one stream with large replies in work at once: 16 x 4 MiB at worst; others wait their turn."""
LOCAL_REQUESTS_MAX: Final = 4096
"""Requests of this node to itself in work."""
STREAMS_MAX: Final = 512
"""Streams from others: two for each of 255 peers, and some that are just being replaced."""

EPOCH_WAIT_S: Final = 1.0
"""How long a request may wait for this node to take the newer map that its sender showed."""
HANDLER_OVERTIME_S: Final = 30.0
"""A handler may finish after its asker gave up (what it makes durable is still worth something), but not for ever."""
GOODBYE_TIMEOUT_S: Final = 1.0

PATIENCE_FLOOR_S: Final = 0.05
PATIENCE_SAMPLES: Final = 128

ERROR_TEXT_CHARS_MAX: Final = 1024
ERROR_EVIDENCE_MAX: Final = 32


@dataclass(frozen=True, slots=True)
class LinkTiming:
    """Seconds. After `silence_s` without a frame a peer counts as down; after `dead_s` the stream is given up, because
    its far end may be gone without a word. `retry_s_*` bound the pause before a lost stream is opened again."""

    connect_s: float = 2.0
    hello_s: float = 5.0
    heartbeat_s: float = 1.0
    silence_s: float = 2.0
    dead_s: float = 10.0
    monitor_s: float = 0.5
    retry_s_min: float = 0.05
    retry_s_max: float = 1.0


def bulk_window_bytes(keep_budget_bytes: int, links: int) -> int:
    """What each of so many links is granted, so that all windows together stay within the budget where they can."""
    return max(BULK_WINDOW_BYTES_MIN, keep_budget_bytes // max(1, links))
