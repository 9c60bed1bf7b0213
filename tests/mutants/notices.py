"""Bugs in telling stewards of what is not all at home."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

_COMMITTING: Final = "node/holdfast_node/services/committing.py"
_HEALER: Final = "node/holdfast_node/services/healer.py"
_NOTICES: Final = "node/holdfast_node/services/notices.py"

_TEST_NOTICES: Final = "tests/unit/test_notices.py"

MUTANTS: Final = (
    Mutant(
        "degraded-untold",
        "a degraded write is acknowledged although its steward may not know",
        (
            Edit(
                _COMMITTING,
                "await path.notices.before_ack(_at(path, place), key, outcome.accepted)",
                "pass",
            ),
        ),
        _TEST_NOTICES,
    ),
    Mutant(
        "told-once",
        "a steward that did not answer is not told again",
        (
            Edit(
                _NOTICES, "more=False)):\n            self.later(at, key)", "more=False)):\n            pass"
            ),
        ),
        _TEST_NOTICES,
    ),
    Mutant(
        "failed-write-untold",
        "what a failed write may have named is told to nobody",
        (Edit(_COMMITTING, "path.notices.later(_at(path, place), key)", "pass"),),
        _TEST_NOTICES,
    ),
    Mutant(
        "others-take-note",
        "a store that is not the steward takes note, and the steward never hears",
        (
            Edit(
                _HEALER,
                'raise NotVoting("this store is not the steward of the partition")',
                "return",
            ),
        ),
        _TEST_NOTICES,
    ),
)
