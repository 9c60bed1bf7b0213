"""What every caller saw, in one order of events, and what may be concluded from it. It never looks inside a node."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass, field

from holdfast_node.core.api import Margin
from tests.sim.checker import FOREVER, Kind, Op, Result, linearizable, smallest_violation, tell

CONTENT_BYTES_MIN = 12


def content_bytes(content: str, size: int) -> bytes:
    """The bytes a content's name and size stand for: nobody has to keep them."""
    assert size >= CONTENT_BYTES_MIN, "shorter contents would not be unique"
    return random.Random(content).randbytes(size)


def fingerprint(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


@dataclass
class Ack:
    """One acked put, with the margin it stated."""

    key: bytes
    content: str
    version: int
    margin: Margin


@dataclass
class History:
    """Operations per key, contents ever offered, and violations noticed on the spot."""

    ops: dict[bytes, list[Op]] = field(default_factory=lambda: defaultdict[bytes, list[Op]](list))
    acks: list[Ack] = field(default_factory=list[Ack])
    violations: list[str] = field(default_factory=list[str])
    errors: dict[str, int] = field(default_factory=lambda: defaultdict[str, int](int))
    corrupt_reads: list[str] = field(default_factory=list[str])
    last_errors: dict[str, str] = field(default_factory=dict[str, str])
    writing: dict[str, tuple[bytes, str]] = field(default_factory=dict[str, tuple[bytes, str]])
    """Per caller, the key and content it is writing now."""
    caught_by_loss: list[tuple[str, bytes, str]] = field(default_factory=list[tuple[str, bytes, str]])
    """(tag, key, content) of writes that were on their way when data was destroyed."""
    forgetful: bool = False
    """Whether deleted keys are forgotten, and with them which version deleted them."""
    attempts: int = 0
    """Attempts of writes after the first."""
    _sizes: dict[str, int] = field(default_factory=dict[str, int])
    _names: dict[bytes, tuple[str, bytes]] = field(default_factory=dict[bytes, tuple[str, bytes]])
    _hashes: dict[bytes, str] = field(default_factory=dict[bytes, str])
    _moment: int = 0

    def moment(self) -> float:
        """A time of its own for every event: what happened at the same virtual instant still has an order."""
        self._moment += 1
        return float(self._moment)

    def offer(self, content: str, key: bytes, data: bytes, digest: bytes) -> None:
        """Before a put begins: from now on these bytes may be read under this key."""
        self._names[fingerprint(data)] = (content, key)
        self._hashes[digest] = content
        self._sizes[content] = len(data)

    def size_of(self, content: str) -> int:
        return self._sizes[content]

    def identify(self, key: bytes, data: bytes) -> str | None:
        """Whose bytes these are. None, and a violation, if nobody offered them for this key."""
        content, offered = self._names.get(fingerprint(data), ("", b""))
        if content and offered == key:
            return content
        said = f"the bytes of {content} under {offered!r}" if content else "bytes nobody ever wrote"
        self.violations.append(f"WRONG BYTES: {key!r} read {said} ({len(data)} bytes)")
        return None

    def identify_hash(self, key: bytes, digest: bytes) -> str | None:
        content = self._hashes.get(digest)
        if content is None:
            self.violations.append(f"WRONG HASH: {key!r} was listed with a hash nobody ever wrote")
        return content

    def note_loss(self, tag: str) -> None:
        """A domain of `tag` is lost now. What is acked must stand it; what is on its way, if its ack says so."""
        self.caught_by_loss += [(tag, key, content) for key, content in self.writing.values()]

    def excused(self) -> set[bytes]:
        """Keys with a write that was on its way at a loss and was not acked with a margin for it."""
        margins = {ack.content: dict(ack.margin.entries) for ack in self.acks}
        return {key for tag, key, content in self.caught_by_loss if margins.get(content, {}).get(tag, 0) < 1}

    def add(self, key: bytes, op: Op) -> None:
        self.ops[key].append(op)

    def decided(self) -> dict[bytes, int]:
        """The newest version of each key that some caller was told of."""
        versions = {
            key: max((op.version for op in ops if op.result is Result.DONE), default=0)
            for key, ops in self.ops.items()
        }
        return {key: version for key, version in versions.items() if version}

    def judge(self) -> list[str]:
        """Every violation: those noticed on the way, and the keys whose history makes no sense."""
        found = list(self.violations)
        for key in sorted(self.ops):
            ops = self._telling(self.ops[key])
            if not linearizable(ops):
                found.append(f"NOT LINEARIZABLE: {key!r}\n{tell(smallest_violation(ops))}")
        return found

    def _telling(self, ops: list[Op]) -> list[Op]:
        """Without what says nothing: that a key was not found deleted by that very version, for it may be forgotten."""
        deleted = {op.version for op in ops if op.kind is Kind.DELETE and op.result is Result.DONE}
        if not self.forgetful:
            return ops
        return [op for op in ops if op.result is not Result.CONDITION_FAILED or op.if_version not in deleted]


def read_op(called: float, returned: float, content: str, version: int, who: str) -> Op:
    return Op(Kind.READ, called, returned, Result.DONE, version, content, who=who)


def absent_op(called: float, returned: float, who: str) -> Op:
    return Op(Kind.READ, called, returned, Result.ABSENT, who=who)


UNKNOWN_END = FOREVER
