"""One disk is filled up from outside, then all of them by callers; on real file systems of a few hundred megabytes.

With one disk full nobody may notice. With all full, writes are refused by name; reads, deletes and heal go on, a lost
node included; and once enough is deleted there is room again without anybody's help. Needs root, loop
devices and mkfs.ext4.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import holdfast
from holdfast.testing import LocalCluster
from tests.faults.scenarios import HEAL_LIMIT_S, Report
from tests.faults.support.wait import until
from tests.faults.workload import KIB, MIB, content_blocks

DISK_BYTES: Final = 384 * MIB
VOLUME_MIB: Final = 16
LARGE: Final = 4 * MIB
SIZES: Final = (300, 20 * KIB, MIB, LARGE)
FEW: Final = 60
CALLERS: Final = 4
LOST: Final = "n6"
REFUSAL_LIMIT_S: Final = 15.0
ROOM_BYTES: Final = 32 * MIB
"""On every disk, for what is written in the end: a tenth of it, which half of the blobs had many times over."""
ROOM_LIMIT_S: Final = 1500.0
"""A round of the collectors, five minutes of quarantine, another round, and the volumes copied."""


def missing() -> str:
    """Why this cannot be run here; empty if it can."""
    lacks = [tool for tool in ("mkfs.ext4", "mount", "umount", "fallocate") if shutil.which(tool) is None]
    if lacks:
        return f"{', '.join(lacks)} cannot be found"
    return "" if os.geteuid() == 0 else "mounting loop devices needs root"


def filling(root: Path, *, seed: int) -> Report:
    report = Report("filling", seed, 1)
    with LocalCluster(root, nodes=6, sans=3, volume=f"{VOLUME_MIB} MiB") as cluster, ExitStack() as disks:
        cluster.stop()
        for node in cluster.layout.nodes:
            disks.enter_context(_small_disk(node.data_dir, root / f"{node.name}.image"))
        disks.callback(cluster.stop)
        cluster.start()
        cluster.wait_healthy(HEAL_LIMIT_S)
        story = _Story(cluster, report, random.Random(f"filling {seed}"))
        story.one_disk()
        story.all_disks()
        story.lose_a_node()
        story.make_room()
    return report


class _Story:
    """`kept`: what was acked and not deleted, key -> size."""

    def __init__(self, cluster: LocalCluster, report: Report, chooser: random.Random) -> None:
        self._cluster = cluster
        self._report = report
        self._chooser = chooser
        self._bucket = cluster.connect().create_bucket("full", undo=0)
        self._kept: dict[str, int] = {}
        self._unknown: set[str] = set()
        self._count = 0

    # --- the story

    def one_disk(self) -> None:
        """To the last byte. Callers see nothing of it, and status names the node."""
        with _ballast(self._cluster.layout.node("n1").data_dir):
            self._put_some(FEW, "with one disk full")
            self._delete(10, "with one disk full")
            self._read_back("with one disk full")
            until(lambda: "n1" in self._short(), 60, "status to say that n1 is full")
        until(lambda: not self._short(), 60, "status to say that there is room again")
        self._put_some(FEW, "after one disk was full")
        self._cluster.wait_healthy(HEAL_LIMIT_S)

    def all_disks(self) -> None:
        """Until nobody can write any more. Every refusal says what is full, soon."""
        with ThreadPoolExecutor(CALLERS) as pool:
            refusals = [error for found in pool.map(self._fill, range(CALLERS)) for error in found]
        kinds = Counter(type(error).__name__ for error in refusals)
        for error in refusals:
            if "reserve" not in f"{error}" and not isinstance(error, holdfast.OutcomeUnknown):
                self._report.wrong.append(f"a refusal that does not say why: {error!r}")
        began = time.monotonic()
        with suppress(holdfast.Error):
            self._put("one too many", LARGE)
        took = time.monotonic() - began
        if took > REFUSAL_LIMIT_S:
            self._report.wrong.append(f"a refusal took {took:.0f} s")
        self._read_back("with all disks full")
        self._delete(FEW, "with all disks full")
        self._report.seen += f"{len(self._kept)} blobs filled six disks; refused by {dict(kinds)}; "

    def lose_a_node(self) -> None:
        """Its store is lost for good: what it held is made again, on a disk as small as the others."""
        self._cluster.lose(LOST)
        self._read_back(f"with all disks full and {LOST} gone")
        self._cluster.start(LOST)
        self._cluster.replace(LOST)
        took = until(self._healed, HEAL_LIMIT_S, "heal to end while the disks are full")
        self._report.heal_s.append(took)

    def make_room(self) -> None:
        """Half of everything is deleted. Collectors and compactors make room of it, and writes go on."""
        self._delete(len(self._kept) // 2, "to make room")
        took = until(self._has_room, ROOM_LIMIT_S, "room for new blobs after half was deleted")
        self._put_some(FEW, "with room again")
        self._cluster.wait_healthy(HEAL_LIMIT_S)
        self._read_back("in the end")
        found = self._cluster.admin().scrub(now=True)
        self._report.wrong += [f"{node.node}: scrub found {node.found}" for node in found.nodes if node.found]
        self._report.seen += (
            f"room again {took:.0f} s after half was deleted; {len(self._kept)} blobs read back"
        )

    # --- what callers do

    def _fill(self, caller: int) -> list[holdfast.Error]:
        refusals: list[holdfast.Error] = []
        number = 0
        while len(refusals) < 3:
            number += 1
            try:
                self._put(f"fill-{caller}-{number}", LARGE)
            except holdfast.Error as error:
                refusals.append(error)
        return refusals

    def _put(self, key: str, size: int) -> None:
        try:
            self._bucket.put(key, b"".join(content_blocks(key, size)))
        except holdfast.OutcomeUnknown:
            self._unknown.add(key)
            raise
        self._kept[key] = size

    def _put_some(self, count: int, when: str) -> None:
        for _ in range(count):
            self._count += 1
            try:
                self._put(f"k{self._count}", self._chooser.choice(SIZES))
            except holdfast.Error as error:
                self._report.wrong.append(f"{when}: a put failed: {error!r}")

    def _delete(self, count: int, when: str) -> None:
        for key in self._chooser.sample(sorted(self._kept), count):
            try:
                self._bucket.delete(key)
            except holdfast.Error as error:
                self._report.wrong.append(f"{when}: a delete failed: {error!r}")
            del self._kept[key]

    def _read_back(self, when: str) -> None:
        for key, size in self._kept.items():
            try:
                right = self._bucket.get(key).read() == b"".join(content_blocks(key, size))
            except holdfast.Error as error:
                self._report.wrong.append(f"{when}: {key} cannot be read: {error!r}")
                continue
            if not right:
                self._report.wrong.append(f"{when}: {key} has other bytes than were written")
        listed = {info.key.decode() for info in self._bucket.list()}
        if listed - self._unknown != set(self._kept):
            self._report.wrong.append(f"{when}: {len(listed)} blobs are listed, {len(self._kept)} were acked")

    def _has_room(self) -> bool:
        reserve = 3 * VOLUME_MIB * MIB
        nodes = self._cluster.admin().status().nodes
        return all(node.capacity_bytes - node.used_bytes - reserve >= ROOM_BYTES for node in nodes)

    # --- what status says

    def _short(self) -> set[str]:
        problems = self._cluster.admin().status().problems
        return {line.partition(":")[0] for line in problems if "reserve" in line}

    def _healed(self) -> bool:
        return all("reserve" in line for line in self._cluster.admin().status().problems)


@contextmanager
def _small_disk(data_dir: Path, image: Path) -> Generator[None]:
    """A file system of its own for what is in the directory, until the end."""
    aside = data_dir.with_suffix(".aside")
    data_dir.rename(aside)
    data_dir.mkdir(mode=0o700)
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    _run("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", str(image))
    _run("mount", "-o", "loop,noatime", str(image), str(data_dir))
    try:
        shutil.rmtree(data_dir / "lost+found")
        data_dir.chmod(0o700)
        shutil.copytree(aside, data_dir, dirs_exist_ok=True)
        shutil.rmtree(aside)
        yield
    finally:
        _run("umount", str(data_dir))


@contextmanager
def _ballast(data_dir: Path) -> Generator[None]:
    """Takes all the room there is."""
    file = data_dir / "ballast"
    with file.open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(MIB))
    with file.open("ab", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(4 * KIB))
    try:
        yield
    finally:
        file.unlink()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
