"""Bugs in changes of a pool's code: which homes learn, who counts, what is pointed at, what status says meanwhile."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Aim, Edit, Mutant

_ACCEPTOR: Final = "node/holdfast_node/services/acceptor.py"
_CHANGES: Final = "node/holdfast_node/core/map_changes.py"
_FOREGROUND: Final = "node/holdfast_node/services/foreground.py"
_GET: Final = "node/holdfast_node/services/get.py"
_MOVES: Final = "node/holdfast_node/core/map_moves.py"
_PICTURE: Final = "node/holdfast_node/core/picture.py"
_PUT: Final = "node/holdfast_node/services/put.py"
_RECODING: Final = "node/holdfast_node/services/recoding.py"
_REGISTER: Final = "node/holdfast_node/core/register.py"
_TOPOLOGY: Final = "node/holdfast_node/core/topology.py"
_WARDS: Final = "node/holdfast_node/services/wards.py"

_TEST_LEARNING: Final = "tests/unit/test_learning_in_recodes.py"
_TEST_MAPS: Final = "tests/unit/test_map_recoding.py"
_TEST_PICTURE: Final = "tests/unit/test_picture.py"
_TEST_REGISTER: Final = "tests/unit/test_register.py"
_TEST_SIM: Final = "tests/sim/test_recoding.py"
_TEST_TURNS: Final = "tests/unit/test_recoding.py"

_ANY: Final = "isinstance(prepare, Prepare)"
MUTANTS: Final = (
    Mutant(
        "silent-store-is-proof",
        "new shards at stores that do not answer count as read back",
        (Edit(_RECODING, "if unproven or not made.in_order:", "if not made.in_order:"),),
        _TEST_SIM,
    ),
    Mutant(
        "new-homes-see-too-little",
        "fewer homes take over at once though as many as a listing asks may all have missed a write",
        (
            Edit(
                "node/holdfast_node/core/quorum.py",
                "majority(homes) + overlap(others)",
                "majority(homes) + majority(others)",
            ),
        ),
        _TEST_MAPS,
        Aim(("recode", "unfollowed"), keys=4, code="rs:4+2"),
    ),
    Mutant(
        "nine-learned-like-six",
        "partitions with nine homes are learned from as few sources as those with six",
        (Edit("node/holdfast_node/services/learner.py", "return enough and set(", "return set("),),
        _TEST_LEARNING,
    ),
    Mutant(
        "undecided-pair-spread",
        "a home that stays takes what it missed before the move, and makes it decided by the old homes",
        (
            Edit(
                _ACCEPTOR,
                "if missed(own, theirs, before=self.standings.stays_from(copy.pool, copy.partition)):",
                "if False:",
            ),
        ),
        _TEST_LEARNING,
    ),
    Mutant(
        "fewer-homes-unlearned",
        "where homes become fewer, those that stay do not learn what the others decided",
        (Edit(_CHANGES, " or not meet(len(entry.homes), len(row)))", ")"),),
        _TEST_MAPS,
    ),
    Mutant(
        "learning-homes-silent",
        "homes that stay and learn do not vote among the old ones meanwhile",
        (Edit(_TOPOLOGY, "learners = () if entry.moving else entry.learners", "learners = entry.learners"),),
        _TEST_MAPS,
    ),
    Mutant(
        "learning-homes-uncounted",
        "homes that stay and learn do not count when a store is lost",
        (
            Edit(
                _CHANGES,
                "frozenset[StoreId]() if entry.moving else frozenset(entry.learners)",
                "frozenset(entry.learners)",
            ),
        ),
        _TEST_MAPS,
    ),
    Mutant(
        "registers-stay-behind",
        "after a loss on the way registers do not set out again",
        (Edit(_CHANGES, "if not entry.shards or entry.learners:", "if True:"),),
        _TEST_MAPS,
    ),
    Mutant(
        "move-closed-early",
        "a map is followed in which a move has closed before everybody had learned",
        (Edit(_CHANGES, "if now.homes == was.moving and was.learners[1:]:", "if False:"),),
        _TEST_MAPS,
    ),
    Mutant(
        "cancel-lets-blank-vote",
        "a change is undone by a move in which a blank home votes among the old ones",
        (Edit(_MOVES, "        if entry.learners and not entry.moving\n", "        if False\n"),),
        _TEST_MAPS,
    ),
    Mutant(
        "codes-mixed",
        "another change begins while blobs may be in the code before",
        (Edit(_MOVES, "            elif pool.former_code:", "            elif False:"),),
        _TEST_MAPS,
    ),
    Mutant(
        "former-code-forgotten",
        "the code before is forgotten although heal has not passed since",
        (Edit(_MOVES, "if settled.get(pool.name) == pool.moved_epoch else pool", "if True else pool"),),
        _TEST_MAPS,
    ),
    Mutant(
        "recode-over-newer",
        "a change of code takes the place of a version written meanwhile",
        (Edit(_REGISTER, "if blob_id != operation.replaces:", "if False:"),),
        _TEST_REGISTER,
    ),
    Mutant(
        "recode-unproven",
        "new shards are pointed at that nobody has read back",
        (
            Edit(
                _PUT,
                "        if write.recoding is not None:\n            await write.recoding.proven",
                "        if False:\n            await write.recoding.proven",
            ),
        ),
        _TEST_SIM,
    ),
    Mutant(
        "recode-survives-less",
        "new shards are pointed at that survive less than the old ones",
        (Edit(_RECODING, "if now[tag] < count]", "if False]"),),
        _TEST_SIM,
    ),
    Mutant(
        "recode-before-rescue",
        "what is damaged, or grave, waits for its turn to be made anew in another code",
        (Edit(_RECODING, "if deep or _can_be_saved(found.place, manifest, census):", "if False:"),),
        _TEST_TURNS,
    ),
    Mutant(
        "former-once-compared",
        "new shards are compared with what the old ones survived when heal took the key in hand",
        (
            Edit(
                _RECODING,
                "_refuse_less(least(plan.margin for plan in plans_of(place, old, found)), made.margin)",
                "_refuse_less(before, made.margin)",
            ),
        ),
        _TEST_TURNS,
    ),
    Mutant(
        "recode-cuts-readers",
        "a reader does not follow a blob to its new shards",
        (Edit(_GET, "if found.seed_id != old.seed_id and", "if False and"),),
        _TEST_SIM,
    ),
    Mutant(
        "recode-as-caller",
        "heal takes its own change of a blob's code for a caller's write, and rests",
        (Edit(_FOREGROUND, "isinstance(prepare, Prepare) and not prepare.background", _ANY),),
        _TEST_SIM,
    ),
    Mutant(
        "kept-versions-unseen",
        "versions kept for undo in the code before are not counted, and the change is called done",
        (Edit(_WARDS, "        return known or int(self.lacks_manifests)\n", "        return 0 * known\n"),),
        _TEST_SIM,
    ),
    Mutant(
        "kept-versions-claimed",
        "status claims for versions kept in the code before what the new one survives",
        (Edit(_PICTURE, "if passed and not self._left(pool):", "if passed:"),),
        _TEST_PICTURE,
    ),
    Mutant(
        "successor-given-shards",
        "a store that took a lost newcomer's place counts as if shards had been moved to it",
        (Edit(_PICTURE, "node is not None and node.joined_epoch <= since", "node is not None"),),
        _TEST_PICTURE,
    ),
)
