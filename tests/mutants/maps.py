"""Bugs in the control plane: votes on maps, adoption, learning, who may vote at all; and in the caller's retries."""

from __future__ import annotations

from typing import Final

from tests.mutants import lives
from tests.mutants.mutant import Edit, Mutant

_BUCKETS: Final = "node/holdfast_node/services/buckets.py"
_CARTOGRAPHER: Final = "node/holdfast_node/services/cartographer.py"
_CATCH_UP: Final = "node/holdfast_node/core/catch_up.py"
_CHANGES: Final = "node/holdfast_node/core/map_changes.py"
_LEARNER: Final = "node/holdfast_node/services/learner.py"
_LEFTOVERS: Final = "node/holdfast_node/services/leftovers.py"
_MAP_BALLOTS: Final = "node/holdfast_node/services/map_ballots.py"
_REPLACING: Final = "node/holdfast_node/services/replacing.py"
_RETRY: Final = "client/holdfast/core/retry.py"
_VOTER: Final = "node/holdfast_node/services/map_voter.py"

_TEST_CARTOGRAPHER: Final = "tests/unit/test_cartographer.py"
_TEST_CATCH_UP: Final = "tests/unit/test_catch_up.py"
_TEST_CHANGES: Final = "tests/unit/test_map_changes.py"
_TEST_LEARNER: Final = "tests/unit/test_learner.py"
_TEST_SDK: Final = "tests/unit/test_sdk_core.py"
_TEST_VOTER: Final = "tests/unit/test_map_voter.py"

