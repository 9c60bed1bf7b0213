"""What every `Index` does, the real one and the simulator's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest

from holdfast_node.adapters.rocks import RocksIndex
from holdfast_node.core.errors import StoreRefused
from holdfast_node.ports import Index, IndexBroken, IndexFull
from tests.faults.support.wait import until
from tests.sim.index import IndexContent, SimIndex

Make = Callable[[], Index]
SMALL_DISK_BYTES: Final = 64 * 1024 * 1024
ROOM_FOUND_S: Final = 30.0
"""RocksDB looks every five seconds."""


@pytest.fixture(params=["rocksdb", "simulated"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    if request.param == "rocksdb":
        return lambda: RocksIndex(tmp_path / "index")
    content = IndexContent()
    return lambda: SimIndex(content)


def test_rows_are_bytes_for_bytes(make: Make) -> None:
    index = make()
    rows = [(bytes((byte,)) * 3, bytes((255 - byte,))) for byte in range(256)]
    index.write([*rows, (b"empty", b"")])
    assert all(index.get(key) == value for key, value in rows)
    assert index.get(b"empty") == b""
    assert index.get(b"nothing") is None
    index.close()


def test_a_batch_puts_and_deletes(make: Make) -> None:
    index = make()
    index.write([(b"a", b"1"), (b"b", b"1")])
    index.write([(b"a", b"2")], [b"b", b"never there"])
    assert index.get(b"a") == b"2"
    assert index.get(b"b") is None
    index.close()


def test_scans_are_in_order_and_half_open(make: Make) -> None:
    index = make()
    keys = [b"k", b"k\x00", b"k\x00\xff", b"ka", b"kb", b"k\xff", b"k\xff\xff", b"l"]
    index.write([(key, key) for key in reversed(keys)])
    assert [key for key, _ in index.scan(b"k", b"l")] == keys[:-1]
    assert [key for key, _ in index.scan(b"k\x00", b"kb")] == keys[1:4]
    assert list(index.scan(b"m", b"z")) == []
    assert list(index.scan(b"kb", b"kb")) == []
    index.close()


def test_a_scan_sees_the_state_when_it_began(make: Make) -> None:
    index = make()
    index.write([(b"a", b"1"), (b"b", b"1")])
    scan = index.scan(b"a", b"z")
    index.write([(b"b", b"2"), (b"c", b"2")], [b"a"])
    assert list(scan) == [(b"a", b"1"), (b"b", b"1")]
    assert list(index.scan(b"a", b"z")) == [(b"b", b"2"), (b"c", b"2")]
    index.close()


def test_a_scan_ends_where_it_was_asked_to_whatever_becomes_of_that_key(make: Make) -> None:
    """A library may keep a pointer to bytes that are gone when the second row is asked for (ADR 0090)."""
    index = make()
    rows = [(b"%c%03d" % (letter, number), b"") for letter in b"abcde" for number in range(100)]
    index.write(rows)
    for letter in b"abcd" * 25:
        scan = index.scan(bytes((letter,)), bytes((letter, 0xFF)))
        found = [next(scan)]
        overwritten = [bytes((byte, byte)) for byte in range(256)]
        found += scan
        assert found == [row for row in rows if row[0][0] == letter]
        del overwritten
    index.close()


def test_clear_forgets_everything(make: Make) -> None:
    index = make()
    index.write([(b"a", b"1")])
    asyncio.run(index.flush())
    index.clear()
    assert index.get(b"a") is None
    assert list(index.scan(b"", b"\xff")) == []
    index.write([(b"b", b"1")])
    assert index.get(b"b") == b"1"
    index.close()


def test_what_was_flushed_is_there_again(make: Make) -> None:
    index = make()
    for number in range(2000):
        index.write([(b"%05d" % number, b"x" * 100)])
    asyncio.run(index.flush())
    index.close()
    again = make()
    assert len(list(again.scan(b"0", b"9"))) == 2000
    again.close()


class Room:
    """Takes all room from an index, and gives it back."""

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self.taken = False

    def take(self) -> None:
        self.taken = True
        if self.directory is not None:
            with (
                (self.directory / "ballast").open("wb", buffering=0) as ballast,
                contextlib.suppress(OSError),
            ):
                while True:
                    ballast.write(bytes(4096))

    def give(self) -> None:
        self.taken = False
        if self.directory is not None:
            (self.directory / "ballast").unlink()


def mounted(directory: Path) -> bool:
    """Whether a small file system of its own is there now."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "none", str(directory)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture(params=["rocksdb", "simulated"])
