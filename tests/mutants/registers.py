"""Bugs in how a register is decided: ballots, promises, quorums, generations."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Aim, Edit, Mutant

_ACCEPTANCE: Final = "node/holdfast_node/core/acceptance.py"
_ACCEPTOR: Final = "node/holdfast_node/services/acceptor.py"
_STANDINGS: Final = "node/holdfast_node/services/standings.py"
_BALLOTS: Final = "node/holdfast_node/services/ballots.py"
_PROPOSAL: Final = "node/holdfast_node/core/proposal.py"
_QUORUM: Final = "node/holdfast_node/core/quorum.py"
_TOPOLOGY: Final = "node/holdfast_node/core/topology.py"

_TEST_ACCEPTANCE: Final = "tests/unit/test_register_acceptance.py"
_TEST_ACCEPTOR: Final = "tests/unit/test_acceptor.py"
_TEST_PROPOSAL: Final = "tests/unit/test_register_proposal.py"
_TEST_QUORUM: Final = "tests/unit/test_quorum.py"

_MESSAGES: Final = Aim(("messages", "partition", "crash", "pause"))
_SLOW_DISKS: Final = Aim(("power_cut", "messages"), clients=6, keys=1, rounds=20, disk_s=0.3)
"""A power cut finds something on its way to most disks."""
_NEW_GENERATIONS: Final = Aim(
    ("wipe", "messages"), clients=6, keys=2, rounds=8, disk_s=0.3, code="rs:2+1", partitions=1
)
"""Many writers on their way in the one partition whose home is replaced."""

_BALLOT_RULES: Final = (
    Mutant(
        "promise-twice",
        "a ballot equal to the promised one is promised again",
        (Edit(_ACCEPTANCE, "request.ballot <= bar", "request.ballot < bar"),),
        _TEST_ACCEPTANCE,
    ),
    Mutant(
        "accept-anything",
        "an accept is taken whatever was promised",
        (Edit(_ACCEPTANCE, "request.ballot < promised", "False"),),
        _TEST_ACCEPTANCE,
        _MESSAGES,
    ),
    Mutant(
        "accept-too-strict",
        "the very ballot that was promised is not accepted",
        (Edit(_ACCEPTANCE, "request.ballot < promised", "request.ballot <= promised"),),
        _TEST_ACCEPTANCE,
    ),
    Mutant(
        "accept-without-promise",
        "accepting does not promise",
        (Edit(_ACCEPTANCE, "ballot, ballot, request.head", "promised, ballot, request.head"),),
        _TEST_ACCEPTANCE,
    ),
    Mutant(
        "weak-promise",
        "a promise is given before it is durable",
        (
            Edit(
                _ACCEPTOR,
                "            durable = self._write(key, promise.record)\n        if durable is not None:",
                "            self._write(key, promise.record)\n"
                "            durable = None\n"
                "        if durable is not None:",
            ),
        ),
        _TEST_ACCEPTOR,
        _SLOW_DISKS,
    ),
    Mutant(
        "weak-accept",
        "an accept is answered before it is durable",
        (
            Edit(
                _ACCEPTOR,
                "durable = self._write(key, self._aged(own, outcome.record)) or self._repeated(key, outcome)",
                "durable = self._write(key, self._aged(own, outcome.record)) and None",
            ),
        ),
        _TEST_ACCEPTOR,
    ),
    Mutant(
        "duplicate-answered-early",
        "the second copy of an accept is answered while the first is still on its way to the disk",
        (Edit(_ACCEPTOR, "return tail.durable if outcome", "return None if outcome"),),
        _TEST_ACCEPTOR,
    ),
    Mutant(
        "read-before-durable",
        "a read shows what is accepted and not yet durable",
        (
            Edit(
                _ACCEPTOR,
                "record = await self._store.register(request.bucket, request.key)",
                "record = await self._newest((request.bucket, request.key))",
            ),
        ),
        _TEST_ACCEPTOR,
    ),
    Mutant(
        "ballot-of-an-earlier-run",
        "the boot number is no part of a ballot: a restarted proposer uses one again",
        (Edit(_BALLOTS, "self.store, self._boot, self._attempt", "self.store, 0, self._attempt"),),
        _TEST_QUORUM,
    ),
    Mutant(
        "lowest-ballot-carried",
        "the lowest accepted head among the promises is carried forward",
        (Edit(_PROPOSAL, "promise.accepted > best.accepted", "promise.accepted < best.accepted"),),
        _TEST_PROPOSAL,
    ),
    Mutant(
        "strangers-count",
        "answers of stores that are no voters of the generation count",
        (
            Edit(
                _PROPOSAL,
                "ballot != self.ballot or store not in self._roster.everyone",
                "ballot != self.ballot",
            ),
        ),
        _TEST_PROPOSAL,
    ),
    Mutant(
        "learning-forgets-promises",
        "learning a copy forgets the promise made meanwhile",
        (
            Edit(
                _ACCEPTANCE,
                "copy.accepted if record.promised is None else max(record.promised, copy.accepted)",
                "copy.accepted",
            ),
        ),
        _TEST_ACCEPTANCE,
    ),
    Mutant(
        "learning-goes-back",
        "learning replaces what is newer here",
        (Edit(_ACCEPTANCE, "record.accepted >= copy.accepted", "record.accepted == copy.accepted"),),
        _TEST_ACCEPTANCE,
    ),
)

_QUORUM_RULES: Final = (
    Mutant(
        "majority-1",
        "one less than a majority decides",
        (Edit(_QUORUM, "return homes // 2 + 1", "return max(1, homes // 2)"),),
        _TEST_QUORUM,
        _MESSAGES,
    ),
    Mutant(
        "majority+1",
        "one more than a majority is asked for",
        (Edit(_QUORUM, "return homes // 2 + 1", "return min(homes, homes // 2 + 2)"),),
        _TEST_QUORUM,
    ),
    Mutant(
        "overlap-1",
        "a LIST asks one home too few to meet every majority",
        (Edit(_QUORUM, "homes - majority(homes) + 1", "homes - majority(homes)"),),
        _TEST_QUORUM,
    ),
    Mutant(
        "read-trusts-any",
        "a read believes what a single home says",
        (Edit(_QUORUM, "if roster.decided(sight[0], stores):", "if stores:"),),
        _TEST_QUORUM,
    ),
    Mutant(
        "promises-over-generation",
        "promises of an earlier generation are kept in a new one",
        (
            Edit(
                _PROPOSAL,
                """        self._reset(ballot, roster)
        self._phase = _Phase.PREPARING
        return [SendPrepare(ballot)]""",
                """        same = self.ballot is None or ballot.generation == self.ballot.generation
        kept = {} if same else dict(self._promises)
        self._reset(ballot, roster)
        self._phase = _Phase.PREPARING
        if len(kept) >= roster.quorum:
            self._promises = kept
            return self._decide()
        return [SendPrepare(ballot)]""",
            ),
        ),
        "tests/unit/test_register_proposal.py",
        _NEW_GENERATIONS,
    ),
    Mutant(
        "learner-votes",
        "a learner votes at once",
        (
            Edit(
                _TOPOLOGY,
                "for store in entry.homes if store in active and store not in learners",
                "for store in entry.homes if store in active",
            ),
            Edit(
                _STANDINGS,
                "if self._me in entry.homes and self._me in entry.learners and not entry.moving:",
                "if False:",
            ),
        ),
        "tests/sim/test_learners.py",
    ),
    Mutant(
        "learner-answers",
        "a learner answers what only voters may",
        (
            Edit(
                _STANDINGS,
                "if self._me in entry.homes and self._me in entry.learners and not entry.moving:",
                "if False:",
            ),
        ),
        _TEST_ACCEPTOR,
    ),
    Mutant(
        "stranger-answers",
        "a store that is no home answers what only voters may",
        (
            Edit(_STANDINGS, "if self._me not in (*entry.homes, *entry.moving):", "if False:"),
            Edit(
                _STANDINGS,
                "if self._me not in entry.homes and record.entered_generation",
                "if self._me in entry.moving and record.entered_generation",
            ),
        ),
        _TEST_ACCEPTOR,
    ),
    Mutant(
        "suspect-votes",
        "a store that may not vote votes in registers",
        (Edit(_STANDINGS, "if reason := self._may_vote():", 'if reason := "":'),),
        _TEST_ACCEPTOR,
    ),
    Mutant(
        "rotten-partition-votes",
        "a store that cannot vouch for a partition votes in it",
        (Edit(_STANDINGS, "return record.not_voting", 'return ""'),),
        _TEST_ACCEPTOR,
    ),
    Mutant(
        "skip-r4",
        "a head is changed before it is complete at a majority",
        (Edit(_PROPOSAL, "return self._roster.decides(alike)", "return True"),),
        _TEST_PROPOSAL,
        _MESSAGES,
    ),
)

_GENERATION_RULES: Final = (
    Mutant(
        "any-generation",
        "messages of any generation count",
        (Edit(_ACCEPTANCE, "if scope.generation != standing.generation:", "if False:"),),
        _TEST_ACCEPTANCE,
    ),
    Mutant(
        "newer-generation",
        "messages of a generation this home has not adopted are answered",
        (
            Edit(
                _ACCEPTANCE,
                "if scope.generation != standing.generation:",
                "if scope.generation < standing.generation:",
            ),
        ),
        _TEST_ACCEPTANCE,
    ),
    Mutant(
        "write-in-any-generation",
        "prepare and accept are answered in any generation",
        (
            Edit(
                _ACCEPTANCE,
                "    check_generation(standing, request.scope)\n    if request.ballot",
                "    if request.ballot",
            ),
        ),
        _TEST_ACCEPTANCE,
    ),
    Mutant(
        "read-in-any-generation",
        "reads are answered in any generation",
        (
            Edit(
                _ACCEPTANCE,
                "    check_generation(standing, request.scope)\n    check_voting(standing)\n    accepted",
                "    check_voting(standing)\n    accepted",
            ),
        ),
        _TEST_ACCEPTANCE,
    ),
    Mutant(
        "list-in-any-generation",
        "LIST and copies for learners are answered in any generation",
        (
            Edit(
                _STANDINGS,
                "            check_generation(standing, scope)\n            check_voting(standing)\n",
                "            check_voting(standing)\n",
            ),
        ),
        _TEST_ACCEPTOR,
    ),
    Mutant(
        "answer-after-adoption",
        "an answer leaves although the home adopted a newer generation meanwhile",
        (
            Edit(
                _STANDINGS,
                "        check_generation(standing, scope)\n"
                "        check_voting(standing)\n"
                "\n"
                "    def vouched",
                "\n    def vouched",
            ),
        ),
        _TEST_ACCEPTOR,
    ),
    Mutant(
        "copy-over-adoption",
        "a page for a learner leaves although the home adopted a newer generation meanwhile",
        (
            Edit(
                _ACCEPTOR,
                "        self.standings.vouched(request.scopes)\n        return copies",
                "        return copies",
            ),
        ),
        _TEST_ACCEPTOR,
    ),
    Mutant(
        "foreign-ballot",
        "a ballot of another generation than its message is taken",
        (Edit(_ACCEPTANCE, "if request.ballot.generation != request.scope.generation:", "if False:"),),
        _TEST_ACCEPTANCE,
    ),
)

MUTANTS: Final = (*_BALLOT_RULES, *_QUORUM_RULES, *_GENERATION_RULES)
