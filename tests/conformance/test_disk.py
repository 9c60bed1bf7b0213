"""What every `Disk` does, the real one and the simulator's."""

from __future__ import annotations

import asyncio
import errno
import mmap
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest

from holdfast_node.adapters import disk as disk_module
from holdfast_node.adapters.disk import FileDisk
from holdfast_node.core.errors import (
    HoldfastError,
    IntegrityError,
    StoreFailed,
    StoreFull,
    StoreRefused,
    Unavailable,
)
from holdfast_node.ports import Disk
from tests.sim.disk import Platter, SimDisk

BLOCK: Final = 4096
MIB: Final = 1024 * 1024
Make = Callable[[], Disk]


def _no_direct(_: Path) -> bool:
    return False


def buffered(directory: Path) -> Disk:
    disk = FileDisk(directory)
    disk.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_module, "_supports_direct", _no_direct)
        return FileDisk(directory)


@pytest.fixture(params=["direct", "buffered", "simulated"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    if request.param == "direct":
        return lambda: FileDisk(tmp_path / "disk")
    if request.param == "buffered":
        return lambda: buffered(tmp_path / "disk")
    platter = Platter(capacity_bytes=64 * MIB)
    return lambda: SimDisk(platter, chooser=random.Random(1))


def run(make: Make, scenario: Callable[[Disk], Awaitable[None]]) -> None:
    async def whole() -> None:
        disk = make()
        try:
            await scenario(disk)
        finally:
            if isinstance(disk, FileDisk):
                disk.close()

    asyncio.run(whole())


def test_what_is_committed_is_read_at_any_place_and_length(make: Make) -> None:
    data = os.urandom(200 * 1024)

    async def scenario(disk: Disk) -> None:
        await disk.create("volume", MIB)
        await disk.commit(
            "volume", BLOCK, [data[:100], b"", bytearray(data[100:70000]), memoryview(data)[70000:]]
        )
        for offset, length in (
            (0, 10),
            (1, 5000),
            (99, 3),
            (4095, 2),
            (0, 150_000),
            (12_345, 66_000),
            (0, len(data)),
        ):
            for fresh in (False, True):
                found = await disk.read("volume", BLOCK + offset, length, fresh=fresh)
                assert found == data[offset : offset + length]
        assert await disk.read("volume", 0, 100) == bytes(100)

    run(make, scenario)


def test_a_read_is_short_only_at_the_end(make: Make) -> None:
    async def scenario(disk: Disk) -> None:
        await disk.create("volume", 4 * BLOCK)
        for fresh in (False, True):
            assert len(await disk.read("volume", 3 * BLOCK + 10, MIB, fresh=fresh)) == BLOCK - 10
            assert await disk.read("volume", 4 * BLOCK, 10, fresh=fresh) == b""

    run(make, scenario)


def test_a_commit_replaces_what_was_there(make: Make) -> None:
    async def scenario(disk: Disk) -> None:
        await disk.create("volume", MIB)
        for fill in (b"a", b"b"):
            await disk.commit("volume", 0, [fill * 2 * BLOCK])
            assert await disk.read("volume", BLOCK, 5) == fill * 5
        await disk.commit("volume", BLOCK, [b"c" * BLOCK])
        assert await disk.read("volume", BLOCK - 1, 2) == b"bc"

    run(make, scenario)


def test_small_files_are_replaced_whole(make: Make) -> None:
    async def scenario(disk: Disk) -> None:
        for content in (b"first", b"x" * 100_000, b""):
            await disk.replace("superblock", content)
            assert await disk.read("superblock", 0, MIB) == content

    run(make, scenario)


def test_names_are_sorted_and_nothing_else_is_among_them(make: Make) -> None:
    async def scenario(disk: Disk) -> None:
        assert disk.names() == []
        await disk.create("volume-2", BLOCK)
        await disk.create("volume-1", BLOCK)
        await disk.replace("superblock", b"s")
        assert disk.names() == ["superblock", "volume-1", "volume-2"]

    run(make, scenario)


def test_files_outlive_the_handle(make: Make) -> None:
    async def write(disk: Disk) -> None:
        await disk.create("volume", MIB)
        await disk.commit("volume", BLOCK, [b"kept".ljust(BLOCK)])

    async def read(disk: Disk) -> None:
        assert await disk.read("volume", BLOCK, 4) == b"kept"
        await disk.commit("volume", 0, [b"more".ljust(BLOCK)])
        assert await disk.read("volume", 0, 4) == b"more"

    run(make, write)
    run(make, read)


def test_a_file_that_does_not_fit_is_refused_and_the_disk_goes_on(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    fallocate = os.posix_fallocate

    def small_disk(descriptor: int, offset: int, length: int) -> None:
        if length > 64 * MIB:
            fallocate(descriptor, offset, MIB)
            raise OSError(errno.ENOSPC, "No space left on device")
        fallocate(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", small_disk)

    async def scenario(disk: Disk) -> None:
        with pytest.raises(StoreFull):
            await disk.create("volume", 128 * MIB)
        await disk.create("volume", 8 * BLOCK)
        await disk.commit("volume", 7 * BLOCK, [bytes(BLOCK)])
        with pytest.raises(StoreFull):
            await disk.create("volume", 128 * MIB)
        assert len(await disk.read("volume", 0, 2 * MIB)) == 8 * BLOCK, (
            "what there was room for is given back"
        )
        assert disk.names() == ["volume"]

    run(make, scenario)


def test_creating_again_completes_and_keeps(make: Make) -> None:
    """A crash may leave a file half-made."""

    async def scenario(disk: Disk) -> None:
        await disk.create("volume", BLOCK)
        await disk.commit("volume", 0, [b"kept".ljust(BLOCK)])
        await disk.create("volume", 4 * BLOCK)
        assert await disk.read("volume", 0, 4) == b"kept"
        await disk.commit("volume", 3 * BLOCK, [b"more".ljust(BLOCK)])
        assert len(await disk.read("volume", 0, MIB)) == 4 * BLOCK

    run(make, scenario)


def test_commits_off_the_block_grid_are_our_own_mistakes(make: Make) -> None:
    async def scenario(disk: Disk) -> None:
        await disk.create("volume", MIB)
        with pytest.raises(AssertionError):
            await disk.commit("volume", 100, [bytes(BLOCK)])
        with pytest.raises(AssertionError):
            await disk.commit("volume", 0, [bytes(100)])

    run(make, scenario)


# --- the real one alone -----------------------------------------------------------------------------------


def test_a_failed_sync_is_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        disk = FileDisk(tmp_path)
        await disk.create("volume", MIB)

        def fail(_: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(StoreFailed, match="Input/output error"):
                await disk.commit("volume", 0, [bytes(BLOCK)])
        for call in (
            disk.commit("volume", 0, [bytes(BLOCK)]),
            disk.replace("superblock", b"x"),
            disk.create("other", BLOCK),
        ):
            with pytest.raises(StoreFailed):
                await call
        with pytest.raises(StoreFailed):
            _ = await disk.read("volume", 0, 10)
        disk.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EIO, IntegrityError),
        (errno.ENODATA, IntegrityError),  # how Linux passes on that a sector of the medium is unreadable
        (errno.EBADMSG, IntegrityError),  # and a filesystem that its own checksum is wrong
        (errno.ENOMEM, Unavailable),
        (errno.EMFILE, Unavailable),
        (errno.EACCES, Unavailable),
        (errno.ESTALE, Unavailable),
    ],
)
def test_a_read_error_is_broken_bytes_only_if_the_bytes_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[HoldfastError]
) -> None:
    async def scenario() -> None:
        disk = FileDisk(tmp_path)
        await disk.create("volume", MIB)

        def fail(*_: object) -> bytes:
            raise OSError(code, os.strerror(code))

        for call in ("open", "pread"):
            with monkeypatch.context() as patch:
                patch.setattr(os, call, fail)
                with pytest.raises(kind, match=os.strerror(code)):
                    _ = await disk.read("volume", 0, 10)
        assert await disk.read("volume", 0, 10) == bytes(10)
        with pytest.raises(IntegrityError):
            _ = await disk.read("missing", 0, 10)
        disk.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("offset", "length"), [(300, 100), (4000, 200), (BLOCK, BLOCK), (5000, 3 * BLOCK)])
