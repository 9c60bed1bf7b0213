"""What every `Index` does, the real one and the simulator's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast_node.adapters.rocks import RocksIndex
from holdfast_node.ports import Index, IndexBroken
from tests.sim.index import IndexContent, SimIndex

Make = Callable[[], Index]


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
