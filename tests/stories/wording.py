"""How messages between nodes read in a story: one short text for each request, one for each answer.

Ballots are `generation.counter.node`, heads `v3=A over 2,1`, blobs the names the story gave them. What is only there
for machines (checksums, lengths, clocks) is left out. It decides nothing and sees no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from holdfast_node.core.api import Margin
from holdfast_node.core.cluster_map import ClusterMap
from holdfast_node.core.errors import DeadlineExceeded, HoldfastError, PeerUnreachable
from holdfast_node.core.head import Ballot, Head, HeadKind
from holdfast_node.core.ids import BlobId, StoreId
from holdfast_node.core.messages import (
    Accept,
    AcceptReply,
    CloseBucket,
    CloseBucketReply,
    Commit,
    CommitReply,
    CopyKeys,
    CopyRegisters,
    DropShards,
    DropShardsReply,
    FindShards,
    FloorsReply,
    Holdings,
    LinkShards,
    ListRegisters,
    ManifestReply,
    MapAccept,
    MapAcceptReply,
    MapDecided,
    MapDecidedReply,
    MapPrepare,
    MapPrepareReply,
    Prepare,
    PrepareReply,
    ReadCells,
    ReadCellsReply,
    ReadFloors,
    ReadManifest,
    ReadRegister,
    RegisterCopies,
    RegisterPage,
    RegisterView,
    Reply,
    Request,
    Seal,
    SealReply,
    StageCell,
    StageCellReply,
    StageWhole,
    StageWholeReply,
)
from holdfast_node.core.operation import Operation
from holdfast_node.ports import Bodies

KEY: Final = b"k"
"""The key of most stories: it goes without saying."""


@dataclass(frozen=True, slots=True)
class Saying:
    """Messages of one node with an equal `group` are one line of the story, while they are sent together or, if
    `lasting`, whenever they are sent. `shard` is the shard it is about, -1 if none."""

    text: str
    group: tuple[object, ...]
    lasting: bool = True
    shard: int = -1


class Names:
    """Who is who. A store that took another's place under the same node name has a dash more."""

    def __init__(self) -> None:
        self._stores: dict[StoreId, str] = {}
        self._blobs: dict[BlobId, str] = {}

    def meet(self, store: StoreId, node: str) -> None:
        if store not in self._stores:
            earlier = sum(1 for name in self._stores.values() if name.rstrip("'") == node)
            self._stores[store] = node + "'" * earlier

    def store(self, store: StoreId) -> str:
        return self._stores.get(store, store.hex()[:4])

    def latest(self, node: str) -> str:
        """The store that lives under this node name now."""
        return max(
            (name for name in self._stores.values() if name.rstrip("'") == node), key=len, default=node
        )

    def blob(self, blob: BlobId, said: str = "") -> str:
        """Its name; a new one is called as `said`, with a dash for each earlier attempt of that name. What nobody named
        is the record of a bucket."""
        if blob not in self._blobs:
            earlier = sum(1 for name in self._blobs.values() if name.rstrip("'") == (said or "record"))
            self._blobs[blob] = (said or "record") + "'" * earlier
        return self._blobs[blob]

    def blob_named(self, name: str) -> BlobId:
        return next(blob for blob, known in self._blobs.items() if known == name)


def together(names: Iterable[str]) -> str:
    """`n1..n4 n6`, in order."""
    runs: list[list[str]] = []
    for name in sorted(set(names), key=lambda name: (len(name.rstrip("'")), name)):
        if runs and name[1:].isdigit() and runs[-1][-1] == f"n{int(name[1:]) - 1}":
            runs[-1].append(name)
        else:
            runs.append([name])
    return " ".join(" ".join(run) if len(run) < 3 else f"{run[0]}..{run[-1]}" for run in runs)


def places(pairs: Iterable[tuple[int, str]]) -> str:
    """`0:n3 1:n1`: which shard is where."""
    return " ".join(f"{shard}:{name}" for shard, name in sorted(set(pairs)))


def margin_text(margin: Margin) -> str:
    return " ".join(f"{tag} {left}" for tag, left in margin.entries) + (", full" if margin.full else "")


def _copy_keys(request: CopyKeys, _: str) -> Saying:
    keys = ", ".join(each.key.decode() for each in request.keys)
    return Saying(f"CopyKeys {keys}", (request.scope, request.keys))


