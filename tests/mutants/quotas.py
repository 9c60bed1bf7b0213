"""Bugs in counting what is in a bucket, and in refusing what is beyond its quota."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

_QUOTAS: Final = "node/holdfast_node/services/quotas.py"
_UPDATES: Final = "node/holdfast_node/core/index_updates.py"
_BUCKETS: Final = "node/holdfast_node/services/buckets.py"

_TEST: Final = "tests/unit/test_quotas.py"

MUTANTS: Final = (
    Mutant(
        "quota-of-the-declared-only",
        "an upload whose size nobody knows is not held to the quota",
        (Edit(_QUOTAS, "            if size >= 0:\n", "            if True:\n"),),
        _TEST,
    ),
    Mutant(
        "quota-forgets-who-is-under-way",
        "what is let in counts only when stewards tell of it",
        (Edit(_QUOTAS, " - self.stored_then + self.flying", " - self.stored_then"),),
        _TEST,
    ),
    Mutant(
        "quota-forgets-what-was-stored",
        "what was stored here a moment ago counts only when stewards tell of it",
        (Edit(_QUOTAS, "            self._account.stored += self._bytes\n", "            pass\n"),),
        _TEST,
    ),
    Mutant(
        "quota-keeps-what-failed",
        "an upload that failed takes its part of the quota for ever",
        (Edit(_QUOTAS, "            self._account.flying -= self._bytes\n", "            pass\n"),),
        _TEST,
    ),
    Mutant(
        "quota-counts-one-twice",
        "a partition of which two stewards tell counts twice",
        (
            Edit(
                _QUOTAS,
                "counts[row.partition] = max(counts.get(row.partition, count), count)",
                "counts[len(counts)] = count",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "quota-without-a-fact",
        "a bucket of which some partitions are not told of is called counted whole",
        (Edit(_QUOTAS, "whole=len(counts) == len(topology.pool(pool).partitions)", "whole=True"),),
        _TEST,
    ),
    Mutant(
        "one-count-for-all-buckets",
        "what is in a partition is not told apart by bucket",
        (
            Edit(
                _UPDATES,
                "for bucket in (ALL_BUCKETS, key[:ID_BYTES]):",
                "for bucket in (ALL_BUCKETS, bytes(ID_BYTES)):",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "quota-forgotten-by-the-record",
        "a bucket's record does not keep the quota",
        (Edit(_BUCKETS, '        record["quota_bytes"] = bucket.quota_bytes\n', "        pass\n"),),
        _TEST,
    ),
)
