"""Bugs in how homes follow each other's feeds."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

_ACCEPTANCE: Final = "node/holdfast_node/core/acceptance.py"
_CURSORS: Final = "node/holdfast_node/services/cursors.py"
_FEED: Final = "node/holdfast_node/services/feed.py"
_FOLLOWER: Final = "node/holdfast_node/services/follower.py"
_HEALER: Final = "node/holdfast_node/services/healer.py"
_READER: Final = "node/holdfast_node/services/log/register_reader.py"
_UPDATES: Final = "node/holdfast_node/core/index_updates.py"
_WARDS: Final = "node/holdfast_node/services/wards.py"

_TEST: Final = "tests/unit/test_following.py"
_TEST_WARDS: Final = "tests/unit/test_wards.py"
_MODEL: Final = "tests/properties/test_register_model.py"

MUTANTS: Final = (
    Mutant(
        "late-below-a-promise",
        "a pair that was missed is taken although a promise given here is in the way",
        (
            Edit(
                _ACCEPTANCE,
                "    if under_promise(record, copy):\n        return Late",
                "    if False:\n        return Late",
            ),
        ),
        _MODEL,
    ),
    Mutant(
        "late-into-a-move",
        "during a move, old homes come to agree on what the newcomers have not seen",
        (Edit(_ACCEPTANCE, "    if standing.moving and copy", "    if False and copy"),),
        _TEST,
    ),
    Mutant(
        "late-behind-the-door",
        "what a home missed is taken into a bucket that is being deleted",
        (Edit(_ACCEPTANCE, "    if standing.closing:\n        return Late(None, closed=True)\n", ""),),
        _TEST,
    ),
    Mutant(
        "late-and-never-again",
        "what a home missed in a bucket whose deletion is given up is passed over for good",
        (Edit(_FOLLOWER, "if not await self._closed.nothing_behind(bucket):", "if False:"),),
        _TEST,
    ),
    Mutant(
        "late-under-the-floor",
        "a home takes again what it has forgotten for good",
        (
            Edit(
                _ACCEPTANCE,
                "floor is not None and copy.accepted <= floor:\n        return Late(None, again",
                "False:\n        return Late(None, again",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "late-while-learning",
        "a home that does not vote takes what it missed",
        (
            Edit(
                _ACCEPTANCE,
                "    check_voting(standing)\n    if standing.closing:",
                "    if standing.closing:",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "cursor-before-taking",
        "a feed counts as followed before what was missed is here",
        (
            Edit(
                _FOLLOWER,
                "            await self._take_missed(topology.scope(*at), teacher, changes)\n",
                "",
            ),
            Edit(
                _FOLLOWER,
                "                self._end(teacher, at)\n",
                "                self._end(teacher, at)\n"
                "            await self._take_missed(topology.scope(*at), teacher, changes)\n",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "cursor-outlives-tenure",
        "a store that begins anew in a partition goes on where it was in the feeds",
        (
            Edit(
                _CURSORS,
                "if cursor is not None and cursor.tenure == self.tenure(at) else 0",
                "if cursor is not None else 0",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "feed-cut-short",
        "a page of a feed that was full is taken for all there is",
        (
            Edit(
                _READER,
                "                through = keys[-1].sequence\n"
                "                return PartitionChanges(pool, partition, tuple(keys), through, complete=False)",
                "                return PartitionChanges(pool, partition, tuple(keys), through, complete=False)",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "feed-of-the-forgetful",
        "a store that lost a register altogether serves its feed without it",
        (Edit(_FEED, "        if self._store.forgotten_keys():", "        if False:"),),
        _TEST,
    ),
    Mutant(
        "feed-without-a-place",
        "a register that changes leaves its old place in the feed and gets no new one",
        (
            Edit(
                _UPDATES,
                "        rows.put(entered, key)\n",
                "        rows.put(entered, key) if before is None else None\n",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "one-feed-will-do",
        "a home follows one feed less than it takes to meet every majority",
        (
            Edit(
                _FOLLOWER,
                "    return topology.enough_to_see(pool, partition) - 1\n",
                "    return topology.enough_to_see(pool, partition) - 2\n",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "level-by-an-old-answer",
        "an answer from before somebody came back counts as news",
        (Edit(_FOLLOWER, "if changes.complete and looks == self._looks:", "if changes.complete:"),),
        _TEST,
    ),
    Mutant(
        "healed-while-behind",
        "a steward calls healthy what it may have missed",
        (
            Edit(
                _HEALER,
                "return ward.seen and not self._returned and self._level.is_level(*ward.at)",
                "return ward.seen and not self._returned",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "settled-while-ailing",
        "a steward starts over behind what still ails",
        (
            Edit(
                _HEALER,
                "            if ward.reviewed > ward.settled and ward.at not in ailing:\n",
                "            if ward.reviewed > ward.settled:\n",
            ),
        ),
        _TEST_WARDS,
    ),
    Mutant(
        "settled-though-forgotten",
        "a steward that had no room to remember what ails starts over behind it",
        (Edit(_WARDS, "        if self._whole and not self.full:\n", "        if not self.full:\n"),),
        _TEST_WARDS,
    ),
    Mutant(
        "missed-version-passed-over",
        "a steward passes over a kept version of which it has no manifest",
        (Edit(_WARDS, "            if key.lacks_manifests\n", "            if False\n"),),
        _TEST_WARDS,
    ),
    Mutant(
        "settled-nowhere",
        "a steward that comes back looks at everything it has",
        (Edit(_HEALER, "settled = self._cursors.sequence(self._path.me, at)", "settled = 0"),),
        _TEST_WARDS,
    ),
    Mutant(
        "late-unverified",
        "a register that was missed is taken without a look at its hash",
        (
            Edit(
                "node/holdfast_node/services/acceptor.py",
                "if head_hash(copy.head) != copy.head_hash:",
                "if False:",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "late-without-manifests",
        "a register that was missed is taken without the manifests of the versions it keeps",
        (Edit(_FOLLOWER, "            if entries:\n", "            if False:\n"),),
        _TEST,
    ),
    Mutant(
        "promise-stays-in-the-way",
        "a key whose pair is under a promise is not decided once more",
        (
            Edit(
                _FOLLOWER,
                "        if (above := late.again_above) is not None:",
                "        if (above := None) is not None:",
            ),
        ),
        _TEST,
    ),
)