class Wording:
    """Words requests, answers and heads. `said` is what the blob at hand is to be called if it is new."""

    def __init__(self, names: Names, bodies: Bodies) -> None:
        self._names: Final = names
        self._bodies: Final = bodies
        self.counted_from = 0
        """The highest ballot's counter before the story began."""
        self._requests: Final[dict[type, Callable[[Any, str], Saying]]] = {
            ReadRegister: self._read,
            Prepare: lambda r, _: Saying(f"Prepare {self.ballot(r.ballot)}{_of(r.key)}", (r.key, r.ballot)),
            Accept: self._accept,
            StageWhole: self._stage_whole,
            StageCell: self._stage_cell,
            Seal: self._seal,
            ReadCells: self._read_cells,
            ReadManifest: lambda r, _: Saying(
                f"ReadManifest {self._names.blob(r.blob_id)}", (r.blob_id,), lasting=False
            ),
            DropShards: self._drop,
            FindShards: self._find,
            LinkShards: self._link,
            Commit: self._commit,
            ListRegisters: lambda r, _: Saying("List", (r.prefix, r.start), lasting=False),
            CopyRegisters: lambda r, _: Saying(
                f"CopyRegisters of generation {_generations(r.scopes)}", (r.scopes, r.after_key)
            ),
            CopyKeys: _copy_keys,
            ReadFloors: lambda r, _: Saying(
                f"ReadFloors of generation {_generations(r.scopes)}", (r.scopes,)
            ),
            CloseBucket: lambda r, _: Saying(
                "CloseBucket" if r.closing else "CloseBucket, open again", (r.closing,), lasting=False
            ),
            MapPrepare: lambda r, _: Saying(
                f"MapPrepare epoch {r.epoch} {self._vote(r.ballot)}", (r.epoch, r.ballot)
            ),
            MapAccept: lambda r, _: Saying(
                f"MapAccept epoch {r.epoch} {self._vote(r.ballot)}", (r.epoch, r.ballot)
            ),
            MapDecided: lambda r, _: Saying(
                f"MapDecided epoch {self._bodies.decode(ClusterMap, r.map).epoch}", (r.map,)
            ),
        }
        self._replies: Final[dict[type, Callable[[Any], str]]] = {
            RegisterView: self._view,
            PrepareReply: self._promise,
            AcceptReply: lambda r: "accepted" if r.accepted else f"refused, promised {self.ballot(r.higher)}",
            StageWholeReply: self._staged,
            StageCellReply: lambda _: "taken",
            SealReply: lambda _: "sealed",
            ReadCellsReply: lambda _: "given",
            ManifestReply: lambda r: "has it" if r.manifest is not None else "does not know it",
            DropShardsReply: lambda r: "dropped" if r.dropped else "had none",
            Holdings: self._holdings,
            CommitReply: lambda r: f"done, version {r.version}",
            RegisterPage: lambda r: _rows(
                f"{row.key.decode()} v{row.version}{' deleted' * (row.kind == HeadKind.TOMBSTONE)}"
                for row in r.rows
            ),
            RegisterCopies: lambda r: _rows(
                f"{copy.key.decode()} {self.head(self._bodies.decode(Head, copy.head))}" for copy in r.copies
            ),
            FloorsReply: lambda _: "told",
            CloseBucketReply: lambda _: "done",
            MapPrepareReply: lambda r: (
                "promised" if r.promised else f"refused, promised {self._vote(r.higher)}"
            ),
            MapAcceptReply: lambda r: (
                "accepted" if r.accepted else f"refused, promised {self._vote(r.higher)}"
            ),
            MapDecidedReply: lambda r: f"in epoch {r.epoch}",
        }

    def request(self, request: Request, said: str) -> Saying | None:
        """None for what stories are not about: introductions, status, maps fetched."""
        wording = self._requests.get(type(request))
        return wording(request, said) if wording is not None else None

    def reply(self, reply: Reply) -> str:
        return self._replies[type(reply)](reply)

    def error(self, error: HoldfastError) -> str:
        if isinstance(error, PeerUnreachable):
            return "unreachable"
        if isinstance(error, DeadlineExceeded):
            return "silence"
        return f"{type(error).__name__} ({error.message})"

    # --- values

    def ballot(self, at: Ballot | None) -> str:
        """Counted from where the story begins."""
        if at is None:
            return "nothing"
        return f"{at.generation}.{at.counter - self.counted_from}.{self._names.store(at.store)}"

    def _vote(self, at: Ballot | None) -> str:
        """A ballot about the map: these have a count of their own."""
        return "nothing" if at is None else f"{at.generation}.{at.counter}.{self._names.store(at.store)}"

    def head(self, head: Head | None, said: str = "") -> str:
        if head is None:
            return "nothing"
        fence = f", fence {self.ballot(head.fence)}" if head.fence is not None else ""
        if head.kind is HeadKind.ABSENT:
            return "absent" + fence
        what = "deleted" if head.manifest is None else self._names.blob(head.manifest.blob_id, said)
        behind = ",".join(str(entry.version) for entry in head.retained)
        return f"v{head.version}={what}" + (f" over {behind}" if behind else "") + fence

    def _encoded(self, head: bytes, said: str = "") -> str:
        return self.head(self._bodies.decode(Head, head) if head else None, said)

    # --- requests

    def _read(self, request: ReadRegister, _: str) -> Saying:
        cells = " and cells" if request.inline_bytes_max else ""
        return Saying(f"Read{_of(request.key)}{cells}", (request.key, bool(cells)), lasting=False)

    def _accept(self, request: Accept, said: str) -> Saying:
        head = self._encoded(request.head, said)
        return Saying(
            f"Accept {self.ballot(request.ballot)}{_of(request.key)} {head}", (request.key, request.ballot)
        )

    def _stage_whole(self, request: StageWhole, said: str) -> Saying:
        header = request.header
        name = self._names.blob(header.seed_id, said)
        part = f".{header.part}" if header.part else ""
        riding = f" + Prepare {self.ballot(request.prepare.ballot)}" if request.prepare is not None else ""
        return Saying(
            f"Stage {name}{part}{_of(header.key)}{riding}", (header.seed_id, header.part), shard=header.index
        )

    def _stage_cell(self, request: StageCell, said: str) -> Saying:
        name = self._names.blob(request.seed_id, said)
        return Saying(
            f"Cells {name}.{request.part}", (request.seed_id, request.part, "cells"), shard=request.index
        )

    def _seal(self, request: Seal, said: str) -> Saying:
        header = request.header
        name = self._names.blob(header.seed_id, said)
        return Saying(f"Seal {name}.{header.part}", (header.seed_id, header.part, "seal"), shard=header.index)

    def _read_cells(self, request: ReadCells, _: str) -> Saying:
        name = self._names.blob(request.seed_id)
        last = request.first + request.count - 1
        stripes = f"stripe {request.first}" if request.count == 1 else f"stripes {request.first}-{last}"
        past = " past the page cache" if request.fresh else ""
        group = (request.seed_id, request.part, request.first, request.count, request.fresh)
        return Saying(f"ReadCells {name}.{request.part} {stripes}{past}", group, shard=request.index)

    def _drop(self, request: DropShards, _: str) -> Saying:
        names = {self._names.blob(shard.seed_id) for shard in request.shards}
        shard = request.shards[0].index if len(request.shards) == 1 else -1
        seeds = tuple(sorted({shard.seed_id for shard in request.shards}))
        return Saying(f"Drop {' '.join(sorted(names))}", seeds, shard=shard)

    def _find(self, request: FindShards, _: str) -> Saying:
        names = " ".join(sorted(self._names.blob(seed) for seed in request.seed_ids))
        return Saying(f"FindShards {names}", request.seed_ids, lasting=False)

    def _link(self, request: LinkShards, said: str) -> Saying:
        new = self._names.blob(request.blob_id, said)
        return Saying(f"Link {new} -> {self._names.blob(request.seed_id)}", (request.blob_id,))

    def _commit(self, request: Commit, _: str) -> Saying:
        operation = self._bodies.decode(Operation, request.operation)
        what = f"Commit{_of(request.key)} {operation.kind.name.lower()}"
        return Saying(what, (request.key, request.operation), lasting=False)

    # --- answers

    def _view(self, view: RegisterView) -> str:
        if view.ballot is None:
            return "nothing"
        head = f"{self._encoded(view.head)} " if view.head else ""
        return f"{head}at {self.ballot(view.ballot)}"

    def _promise(self, reply: PrepareReply) -> str:
        if not reply.promised:
            return f"refused, promised {self.ballot(reply.higher)}"
        if reply.accepted is None:
            return "promised"
        return f"promised, has {self._encoded(reply.head)} at {self.ballot(reply.accepted)}"

    def _staged(self, reply: StageWholeReply) -> str:
        if reply.promise is not None:
            return f"sealed, {self._promise(reply.promise)}"
        return f"sealed, not voting ({reply.not_voting})" if reply.not_voting else "sealed"

    def _holdings(self, reply: Holdings) -> str:
        shards = [
            f"{shard.index}" if not shard.part else f"{shard.part}/{shard.index}" for shard in reply.shards
        ]
        return f"holds {' '.join(shards)}" if shards else "none"


def _of(key: bytes) -> str:
    return "" if key == KEY else f" {key.decode()}"


def _rows(rows: Iterable[str]) -> str:
    return ", ".join(rows) or "nothing"


def _generations(scopes: Sequence[Any]) -> str:
    return ",".join(str(generation) for generation in sorted({scope.generation for scope in scopes}))
