"""Bugs in forgetting deleted keys."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

_ACCEPTANCE: Final = "node/holdfast_node/core/acceptance.py"
_AGES: Final = "node/holdfast_node/core/ages.py"
_COMPACTOR: Final = "node/holdfast_node/services/log/compactor.py"
_CORE: Final = "node/holdfast_node/core/forgetting.py"
_FACTS: Final = "node/holdfast_node/services/log/partition_facts.py"
_FORGETTING: Final = "node/holdfast_node/services/forgetting.py"
_LEFTOVERS: Final = "node/holdfast_node/services/leftovers.py"
_LIVENESS: Final = "node/holdfast_node/core/liveness.py"
_REGISTER: Final = "node/holdfast_node/core/register.py"

_TEST: Final = "tests/unit/test_forgetting.py"
_MODEL: Final = "tests/properties/test_register_model.py"
_COMPACTION: Final = "tests/unit/test_compaction.py"

MUTANTS: Final = (
    Mutant(
        "forgets-with-a-home-away",
        "a key is forgotten by those homes that answer",
        (
            Edit(_FORGETTING, "home == self._path.me or self._path.links.is_up(home)", "True"),
            Edit(_FORGETTING, "return heard if len(heard) == len(stores) else None", "return heard"),
        ),
        _TEST,
    ),
    Mutant(
        "forgets-what-a-home-refuses",
        "a key is forgotten if a home says yes",
        (Edit(_FORGETTING, "if all(reply[number] != Word.NO", "if any(reply[number] != Word.NO"),),
        _TEST,
    ),
    Mutant(
        "forgets-without-being-told-again",
        "a home that is told to forget does not look at what it holds",
        (
            Edit(
                _FORGETTING,
                "agreed = [held for held, said in zip(request.keys, words, strict=True) if said is Word.YES]",
                "agreed = list(request.keys)",
            ),
            Edit(_FORGETTING, "self._word_of(scope, held, own) is Word.YES", "True"),
        ),
        _TEST,
    ),
    Mutant(
        "forgets-at-once",
        "a key is forgotten while an upload may be as old",
        (Edit(_CORE, "+ rest_s <= now_s", "<= now_s"),),
        _TEST,
    ),
    Mutant(
        "forgets-what-is-kept",
        "a deleted key is forgotten with the versions that an undelete would bring back",
        (
            Edit(_CORE, "return head.kind is not HeadKind.BLOB and not head.retained", "return True"),
            Edit(
                "node/holdfast_node/core/index_rows.py",
                "if value[_FLAGS_AT] & (_ACCEPTED | _RETAINS | _ROTTEN) != _ACCEPTED:",
                "if value[_FLAGS_AT] & (_ACCEPTED | _ROTTEN) != _ACCEPTED:",
            ),
            Edit(_AGES, "    if not head.retained:\n", "    if head.kind is not HeadKind.BLOB:\n"),
        ),
        _TEST,
    ),
    Mutant(
        "forgets-under-a-promise",
        "a home forgets what it has promised",
        (Edit(_CORE, "Word.YES if record.promised == record.accepted else Word.PROMISED", "Word.YES"),),
        _TEST,
    ),
    Mutant(
        "forgets-requests",
        "a key is forgotten while a request it remembers may come again",
        (
            Edit(_CORE, "not is_over(head) or remembers(head, standing.era)", "not is_over(head)"),
            Edit(_FORGETTING, "if remembers(head, self._path.topology.map.era):", "if False:"),
        ),
        _TEST,
    ),
    Mutant(
        "forgets-without-ballots",
        "a home that forgets keeps no floor for ballots",
        (
            Edit(
                _CORE,
                "return Floors(record.pool, record.partition, head.version, ballot)",
                "return Floors(record.pool, record.partition, head.version, None)",
            ),
        ),
        _MODEL,
    ),
    Mutant(
        "forgets-without-versions",
        "a home that forgets keeps no floor for versions",
        (
            Edit(
                _CORE,
                "return Floors(record.pool, record.partition, head.version, ballot)",
                "return Floors(record.pool, record.partition, 0, ballot)",
            ),
        ),
        _MODEL,
    ),
    Mutant(
        "forgets-fences",
        "a fence is forgotten, and the attempts it had ended come back",
        (Edit(_CORE, "max(record.accepted, head.fence)", "record.accepted"),),
        _MODEL,
    ),
    Mutant(
        "floor-for-all-keys",
        "a key that is there goes to a version above what others of its partition had",
        (
            Edit(
                _REGISTER,
                "facts.version_floor if current.kind is HeadKind.ABSENT else 0",
                "facts.version_floor",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "steward-forgets-first",
        "what is left at other homes is not found again",
        (
            Edit(
                _FORGETTING,
                "        others = [home for home in homes if home != self._path.me]\n",
                "        _ = await self._ask([self._path.me], request)\n"
                "        others = [home for home in homes if home != self._path.me]\n",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "era-hurried",
        "eras are raised as fast as keys wait",
        (Edit(_FORGETTING, "self._eras.ask(ERA_REST_S)", "self._eras.ask(0.0)"),),
        _TEST,
    ),
    Mutant(
        "deleted-stays-old",
        "a deleted key that was decided once more is as old as before, and its ballot is young",
        (
            Edit(
                _AGES,
                "(Age(head.version, now_s),)",
                "(Age(head.version, {a.version: a.since_s for a in known}.get(head.version, now_s)),)",
            ),
        ),
        "tests/unit/test_ages.py",
    ),
    Mutant(
        "gone-buckets-remembered",
        "registers of a deleted bucket stay for ever",
        (
            Edit(
                _FORGETTING,
                "            if await self._book.is_gone(each.bucket):\n",
                "            if False:\n",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "blank-is-garbage",
        "a forgotten key comes back from an older volume",
        (
            Edit(
                _LIVENESS,
                "return before is None or self._needs(before, index_rows.register_sequence(value))",
                "return before is None",
            ),
        ),
        _COMPACTION,
    ),
    Mutant(
        "blank-is-young",
        "the copy of a blank register does not say what it is about",
        (
            Edit(
                _COMPACTOR,
                "isinstance(body, DropRecord) or (isinstance(body, RegisterRecord) and body.is_blank)",
                "isinstance(body, DropRecord)",
            ),
        ),
        _COMPACTION,
    ),
    Mutant(
        "leftovers-kept",
        "who learns again keeps what the others have forgotten",
        (
            Edit(
                _LEFTOVERS,
                "                if is_unseen(key):\n                    _ =",
                "                if False:\n                    _ =",
            ),
        ),
        "tests/unit/test_learner.py",
    ),
    Mutant(
        "missed-under-a-floor",
        "what a home missed under a floor it never catches up on",
        (Edit(_ACCEPTANCE, "return Late(None, again_above=floor)", "return Late(None)"),),
        "tests/unit/test_following.py",
    ),
    Mutant(
        "partition-facts-at-once",
        "two that change the record of a partition undo each other",
        (
            Edit(
                _FACTS,
                "        async with self._turn:\n            bodies",
                "        if True:\n            bodies",
            ),
        ),
        "tests/unit/test_store.py",
    ),
)
