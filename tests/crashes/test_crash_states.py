"""Some of the crash states with every run, the planted bugs, and the model of the disk against the adapter itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from holdfast_node.adapters import disk as disk_module
from holdfast_node.adapters.disk import FileDisk
from holdfast_node.ports import Disk
from tests.crashes.__main__ import repeat_command, try_recording
from tests.crashes.directory import Cut
from tests.crashes.recording import Recording, RecordingDisk
from tests.faults.support.power_cut import (
    DirectorySynced,
    Event,
    Made,
    Note,
    Recorder,
    Removed,
    Sized,
    Synced,
    Wrote,
)

RECORDINGS: Final = 5
STATES_OF_EACH: Final = 100
QUICK_PLANTS: Final = (
    "no-sync",
    "ack-before-commit",
    "trust-torn",
    "salvage-torn",
    "tail-left",
    "superblock-in-place",
    "rename-without-sync",
    "boot-not-written",
    "join-not-written",
)
BLOCK: Final = 4096


@pytest.mark.parametrize("seed", range(RECORDINGS))
def test_every_crash_state_keeps_what_was_acked(seed: int) -> None:
    outcome = try_recording(seed, STATES_OF_EACH)
    told = [f"{repeat_command(name)}: {wrong}" for name, wrong in outcome.failed]
    assert not told
    assert outcome.tried == STATES_OF_EACH


@pytest.mark.parametrize("plant", QUICK_PLANTS)
def test_a_planted_bug_is_seen(plant: str) -> None:
    assert try_recording(0, 600, plant, stop=True).failed


# --- the model of the disk --------------------------------------------------------------------------------


async def use(disk: Disk, chooser: random.Random) -> None:
    """Every kind of call, in any order."""
    names = [f"volume-{number}" for number in range(3)]
    for name in names:
        await disk.create(name, 8 * BLOCK)
    for _ in range(30):
        match chooser.randrange(5):
            case 4:
                name = chooser.choice(names)
                await disk.remove(name)
                await disk.create(name, 8 * BLOCK)
            case 0:
                await disk.replace("superblock", chooser.randbytes(chooser.randrange(1, 900)))
            case 1:
                await disk.create(chooser.choice(names), chooser.choice((4, 8, 12)) * BLOCK)
            case _:
                data = chooser.randbytes(BLOCK * chooser.randint(1, 3))
                buffers = [data[:100], data[100:]]
                await disk.commit(chooser.choice(names), BLOCK * chooser.randrange(4), buffers)


def renumbered(events: Sequence[Event | Cut]) -> list[Event]:
    """Without the adapter's lock and probe, and with files counted from one."""
    numbers: dict[int, int] = {}
    ignored: set[int] = set()
    found: list[Event] = []
    for event in events:
        match event:
            case Made(name, file):
                if name in ("lock", "probe.tmp"):
                    ignored.add(file)
                    continue
                found.append(Made(name, numbers.setdefault(file, len(numbers) + 1)))
            case Wrote(file, offset, data) if file not in ignored:
                found.append(Wrote(numbers[file], offset, data))
            case Sized(file, length) if file not in ignored:
                found.append(Sized(numbers[file], length))
            case Synced(file):
                found.append(Synced(numbers[file]))
            case DirectorySynced() | Removed():
                found.append(event)
            case Note() | Cut() | Wrote() | Sized():
                pass
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_model_makes_the_calls_of_the_adapter(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, recording = Recorder(tmp_path), Recording()

    async def both() -> None:
        for life in range(2):
            with monkeypatch.context() as patch:
                patch.setattr(disk_module, "os", recorder)
                real = FileDisk(tmp_path)
                await use(real, random.Random(f"{seed} {life}"))
                real.close()
            await use(RecordingDisk(recording), random.Random(f"{seed} {life}"))

    asyncio.run(both())
    assert renumbered(recorder.events) == renumbered(recording.events)
    directory = recording.directory
    for name in directory.visible:
        assert (tmp_path / name).read_bytes() == directory.read(name, 0, 1 << 20)
