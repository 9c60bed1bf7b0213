"""Bugs in giving up nodes that stay away, and in taking them back."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

_ABSENCE: Final = "node/holdfast_node/core/absence.py"
_ABSENCES: Final = "node/holdfast_node/services/absences.py"
_MOVES: Final = "node/holdfast_node/core/map_moves.py"
_CHANGES: Final = "node/holdfast_node/core/map_changes.py"

_TEST: Final = "tests/unit/test_absence.py"
_TEST_SIM: Final = "tests/sim/test_absences.py"

MUTANTS: Final = (
    Mutant(
        "one-voter-gives-up",
        "a node is given up because one voter has not heard of it",
        (Edit(_ABSENCE, "    needed = majority(len(voters))\n    return {", "    needed = 1\n    return {"),),
        _TEST,
    ),
    Mutant(
        "anybody-gives-up",
        "what nodes saw that are no voters counts as well",
        (Edit(_ABSENCE, "    for voter in voters:\n", "    for voter in seen:\n"),),
        _TEST,
    ),
    Mutant(
        "several-as-soon-as-one",
        "a whole domain is given up as soon as one node would be",
        (
            Edit(
                _ABSENCE,
                "patience.node_s if len(silent) == 1 else patience.several_s",
                "patience.node_s",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "operator-overruled",
        "a node is given up again although an operator has cancelled that",
        (
            Edit(
                _ABSENCE,
                "return plan.nodes if plan is not None and plan.kind is ChangeKind.CANCEL else ()",
                "return ()",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "given-up-without-majority",
        "nodes are given up although too few homes are left to learn from",
        (
            Edit(
                _ABSENCE,
                "short += len(left) < majority(len(entry.homes))",
                "short += len(left) < 1",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "interrupted-loss-forgotten",
        "what a lost store interrupted, when a node had been given up, is not begun again",
        (
            Edit(
                _ABSENCE,
                "(interrupted and node.state is StoreState.LOST)",
                "False",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "away-counts-through-returns",
        "a node that comes back now and then is counted as silent all the time",
        (
            Edit(
                _ABSENCES,
                "was if was is not None and was[0] is up else (up, now_s)",
                "was if was is not None and (was[0] is up or up) else (up, now_s)",
            ),
        ),
        _TEST_SIM,
    ),
    Mutant(
        "away-while-nobody-listened",
        "a node counts as silent for as long as whoever listens stood still itself",
        (Edit(_ABSENCES, "            self._since.clear()\n", "            pass\n"),),
        _TEST_SIM,
    ),
    Mutant(
        "loss-undone-into-draining",
        "a node whose loss is cancelled is taken to be draining",
        (
            Edit(
                _MOVES,
                "StoreState.DRAINING if plan.kind is ChangeKind.ADD else StoreState.ACTIVE",
                "StoreState.ACTIVE if plan.kind is ChangeKind.DRAIN else StoreState.DRAINING",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "lost-becomes-active",
        "an empty store in the place of a lost one is a full member with no share, for ever",
        (
            Edit(
                _CHANGES,
                "state = node.state if node.state in LEAVING else StoreState.ACTIVE",
                "state = StoreState.ACTIVE",
            ),
        ),
        _TEST,
    ),
)