def test_a_fresh_read_drops_every_page_it_reads_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int, length: int
) -> None:
    """The kernel drops whole pages of the range only. Whether it did cannot be asked on every filesystem."""

    async def scenario() -> None:
        disk = buffered(tmp_path)
        await disk.create("volume", MIB)
        await disk.commit("volume", 0, [os.urandom(MIB)])
        kept = await disk.read("volume", offset, length)
        dropped: list[tuple[int, int]] = []

        def advise(_: int, start: int, size: int, advice: int) -> None:
            if advice == os.POSIX_FADV_DONTNEED:
                dropped.append((start, start + size))

        monkeypatch.setattr(os, "posix_fadvise", advise)
        assert await disk.read("volume", offset, length, fresh=True) == kept
        [(start, end)] = dropped
        assert start <= offset < offset + length <= end
        assert start % mmap.PAGESIZE == end % mmap.PAGESIZE == 0
        assert isinstance(disk, FileDisk)
        disk.close()

    asyncio.run(scenario())


def test_a_cancelled_commit_does_not_mix_with_the_next(tmp_path: Path) -> None:
    async def scenario() -> None:
        disk = FileDisk(tmp_path)
        await disk.create("volume", 8 * MIB)
        first = asyncio.ensure_future(disk.commit("volume", 0, [b"a" * MIB]))
        await asyncio.wait((first,), timeout=0)
        assert first.cancel()
        await asyncio.wait((first,))
        await disk.commit("volume", MIB, [b"b" * MIB])
        assert set(await disk.read("volume", 0, MIB)) in ({0}, {ord("a")})
        assert set(await disk.read("volume", MIB, MIB)) == {ord("b")}
        disk.close()

    asyncio.run(scenario())


def test_two_processes_cannot_use_one_directory(tmp_path: Path) -> None:
    first = FileDisk(tmp_path)
    with pytest.raises(StoreRefused, match="another process"):
        _ = FileDisk(tmp_path)
    first.close()
    FileDisk(tmp_path).close()


def test_the_directory_is_private(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    disk = FileDisk(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    disk.close()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreRefused, match="cannot use"):
        _ = FileDisk(tmp_path / "file" / "below")


def test_more_files_than_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_module, "OPEN_FILES_MAX", 2)
    monkeypatch.setattr(disk_module, "WRITE_FILES_MAX", 2)

    async def scenario() -> None:
        disk = FileDisk(tmp_path)
        names = [f"volume-{number}" for number in range(8)]
        for name in names:
            await disk.create(name, BLOCK)
            await disk.commit(name, 0, [name.encode().ljust(BLOCK)])
        for name in names * 2:
            found = await asyncio.gather(
                *(disk.read(other, 0, len(other), fresh=True) for other in (name, names[0]))
            )
            assert found == [name.encode(), names[0].encode()]
        disk.close()

    asyncio.run(scenario())
