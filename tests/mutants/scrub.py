"""Bugs in finding what has rotted and in making it whole."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

_ACCEPTOR: Final = "node/holdfast_node/services/acceptor.py"
_INDEX_ROWS: Final = "node/holdfast_node/core/index_rows.py"
_KEEPER: Final = "node/holdfast_node/services/keeper.py"
_LEARNER: Final = "node/holdfast_node/services/learner.py"
_OPENING: Final = "node/holdfast_node/services/log/opening.py"
_REPLAY: Final = "node/holdfast_node/services/log/replay.py"
_RESTORING: Final = "node/holdfast_node/services/restoring.py"
_ROT: Final = "node/holdfast_node/core/rot.py"
_SCREEN: Final = "client/holdfast_ctl/screen.py"
_SCRUBBER: Final = "node/holdfast_node/services/scrubber.py"
_STORE: Final = "node/holdfast_node/services/store.py"
_VERIFIER: Final = "node/holdfast_node/services/log/verifier.py"

_TEST_BROKEN: Final = "tests/unit/test_broken_registers.py"
_TEST_MISDIRECTED: Final = "tests/unit/test_misdirected_writes.py"
_TEST_SCREEN: Final = "tests/unit/test_status_screen.py"
_TEST_SCRUB: Final = "tests/unit/test_scrub.py"

MUTANTS: Final = (
    Mutant(
        "broken-promise-forgotten",
        "a home whose record is broken accepts what it had promised not to",
        (
            Edit(
                _ACCEPTOR,
                "            if entry is None:\n                raise\n"
                "        return RegisterRecord(*key, entry.pool, entry.partition, entry.promised,",
                "            if entry is None:\n                raise\n"
                "        return RegisterRecord(*key, entry.pool, entry.partition, None,",
            ),
        ),
        _TEST_BROKEN,
    ),
    Mutant(
        "promise-not-in-the-index",
        "the index row of a register does not say what it promised",
        (
            Edit(
                _INDEX_ROWS,
                "promised = body.promised if body.promised != accepted else None",
                "promised = None",
            ),
        ),
        _TEST_BROKEN,
    ),
    Mutant(
        "broken-register-blanked",
        "a register whose head is lost here is written again as if nothing had been accepted",
        (Edit(_ACCEPTOR, "if entry is None or entry.accepted is not None:", "if entry is None:"),),
        _TEST_BROKEN,
    ),
    Mutant(
        "old-fact-over-new",
        "a small fact is written again although a newer one is on its way",
        (Edit(_STORE, "if row is None or self._small_on_the_way[row_key]:", "if row is None:"),),
        _TEST_BROKEN,
    ),
    Mutant(
        "seal-not-read-back",
        "a shard counts as proven although its seal cannot be read",
        (
            Edit(
                _KEEPER,
                "if not request.want_checksums and request.count <= 1 and not request.fresh:",
                "if not request.want_checksums and request.count <= 1:",
            ),
        ),
        _TEST_SCRUB,
    ),
    Mutant(
        "cells-not-surveyed",
        "a broken cell that a row rests on is taken for garbage",
        (
            Edit(
                _ROT,
                "if letter in (BLANK_ROWS, CELL_ROWS, LINK_ROWS, MANIFEST_ROWS) or",
                "if letter in (BLANK_ROWS, LINK_ROWS, MANIFEST_ROWS) or",
            ),
        ),
        _TEST_SCRUB,
    ),
    Mutant(
        "headers-not-scrubbed",
        "records of which not even the key is left are passed over",
        (
            Edit(
                _VERIFIER,
                "for sequence in rot.sequences}",
                "for _, _, sequence in rot.keys}",
            ),
        ),
        _TEST_SCRUB,
    ),
    Mutant(
        "damage-forgotten",
        "what a step finds is forgotten by the next",
        (Edit(_SCRUBBER, "self._suspects |= step.suspects", "self._suspects = dict(step.suspects)"),),
        _TEST_SCRUB,
    ),
    Mutant(
        "whole-anywhere",
        "a record that lies whole where its row does not point counts as whole",
        (
            Edit(
                _VERIFIER,
                "return bool(suspect.found) and (place is None or place in suspect.found)",
                "return bool(suspect.found)",
            ),
        ),
        _TEST_MISDIRECTED,
    ),
    Mutant(
        "led-astray",
        "behind damage the log goes on at the first batch found, though a misdirected write brought it there",
        (
            Edit(
                _REPLAY,
                "            if best is None or header.number < best[1].number:\n"
                "                best = offset, header\n",
                "            return offset, header\n",
            ),
        ),
        _TEST_MISDIRECTED,
    ),
    Mutant(
        "broken-manifest-awaited",
        "a learner waits for scrub to heal a manifest of its own, and scrub for the learner",
        (
            Edit(
                "node/holdfast_node/services/versions.py",
                "        except IntegrityError:\n            known = None\n",
                "        except IntegrityError:\n            raise\n",
            ),
        ),
        "tests/unit/test_learner.py",
    ),
    Mutant(
        "healed-by-word",
        "a finding is closed once it was dealt with, whether that helped or not",
        (
            Edit(
                _RESTORING,
                "if not self._is_there(row_key, finding.sequence):",
                "if finding.due_s or not self._is_there(row_key, finding.sequence):",
            ),
        ),
        _TEST_SCRUB,
    ),
    Mutant(
        "made-anew-is-broken",
        "a row that was made anew during the survey is taken for broken",
        (
            Edit(
                _RESTORING,
                "if len(self._open) < FINDINGS_MAX and self._is_there(row_key, sequence):",
                "if True:",
            ),
        ),
        _TEST_SCRUB,
    ),
    Mutant(
        "dead-feared",
        "a rebuilt index fears for what scrub has long had written again",
        (Edit(_OPENING, "tables.lost_sequences(), tables.killed()", "tables.lost_sequences(), frozenset()"),),
        _TEST_SCRUB,
    ),
    Mutant(
        "garbage-reported",
        "what is left of a failed write is a finding for ever",
        (Edit(_RESTORING, "elif named.certain:", "elif False:"),),
        _TEST_SCRUB,
    ),
    Mutant(
        "youngest-unproven-byte",
        "status tells of the node that has read itself back last, not of the one that is furthest behind",
        (Edit(_SCREEN, "oldest = max(told,", "oldest = min(told,"),),
        _TEST_SCREEN,
    ),
    Mutant(
        "cycle-never-comes",
        "a store reads itself back only when it is told to",
        (
            Edit(
                _SCRUBBER, "if self._asked or (not self._running and", "if self._asked or (self._running and"
            ),
        ),
        _TEST_SCRUB,
    ),
    Mutant(
        "buried-in-one-grave",
        "all broken records that nothing needs are written down in one group, however many there are",
        (
            Edit(_RESTORING, "range(0, len(kills), KILLS_AT_ONCE)", "range(len(kills) and 1)"),
            Edit(_RESTORING, "in kills[first : first + KILLS_AT_ONCE]]", "in kills]"),
        ),
        "tests/unit/test_scrub.py::test_any_number_of_broken_records_is_buried",
    ),
    Mutant(
        "full-store-forgets-its-cycle",
        "a store without room for a note forgets how far it has read itself back",
        (
            Edit(
                _SCRUBBER,
                "except StoreFull:\n            self._store.piggyback",
                "except StoreFull:\n            _ = repr",
            ),
        ),
        "tests/unit/test_scrub.py::test_a_full_store_reads_itself_back_and_notes_that_once_it_has_room",
    ),
)
