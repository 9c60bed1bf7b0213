"""Bugs in what a store does without its index, or without room for it."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

_COMMITTER: Final = "node/holdfast_node/services/log/committer.py"
_INDEXER: Final = "node/holdfast_node/services/log/indexer.py"
_READER: Final = "node/holdfast_node/services/log/reader.py"
_ROCKS: Final = "node/holdfast_node/adapters/rocks.py"

_TEST_INDEX: Final = "tests/conformance/test_index.py"
_TEST_ROOM: Final = "tests/unit/test_index_room.py"

MUTANTS: Final = (
    Mutant(
        "no-room-is-broken",
        "an index without room is taken for a broken one, and the store for failed",
        (Edit(_ROCKS, "(IndexFull if NO_ROOM in str(error) else IndexBroken)", "IndexBroken"),),
        _TEST_INDEX,
    ),
    Mutant(
        "answered-before-it-can-be-read",
        "a writer is told that its record is there, though the index had no room for it",
        (
            Edit(
                _COMMITTER,
                "            await asyncio.sleep(INDEX_RETRY_S)\n        if self._index_full",
                "            return\n        if self._index_full",
            ),
        ),
        _TEST_ROOM,
    ),
    Mutant(
        "rows-forgotten-without-room",
        "rows that the index had no room for are not written later",
        (
            Edit(
                _INDEXER,
                "        rows = self._rows\n        self._index.write(",
                "        rows, self._rows = self._rows, Rows(self._index.get, self._index.scan)\n"
                "        self._index.write(",
            ),
        ),
        _TEST_ROOM,
    ),
    Mutant(
        "writers-wait-for-room",
        "a store whose index has no room takes what it cannot write",
        (
            Edit(
                _COMMITTER,
                "        if self._index_full:\n            raise _no_room",
                "        if False:\n            raise _no_room",
            ),
        ),
        _TEST_ROOM,
    ),
    Mutant(
        "feed-past-the-unseen",
        "a feed tells how far the log is durable, though the index has no room for the last of it",
        (
            Edit(
                _COMMITTER,
                "        await self._make_visible(logged, position)\n        self.position = position",
                "        self.position = position\n"
                "        await self._make_visible(logged, position)\n"
                "        self.position = position",
            ),
        ),
        _TEST_ROOM,
    ),
    Mutant(
        "queued-until-room",
        "what is queued stays queued while the index has no room, with all the budget it holds",
        (Edit(_COMMITTER, "                    self._reject_all(_no_room_for_index())\n", ""),),
        _TEST_ROOM,
    ),
    Mutant(
        "riders-thrown-off",
        "what was to be written along with a refused append is forgotten",
        (
            Edit(
                "node/holdfast_node/services/store.py",
                "        vital = bool(entries)",
                "        self._riders = {}\n        vital = bool(entries)",
            ),
        ),
        _TEST_ROOM,
    ),
    Mutant(
        "stop-waits-for-room",
        "a node that is to stop waits until its index has room",
        (
            Edit(
                "node/holdfast_node/services/store.py",
                "        self._committer.waits_for_room = False\n        await self._tasks.close()\n",
                "        await self._tasks.close()\n",
            ),
        ),
        _TEST_ROOM,
    ),
    Mutant(
        "log-takes-all",
        "the log takes the room its index needs",
        (
            Edit(
                _COMMITTER,
                "self._disk.free_bytes() - self._settings.index_room_bytes",
                "self._disk.free_bytes()",
            ),
        ),
        _TEST_ROOM,
    ),
    Mutant(
        "failed-for-want-of-an-index",
        "a node whose index was thrown away stays failed until somebody starts it again",
        (Edit("node/holdfast_node/app.py", "        return not stop.is_set()\n", "        return False\n"),),
        "tests/integration/test_clusterctl.py::test_the_life_of_a_local_cluster",
    ),
    Mutant(
        "volume-gone-with-an-old-index",
        "a volume goes though the index could not be made durable without it",
        (
            Edit(
                _READER,
                "        except IndexFull as error:\n            raise StoreFull(",
                "        except IndexFull as error:\n            return\n            raise StoreFull(",
            ),
        ),
        _TEST_ROOM,
    ),
)
