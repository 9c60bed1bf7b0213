"""Bugs in giving up nodes that stay away, and in taking them back."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

_ABSENCE: Final = "node/holdfast_node/core/absence.py"
_ABSENCES: Final = "node/holdfast_node/services/absences.py"
_MOVES: Final = "node/holdfast_node/core/map_moves.py"
_CHANGES: Final = "node/holdfast_node/core/map_changes.py"
_PICTURE: Final = "node/holdfast_node/core/picture.py"
_INBOUND: Final = "node/holdfast_node/services/link/inbound.py"
_NODE: Final = "node/holdfast_node/services/node.py"
_GUARD: Final = "node/holdfast_node/adapters/rpc/guard.py"
_STATUS: Final = "node/holdfast_node/services/status.py"

_TEST: Final = "tests/unit/test_absence.py"
_TEST_PICTURE: Final = "tests/unit/test_picture.py"
_TEST_SIM: Final = "tests/sim/test_absences.py"
_TEST_LINK: Final = "tests/unit/test_link_streams.py"

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
                "patience.limit_s(len(silent))",
                "patience.limit_s(1)",
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
                "for node in silent if node.kept)",
                "for node in silent if False)",
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
        "put-off-though-moved",
        "what waits for a dead node goes on waiting although its shards belong to another by now",
        (
            Edit(
                "node/holdfast_node/services/healer.py",
                "            self._moved_epoch = topology.map.unsettled_epoch\n            self._order.hasten()\n",
                "            self._moved_epoch = topology.map.unsettled_epoch\n",
            ),
        ),
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
    Mutant(
        "kept-for-ever",
        "a node whose leaving was cancelled is never given up again, though it has been back long since",
        (
            Edit(
                _ABSENCE,
                "return node.state is StoreState.LOST or node.kept",
                "return node.state is StoreState.LOST",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "kept-until-the-next-change",
        "that an operator has a node waited for is forgotten",
        (Edit(_MOVES, "state, kept=state is StoreState.ACTIVE)", "state)"),),
        _TEST,
    ),
    Mutant(
        "moves-wait-for-the-dead",
        "a move whose newcomer is gone stays open, and nothing else can begin",
        (
            Edit(
                _MOVES,
                "    pools = not_waiting_for(current, stores)\n",
                "    pools = current.pools\n",
            ),
        ),
        _TEST_SIM,
    ),
    Mutant(
        "ended-moves-unseen",
        "heal does not look where a move ended because its newcomer was gone",
        (
            Edit(
                _CHANGES,
                "pools.append(replace(after, moved_epoch=next_epoch(current)) if moved else pool)",
                "pools.append(after)",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "recode-ended-by-silence",
        "a change of code goes back where a store that has to learn is silent",
        (Edit(_CHANGES, "if not entry.moving or entry.shards or set(", "if not entry.moving or set("),),
        _TEST,
    ),
    Mutant(
        "suspect-leads",
        "a suspect voter that is up is left to decide, and does nothing",
        (
            Edit(
                _ABSENCE,
                "(voter for voter in topology.map.voters if voter in topology.active)",
                "iter(topology.map.voters)",
            ),
        ),
        _TEST_SIM,
    ),
    Mutant(
        "asking-is-standing-still",
        "whoever asked for votes in vain for some seconds begins to count anew",
        (Edit(_ABSENCES, "            self._looked_s = min(", "            _ = min("),),
        _TEST_SIM,
    ),
    Mutant(
        "stale-sightings",
        "who stood still tells how long others were silent meanwhile, if asked at once",
        (
            Edit(
                _ABSENCES,
                "if topology is None or now_s > self._looked_s + LOOK_S + STOOD_STILL_S:",
                "if topology is None:",
            ),
        ),
        _TEST_SIM,
    ),
    Mutant(
        "several-sooner-than-one",
        "several nodes are given up sooner than one would be",
        (Edit(_ABSENCE, "max(self.node_s, self.several_s) if", "self.several_s if"),),
        _TEST,
    ),
    Mutant(
        "several-lost-for-ever",
        "where single nodes are never given up, those that were with others are not taken back",
        (Edit(_ABSENCE, "return self.node_s or self.several_s", "return self.node_s"),),
        _TEST,
    ),
    Mutant(
        "suspect-back-without-a-share",
        "a store in the place of a suspect one whose homes had gone to others is a member without a share, for ever",
        (Edit(_CHANGES, "if node.state is StoreState.SUSPECT and node.store not in homes:", "if False:"),),
        _TEST,
    ),
    Mutant(
        "room-on-the-whole",
        "what moves fits the others together, and not the one that is given most of it",
        (
            Edit(
                _PICTURE,
                "elif gained and account.used_bytes + gained > fill * account.capacity_bytes:",
                "elif gained > sum(fill * a.capacity_bytes - a.used_bytes for a in self._accounts.values()):",
            ),
        ),
        _TEST_PICTURE,
    ),
    Mutant(
        "unknown-is-empty",
        "a partition of which nobody tells how much is in it counts as empty when others are to take it over",
        (Edit(_PICTURE, "before + more if known and before >= 0 else -1", "before + more"),),
        _TEST_PICTURE,
    ),
    Mutant(
        "one-code-for-all-pools",
        "room is counted as if every pool had the code of the first",
        (
            Edit(
                _PICTURE,
                "k = parse_code(pool.code).k\n            for",
                "k = parse_code(after.pools[0].code).k\n            for",
            ),
        ),
        _TEST_PICTURE,
    ),
    Mutant(
        "lost-and-voteless",
        "a lost node that is up and cannot vote is said to take a share again soon",
        (
            Edit(
                _PICTURE,
                '    if not node.voting:\n        return f"{node.name} is back',
                '    if False:\n        return f"{node.name} is back',
            ),
        ),
        _TEST_PICTURE,
    ),
    Mutant(
        "no-room-needed",
        "nobody asks whether the others have room",
        (Edit(_ABSENCES, "        picture.refuse_without_room(after, FILL_MAX)\n", ""),),
        _TEST_SIM,
    ),
    Mutant(
        "told-though-not-done",
        "nodes are told to be given up although the map had changed and they were not",
        (Edit(_ABSENCES, "return decided is after", "return True"),),
        _TEST_SIM,
    ),
    Mutant(
        "moves-wait-for-the-suspect",
        "a move stays open for ever whose newcomer turns out to be a rolled-back store, and nothing else can begin",
        (Edit(_CHANGES, "    pools = not_waiting_for(current, {store})\n", "    pools = current.pools\n"),),
        _TEST,
    ),
    Mutant(
        "failed-store-serves-on",
        "a node whose store has failed keeps the streams it has, and counts as up",
        (Edit(_INBOUND, "            self.leave(failed)\n", "            pass\n"),),
        _TEST_LINK,
    ),
    Mutant(
        "failed-store-greets",
        "a node whose store has failed takes new streams",
        (Edit(_INBOUND, "                raise failed\n", "                pass\n"),),
        _TEST_LINK,
    ),
    Mutant(
        "failed-store-is-secret",
        "the link does not know that the store has failed",
        (Edit(_NODE, "failure=lambda: store.failure,", 'failure=lambda: "",'),),
        _TEST_SIM,
    ),
    Mutant(
        "failed-store-works-on",
        "the background work goes on without a store",
        (Edit(_NODE, "            _ = task.cancel()\n", "            pass\n"),),
        _TEST_SIM,
    ),
    Mutant(
        "failed-store-keeps-its-callers",
        "a node whose store has failed takes calls, and fails them one after the other",
        (Edit(_GUARD, "        if needs_store(method) and (", "        if not needs_store(method) and ("),),
        "tests/integration/test_rpc_port.py",
    ),
    Mutant(
        "silence-unexplained",
        "status does not say why a node is down, though it said so itself",
        (Edit(_STATUS, "replies(answers, NodeStatus), _silence(answers))", "replies(answers, NodeStatus))"),),
        _TEST_SIM,
    ),
)
