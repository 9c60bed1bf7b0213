"""What happens in the demonstration, in order. Steps leave facts in `Facts`; nothing here decides how they look."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from holdfast.errors import Error, Evidence
from holdfast.values import key_text
from holdfast_ctl.demo.board import Board
from holdfast_ctl.demo.ledger import Acked, Content, Filed, Generated, Kept, Ledger, same
from holdfast_ctl.demo.load import Load

if TYPE_CHECKING:
    from holdfast import Bucket
    from holdfast.testing import LocalCluster
    from holdfastpb.v1 import admin_pb2

DURING_BYTES: Final = 32 * 1024 * 1024
FILE_BYTES_MAX: Final = 4 * 1024 * 1024
SKIPPED: Final = frozenset({".git", ".venv", ".holdfast", "__pycache__", "node_modules"})
THREADS: Final = 8
LOAD_ACKS_BEFORE: Final = 20
LOAD_ACKS_AFTER: Final = 20
ACKS_WAIT_S: Final = 30.0
HEAL_WAIT_S: Final = 120.0
POLL_S: Final = 0.2
TELL_EVERY_S: Final = 3.0


@dataclass(slots=True)
class Facts:
    lost_nodes: tuple[str, ...] = ()
    lost_san: str = ""
    least_margin: str = ""
    heal_s: float = -1.0
    healthy: bool = False
    at_risk: int = -1
    read_back: int = 0
    read_bytes: int = 0
    wrong: list[Evidence] = field(default_factory=list[Evidence])


class Story:
    """`seed` chooses the SAN and the contents; it is printed, so that a run can be told again."""

    def __init__(
        self, cluster: LocalCluster, board: Board, *, source: Path, seed: str, big_bytes: int
    ) -> None:
        self._cluster = cluster
        self._board = board
        self._source = source
        self._seed = seed
        self._big_bytes = big_bytes
        self._replaced_at = 0.0
        self.ledger = Ledger()
        self.facts = Facts()

    def tell(self) -> None:
        with self._board.step("start 6 nodes on 3 SANs, rs:4+2"):
            self._cluster.up()
        bucket = self._cluster.connect().create_bucket("demo")
        self._store_tree(bucket)
        self._store_big(bucket)
        with Load(bucket, self.ledger, self._seed) as load:
            self._lose_a_san(bucket, load)
            self._read_back(bucket, "read every acknowledged blob back, two nodes gone")
            self._replace()
        self._wait_healed()
        self._read_back(bucket, "read every acknowledged blob back, healed")
        self._prove()

    def _store_tree(self, bucket: Bucket) -> None:
        files = list(tree(self._source))
        with self._board.step(f"store this repository's {len(files)} files") as advance:

            def store(item: tuple[str, bytes]) -> None:
                self._put(bucket, f"tree/{item[0]}", Kept(item[1]))

            with workers(THREADS) as pool:
                for done, _ in enumerate(pool.map(store, files), start=1):
                    advance(done, len(files))

    def _store_big(self, bucket: Bucket) -> None:
        path = self._cluster.root / "generated.bin"
        with self._board.step(f"generate a file of {self._big_bytes >> 20} MiB and store it") as advance:
            with path.open("wb") as file:
                for chunk in Generated(self._seed, self._big_bytes).chunks():
                    file.write(chunk)
            content = Filed(path, self._big_bytes)
            self.ledger.attempted()
            receipt = bucket.put(
                "generated.bin", path, progress=lambda done, _: advance(done, self._big_bytes)
            )
            self.ledger.acked(b"generated.bin", receipt.version, content)

    def _lose_a_san(self, bucket: Bucket, load: Load) -> None:
        """While small writes go on and a larger one is in mid-stream."""
        sans = sorted({node.tags["san"] for node in self._cluster.layout.nodes})
        self.facts.lost_san = f"san={random.Random(self._seed).choice(sans)}"  # noqa: S311  # which one is the seed's choice
        _until(lambda: load.acks >= LOAD_ACKS_BEFORE, "writes before the loss")
        with self._board.step(f"kill and wipe {self.facts.lost_san} while writes go on"):
            content = Generated(f"{self._seed}-during", DURING_BYTES)
            with workers(1) as pool:
                during = pool.submit(self._put, bucket, "during.bin", content)
                self.facts.lost_nodes = self._cluster.lose(self.facts.lost_san)
                before = load.acks
                _until(lambda: load.acks >= before + LOAD_ACKS_AFTER, "writes after the loss")
                during.result()
        acks = load.acks - before
        self._board.say(
            f"  {' and '.join(self.facts.lost_nodes)} are gone; {acks} writes were acknowledged since"
        )

    def _read_back(self, bucket: Bucket, label: str) -> None:
        """Everything acknowledged up to now."""
        entries = self.ledger.entries()
        total = sum(entry.content.size for entry in entries) or 1
        self.facts.read_back = self.facts.read_bytes = 0

        def check(entry: Acked) -> str:
            return _wrong(bucket, entry)

        with (
            self._board.step(f"{label} ({len(entries)} blobs)") as advance,
            workers(THREADS) as pool,
        ):
            for entry, wrong in zip(entries, pool.map(check, entries), strict=True):
                if wrong:
                    self.facts.wrong.append(Evidence(key_text(entry.key), wrong))
                else:
                    self.facts.read_back += 1
                    self.facts.read_bytes += entry.content.size
                advance(self.facts.read_bytes, total)

    def _replace(self) -> None:
        with self._board.step(f"bring {' and '.join(self.facts.lost_nodes)} back as new, empty nodes"):
            self._cluster.start(self.facts.lost_san)
            self._cluster.replace(self.facts.lost_san)
        self._replaced_at = time.monotonic()

    def _wait_healed(self) -> None:
        deadline = self._replaced_at + HEAL_WAIT_S
        with self._board.step("heal") as advance, self._cluster.admin() as admin:
            told = time.monotonic()
            status = admin.status()
            while not status.healthy:
                if time.monotonic() >= deadline:
                    raise Error(f"not healed after {HEAL_WAIT_S:g} s: {'; '.join(status.problems)}")
                if time.monotonic() - told > TELL_EVERY_S:
                    told = time.monotonic()
                    self._board.note(
                        f"  {status.partitions_full} of {status.partitions} partitions full{_eta(status)}"
                    )
                time.sleep(POLL_S)
                status = admin.status()
                advance(status.partitions_full, status.partitions)
        self.facts.healthy = True
        self.facts.heal_s = time.monotonic() - self._replaced_at
        self.facts.least_margin = _margin(status)

    def _prove(self) -> None:
        with (
            self._board.step("prove from the shards on disk what any one loss would cost"),
            self._cluster.admin() as admin,
        ):
            self.facts.at_risk = 0
            finished = False
            for reply in admin.prove():
                self.facts.at_risk += len(reply.at_risk) + (len(reply.unreachable) if reply.finished else 0)
                finished = reply.finished
            if not finished:
                raise Error("the proof was cut short")

    def _put(self, bucket: Bucket, key: str, content: Content) -> None:
        self.ledger.attempted()
        try:
            data = b"".join(content.chunks()) if content.size <= FILE_BYTES_MAX else content.chunks()
            receipt = bucket.put(key, data)
        except Error as error:
            self.ledger.failed(error)
            return
        self.ledger.acked(os.fsencode(key), receipt.version, content)


@contextlib.contextmanager
def workers(count: int) -> Generator[ThreadPoolExecutor, None, None]:
    """A pool that an interrupt does not wait for: what its threads do ends when the client is closed."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def tree(root: Path) -> Iterable[tuple[str, bytes]]:
    """The files of a repository: what git knows, else all but caches and environments. Path and bytes."""
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], check=False, capture_output=True)
    if listed.returncode == 0 and listed.stdout:
        names = [os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    else:
        found = (path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file())
        names = [str(path) for path in found if not SKIPPED.intersection(path.parts)]
    for name in names:
        path = root / name
        if path.is_file() and path.stat().st_size <= FILE_BYTES_MAX:
            yield name, path.read_bytes()


def _wrong(bucket: Bucket, entry: Acked) -> str:
    """Why an acknowledged blob is not what was stored; empty if it is."""
    try:
        blob = bucket.get(entry.key)
        if blob.info.version != entry.version or blob.info.size != entry.content.size:
            return f"version {blob.info.version} of {blob.info.size} bytes, not {entry.version} of {entry.content.size}"
        return "" if same(entry.content, blob.iter()) else "other bytes"
    except Error as error:
        return str(error)


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + ACKS_WAIT_S
    while not condition():
        if time.monotonic() >= deadline:
            raise Error(f"{what}: none acknowledged for {ACKS_WAIT_S:g} s")
        time.sleep(0.01)


def _margin(status: admin_pb2.StatusReply) -> str:
    return ", ".join(f"{entry.survives} {entry.tag}" for entry in status.least_margin.entries)


def _eta(status: admin_pb2.StatusReply) -> str:
    left = max((worker.eta_s for worker in status.workers), default=-1.0)
    return f", about {left:.0f} s left" if left >= 0 else ""
