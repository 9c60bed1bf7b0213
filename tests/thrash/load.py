"""The thrasher's load: callers that contend for small keys and keep large blobs of their own, and what they saw.

It adds to `tests/faults/workload.py` conditions, undelete, listing and deletions, and changes the contended keys now
and then, so that each key's history stays short enough to be judged. It knows no node and no nemesis.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures import TimeoutError as TooSlow
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Final

import xxhash

import holdfast
from tests.faults.workload import KIB, MIB, Caller, Record, check_key, shared_bytes, shared_content
from tests.sim.checker import Kind, Op, Result, linearizable, smallest_violation, tell

BUCKET: Final = "thrash"
"""Keeps what is overwritten and deleted for a while: every wiped node must get its shards of all that back."""
UNDO_S: Final = 10.0
"""What is kept stays in the code before a change of it, and until it has expired no other change begins."""
LAST_BUCKET: Final = "thrash-last"
"""Keeps the last version alone, so that healing does not grow with every operation of a long run."""
CALLERS: Final = 16
KEYS: Final = 16
"""Contended at one time."""
KEPT_KEYS: Final = 3
"""So many of them are in the first bucket."""
TURN_S: Final = 10.0
"""Then others are: at 150 operations a second that is some 100 a key."""
KNOWN_MAX: Final = 24
BULK_KEYS: Final = 4
SIZES: Final = (4 * KIB, 4 * KIB, 16 * KIB, 64 * KIB, 64 * KIB, 300_000, MIB, MIB + 1, 4 * MIB, 16 * MIB)
WEIGHTS: Final = (30, 30, 20, 10, 10, 6, 3, 2, 1, 1)
TIMEOUT: Final = holdfast.Timeout(connect=2.0, idle=5.0, total=20.0)
QUIET_WAIT_S: Final = 120.0
UNREADABLE_MAX: Final = 20
"""Each may take as long as a call may: a cluster that does not answer is not asked for everything."""
JUDGE_LIMIT_S: Final = 60.0


class Gate:
    """Callers pass one operation at a time; closed, it waits until none is on its way."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = True
        self._busy = 0

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._open)
            self._busy += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._busy -= 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._open = False
            if not self._changed.wait_for(lambda: self._busy == 0, QUIET_WAIT_S):
                raise AssertionError(f"{self._busy} calls have not returned within {QUIET_WAIT_S:g} s")

    def open(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys that are contended now, and what contents they are known to have had, with their versions."""

    turn: int
    since: float
    known: dict[str, list[tuple[int, str]]] = field(default_factory=dict[str, list[tuple[int, str]]])

    @property
    def prefix(self) -> str:
        return f"turn{self.turn:05d}/"

    def all(self) -> list[str]:
        return [f"{self.prefix}{'kept' if number < KEPT_KEYS else 'last'}{number}" for number in range(KEYS)]


def keeps_versions(key: str) -> bool:
    """Whether a contended key is in `BUCKET`."""
    return "/kept" in key


class Thrasher(Caller):
    """One caller with a client of its own."""

    def __init__(self, number: int, client: holdfast.Client, load: ThrashLoad, seed: str) -> None:
        super().__init__(number, client.bucket(BUCKET), load.record, load.ended, seed)
        self._last_bucket = client.bucket(LAST_BUCKET)
        self._load = load
        self._lives: Counter[int] = Counter()

    def _once(self) -> None:
        with self._load.gate:
            self._record_pass()

    def _record_pass(self) -> None:
        began, roll = time.monotonic(), self._random.random()
        if roll < 0.03:
            what = self._bulk()
        else:
            key = self._random.choice(self._load.keys.all())
            what = self._contend(key, self._random.random())
        self._load.noted(what, time.monotonic() - began)

    def _contend(self, key: str, roll: float) -> str:
        if roll < 0.48:
            self.shared_get(key)
            return "get"
        if roll < 0.78:
            self._shared_put(key)
            return "put"
        if roll < 0.86:
            known = self._load.keys.known.get(key)
            self._shared_put(key, if_version=known[-1][0] if known else None)
            return "put if version"
        if roll < 0.93:
            self._shared_delete(key)
            return "delete"
        if roll < 0.97 and keeps_versions(key):
            self._undelete(key)
            return "undelete"
        self._list(key)
        return "list"

    def _bucket_of(self, key: str) -> holdfast.Bucket:
        return self._bucket if keeps_versions(key) else self._last_bucket

    def _new_content(self) -> str:
        content = super()._new_content()
        self._load.hashes[f"xxh3:{xxhash.xxh3_128_hexdigest(shared_bytes(content))}"] = content
        return content

    def _note(self, key: str, op: Op, result: Result, version: int = 0, content: str | None = None) -> None:
        super()._note(key, op, result, version, content)
        known = self._load.keys.known
        if result is Result.DONE and op.kind is Kind.PUT:
            with self._record.lock:
                known[key] = [*known.get(key, [])[-KNOWN_MAX:], (version, op.content)]

    def _undelete(self, key: str) -> None:
        known = self._load.keys.known.get(key)
        if not known:
            return self.shared_get(key)
        version, content = self._random.choice(known)
        op = Op(Kind.PUT, time.monotonic(), 0, Result.DONE, 0, content, who=self._who)
        try:
            receipt = self._bucket.undelete(key, version=version)
        except (holdfast.VersionNotFound, holdfast.BlobNotFound):
            return None  # it is the present one, or not kept any more: nothing was done
        except holdfast.Error as error:
            return self._write_failed(key, op, error)
        return self._note(key, op, Result.DONE, receipt.version)

    def _list(self, key: str) -> None:
        """One page is a read of every key in the bucket of `key`."""
        keys, bucket, hashes = self._load.keys, self._bucket_of(key), self._load.hashes
        names = [name for name in keys.all() if keeps_versions(name) == keeps_versions(key)]
        op = Op(Kind.READ, time.monotonic(), 0, Result.DONE, who=self._who)
        try:
            found = {info.name: info for info in bucket.list(prefix=keys.prefix)}
        except holdfast.Error as error:
            return self._failed(error)
        for name in names:
            if (info := found.get(name)) is None:
                self._note(name, op, Result.ABSENT)
            else:
                self._note(
                    name, op, Result.DONE, info.version, hashes.get(info.hash, f"nobody's {info.hash}")
                )
        return None

    def last_read(self, key: str) -> str:
        """When faults have stopped; why it cannot be read, if it cannot."""
        op = Op(Kind.READ, time.monotonic(), 0, Result.DONE, who="last")
        try:
            blob = self._bucket_of(key).get(key)
            data = blob.read()
        except holdfast.BlobNotFound:
            self._note(key, op, Result.ABSENT)
        except holdfast.Error as error:
            return f"{key}: cannot be read: {error!r}"
        else:
            self._note(key, op, Result.DONE, blob.info.version, shared_content(data))
        return ""

    def _bulk(self) -> str:
        roll = self._random.random()
        if roll < 0.5 and self._load.room():
            self.sizes = tuple(self._random.choices(SIZES, WEIGHTS, k=1))
            self._own_put()
            return "bulk put"
        if roll < 0.6 and (key := self._own_key()) in self._record.acked:
            self.own_delete(key)
            return "bulk delete"
        self._own_get()
        return "bulk get"

    def _own_key(self) -> str:
        """After an unknown outcome a key is written no more: what is on its way may arrive at any time."""
        number = self._random.randrange(BULK_KEYS)
        if self._record.possible.get(f"{self._who}/{number}.{self._lives[number]}"):
            self._lives[number] += 1
        return f"{self._who}/{number}.{self._lives[number]}"


@dataclass(frozen=True, slots=True)
class Loss:
    """Data that was destroyed: which kind of domain, when the cluster was last asked if it is healthy, and when."""

    tag: str
    healthy_at: float
    at: float


class ThrashLoad:
    """All callers, their gate and what they saw. `record` outlives turns."""

    def __init__(self, endpoints: Sequence[str], *, seed: int, bytes_a_second: int) -> None:
        self.record = Record()
        self.ended = threading.Event()
        self.gate = Gate()
        self.keys = Keys(0, time.monotonic())
        self.calls: Counter[str] = Counter()
        self.slowest: tuple[float, str] = (0.0, "")
        self.hashes: dict[str, str] = {}
        """Of the bytes of each content ever offered, as listings tell them."""
        self.losses: list[Loss] = []
        self.excused: set[str] = set()
        self._unjudged: set[str] = set()
        self._condemned: set[str] = set()
        """Keys of histories that were found wrong: once is enough."""
        self._bytes_a_second = bytes_a_second
        self._began = time.monotonic()
        self.clients: list[holdfast.Client] = []
        for number in range(CALLERS):
            turned = [*endpoints[number % len(endpoints) :], *endpoints[: number % len(endpoints)]]
            self.clients.append(holdfast.connect(turned, timeout=TIMEOUT))
        self.bucket = self.clients[0].create_bucket(BUCKET, exist_ok=True, undo=UNDO_S)
        self.clients[0].create_bucket(LAST_BUCKET, exist_ok=True, undo=0)
        self.callers = [
            Thrasher(number, client, self, str(seed)) for number, client in enumerate(self.clients)
        ]

    def start(self) -> None:
        for caller in self.callers:
            caller.start()

    def close(self) -> None:
        self.ended.set()
        self.gate.open()
        for caller in self.callers:
            if caller.ident is not None:
                caller.join(QUIET_WAIT_S)
        for client in self.clients:
            client.close()

    def failures(self) -> list[str]:
        return [
            f"{caller.name} stopped: {caller.failure!r}"
            for caller in self.callers
            if caller.failure is not None
        ]

    def noted(self, what: str, seconds: float) -> None:
        with self.record.lock:
            self.calls[what] += 1
            if seconds > self.slowest[0]:
                self.slowest = (seconds, what)

    def room(self) -> bool:
        """Bulk puts keep to a rate: what is written stays on the disks."""
        allowed = self._bytes_a_second * (time.monotonic() - self._began + 10)
        return self.record.bytes_put < allowed

    def advance_if_due(self) -> None:
        """New contended keys. Who is still at work on an old one ends that first; judged is when nobody is."""
        if time.monotonic() - self.keys.since >= TURN_S:
            self.advance()

    def advance(self) -> None:
        self._unjudged.update(self.keys.all())
        self.keys = Keys(self.keys.turn + 1, time.monotonic())

    # --- the judgement, while no caller is at work

    def read_back(self) -> list[str]:
        """Every bulk key byte for byte, and a last read of every contended key whose history is not judged yet."""
        found: dict[str, str | None] = {}
        reader = self.callers[0]
        unreadable = 0
        for key in sorted({*self.record.acked, *self.record.deleted}):
            try:
                found[key] = check_key(self.bucket, self.record, key)
            except holdfast.Error as error:
                found[key] = f"{key}: cannot be read: {error!r}"
                unreadable += 1
            if unreadable == UNREADABLE_MAX:
                return [
                    *filter(None, found.values()),
                    f"{unreadable} keys cannot be read; no others were tried",
                ]
        for key in sorted(self._unjudged):
            found[key] = reader.last_read(key)
        return [wrong for key, wrong in found.items() if wrong and not self._is_excused(key)]

    def every_key_again(self) -> None:
        """At the end: what became of keys that were judged long ago?"""
        self._unjudged.update(self.record.history)

    def judge(self) -> tuple[list[str], list[str], int]:
        """What is not linearizable; of what could not be decided in time; how many histories were judged."""
        wrong: list[str] = []
        undecided: list[str] = []
        keys = sorted(
            key
            for key in self._unjudged - self._condemned
            if not self._is_excused(key) and key in self.record.history
        )
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            verdicts = {key: pool.submit(verdict, self.record.history[key]) for key in keys}
            for key in keys:
                try:
                    if told := verdicts[key].result(JUDGE_LIMIT_S):
                        wrong.append(f"{key}: {told}")
                        self._condemned.add(key)
                except TooSlow:
                    undecided = keys[keys.index(key) :]
                    for process in (pool._processes or {}).values():
                        process.kill()
                    break
        self._unjudged.clear()
        return wrong, undecided, len(keys)

    def _is_excused(self, key: str) -> bool:
        """Whether an ack of it said that a loss may cost it, and that loss came while it was so."""
        for thin in self.record.thin.get(key, []):
            for loss in self.losses:
                if (
                    thin.called < loss.at
                    and thin.returned > loss.healthy_at
                    and thin.margin.get(loss.tag, 0) < 1
                ):
                    self.excused.add(key)
        return key in self.excused


def verdict(history: Sequence[Op]) -> str:
    """Empty if it is linearizable. Runs in a process of its own."""
    if linearizable(history):
        return ""
    last = max(history, key=lambda op: op.called)
    writes = [op for op in history if op.kind is not Kind.READ and op.result is not Result.CONDITION_FAILED]
    newest = max(writes, key=lambda op: op.called, default=last)
    back = newest.kind is Kind.DELETE and newest.result is Result.DONE and last.result is Result.DONE
    return f"{'RESURRECTED' if back else 'NOT LINEARIZABLE'}\n{tell(smallest_violation(history))}"
