"""Bugs in what stores note of each other's lives, so that none votes from its own past."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

_CARTOGRAPHER: Final = "node/holdfast_node/services/cartographer.py"
_MEMBERSHIP: Final = "node/holdfast_node/services/membership.py"
_STORE: Final = "node/holdfast_node/services/store.py"
_TABLES: Final = "node/holdfast_node/services/log/tables.py"
_TEST: Final = "tests/unit/test_introductions.py"
_TEST_CARTOGRAPHER: Final = "tests/unit/test_cartographer.py"
_TEST_REPLIES: Final = "tests/unit/test_membership.py"
_TEST_RIDERS: Final = "tests/unit/test_riders.py"

MUTANTS: Final = (
    Mutant(
        "rolled-back-boot-votes",
        "a store whose later boot a peer has seen votes",
        (Edit(_MEMBERSHIP, "if reply.seen_boot > mine.boot:", "if False:"),),
        _TEST_REPLIES,
    ),
    Mutant(
        "rolled-back-log-votes",
        "a store whose later records a peer has seen votes",
        (Edit(_MEMBERSHIP, "behind = reply.seen_sequence > mine.recovered_sequence", "behind = False"),),
        _TEST_REPLIES,
    ),
    Mutant(
        "copy-votes",
        "a copy of a running store votes",
        (Edit(_MEMBERSHIP, "if reply.seen_boot_id != mine.boot_id:", "if False:"),),
        _TEST_REPLIES,
    ),
    Mutant(
        "votes-unintroduced",
        "a store votes before a majority of the voters knows it",
        (Edit(_MEMBERSHIP, "if 2 * met <= len(voters):", "if not met:"),),
        _TEST,
    ),
    Mutant(
        "half-is-introduced",
        "a store votes when half of the voters know it",
        (Edit(_MEMBERSHIP, "if 2 * met <= len(voters):", "if 2 * met < len(voters):"),),
        _TEST,
    ),
    Mutant(
        "boot-mark-rides",
        "a peer answers before it has durably noted a new boot",
        (
            Edit(
                _MEMBERSHIP,
                "            await self._store.append([Entry(mark)])\n",
                "            self._store.piggyback(request.store, Entry(mark))\n",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "votes-kept-for-ever",
        "votes on maps are kept after a map was adopted",
        (
            Edit(
                _CARTOGRAPHER,
                "MapRecord(encoded, decided.epoch)",
                "MapRecord(encoded)",
            ),
        ),
        _TEST_CARTOGRAPHER,
    ),
    Mutant(
        "vote-forgotten-too-soon",
        "a vote on the map after the adopted one is forgotten",
        (
            Edit(
                _TABLES,
                'int.from_bytes(key, "big") <= epoch]',
                'int.from_bytes(key, "big") <= epoch + 1]',
            ),
        ),
        "tests/unit/test_store.py",
    ),
    Mutant(
        "rollback-outlived",
        "a peer forgets that a store lost records once it has written as many again",
        (
            Edit(
                _MEMBERSHIP,
                "                sequence = NEVER_AGAIN\n",
                "                sequence = before.sequence\n",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "mark-goes-back",
        "a peer forgets a higher record number when a later boot comes with fewer",
        (
            Edit(
                _MEMBERSHIP,
                "elif sequence < before.sequence:",
                "elif False:",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "copy-comes-back",
        "a peer forgets that two copies of a store ran at once, and believes the one that starts again",
        (Edit(_MEMBERSHIP, "if not copied and (request", "if copied or (request"),),
        _TEST,
    ),
    Mutant(
        "loss-told-once",
        "a store that lost records votes if the answer to its first introduction did not come",
        (Edit(_MEMBERSHIP, "if reply.seen_sequence == NEVER_AGAIN:  #", "if False:  #"),),
        _TEST,
    ),
    Mutant(
        "loss-written-over",
        "a store that lost records hides it by writing as many before it introduces itself",
        (
            Edit(
                "node/holdfast_node/services/map_ports.py",
                "durable_sequence=self.store.recovered_sequence",
                "durable_sequence=self.store.durable_sequence",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "mark-stands-still",
        "a peer is never told how far a store has come since it began",
        (Edit(_MEMBERSHIP, "if to in self._introduced else first", "if False else first"),),
        _TEST,
    ),
    Mutant(
        "copy-stops-the-original",
        "a store stops voting because a copy of it was run",
        (Edit(_MEMBERSHIP, "TWO_AT_ONCE: Final = NEVER_AGAIN - 1", "TWO_AT_ONCE: Final = NEVER_AGAIN"),),
        _TEST,
    ),
    Mutant(
        "rider-behind-its-successor",
        "what was to be noted of a store with the next write is written behind what replaces it",
        (Edit(_STORE, "in (*riders, *entries)]", "in (*entries, *riders)]"),),
        _TEST,
    ),
    Mutant(
        "introductions-end",
        "a store whose introductions meet a mistake makes none any more",
        (Edit(_MEMBERSHIP, "except Exception as error:", "except ZeroDivisionError as error:"),),
        _TEST,
    ),
    Mutant(
        "rider-in-the-slow-lane",
        "what is to be noted waits with bulk, and comes behind what is noted later",
        (Edit(_STORE, "riders = () if bulk else tuple(", "riders = tuple("),),
        _TEST_RIDERS,
    ),
    Mutant(
        "full-and-unforgiving",
        "a store in its last volume notes of no store that it is back, and none of a full cluster votes again",
        (Edit(_STORE, "PartitionRecord, PeerRecord, DropRecord)", "PartitionRecord, DropRecord)"),),
        _TEST_RIDERS,
    ),
)
