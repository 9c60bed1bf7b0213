"""What nodes say to each other. Each request class has exactly one reply class (`REPLY_TO`).

Field for field the same as the messages in `peer.proto`; `payload` travels raw behind the message, never inside it.
Refusals are errors (`core.errors`), not replies, except `Rejected`, which is Paxos' ordinary "no".
"""

from __future__ import annotations

from typing import Final

from holdfast_node.core.map_messages import (
    CloseBucket,
    CloseBucketReply,
    Introduce,
    IntroduceReply,
    MapAccept,
    MapAcceptReply,
    MapDecided,
    MapDecidedReply,
    MapPrepare,
    MapPrepareReply,
    MapReply,
    NodeStatus,
    PartitionHealth,
    QuarantinedKey,
    QuarantineReply,
    ReadMap,
    ReadQuarantine,
    ReadScrub,
    ReadStatus,
    ScrubReport,
    Sighting,
    WorkerStatus,
)
from holdfast_node.core.register_messages import (
    Accept,
    AcceptReply,
    ChangedKey,
    Changes,
    Commit,
    CommitReply,
    CopyKeys,
    CopyRegisters,
    Floors,
    FloorsReply,
    FollowedScope,
    ForgetRegisters,
    ForgetReply,
    HeldKey,
    KeyName,
    ListRegisters,
    ManifestReply,
    PartitionChanges,
    PartitionUsage,
    Prepare,
    PrepareReply,
    ReadChanges,
    ReadFloors,
    ReadManifest,
    ReadRegister,
    ReadSuperseded,
    ReadUsage,
    RegisterCopies,
    RegisterCopy,
    RegisterPage,
    RegisterRow,
    RegisterView,
    Scope,
    SupersededReply,
    Usage,
    WindowedKey,
)
from holdfast_node.core.shard_messages import (
    DegradedKey,
    DropShards,
    DropShardsReply,
    FindShards,
    Holdings,
    LinkShards,
    NameSeeds,
    NoteDegraded,
    NoteDegradedReply,
    ReadCells,
    ReadCellsReply,
    Seal,
    SealReply,
    SeedName,
    SeedNames,
    ShardHeader,
    ShardName,
    StageCell,
    StageCellReply,
    StageWhole,
    StageWholeReply,
)

__all__ = [
    "REPLY_TO",
    "Accept",
    "AcceptReply",
    "ChangedKey",
    "Changes",
    "CloseBucket",
    "CloseBucketReply",
    "Commit",
    "CommitReply",
    "CopyKeys",
    "CopyRegisters",
    "DegradedKey",
    "DropShards",
    "DropShardsReply",
    "FindShards",
    "Floors",
    "FloorsReply",
    "FollowedScope",
    "ForgetRegisters",
    "ForgetReply",
    "HeldKey",
    "Holdings",
    "Introduce",
    "IntroduceReply",
    "KeyName",
    "LinkShards",
    "ListRegisters",
    "ManifestReply",
    "MapAccept",
    "MapAcceptReply",
    "MapDecided",
    "MapDecidedReply",
    "MapPrepare",
    "MapPrepareReply",
    "MapReply",
    "NameSeeds",
    "NodeStatus",
    "NoteDegraded",
    "NoteDegradedReply",
    "PartitionChanges",
    "PartitionHealth",
    "PartitionUsage",
    "Prepare",
    "PrepareReply",
    "QuarantineReply",
    "QuarantinedKey",
    "ReadCells",
    "ReadCellsReply",
    "ReadChanges",
    "ReadFloors",
    "ReadManifest",
    "ReadMap",
    "ReadQuarantine",
    "ReadRegister",
    "ReadScrub",
    "ReadStatus",
    "ReadSuperseded",
    "ReadUsage",
    "RegisterCopies",
    "RegisterCopy",
    "RegisterPage",
    "RegisterRow",
    "RegisterView",
    "Reply",
    "Request",
    "Scope",
    "ScrubReport",
    "Seal",
    "SealReply",
    "SeedName",
    "SeedNames",
    "ShardHeader",
    "ShardName",
    "Sighting",
    "StageCell",
    "StageCellReply",
    "StageWhole",
    "StageWholeReply",
    "SupersededReply",
    "Usage",
    "WindowedKey",
    "WorkerStatus",
]

Request = (
    ReadRegister
    | Prepare
    | Accept
    | ReadManifest
    | Commit
    | ListRegisters
    | CopyRegisters
    | ReadFloors
    | StageWhole
    | StageCell
    | Seal
    | ReadCells
    | DropShards
    | LinkShards
    | FindShards
    | ReadMap
    | MapPrepare
    | MapAccept
    | MapDecided
    | Introduce
    | CloseBucket
    | ReadStatus
    | NoteDegraded
    | ReadQuarantine
    | NameSeeds
    | ReadScrub
    | ReadSuperseded
    | ReadChanges
    | CopyKeys
    | ReadUsage
    | ForgetRegisters
)
Reply = (
    RegisterView
    | PrepareReply
    | AcceptReply
    | ManifestReply
    | CommitReply
    | RegisterPage
    | RegisterCopies
    | FloorsReply
    | StageWholeReply
    | StageCellReply
    | SealReply
    | ReadCellsReply
    | DropShardsReply
    | Holdings
    | MapReply
    | MapPrepareReply
    | MapAcceptReply
    | MapDecidedReply
    | IntroduceReply
    | CloseBucketReply
    | NodeStatus
    | NoteDegradedReply
    | QuarantineReply
    | SeedNames
    | ScrubReport
    | SupersededReply
    | Changes
    | Usage
    | ForgetReply
)

REPLY_TO: Final[dict[type[Request], type[Reply]]] = {
    ReadRegister: RegisterView,
    Prepare: PrepareReply,
    Accept: AcceptReply,
    ReadManifest: ManifestReply,
    Commit: CommitReply,
    ListRegisters: RegisterPage,
    CopyRegisters: RegisterCopies,
    ReadFloors: FloorsReply,
    StageWhole: StageWholeReply,
    StageCell: StageCellReply,
    Seal: SealReply,
    ReadCells: ReadCellsReply,
    DropShards: DropShardsReply,
    LinkShards: Holdings,
    FindShards: Holdings,
    ReadMap: MapReply,
    MapPrepare: MapPrepareReply,
    MapAccept: MapAcceptReply,
    MapDecided: MapDecidedReply,
    Introduce: IntroduceReply,
    CloseBucket: CloseBucketReply,
    ReadStatus: NodeStatus,
    NoteDegraded: NoteDegradedReply,
    ReadQuarantine: QuarantineReply,
    NameSeeds: SeedNames,
    ReadScrub: ScrubReport,
    ReadSuperseded: SupersededReply,
    ReadChanges: Changes,
    CopyKeys: RegisterCopies,
    ReadUsage: Usage,
    ForgetRegisters: ForgetReply,
}
