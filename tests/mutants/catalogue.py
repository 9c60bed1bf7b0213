"""All planted bugs, in the order of the table."""

from __future__ import annotations

from typing import Final

from tests.mutants import (
    absences,
    client,
    codes,
    collection,
    compaction,
    disks,
    following,
    forgetting,
    heal,
    logs,
    maps,
    moves,
    notices,
    operations,
    quotas,
    recoding,
    registers,
    room,
    scrub,
    shards,
)
from tests.mutants.mutant import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = (
    *registers.MUTANTS,
    *room.MUTANTS,
    *operations.MUTANTS,
    *quotas.MUTANTS,
    *logs.MUTANTS,
    *disks.MUTANTS,
    *shards.MUTANTS,
    *codes.MUTANTS,
    *heal.MUTANTS,
    *maps.MUTANTS,
    *moves.MUTANTS,
    *absences.MUTANTS,
    *recoding.MUTANTS,
    *notices.MUTANTS,
    *scrub.MUTANTS,
    *compaction.MUTANTS,
    *collection.MUTANTS,
    *forgetting.MUTANTS,
    *following.MUTANTS,
    *client.MUTANTS,
)
QUICK: Final = ("promise-twice", "record-unchecked", "map-goes-back")
"""Caught within a second or two: tried with every run of the tests."""
QUICK_IN_WORLDS: Final = ("no-sync", "majority-1", "skip-r5")
"""Found within a few worlds: tried in worlds with every run of the tests."""
