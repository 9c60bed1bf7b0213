"""What a caller wants done to one key, as data: it can be queued, forwarded to a steward, and retried."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from holdfast_node.core.head import Ballot, Manifest
from holdfast_node.core.ids import BlobId, Era, RequestId

NO_VERSION = -1


class OperationKind(IntEnum):
    SETTLE = 0
    """Change nothing: finish whatever may be half-accepted and return what is decided."""
    PUT = 1
    """Also undelete: its manifest has a `seed_id` of its own."""
    DELETE = 2
    FENCE = 3
    """Raise the key's fence to `base`: attempts based at or under it can no longer commit."""
    REWRITE = 4
    """Decide the current head once more: a home whose copy is broken has it again."""
    EXPIRE = 5
    """Let go of the versions kept for undo that are below `below`."""
    RECODE = 6
    """The current version is the same and in another code: `manifest` takes the place of that of blob `replaces`."""


_BACKGROUND: Final = frozenset(
    {OperationKind.FENCE, OperationKind.REWRITE, OperationKind.EXPIRE, OperationKind.RECODE}
)


@dataclass(frozen=True, slots=True)
class Operation:
    """`manifest` and `base` are set for PUT and RECODE. `if_version` is NO_VERSION for no condition; 0 never matches a
    version and `if_absent` means absent or deleted. `retain` says whether the version replaced is kept for undo."""

    kind: OperationKind
    request_id: RequestId
    stamp: Era
    manifest: Manifest | None = None
    base: Ballot | None = None
    if_absent: bool = False
    if_version: int = NO_VERSION
    retain: bool = True
    created_ms: int = 0
    below: int = 0
    replaces: BlobId = BlobId(b"")

    @property
    def background(self) -> bool:
        """Whether no caller waits for it."""
        return self.kind in _BACKGROUND
