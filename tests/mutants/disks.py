"""Bugs in what is made of a disk that refuses something, though nothing of it is broken."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

_COMPACTOR: Final = "node/holdfast_node/services/log/compactor.py"
_DISK: Final = "node/holdfast_node/adapters/disk.py"
_VOLUME: Final = "node/holdfast_node/services/log/volume.py"

_TEST_DISK: Final = "tests/conformance/test_disk.py"
_TEST_REFUSALS: Final = "tests/unit/test_disk_refusals.py"

MUTANTS: Final = (
    Mutant(
        "unreadable-is-broken",
        "what a host without descriptors cannot read is taken for rot",
        (Edit(_DISK, "IntegrityError if error.errno in LOST else Unavailable", "IntegrityError"),),
        _TEST_DISK,
    ),
    Mutant(
        "unreadable-header-is-none",
        "a volume whose first block cannot be read now is taken for a spare, and what is in it for lost",
        (Edit(_VOLUME, "    except IntegrityError:\n", "    except Exception:\n"),),
        _TEST_REFUSALS,
    ),
    Mutant(
        "edges-from-the-cache",
        "without direct reads, the first and the last page of what is read back come from the page cache",
        (
            Edit(
                _DISK,
                "start, end - start, os.POSIX_FADV_DONTNEED",
                "offset, length, os.POSIX_FADV_DONTNEED",
            ),
        ),
        _TEST_DISK,
    ),
    Mutant(
        "half-a-file-stays",
        "a file that there is no room to complete keeps all the room there was",
        (Edit(_DISK, "        os.ftruncate(descriptor, before)\n", ""),),
        _TEST_DISK,
    ),
    Mutant(
        "still-there-for-want-of-room",
        "a volume that could not be removed is compacted again, and left out of the log once more each time",
        (
            Edit(
                _COMPACTOR,
                "        del self._headers[number]\n        await self._log.readers_gone()\n"
                "        await self._volumes.remove(number)\n",
                "        await self._log.readers_gone()\n        await self._volumes.remove(number)\n"
                "        del self._headers[number]\n",
            ),
        ),
        _TEST_REFUSALS,
    ),
    Mutant(
        "as-few-files-as-usual",
        "a node opens no more files than a shell's soft limit says",
        (Edit("node/holdfast_node/app.py", "    allowed = raise_open_files()\n", "    allowed = 1 << 20\n"),),
        "tests/unit/test_open_files.py",
    ),
    Mutant(
        "no-start-without-more-files",
        "a node that may not raise its limit of open files does not start",
        (
            Edit(
                "node/holdfast_node/adapters/system.py",
                "    except (OSError, ValueError):",
                "    except ZeroDivisionError:",
            ),
        ),
        "tests/unit/test_open_files.py",
    ),
)