def cramped(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Make, Room]]:
    if request.param == "simulated":
        content, room = IndexContent(), Room(None)
        yield lambda: SimIndex(content, is_full=lambda: room.taken), room
        return
    small = tmp_path / "small"
    if not mounted(small):
        pytest.skip("mounting a small disk needs root")
    try:
        yield lambda: RocksIndex(small / "index"), Room(small)
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_an_index_without_room_refuses_writes_can_be_read_and_goes_on_by_itself(
    cramped: tuple[Make, Room],
) -> None:
    make, room = cramped
    index = make()
    kept: dict[bytes, bytes] = {}

    def put(number: int) -> None:
        row = (b"%06d" % number, random.Random(number).randbytes(1000))
        index.write([row])
        kept.update([row])

    def put_all(numbers: Iterable[int]) -> None:
        for number in numbers:
            put(number)

    put(0)
    room.take()
    with pytest.raises(IndexFull):
        put_all(range(1, 2 * SMALL_DISK_BYTES // 1000))
    with pytest.raises(IndexFull):
        asyncio.run(index.flush())
    assert dict(index.scan(b"0", b"9")) == kept
    room.give()

    def goes_on() -> bool:
        with contextlib.suppress(IndexFull):
            put(SMALL_DISK_BYTES)
        return b"%06d" % SMALL_DISK_BYTES in kept

    until(goes_on, ROOM_FOUND_S, "the index takes rows again")
    asyncio.run(index.flush())
    index.close()
    again = make()
    assert dict(again.scan(b"0", b"9")) == kept
    again.close()


def test_a_closed_index_is_broken(make: Make) -> None:
    index = make()
    index.close()
    with pytest.raises(IndexBroken):
        _ = index.get(b"a")
    with pytest.raises(IndexBroken):
        index.write([(b"a", b"1")])


# --- the real one alone -----------------------------------------------------------------------------------


def test_a_database_that_does_not_open_is_thrown_away(tmp_path: Path) -> None:
    index = RocksIndex(tmp_path / "index")
    index.write([(b"a", b"1")])
    asyncio.run(index.flush())
    index.close()
    (tmp_path / "index" / "CURRENT").write_text("nonsense")
    again = RocksIndex(tmp_path / "index")
    assert again.get(b"a") is None
    again.close()


def test_a_scan_that_meets_a_rotten_block_is_no_short_scan(tmp_path: Path) -> None:
    index = RocksIndex(tmp_path / "index")
    index.write([(b"%05d" % number, random.Random(number).randbytes(100)) for number in range(2000)])
    asyncio.run(index.flush())
    index.close()
    [table] = (tmp_path / "index").glob("*.sst")
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    again = RocksIndex(tmp_path / "index")
    with pytest.raises(IndexBroken) as broken:
        _ = list(again.scan(b"0", b"9"))
    again.clear()
    again.write([(b"0", b"")])
    assert list(again.scan(b"0", b"9")) == [(b"0", b"")]
    again.close()
    assert "checksum" in str(broken.value), "held until here, with all that the failed scan had open"


def test_a_database_that_cannot_be_opened_for_want_of_room_is_kept(tmp_path: Path) -> None:
    small = tmp_path / "small"
    if not mounted(small):
        pytest.skip("mounting a small disk needs root")
    room = Room(small)
    try:
        index = RocksIndex(small / "index")
        index.write([(b"a", b"1")])
        asyncio.run(index.flush())
        index.close()
        room.take()
        with pytest.raises(StoreRefused, match="No space left"):
            _ = RocksIndex(small / "index")
        room.give()
        again = RocksIndex(small / "index")
        assert again.get(b"a") == b"1"
        again.close()
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
