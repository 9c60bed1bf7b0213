"""What nodes say to each other about the map, about themselves, and about how they are. See `core.messages`."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import BootId, BucketId, ClusterId, NodeName, StoreId


@dataclass(frozen=True, slots=True)
class ReadMap:
    pass


@dataclass(frozen=True, slots=True)
class MapReply:
    """The encoded map this node adopted; empty if none."""

    map: bytes


@dataclass(frozen=True, slots=True)
class MapPrepare:
    cluster_id: ClusterId
    epoch: int
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class MapPrepareReply:
    promised: bool
    higher: Ballot | None
    accepted: Ballot | None
    map: bytes


@dataclass(frozen=True, slots=True)
class MapAccept:
    cluster_id: ClusterId
    epoch: int
    ballot: Ballot
    map: bytes


@dataclass(frozen=True, slots=True)
class MapAcceptReply:
    accepted: bool
    higher: Ballot | None


@dataclass(frozen=True, slots=True)
class MapDecided:
    """Tells a node of a decided map; answered once it is adopted durably."""

    map: bytes


@dataclass(frozen=True, slots=True)
class MapDecidedReply:
    epoch: int


@dataclass(frozen=True, slots=True)
class Introduce:
    """First words of every connection, and the check for rollbacks and clones."""

    node: NodeName
    store: StoreId
    cluster_id: ClusterId
    boot: int
    boot_id: BootId
    durable_sequence: int


@dataclass(frozen=True, slots=True)
class IntroduceReply:
    """Who answered, and the highest marks it durably keeps of the asker (0 if it never met it)."""

    node: NodeName
    store: StoreId
    cluster_id: ClusterId
    boot: int
    boot_id: BootId
    epoch: int
    seen_boot: int
    seen_boot_id: BootId
    seen_sequence: int


@dataclass(frozen=True, slots=True)
class CloseBucket:
    """closing=True: refuse accepts in this bucket from now on, durably. False: take that back."""

    bucket: BucketId
    closing: bool


@dataclass(frozen=True, slots=True)
class CloseBucketReply:
    pass


@dataclass(frozen=True, slots=True)
class PartitionHealth:
    """A steward's report of one partition, or a writer's, of what its steward may not know yet. Claimed by counting;
    see `NodeStatus`."""

    pool: int
    partition: int
    blobs: int
    bytes: int
    healed_epoch: int
    exceptions: int
    least_margin: int
    """The least of `survives`; -1 when a blob cannot be decoded now; a large number when there are no exceptions."""
    passed_epoch: int = 0
    """Up to which heal has passed some time, whatever may have been written since; `healed_epoch` claims more."""
    quarantined: int = 0
    """Of the exceptions, those that could not be mended after many tries."""
    survives: tuple[tuple[str, int], ...] = ()
    """How many domains the shards of any of the exceptions survive, per protected tag. Empty when there are none."""
    former: int = 0
    """Versions in a code that the pool had before, as far as its last full look told; -1: there was none."""


@dataclass(frozen=True, slots=True)
class ReadStatus:
    pass


@dataclass(frozen=True, slots=True)
class ReadQuarantine:
    """Which keys this steward cannot mend. `retry`: try them again now."""

    retry: bool


@dataclass(frozen=True, slots=True)
class QuarantinedKey:
    """`margin`: the least of all protected tags; -1: it cannot be read now. `why`: what went wrong the last time."""

    pool: int
    bucket: BucketId
    key: bytes
    tries: int
    margin: int
    why: str


@dataclass(frozen=True, slots=True)
class QuarantineReply:
    """The gravest of `total`."""

    keys: tuple[QuarantinedKey, ...]
    total: int


@dataclass(frozen=True, slots=True)
class ReadScrub:
    """How far has this store read itself back? `now`: begin a cycle at once, and do not dawdle."""

    now: bool


@dataclass(frozen=True, slots=True)
class ScrubReport:
    """`cycle` is the one under way, or the last; `completed` the last that ended. `found`, `healed` and `garbage`
    (broken, but nothing rests on it) count since the process started; `waiting` are some of those found, not healed."""

    cycle: int
    completed: int
    hurried: bool
    bytes_done: int
    bytes_total: int
    rate_bytes_s: float
    eta_s: float
    found: int
    healed: int
    garbage: int
    unproven_s: float
    """Age of the oldest byte that was not read back since, in store time."""
    promised_s: float
    """No longer than this should it become."""
    waiting: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    name: str
    state: str
    detail: str
    done: int
    total: int
    bytes_done: int
    rate_bytes_s: float
    eta_s: float = 0.0
    """Until `total` is done, at the rate measured of late; 0: nothing is left, or nobody can tell."""
    bytes_read: int = 0
    """To make `bytes_done` from."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """Of a store that is silent, or taken for lost: how long it has been so, or `up`, as one node saw it."""

    store: StoreId
    up: bool
    for_s: float


@dataclass(frozen=True, slots=True)
class NodeStatus:
    node: NodeName
    store: StoreId
    epoch: int
    boot: int
    voting: bool
    not_voting_reason: str
    used_bytes: int
    capacity_bytes: int
    uptime_s: float
    stewarded: tuple[PartitionHealth, ...]
    workers: tuple[WorkerStatus, ...]
    warnings: tuple[str, ...]
    unproven_s: float
    """As in `ScrubReport`; `promised_s` 0: a node of an earlier version, which does not tell."""
    promised_s: float
    sightings: tuple[Sighting, ...] = ()
