"""Bugs in what the client and the command lines tell of what they did, and in how they end."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

_ADMIN: Final = "client/holdfast/admin.py"
_COMMANDS: Final = "client/holdfast_ctl/commands.py"

_TEST_ADMIN: Final = "tests/unit/test_sdk_admin.py"

MUTANTS: Final = (
    Mutant(
        "waits-for-the-frozen",
        "an operator's call stays with a node that stands still",
        (Edit(_ADMIN, "(PeerUnreachable, DeadlineExceeded)", "(PeerUnreachable,)"),),
        _TEST_ADMIN,
    ),
    Mutant(
        "change-asked-twice",
        "a change whose answer was lost is sent to another node",
        (Edit(_ADMIN, "            elif sent:", "            elif False:"),),
        _TEST_ADMIN,
    ),
    Mutant(
        "half-a-proof",
        "a proof that was cut short is taken for a whole one",
        (Edit(_ADMIN, "        if not finished:", "        if False:"),),
        _TEST_ADMIN,
    ),
    Mutant(
        "proof-without-end",
        "a proof names everything it found, however much",
        (Edit(_COMMANDS, "if session.output.as_json else report.ROWS_MAX", "if True else report.ROWS_MAX"),),
        _TEST_ADMIN,
    ),
)
