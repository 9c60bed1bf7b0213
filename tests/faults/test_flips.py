"""Single bytes of a real cluster's volumes are flipped: answers stay right, and a broken superblock is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.flips import flips
from tests.faults.places import Place, flip, put_back


@pytest.mark.timeout(300)
def test_any_single_byte_may_flip_and_every_answer_stays_right(tmp_path: Path) -> None:
    report = flips(tmp_path / "cluster", seed=4, places=60, at_once=(25,))
    assert not report.wrong, str(report)


def test_bytes_are_flipped_back_only_where_nobody_has_written_since(tmp_path: Path) -> None:
    path, content = tmp_path / "volume-1", bytes(range(200))
    path.write_bytes(content)
    done = flip([Place(path, "body", "", 50, 1), Place(path, "body", "", 150, 1)], random.Random(1))
    damaged = bytearray(path.read_bytes())
    assert [at for at in range(200) if damaged[at] != content[at]] == [50, 150]
    damaged[151] ^= 1
    path.write_bytes(damaged)
    assert put_back(done) == 1
    assert path.read_bytes() == content[:150] + bytes(damaged[150:])
