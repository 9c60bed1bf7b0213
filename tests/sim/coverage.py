"""What should happen in some world, or the worlds test less than they seem to.

Each name is a claim about a whole campaign: it was seen at least once. It is told what passes by (messages, events,
what became of an operation) and never looks into a node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sized
from typing import Final

from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.messages import (
    Accept,
    Commit,
    CopyRegisters,
    DropShards,
    FindShards,
    ForgetRegisters,
    LinkShards,
    MapAccept,
    MapPrepare,
    Prepare,
    ReadCells,
    ReadFloors,
    ReadManifest,
    ReadRegister,
    Reply,
    Request,
    Seal,
    StageCell,
    StageWhole,
)
from holdfast_node.core.records import RecordType

_LOST: Final[dict[type[Request], str]] = {
    Prepare: "a prepare was lost",
    Accept: "an accept was lost",
    Commit: "a commit was lost on its way to the steward",
    ReadRegister: "a read of a register was lost",
    StageWhole: "a whole small shard was lost on its way",
    StageCell: "a cell was lost on its way",
    Seal: "a seal was lost on its way",
    MapPrepare: "a prepare for a map was lost",
    MapAccept: "an accept of a map was lost",
    CopyRegisters: "a page of registers was lost on its way to a learner or a steward",
    ReadFloors: "the floors were lost on their way to a learner",
    DropShards: "the word to drop a shard was lost",
    ForgetRegisters: "a question about a deleted key, or the word to forget it, was lost",
    LinkShards: "a link of an undelete was lost",
}
_ANSWER_LOST: Final[dict[type[Request], str]] = {
    Prepare: "a promise was given and never heard of",
    Accept: "an accept was taken and never heard of",
    Commit: "a steward decided and its answer was lost",
    Seal: "a shard was sealed and nobody heard of it",
    MapAccept: "a map was accepted and nobody heard of it",
    ForgetRegisters: "a home said that it may forget a key, or forgot it, and nobody heard of it",
}
_TWICE: Final[dict[type[Request], str]] = {
    Prepare: "a prepare arrived twice",
    Accept: "an accept arrived twice",
    StageWhole: "a whole small shard arrived twice",
    StageCell: "a cell arrived twice",
    Seal: "a seal arrived twice",
    DropShards: "the word to drop a shard arrived twice",
}
_LATE: Final[dict[type[Request], str]] = {
    Prepare: "a prepare arrived when its proposer no longer waited",
    Accept: "an accept arrived when its proposer no longer waited",
    Commit: "a commit arrived when its sender no longer waited",
    StageCell: "a cell arrived when its coordinator no longer waited",
    Seal: "a seal arrived when its coordinator no longer waited",
}
_ARRIVED: Final[dict[type[Request], str]] = {
    Commit: "a commit went to the steward",
    ReadManifest: "an older version's manifest was asked for",
    LinkShards: "an undelete linked shards",
    FindShards: "a census was taken",
    DropShards: "a shard was dropped",
}
_REFUSED: Final[dict[str, str]] = {
    "NotVoting": "a store said it does not vote",
    "StaleGeneration": "a message of an older generation was refused",
    "StaleEra": "an operation of a forgotten era was refused",
    "StoreFull": "a store was full",
    "StoreFailed": "a store had failed",
    "IntegrityError": "a holder found a broken cell",
    "ShardMissing": "a holder did not have a shard",
}
_EVENTS: Final[dict[str, str]] = {
    "store_suspect": "a store learned that it was rolled back or copied",
    "store_failed": "a store failed",
    "partitions_learned": "a learner caught up",
    "sources_left": "a learner left sources that failed for others",
    "learning_again": "a key that had rotted was learned again",
    "rot_found": "a store found rot",
    "rot_healed": "what had rotted was made whole",
    "scrub_cycle_ended": "a store read itself back",
    "index_rebuilt": "an index was rebuilt",
    "index_has_room": "an index that had no room went on",
    "versions_expired": "an undo window ended",
    "keys_forgotten": "a deleted key was forgotten by all its homes",
    "shards_collected": "shards that no head names were dropped",
    "manifests_collected": "manifests of versions that are not kept were forgotten",
    "register_caught_up": "a home caught up on what it had missed",
    "volume_copied": "what a volume still held was copied",
    "volume_removed": "a volume was given back",
    "map_not_fetched": "a map could not be fetched",
    "partitions_entered": "a newcomer began blank",
    "partition_healed": "a partition was healed",
    "blob_recoded": "a blob was made anew in the pool's new code",
    "key_quarantined": "a key was put into quarantine",
    "shard_not_intact": "a keeper found a shard that is not intact",
    "spare_volume_refused": "there was no room for a spare volume",
    "nodes_given_up": "a node that was silent for too long was given up",
    "moves_ended": "a move ended because a newcomer was silent for too long",
    "node_taken_back": "a node that had been given up was given a share again",
    "suspect_not_recorded": "a suspect store could not say so in the map",
}
_OTHER: Final = (
    "heal proved a shard while a caller wrote",
    "a learner caught up while a caller wrote",
    "a put was acked with less than full margin",
    "a put was acked with no margin left",
    "a condition failed",
    "a delete found nothing",
    "a write was given up without knowing whether it took effect",
    "a write needed more than one attempt",
    "a node died while a caller waited for it",
    "a process died between two awaits",
    "a power cut took what was not synced",
    "a power cut tore a sector",
    "an index fell back",
    "a torn batch was found at the end of the log",
    "rot was found at start",
    "an index was made from a log with holes",
    "a log went over to another volume",
    "a wrong clock was set back",
    "a write won the race for a door",
    "a bucket was deleted under a writer",
    "a bucket was made again",
    "an upload was acked that had begun before a store was lost",
    "partitions moved to other homes",
    "a pool went to another code",
    "a pool went to another code behind the back of nodes",
    "a claim of status was checked while there was trouble",
)


def rotten_type(kind: RecordType) -> str:
    return f"a record of type {kind.name.lower()} rotted"


SOMETIMES: Final[frozenset[str]] = frozenset(
    (
        *_OTHER,
        *(rotten_type(kind) for kind in RecordType),
        *(
            name
            for names in (_LOST, _ANSWER_LOST, _TWICE, _LATE, _ARRIVED, _EVENTS)
            for name in names.values()
        ),
        *_REFUSED.values(),
    )
)


class Coverage:
    """Counts what was seen in one world."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.writing: Sized = ()
        """Who is in the middle of a write; shared with the history."""

    def saw(self, name: str) -> None:
        assert name in SOMETIMES, f"{name!r} is not among what should happen"
        self.seen[name] += 1

    def _saw(self, names: dict[type[Request], str], request: type[Request]) -> None:
        if (name := names.get(request)) is not None:
            self.seen[name] += 1

    # --- messages

    def lost(self, request: Request) -> None:
        self._saw(_LOST, type(request))

    def doubled(self, request: Request) -> None:
        self._saw(_TWICE, type(request))

    def arrived(self, request: Request, *, awaited: bool) -> None:
        self._saw(_ARRIVED, type(request))
        if not awaited:
            self._saw(_LATE, type(request))
        if len(self.writing) and isinstance(request, ReadCells) and request.fresh:
            self.seen["heal proved a shard while a caller wrote"] += 1

    def answered(self, request: type[Request], outcome: Reply | HoldfastError, *, heard: bool) -> None:
        if isinstance(outcome, HoldfastError):
            if (name := _REFUSED.get(type(outcome).__name__)) is not None:
                self.seen[name] += 1
        elif not heard:
            self._saw(_ANSWER_LOST, request)

    # --- events of nodes

    def event(self, event: str, fields: dict[str, str | int | float | bool]) -> None:
        if (name := _EVENTS.get(event)) is not None:
            self.seen[name] += 1
        if event == "partitions_learned" and len(self.writing):
            self.seen["a learner caught up while a caller wrote"] += 1
        if event == "log_replayed":
            if fields["torn"]:
                self.saw("a torn batch was found at the end of the log")
            if fields["rot"]:
                self.saw("rot was found at start")
            if fields["from_start"] and fields["holes"]:
                self.saw("an index was made from a log with holes")


def never_seen(seen: Counter[str]) -> list[str]:
    return sorted(name for name in SOMETIMES if not seen[name])
