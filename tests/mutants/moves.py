"""Bugs in how homes change while everybody works: two sets of homes, newcomers, what may be dropped and removed."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Aim, Edit, Mutant

_ACCEPTANCE: Final = "node/holdfast_node/core/acceptance.py"
_CHANGES: Final = "node/holdfast_node/core/map_changes.py"
_HEAL_ORDER: Final = "node/holdfast_node/core/heal_order.py"
_LEARNER: Final = "node/holdfast_node/services/learner.py"
_LEFTOVERS: Final = "node/holdfast_node/services/leftovers.py"
_LISTING: Final = "node/holdfast_node/core/listing.py"
_MOVES: Final = "node/holdfast_node/core/map_moves.py"
_PICTURE: Final = "node/holdfast_node/core/picture.py"
_PROPOSAL: Final = "node/holdfast_node/core/proposal.py"
_QUORUM: Final = "node/holdfast_node/core/quorum.py"
_REHOMING: Final = "node/holdfast_node/services/rehoming.py"
_STANDINGS: Final = "node/holdfast_node/services/standings.py"
_WARDS: Final = "node/holdfast_node/services/wards.py"

_TEST_MOVES: Final = "tests/unit/test_map_moves.py"
_TEST_NEWCOMERS: Final = "tests/unit/test_newcomers.py"
_TEST_PICTURE: Final = "tests/unit/test_picture.py"
_TEST_QUORUM: Final = "tests/unit/test_quorum.py"
_TEST_WORLD: Final = "tests/sim/test_moves.py"

_UNPASSED: Final = "if unpassed := self._unpassed(pool, since=self.topology.map.unsettled_epoch):"

_MISSED: Final = Aim(("move", "late", "unfollowed"), clients=6, keys=4, rounds=20, code="rs:2+1")
_WORLDS: Final = Aim(("move", "messages", "crash", "partition"), clients=6, keys=2, rounds=14)

MUTANTS: Final = (
    Mutant(
        "behind-and-asked-for-ever",
        "a learner asks a source that stays behind the map again and again",
        (
            Edit(
                _LEARNER,
                "            current.failures += 1  # of a source",
                "            pass  # of a source",
            ),
        ),
        "tests/unit/test_learner.py",
    ),
    Mutant(
        "removed-too-soon",
        "a drained node is removed before a store that was replaced has its shards",
        (Edit(_PICTURE, _UNPASSED, "if unpassed := self._unpassed(pool):"),),
        _TEST_PICTURE,
    ),
    Mutant(
        "better-steward-believed",
        "of two stewards of a partition the one that heals is asked what is left in the former code, and no other",
        (
            Edit(
                _PICTURE,
                "former=former[0] if former[0] < 0 else former[1],",
                "former=max(one.former, other.former),",
            ),
        ),
        _TEST_PICTURE,
    ),
    Mutant(
        "move-without-new-homes",
        "while a move is open, a quorum of the old homes decides",
        (
            Edit(
                _QUORUM,
                "return enough and (self.moving is None or len(self.moving.intersection(stores)) >= self.new_quorum)",
                "return enough",
            ),
        ),
        _TEST_QUORUM,
        _MISSED,
    ),
    Mutant(
        "move-without-old-homes",
        "while a move is open, a quorum of the new homes decides",
        (
            Edit(
                _QUORUM,
                "return enough and (self.moving",
                "return (enough or bool(self.moving)) and (self.moving",
            ),
        ),
        _TEST_QUORUM,
        _WORLDS,
    ),
    Mutant(
        "read-by-old-homes",
        "a read believes the old homes also in what was accepted since the move opened",
        (Edit(_QUORUM, "ballot.generation >= self.generation", "ballot.generation > self.generation"),),
        _TEST_QUORUM,
    ),
    Mutant(
        "list-by-old-homes",
        "a listing believes the old homes also in what was accepted since the move opened",
        (Edit(_LISTING, "agreed.ballot.generation >= since", "agreed.ballot.generation > since"),),
        "tests/unit/test_listing.py",
    ),
    Mutant(
        "complete-by-old-homes",
        "what the old homes decided is changed without bringing it to the new ones",
        (
            Edit(
                _PROPOSAL,
                "return self._roster.decides(alike)",
                "return self._roster.decided(current.accepted, alike)",
            ),
        ),
        "tests/unit/test_register_proposal.py",
    ),
    Mutant(
        "newcomer-breaks-promise",
        "a newcomer takes what is under a promise of its own",
        (
            Edit(
                _ACCEPTANCE,
                "return record.accepted is None or record.accepted < copy.accepted",
                "return False",
            ),
        ),
        _TEST_NEWCOMERS,
    ),
    Mutant(
        "newcomer-remembers",
        "a home that left and comes back goes on with what it held",
        (Edit(_LEFTOVERS, "own.promised.generation < generation", "own.promised.generation < 0"),),
        _TEST_NEWCOMERS,
    ),
    Mutant(
        "newcomer-promises-early",
        "a newcomer promises before it has begun blank",
        (Edit(_STANDINGS, "record.entered_generation != scope.generation", "record.entered_generation < 0"),),
        _TEST_NEWCOMERS,
    ),
    Mutant(
        "newcomer-teaches",
        "a newcomer that has not learned answers for whole partitions",
        (
            Edit(
                _STANDINGS,
                "            if self.is_newcomer(scope.pool, scope.partition):\n                raise",
                "            if False:\n                raise",
            ),
        ),
        _TEST_NEWCOMERS,
    ),
    Mutant(
        "first-newcomer-closes",
        "a move closes with the first newcomer that has caught up",
        (Edit(_CHANGES, "if entry.moving and learners:", "if entry.moving and len(learners) > 9:"),),
        _TEST_MOVES,
    ),
    Mutant(
        "moves-overlap",
        "a second change of homes begins while one is open",
        (Edit(_MOVES, "if entry.moving or entry.shards or entry.learners:", "if False:"),),
        _TEST_MOVES,
    ),
    Mutant(
        "home-removed",
        "a node leaves the map while it is a home",
        (Edit(_MOVES, "if node.store in homes:", "if False:"),),
        _TEST_MOVES,
    ),
    Mutant(
        "needed-node-removed",
        "a node leaves the map while shards at it are needed",
        (
            Edit(
                _REHOMING,
                "for name in names if needed[name]]",
                'for name in names if "is up" in needed[name]]',
            ),
        ),
        _TEST_WORLD,
    ),
    Mutant(
        "drained-unproven",
        "a node is called drained before heal has passed",
        (
            Edit(
                _PICTURE,
                f"            {_UNPASSED}\n                return unpassed\n",
                "",
            ),
        ),
        "tests/unit/test_picture.py",
    ),
    Mutant(
        "moved-shards-unseen",
        "heal does not look after a change of homes",
        (
            Edit(
                "node/holdfast_node/core/cluster_map.py",
                "return max(joined, *(pool.moved_epoch for pool in self.pools))",
                "return joined",
            ),
        ),
        _TEST_WORLD,
    ),
    Mutant(
        "moved-is-ailing",
        "whatever has moved since it was sealed is mended again at every look",
        (Edit(_WARDS, "plan.waiting or not plan.in_order", "plan.margin > -9"),),
        _TEST_WORLD,
    ),
    Mutant(
        "left-holder-ignored",
        "a shard sealed at a store that has left the map meanwhile is not missed",
        (Edit(_HEAL_ORDER, "(fresh or not store or", "(not store or"),),
        "tests/unit/test_heal_order.py",
    ),
    Mutant(
        "copies-go-early",
        "a copy is dropped while the part is crowded into one domain without it",
        (Edit(_HEAL_ORDER, "if shard_survives(after, code, domains) < least:", "if False:"),),
        "tests/unit/test_heal_order.py",
    ),
)