_VOTES: Final = (
    Mutant(
        "map-promise-forgotten",
        "a voter's promise on a map is not written down",
        (
            Edit(
                _VOTER,
                "            await self._record(MapVoteRecord(request.epoch, request.ballot, accepted, known))\n",
                "",
            ),
        ),
        _TEST_VOTER,
    ),
    Mutant(
        "map-vote-not-durable",
        "a vote on a map is answered before it is durable",
        (
            Edit(
                _VOTER,
                "        await self._store.append([Entry(vote)])\n",
                "        self._store.append([Entry(vote)])\n",
            ),
        ),
        _TEST_VOTER,
    ),
    Mutant(
        "map-promise-anything",
        "a ballot on a map is promised below one that was promised",
        (
            Edit(
                _VOTER,
                "if vote is not None and request.ballot < vote.promised:\n                return MapPrepare",
                "if False:\n                return MapPrepare",
            ),
        ),
        _TEST_VOTER,
    ),
    Mutant(
        "map-asked-once",
        "a voter whose answer was lost is not asked again",
        (Edit(_MAP_BALLOTS, "for _ in range(ASKED_MAX):", "for _ in range(1):"),),
        _TEST_CARTOGRAPHER,
    ),
    Mutant(
        "map-accept-anything",
        "a map is accepted whatever was promised",
        (
            Edit(
                _VOTER,
                "if vote is not None and request.ballot < vote.promised:\n                return MapAccept",
                "if False:\n                return MapAccept",
            ),
        ),
        _TEST_VOTER,
    ),
    Mutant(
        "map-vote-on-the-past",
        "a vote is cast on an epoch that is decided",
        (Edit(_VOTER, "if epoch <= self._adopted.epoch:", "if False:"),),
        _TEST_VOTER,
    ),
    Mutant(
        "map-vote-on-the-future",
        "a vote is cast on an epoch whose voters are not known yet",
        (Edit(_VOTER, "if epoch > self._adopted.epoch + 1:", "if False:"),),
        _TEST_VOTER,
    ),
    Mutant(
        "map-vote-of-anybody",
        "a store that is no voter votes on maps",
        (Edit(_VOTER, "if mine.store not in topology.map.voters:", "if False:"),),
        _TEST_VOTER,
    ),
    Mutant(
        "map-vote-of-the-suspect",
        "a suspect store votes on maps",
        (
            Edit(_VOTER, "if mine.store not in topology.active:", "if False:"),
            Edit(_VOTER, "if reason := self.may_vote():", 'if reason := "":'),
        ),
        _TEST_CARTOGRAPHER,
    ),
    Mutant(
        "map-not-carried-forward",
        "a map that a voter had accepted is not carried forward",
        (Edit(_MAP_BALLOTS, "lambda found: found or proposed", "lambda found: proposed"),),
        _TEST_CARTOGRAPHER,
    ),
    Mutant(
        "map-majority-1",
        "one less than a majority of the voters decides a map",
        (Edit(_MAP_BALLOTS, "majority(len(current.voters))", "max(1, len(current.voters) // 2)"),),
        _TEST_CARTOGRAPHER,
    ),
    Mutant(
        "map-not-durable",
        "a map is followed before it is durable",
        (
            Edit(
                _CARTOGRAPHER,
                "                await self.ports.store.append([Entry(MapRecord(encoded, decided.epoch))])\n"
                "                self._take(decided, encoded)\n",
                "                self._take(decided, encoded)\n"
                "                await self.ports.store.append([Entry(MapRecord(encoded, decided.epoch))])\n",
            ),
        ),
        _TEST_CARTOGRAPHER,
    ),
    Mutant(
        "map-unchecked",
        "a map is followed whatever it says",
        (
            Edit(
                _CARTOGRAPHER,
                "                validate(self._topology.map if self._topology is not None else None, decided)\n",
                "",
            ),
        ),
        _TEST_CARTOGRAPHER,
    ),
    Mutant(
        "map-goes-back",
        "an older map may follow a newer one",
        (Edit(_CHANGES, "if new.epoch <= old.epoch or new.era < old.era:", "if False:"),),
        _TEST_CHANGES,
    ),
    Mutant(
        "homes-without-generation",
        "homes may change without a new generation",
        (Edit(_CHANGES, "if now.generation < was.generation + votes_change:", "if False:"),),
        _TEST_CHANGES,
    ),
    Mutant(
        "replaced-without-generation",
        "a replaced home leaves the generation as it was",
        (
            Edit(
                _CHANGES,
                "Generation(entry.generation + 1), homes, learners, former",
                "entry.generation, homes, learners, former",
            ),
        ),
        _TEST_CHANGES,
    ),
    Mutant(
        "replaced-is-no-learner",
        "a new, empty store votes without having learned",
        (Edit(_CHANGES, "if home in blank or home in learning)", "if home in learning)"),),
        _TEST_CHANGES,
    ),
    Mutant(
        "replaced-without-majority",
        "stores are replaced although too few are left to learn from",
        (Edit(_CHANGES, "if len(left) < needed and not", "if False and not"),),
        _TEST_CHANGES,
    ),
    Mutant(
        "relearn-without-majority",
        "a store becomes a learner again although too few are left to learn from",
        (
            Edit(
                _CHANGES,
                "if len(left) >= majority(len(entry.homes)) else None",
                "if left else None",
            ),
        ),
        _TEST_CHANGES,
    ),
    Mutant(
        "learned-in-another-generation",
        "what was learned in one generation counts in the next",
        (
            Edit(
                _CHANGES,
                "if entry.generation != generation or store not in entry.learners:",
                "if store not in entry.learners:",
            ),
        ),
        _TEST_CHANGES,
    ),
    Mutant(
        "living-store-replaced",
        "a store that answers is replaced as lost",
        (Edit(_REPLACING, "if reply.store == node.store:", "if False:"),),
        "tests/unit/test_replacing.py",
    ),
)

