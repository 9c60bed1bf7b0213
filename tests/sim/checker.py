"""Is there one order in which all this makes sense? Linearizability of one key's history.

Wing and Gong's search with Lowe's memory: try every operation that may come first, never the same set of done
operations with the same register twice. Operations of unknown outcome may take effect at any moment after they
began, or never. The register is the promise of docs/protocol.md seen from outside: a version and a content that is
either some write's bytes or nothing, conditions, deletes, and versions that only rise. It knows nothing of ballots.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

FOREVER: Final = math.inf
NOTHING: Final = ""
"""The content of a key that is absent or deleted."""


class Kind(Enum):
    READ = "read"
    PUT = "put"
    DELETE = "delete"


class Result(Enum):
    DONE = "done"
    """A read saw `content` at `version`; a write was applied at `version`."""
    ABSENT = "absent"
    """A read, or a delete, found nothing."""
    CONDITION_FAILED = "condition failed"
    UNKNOWN = "unknown"
    """May take effect at any time after its call, or never."""


@dataclass(frozen=True, slots=True)
class Op:
    """One logical operation on one key. `content` is unique to its put; a read's is what it saw.

    `if_version` -1 is no condition. `version` 0 is not known.
    """

    kind: Kind
    called: float
    returned: float
    result: Result
    version: int = 0
    content: str = NOTHING
    if_absent: bool = False
    if_version: int = -1
    who: str = ""


@dataclass(frozen=True, slots=True)
class Register:
    """`exact` False: some write nobody learned the version of was applied; `version` is the least it can be."""

    version: int = 0
    content: str = NOTHING
    exact: bool = True


def step(register: Register, op: Op) -> Register | None:
    """The register after `op`, or None if `op` could not have happened to it."""
    if op.kind is Kind.READ:
        return _read(register, op)
    if op.result is Result.CONDITION_FAILED:
        return None if _surely_met(register, op) else register
    if op.result is Result.ABSENT:
        return register if register.content == NOTHING and _may_be_met(register, op) else None
    if not _may_be_met(register, op) or (op.kind is Kind.DELETE and register.content == NOTHING):
        return None
    content = op.content if op.kind is Kind.PUT else NOTHING
    if op.version == 0:
        return Register(register.version + 1, content, exact=False)
    return Register(op.version, content) if op.version > register.version else None


def _read(register: Register, op: Op) -> Register | None:
    if op.result is Result.ABSENT:
        return register if register.content == NOTHING else None
    if op.content != register.content:
        return None
    if op.version == 0 or (register.exact and op.version == register.version):
        return register
    if not register.exact and op.version >= register.version:
        return Register(op.version, register.content)
    return None


def _may_be_met(register: Register, op: Op) -> bool:
    if op.if_absent and register.content != NOTHING:
        return False
    if op.if_version < 0:
        return True
    return op.if_version == register.version or (not register.exact and op.if_version > register.version)


def _surely_met(register: Register, op: Op) -> bool:
    if op.if_absent and register.content != NOTHING:
        return False
    return op.if_version < 0 or (register.exact and op.if_version == register.version)


def learn_versions(ops: Iterable[Op]) -> list[Op]:
    """An unknown put whose bytes somebody read has the version that reader saw; not if an undelete wrote them again."""
    ops = list(ops)
    offered = Counter(op.content for op in ops if op.kind is Kind.PUT)
    seen = {
        op.content: op.version
        for op in ops
        if op.kind is Kind.READ and op.result is Result.DONE and op.version and offered[op.content] == 1
    }
    return [
        replace(op, version=seen[op.content])
        if op.kind is Kind.PUT and op.version == 0 and op.content in seen
        else op
        for op in ops
    ]


class _Search:
    """The operations of one history, by number; a set of them is an integer."""

    def __init__(self, history: Iterable[Op]) -> None:
        self.ops = sorted(learn_versions(history), key=lambda op: (op.called, op.returned))
        self.ends = [FOREVER if op.result is Result.UNKNOWN else op.returned for op in self.ops]
        self.needed = sum(1 << n for n, op in enumerate(self.ops) if op.result is not Result.UNKNOWN)
        self._older: dict[int, int] = {}

    def older(self, version: int) -> int:
        """Those that must be done before the register has this version: versions only rise."""
        if version not in self._older:
            self._older[version] = sum(
                1 << number
                for number, op in enumerate(self.ops)
                if op.result is Result.DONE
                and op.version > 0
                and op.version + (op.kind is Kind.READ) <= version
            )
        return self._older[version]

    def after(self, done: int, register: Register) -> list[tuple[int, Register]]:
        """Where the next operation may lead. One that changes nothing is best done as soon as it fits."""
        horizon = min(self.ends[number] for number in range(len(self.ops)) if not done >> number & 1)
        found: list[tuple[int, Register]] = []
        for number, op in enumerate(self.ops):
            if op.called > horizon:
                break
            if done >> number & 1:
                continue
            then = step(register, op)
            if then is None:
                continue
            if then == register and op.result is not Result.UNKNOWN:
                return [(done | 1 << number, then)]
            if self.older(then.version) & ~(done | 1 << number) == 0:
                found.append((done | 1 << number, then))
        return found


def linearizable(history: Iterable[Op], start: Register | None = None) -> bool:
    """Whether some order of the operations, each between its call and its return, explains every result."""
    search = _Search(history)
    seen: set[tuple[int, Register]] = set()
    stack: list[tuple[int, Register]] = [(0, start or Register())]
    while stack:
        done, register = stack.pop()
        if done & search.needed == search.needed:
            return True
        if (done, register) not in seen:
            seen.add((done, register))
            stack.extend(search.after(done, register))
    return False


def smallest_violation(history: Sequence[Op]) -> list[Op]:
    """The history without the reads, failed conditions and later operations that are not needed to contradict itself.

    Only what has no effect on others may be left out, or the cure would be the disease.
    """
    ops = sorted(history, key=lambda op: op.returned)
    for count in range(1, len(ops) + 1):
        begun = [
            _as_seen_at(op, ops[count - 1].returned) for op in ops if op.called <= ops[count - 1].returned
        ]
        if not linearizable(begun):
            ops = begun
            break
    for op in list(ops):
        harmless = op.kind is Kind.READ or op.result in {Result.CONDITION_FAILED, Result.ABSENT}
        fewer = [other for other in ops if other is not op]
        if harmless and not linearizable(fewer):
            ops = fewer
    return sorted(ops, key=lambda op: op.called)


def _as_seen_at(op: Op, now: float) -> Op:
    """Of what had not returned by then, only that it was called is known, and its version if it was a put."""
    if op.returned <= now:
        return op
    if op.kind is Kind.READ or op.result in {Result.CONDITION_FAILED, Result.ABSENT}:
        return replace(op, result=Result.UNKNOWN, version=0, content=_NEVER)
    return replace(op, result=Result.UNKNOWN)


_NEVER: Final = "what no write ever wrote"


def tell(ops: Iterable[Op]) -> str:
    """A history for a person: one line an operation, in the order of their calls."""
    lines: list[str] = []
    for op in sorted(ops, key=lambda op: op.called):
        condition = (
            " if absent" if op.if_absent else f" if version {op.if_version}" if op.if_version >= 0 else ""
        )
        value = f" {op.content}" if op.content else ""
        version = f" v{op.version}" if op.version else ""
        lines.append(
            f"  {op.called:9.4f} .. {op.returned:9.4f} {op.who:>6} {op.kind.value}{value}{condition}"
            f" -> {op.result.value}{version}"
        )
    return "\n".join(lines)
