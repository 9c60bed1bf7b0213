"""Bugs in giving back the room of what nobody needs."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

_COMMITTER: Final = "node/holdfast_node/services/log/committer.py"
_COMPACTION: Final = "node/holdfast_node/services/compaction.py"
_COMPACTOR: Final = "node/holdfast_node/services/log/compactor.py"
_LIVENESS: Final = "node/holdfast_node/core/liveness.py"
_OPENING: Final = "node/holdfast_node/services/log/opening.py"
_REPLAY: Final = "node/holdfast_node/services/log/replay.py"
_STORE: Final = "node/holdfast_node/services/store.py"

_TEST: Final = "tests/unit/test_compaction.py"
_TEST_RIDERS: Final = "tests/unit/test_riders.py"

MUTANTS: Final = (
    Mutant(
        "copied-regardless",
        "a copy is written although its row rests on something younger by now",
        (
            Edit(
                _COMMITTER,
                "            if group.wanted():\n",
                "            if group.wanted() or group.wanted:\n",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "copies-last",
        "a copy is written behind what is younger in the same batch",
        (
            Edit(
                _COMMITTER,
                "                break  # what does not fit now goes first next time\n        return taken\n",
                "                break  # what does not fit now goes first next time\n"
                "        return sorted(taken, key=lambda group: group.records[0] in copies)\n",
            ),
            Edit(
                _COMMITTER,
                "        taken, length = self._gather_copies(room)\n",
                "        taken, length = self._gather_copies(room)\n"
                "        copies = [group.records[0] for group in taken]\n",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "copied-for-nothing",
        "when there is no room for one more volume, those that were copied do not go either",
        (
            Edit(
                _COMPACTION,
                "        except StoreFull as error:\n",
                "        except ZeroDivisionError as error:\n",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "fragments-are-room",
        "what is left of a disk beside whole volumes is taken for room to compact",
        (Edit(_COMMITTER, "self._free_bytes() // volume_bytes * volume_bytes", "self._free_bytes()"),),
        _TEST,
    ),
    Mutant(
        "full-and-deaf",
        "a store in its last volume learns of no new map, and of no node that would help it",
        (Edit(_COMMITTER, "and not (vital and self._half_is_left())", "and not (vital and self.failure)"),),
        _TEST,
    ),
    Mutant(
        "full-and-deaf-without-garbage",
        "a full store learns of no new map until compaction finds something to do",
        (Edit(_COMMITTER, "and not self._copies and not vital:", "and not self._copies:"),),
        _TEST_RIDERS,
    ),
    Mutant(
        "last-volume-unknown-after-restart",
        "a store that starts in its last volume lets registers fill it up, and nothing can be copied any more",
        (
            Edit(
                _COMMITTER,
                "self.waits_for_room = self._last_volume = True",
                "self.waits_for_room = True",
            ),
        ),
        _TEST_RIDERS,
    ),
    Mutant(
        "maps-fill-the-last-volume",
        "maps may take the room that compaction needs",
        (Edit(_COMMITTER, "and not (vital and self._half_is_left())", "and not vital"),),
        _TEST,
    ),
    Mutant(
        "drops-forgotten",
        "a volume goes with the record that keeps a dropped shard from coming back",
        (
            Edit(
                _LIVENESS,
                "return self._needs(entry.dropped, entry.drop_record)",
                "return entry.dropped < self.first",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "dropped-once-more",
        "the copy of a drop takes what came again since",
        (Edit(_COMPACTOR, "before=body.before or record.sequence)", "before=body.before)"),),
        _TEST,
    ),
    Mutant(
        "kept-versions-forgotten",
        "the manifest of an older version goes with the register record it was in",
        (
            Edit(
                _COMPACTOR,
                "row_keys += [BLANK_ROWS + record.key, *self._manifest_row(record)]",
                "row_keys += [BLANK_ROWS + record.key]",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "removed-unseen",
        "a volume goes without a look at whether something still needs it",
        (Edit(_COMPACTION, "if usage is None or usage.needed:", "if usage is None:"),),
        _TEST,
    ),
    Mutant(
        "copies-believed",
        "a volume goes before its copies were read back",
        (Edit(_COMPACTION, "whole = not self._began_at or await", "whole = True or await"),),
        _TEST,
    ),
    Mutant(
        "removed-unsaid",
        "the superblock does not say that a volume is gone on purpose",
        (
            Edit(
                _STORE,
                "await self._write_superblock(replace(self.superblock, holes=holes))",
                "await self._write_superblock(replace(self.superblock))",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "readers-cut-off",
        "a volume goes under those who read it",
        (Edit(_COMPACTOR, "        await self._log.readers_gone()\n", ""),),
        _TEST,
    ),
    Mutant(
        "removal-left-half-done",
        "a volume that a crash left behind is read again",
        (
            Edit(
                _OPENING,
                "        if covers(holes, number):\n",
                "        if number < 0 and covers(holes, number):\n",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "every-gap-a-hole",
        "a volume that was lost is taken for one that was removed",
        (
            Edit(
                _REPLAY,
                "        if not in_order:\n            return None\n",
                "        if not in_order or self._holes:\n            return None\n",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "no-room-to-compact",
        "registers fill up the last volume, and nothing can be copied any more",
        (Edit(_COMMITTER, "if self._volumes_left == 1 and not", "if self._volumes_left < 0 and not"),),
        _TEST,
    ),
)
