"""What operators are told, as plain values: field for field the messages of `admin.proto`.

Knows nothing of how the facts were gathered. *Claimed* is what the map says, *observed* what a node answered,
*proven* what was found at its place by heal.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast_node.core.api import BlobInfo, Margin
from holdfast_node.core.cluster_map import ClusterMap


@dataclass(frozen=True, slots=True)
class IdentifyReply:
    node: str
    store: bytes
    cluster_id: bytes
    epoch: int
    boot: int
    voting: bool
    not_voting_reason: str
    version: str


@dataclass(frozen=True, slots=True)
class InitReply:
    cluster_id: bytes
    epoch: int
    already: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """One background worker of one node. `eta_s` is -1 when it cannot be told from the measured rate."""

    node: str
    name: str
    state: str
    detail: str
    done: int
    total: int
    bytes_done: int
    rate_bytes_s: float
    eta_s: float
    bytes_read: int = 0
    """To make `bytes_done` from; 0 for workers that make nothing."""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """`state`: up, down, suspect, lost, draining, or drained (nothing is left there that anybody needs). `shards`:
    catching-up, unproven or proven; claimed when the node did not answer. `promised_s` 0: it is not known how long ago
    the node read itself back."""

    name: str
    address: str
    tags: tuple[tuple[str, str], ...]
    store: bytes
    state: str
    voting: bool
    not_voting_reason: str
    epoch: int
    boot: int
    used_bytes: int
    capacity_bytes: int
    uptime_s: float
    shards: str
    learning_partitions: int
    weight: int
    unproven_s: float
    promised_s: float


@dataclass(frozen=True, slots=True)
class PoolReport:
    name: str
    code: str
    partitions: int
    protected_tags: tuple[str, ...]
    ack_floor: str
    designed_margin: Margin
    blobs: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StatusReply:
    cluster_id: bytes
    epoch: int
    era: int
    simulated_domains: bool
    nodes: tuple[NodeReport, ...]
    workers: tuple[WorkerReport, ...]
    blobs: int
    bytes: int
    least_margin: Margin
    partitions: int
    partitions_full: int
    partitions_degraded: int
    partitions_unreported: int
    exceptions: int
    healthy: bool
    problems: tuple[str, ...]
    voters: tuple[str, ...]
    pools: tuple[PoolReport, ...]


@dataclass(frozen=True, slots=True)
class NodeScrub:
    """How far one node has read itself back; see `ScrubReport`."""

    node: str
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
    promised_s: float
    waiting: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RebuildIndexReply:
    """`boot` of the process that threw its index away: a later one has a new index."""

    boot: int


@dataclass(frozen=True, slots=True)
class ScrubReply:
    nodes: tuple[NodeScrub, ...]
    unreachable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GetMapReply:
    map: ClusterMap


@dataclass(frozen=True, slots=True)
class ReplaceLostReply:
    nodes: tuple[str, ...]
    epoch: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PoolMoves:
    """What a change moves in one pool, in shard slots (one shard of one partition) and in bytes of blobs stored now.
    `least_slots`: no change to these nodes could do with fewer."""

    pool: str
    slots: int
    least_slots: int
    all_slots: int
    bytes: int


@dataclass(frozen=True, slots=True)
class PlanReply:
    """A change of homes: planned only, applied just now, or the last one that was. `kind`: add, drain, loss, remove,
    recode (of `pool`), cancel, or empty if there never was one. `open` of `partitions` are still moving; `settled`: and
    heal has passed since. `margin` is what blobs survive until then, with everybody up. `eta_s` is -1 until there is a
    rate to go by."""

    kind: str
    nodes: tuple[str, ...]
    epoch: int
    applied: bool
    partitions: int
    open: int
    settled: bool
    pools: tuple[PoolMoves, ...]
    margin: Margin
    eta_s: float
    warnings: tuple[str, ...]
    pool: str = ""
    left: str = ""
    """What it still waits for, by one example."""


@dataclass(frozen=True, slots=True)
class QuarantinedBlob:
    """A key that heal cannot mend. `bucket` is a name, or an id in hex if no bucket has it any more. `margin` is the
    least of all protected tags."""

    bucket: str
    key: bytes
    node: str
    tries: int
    margin: int
    why: str


@dataclass(frozen=True, slots=True)
class QuarantineListReply:
    """The gravest of `total`, as the stewards that answered know them."""

    blobs: tuple[QuarantinedBlob, ...]
    total: int
    unreachable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExplainShard:
    """`named` is the node the manifest names, empty if it has left the map; `found_at` who says it holds it sealed."""

    part: int
    index: int
    home: str
    named: str
    found_at: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExplainReply:
    info: BlobInfo
    pool: int
    partition: int
    generation: int
    homes: tuple[str, ...]
    register_copies: tuple[str, ...]
    shards: tuple[ExplainShard, ...]
    margin: Margin
    unreachable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AtRisk:
    """A blob that would be lost with `lose`: `what` (shards or register) keeps `left` of the `needed`."""

    bucket: str
    key: bytes
    version: int
    lose: str
    part: int
    left: int
    needed: int
    what: str


@dataclass(frozen=True, slots=True)
class BlobAtRisk:
    """A blob with a low margin. `weakest`: what survives no more than that, of shards, register and voters."""

    bucket: str
    key: bytes
    version: int
    size: int
    code: str
    margin: Margin
    weakest: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RiskReply:
    """Progress, and with `finished` the gravest of the `total`."""

    blobs: int
    bytes: int
    shards: int
    finished: bool
    at_risk: tuple[BlobAtRisk, ...]
    total: int
    unreachable: tuple[str, ...]
    least_margin: Margin


@dataclass(frozen=True, slots=True)
class ProveReply:
    """Progress, findings since the last one, and with `finished` the conclusion."""

    blobs: int
    bytes: int
    shards: int
    at_risk: tuple[AtRisk, ...]
    finished: bool
    tested: tuple[str, ...]
    unreachable: tuple[str, ...]
    least_margin: Margin
