"""What must hold in every state of `register_model`, told from everything the homes ever accepted."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast_node.core.errors import HoldfastError, OutcomeUnknown
from holdfast_node.core.head import Applied, Head, HeadKind, seeds_of
from holdfast_node.core.ids import RequestId
from holdfast_node.core.operation import Operation, OperationKind
from holdfast_node.core.proposal import Failed, Finished

Answer = Finished | Failed | None


class Violation(AssertionError):
    """An invariant does not hold in a reachable state; the message is the way there."""


def check_heads(heads: Sequence[Head], operations: Sequence[Operation], answers: Sequence[Answer]) -> None:
    """`heads` are all that were ever decided, in ballot order."""
    _check_chain(heads)
    _check_whole(heads)
    _check_answers(operations, answers, heads)


def must(holds: bool, claim: str) -> None:
    if not holds:
        raise Violation(claim)


def _check_chain(heads: Sequence[Head]) -> None:
    """In ballot order: versions never fall, one value per version, nothing applied is lost or applied twice."""
    values: dict[int, object] = {}
    applied: dict[RequestId, int] = {}
    before: Head | None = None
    for head in heads:
        value = (head.kind, head.manifest and head.manifest.blob_id)
        must(values.setdefault(head.version, value) == value, f"two values of version {head.version}")
        must(before is None or head.version >= before.version, "versions fall")
        for entry in head.recent:
            first = applied.setdefault(entry.request_id, entry.version)
            must(first == entry.version, f"{entry.request_id!r} applied twice")
        must(before is None or _remembered(before) <= {*head.recent}, "a decided write is lost")
        before = head


def _remembered(head: Head) -> set[Applied]:
    """Requests of an old era may be forgotten: everybody refuses them."""
    return {applied for applied in head.recent if applied.stamp >= 0}


def _check_whole(heads: Sequence[Head]) -> None:
    """R4: every version a decided head builds on was decided itself, so its manifest is at a majority."""
    versions = {head.version for head in heads}
    for head in heads:
        missing = {entry.version for entry in head.retained} - versions
        must(not missing, f"version {missing} was superseded on fewer homes than a majority")


def _check_answers(operations: Sequence[Operation], answers: Sequence[Answer], heads: Sequence[Head]) -> None:
    applied = {entry.request_id: entry.version for head in heads for entry in head.recent}
    for operation, answer in zip(operations, answers, strict=True):
        if operation.kind is OperationKind.FENCE:
            _check_collected(operations, answer, heads)
        elif operation.kind is OperationKind.EXPIRE:
            continue
        elif isinstance(answer, Finished):
            known = applied.get(operation.request_id)
            must(known == answer.version, f"answered {answer.version}, decided {known}")
            _check_repeated(operation, answer, heads)
        elif isinstance(answer, Failed) and not isinstance(answer.error, OutcomeUnknown):
            _check_refusal(operation, answer.error, heads)


def _check_collected(operations: Sequence[Operation], fenced: Answer, heads: Sequence[Head]) -> None:
    """R7: shards that the head behind a fence does not name are dropped, so that no later head may name them."""
    if not isinstance(fenced, Finished):
        return
    must(fenced.head in heads, "a fence was answered by a head that is not decided")
    before = heads[: heads.index(fenced.head) + 1]
    after = heads[len(before) :]
    staged = {o.manifest.seed_id for o in operations if o.manifest is not None}
    kept = {seed for head in before for seed in seeds_of(head)}
    for seed in (staged | kept) - seeds_of(fenced.head):
        must(all(seed not in seeds_of(head) for head in after), "a later head names shards that were dropped")


def _check_repeated(operation: Operation, answer: Finished, heads: Sequence[Head]) -> None:
    """R7: whoever is told "repeated" may drop its own shards."""
    if answer.repeated and operation.manifest is not None:
        named = {h.manifest.blob_id for h in heads if h.manifest is not None}
        must(operation.manifest.blob_id not in named, "a dropped attempt's blob is named")


def _check_refusal(operation: Operation, error: HoldfastError, heads: Sequence[Head]) -> None:
    """An error other than OutcomeUnknown: this attempt's own value is never decided, before or after."""
    if operation.manifest is not None:
        named = {h.manifest.blob_id for h in heads if h.manifest is not None and h.kind is HeadKind.BLOB}
        must(operation.manifest.blob_id not in named, f"{type(error).__name__}, but decided")
