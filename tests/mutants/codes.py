"""Bugs in codes with groups: what they survive, what a lost shard is made from, what is checked."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

_CODES: Final = "node/holdfast_node/core/codes.py"
_ERASURE: Final = "node/holdfast_node/adapters/erasure.py"
_MARGIN: Final = "node/holdfast_node/core/margin.py"

_TEST_CODEC: Final = "tests/properties/test_codec.py"
_TEST_LOCAL: Final = "tests/unit/test_local_codes.py"

MUTANTS: Final = (
    Mutant(
        "groups-mend-two",
        "a group is said to mend one loss more than it can",
        (
            Edit(
                _CODES,
                "sum(max(0, count - 1) for count in in_groups)",
                "sum(max(0, count - 2) for count in in_groups)",
            ),
        ),
        _TEST_CODEC,
    ),
    Mutant(
        "any-m-of-groups",
        "a code with groups is said to survive any loss of as many shards as it has parities",
        (Edit(_CODES, "return self.m - self.groups + 1 if self.groups else self.m", "return self.m"),),
        _TEST_CODEC,
    ),
    Mutant(
        "any-k-of-groups",
        "any k shards of a code with groups are taken for enough",
        (
            Edit(
                _CODES,
                "        if not self.groups:\n            return len(held)",
                "        if self.k:\n            return len(held)",
            ),
        ),
        _TEST_LOCAL,
    ),
    Mutant(
        "group-not-first",
        "a lost shard is read from any others, though its group is whole",
        (Edit(_CODES, "key=lambda i: (i not in near, i)", "key=lambda i: -i"),),
        _TEST_LOCAL,
    ),
    Mutant(
        "global-parity-unchecked",
        "only local parities are checked before an ack",
        (Edit(_CODES, "return [*proofs, ([index for", "return proofs or [([index for"),),
        _TEST_CODEC,
    ),
    Mutant(
        "local-parity-unchecked",
        "only global parities are checked before an ack",
        (Edit(_CODES, "return [*proofs, ([index for", "return [([index for"),),
        _TEST_CODEC,
    ),
    Mutant(
        "group-with-a-gap",
        "a lost shard is made from a group that lacks another",
        (Edit(_ERASURE, "if group and group.issubset(cells):", "if group:"),),
        _TEST_CODEC,
    ),
    Mutant(
        "groups-counted-only",
        "the margin of a code with groups counts shards",
        (Edit(_MARGIN, "if not code.groups and all(len", "if all(len"),),
        "tests/properties/test_margin.py",
    ),
)
