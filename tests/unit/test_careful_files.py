"""What the client reads from and writes to on the caller's machine: nothing is cut short, and nothing of anybody else's
goes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from holdfast.aio.files import Writer
from holdfast.aio.sources import PathSource, source_of
from holdfast.cli.copying import _files  # pyright: ignore[reportPrivateUsage]
from holdfast.errors import InvalidArgument
from holdfast.testing import LocalCluster, LocalRefused
from holdfast_node.adapters.system import LogEvents
from holdfast_node.app import _App  # pyright: ignore[reportPrivateUsage]
from holdfast_node.config import load

EXAMPLE = Path(__file__).parents[2] / "cluster.example.toml"


def test_a_pipe_is_not_read_again_for_its_rest(tmp_path: Path) -> None:
    pipe, file = tmp_path / "pipe", tmp_path / "file"
    os.mkfifo(pipe)
    file.write_bytes(b"x")
    assert not PathSource(pipe).rewindable
    assert PathSource(file).rewindable


def test_nothing_to_read_now_is_not_the_end() -> None:
    class Pipe:
        """Without blocking: it has nothing at times."""

        def __init__(self) -> None:
            self.chunks = [b"a", None, b"b", b""]

        def seekable(self) -> bool:
            return False

        def read(self, _: int) -> bytes | None:
            return self.chunks.pop(0)

    async def read() -> bytes:
        source = await source_of(cast("BinaryIO", Pipe()))
        return b"".join([bytes(chunk) async for chunk in source.chunks()])

    with pytest.raises(InvalidArgument, match="not its end"):
        asyncio.run(read())


def test_a_download_takes_no_devices_place(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(FileExistsError, match="no regular file"):
        Writer(pipe).open()
    assert pipe.is_fifo()
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]


def test_a_name_of_the_longest_kind_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / ("\N{CAT FACE}" * 63)
    with Writer(target) as file:
        file.open()
        file.write(b"x")
        file.publish()
    assert target.read_bytes() == b"x"


def test_what_could_not_be_written_is_removed_though_closing_fails_too(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "blob")
    writer.open()

    class Full:
        def close(self) -> None:
            raise OSError(28, "No space left on device")

    cast("BinaryIO", writer._file).close()  # pyright: ignore[reportPrivateUsage]
    writer._file = cast("BinaryIO", Full())  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(OSError, match="No space left"), writer:
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_the_file_is_made_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to have its name only some calls after it was there."""
    make = Path.open

    def interrupted(path: Path, mode: str) -> object:
        make(path, mode).close()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "open", interrupted)
    with pytest.raises(KeyboardInterrupt), Writer(tmp_path / "blob") as writer:
        writer.open()
    assert list(tmp_path.iterdir()) == []


def test_who_opens_a_file_after_the_block_was_left_leaves_none(tmp_path: Path) -> None:
    """A thread, of a download that was cancelled meanwhile."""
    with Writer(tmp_path / "blob") as writer:
        pass
    writer.open()
    assert list(tmp_path.iterdir()) == []


def test_a_tree_with_a_directory_nobody_may_read_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "file").write_bytes(b"")
    (tmp_path / "secret").mkdir()
    scan = os.scandir

    def forbidding(path: str) -> object:
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", forbidding)
    told: list[str] = []
    found = list(_files(tmp_path, unreadable=lambda error: told.append(str(error.filename))))
    assert found == [tmp_path / "open" / "file"]
    assert told == [str(tmp_path / "secret")]


@pytest.mark.parametrize("name", ["logs", "n1"])
def test_a_local_cluster_takes_nobodys_directories(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "precious").write_bytes(b"x")
    with pytest.raises(LocalRefused, match=name):
        LocalCluster(tmp_path, code="rs:99+1").up()
    assert (tmp_path / name / "precious").read_bytes() == b"x"
    assert not (tmp_path / "cluster.toml").exists()


def test_modules_in_the_working_directory_are_not_run(tmp_path: Path) -> None:
    (tmp_path / "argparse.py").write_text("raise SystemExit(0)")
    command = [
        str(Path(sys.executable).parent / "clusterctl"),
        "config",
        "check",
        str(tmp_path / "none.toml"),
    ]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stdout
    assert "none.toml" in done.stdout


def test_a_node_goes_by_the_undo_window_of_its_file(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    assert '# window = "24h"' in text
    path = tmp_path / "cluster.toml"
    path.write_text(text.replace('# window = "24h"', 'window = "30d"'))
    config = load(path)
    me = config.nodes[0]
    settings = _App(config, me, LogEvents(me.name), format_if_empty=False)._settings()  # pyright: ignore[reportPrivateUsage]
    assert settings.undo_seconds == 30 * 24 * 3600