_LEARNING: Final = (
    Mutant(
        "learn-from-one-fewer",
        "a learner asks one home too few to meet every majority",
        (
            Edit(
                _LEARNER,
                "        needed = topology.enough_to_see(scope.pool, scope.partition)\n",
                "        needed = topology.enough_to_see(scope.pool, scope.partition) - 1\n",
            ),
        ),
        _TEST_LEARNER,
    ),
    Mutant(
        "learn-without-settling",
        "a learner takes what its sources disagree on",
        (Edit(_LEARNER, "            if window.disputed:\n", "            if False:\n"),),
        _TEST_LEARNER,
    ),
    Mutant(
        "absence-not-disputed",
        "a key that one source lacks is not disputed",
        (Edit(_CATCH_UP, "len(pairs) > 1 or len(copies) < len(pages)", "len(pairs) > 1"),),
        _TEST_CATCH_UP,
    ),
    Mutant(
        "learn-beyond-the-page",
        "a learner believes absence beyond the end of an unfinished page",
        (Edit(_CATCH_UP, "end = min(ends) if ends else None", "end = max(ends) if ends else None"),),
        _TEST_CATCH_UP,
    ),
    Mutant(
        "learn-the-lowest",
        "a learner takes the lowest accepted pair",
        (Edit(_CATCH_UP, "best = max(copies,", "best = min(copies,"),),
        _TEST_CATCH_UP,
    ),
    Mutant(
        "learned-rot-is-nothing",
        "a register that rots after it was learned is made blank",
        (
            Edit(
                _LEFTOVERS,
                "return key > after and (window.end is None or key <= window.end) and key not in shown",
                "return key not in shown",
            ),
        ),
        _TEST_LEARNER,
    ),
    Mutant(
        "other-sources-begin-again",
        "a learner that turns to other homes begins with the first key",
        (Edit(_LEARNER, "                    begun.cursor = current.cursor\n", ""),),
        _TEST_LEARNER,
    ),
    Mutant(
        "floors-not-learned",
        "a learner takes no version floor",
        (
            Edit(
                _CATCH_UP,
                "version_floor=max(own.version_floor, floors.version_floor)",
                "version_floor=own.version_floor",
            ),
        ),
        _TEST_LEARNER,
    ),
    Mutant(
        "floors-of-one-source",
        "a learner takes the floors of one source, not the highest",
        (Edit(_CATCH_UP, "higher_floors(floors[at], one) if at in floors else one", "floors.get(at, one)"),),
        _TEST_CATCH_UP,
    ),
    Mutant(
        "floors-before-the-last-page",
        "a learner reads floors and closed doors before its first page",
        (
            Edit(
                _LEARNER,
                "    failures: int = 0\n",
                "    failures: int = 0\n    early: dict[StoreId, FloorsReply] | None = None\n",
            ),
            Edit(
                _LEARNER,
                "            window = merge(await self._pages(current), current.settled)\n",
                "            if current.early is None:\n"
                "                asked = ReadFloors(current.scopes)\n"
                "                current.early = await self._ask_all(current, asked, FloorsReply)\n"
                "            window = merge(await self._pages(current), current.settled)\n",
            ),
            Edit(
                _LEARNER,
                "        found = await self._ask_all(current, ReadFloors(current.scopes), FloorsReply)\n"
                "        known",
                "        found = current.early or {}\n        known",
            ),
        ),
        _TEST_LEARNER,
    ),
    Mutant(
        "closed-doors-not-learned",
        "a learner does not hear of buckets that are being deleted",
        (Edit(_LEARNER, "for bucket in known.closed_buckets\n", "for bucket in known.closed_buckets[:0]\n"),),
        _TEST_LEARNER,
    ),
    Mutant(
        "retained-not-learned",
        "a learner does not take the manifests of older versions",
        (Edit(_LEARNER, "        if manifests:\n            await self._store.append(manifests)\n", ""),),
        _TEST_LEARNER,
    ),
)

_DOORS: Final = (
    Mutant(
        "door-closed-by-some",
        "a bucket goes although not every node confirmed its closed door",
        (
            Edit(
                _BUCKETS,
                "            if errors:\n                who",
                "            if errors:\n                return\n            if errors:\n                who",
            ),
        ),
        "tests/unit/test_buckets.py",
    ),
    Mutant(
        "door-left-closed",
        "nobody tells a home again that the deletion of a bucket was undone",
        (
            Edit(
                _BUCKETS,
                "            if found.id == bucket and not found.closing:\n"
                "                await self._tell(bucket, closing=False)\n",
                "            if found.id == bucket and not found.closing:\n                return\n",
            ),
        ),
        "tests/unit/test_buckets.py",
    ),
    Mutant(
        "bucket-not-looked-into",
        "a bucket goes without a second look into it behind the closed door",
        (
            Edit(
                _BUCKETS,
                "        try:\n            await self._require_empty(pool, bucket)\n        except",
                "        try:\n            pass\n        except",
            ),
        ),
        "tests/unit/test_buckets.py",
    ),
    Mutant(
        "retry-with-a-new-stamp",
        "a caller takes a new stamp although an attempt may have been applied",
        (Edit(_RETRY, "if self.uncertain or self._stamp_changes > 3:", "if self._stamp_changes > 3:"),),
        _TEST_SDK,
    ),
    Mutant(
        "lost-answer-is-certain",
        "a caller is told that a write failed although its answer was lost",
        (
            Edit(
                _RETRY,
                "return sent and isinstance(error, (PeerUnreachable, DeadlineExceeded, InternalError))",
                "return False",
            ),
        ),
        _TEST_SDK,
    ),
)

MUTANTS: Final = (*_VOTES, *_LEARNING, *lives.MUTANTS, *_DOORS)
