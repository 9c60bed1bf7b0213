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
_BLANK: Final = "tests/unit/test_blank_registers.py"

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
        (Edit(_FORGETTING, "if Word.NO in words:", "if words == {Word.NO}:"),),
        _TEST,
    ),
    Mutant(
        "forgets-without-being-told-again",
        "a home that is told to forget does not look at what it holds",
        (
            Edit(
                _FORGETTING,
                "record.accepted is not None and self._word_of(scope, held, record) is Word.YES",
                "record.accepted is not None",
            ),
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
                "if value[_FLAGS_AT] & (_RETAINS | _ROTTEN):",
                "if value[_FLAGS_AT] & _ROTTEN:",
            ),
            Edit(_AGES, "    if not head.retained:\n", "    if head.kind is not HeadKind.BLOB:\n"),
        ),
        _TEST,
    ),
    Mutant(
        "promises-stay",
        "a register in which there is nothing but a promise is there for ever",
        (
            Edit(
                _FORGETTING,
                "if at in settled and is_void(each.promised, self._store.partition(*at).ballot_floor):",
                "if False:",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "void-above-the-floor",
        "a home forgets a promise that binds it",
        (
            Edit(
                _CORE,
                "promised is not None and floor is not None and promised <= floor",
                "promised is not None",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "promise-of-the-forgetful",
        "a key that one home has forgotten, and promised something since, stays with the others for ever",
        (
            Edit(
                _CORE, "is_void(promised, floor) else Word.PROMISED", "is_void(promised, floor) else Word.NO"
            ),
        ),
        _TEST,
    ),
    Mutant(
        "ageless-stays",
        "a deleted key of which no age is known is never forgotten",
        (Edit(_CORE, "default=0)", "default=now_s)"),),
        "tests/unit/test_ages.py",
    ),
    Mutant(
        "floor-untold",
        "who has no ballot above a floor is refused for ever",
        (Edit(_ACCEPTANCE, "floor=standing.ballot_floor if accepted is None else None", "floor=None"),),
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
                "return self._needs(entry.before, entry.sequence)",
                "return False",
            ),
        ),
        _BLANK,
    ),
    Mutant(
        "blank-row-goes-first",
        "a blank register that rots beside what it keeps away is taken for garbage",
        (
            Edit(
                _LIVENESS,
                "return index_rows.decode_blank(value).before <= self.first",
                "return True",
            ),
        ),
        _BLANK,
    ),
    Mutant(
        "rotten-blank-left",
        "a blank register that rotted is not written again",
        (
            Edit(
                "node/holdfast_node/services/restoring.py",
                "self._own.renew(key, blank=blank)",
                "self._own.renew(key)",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "blank-beside-its-register",
        "the row of what a register held stays where it was made blank",
        (
            Edit(
                "node/holdfast_node/core/index_updates.py",
                "        _put_register(rows, entry.key, row, None)\n",
                "        pass\n",
            ),
        ),
        "tests/unit/test_index_rows.py",
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
        _BLANK,
    ),
    Mutant(
        "leftovers-kept",
        "who learns again keeps what the others have forgotten",
        (
            Edit(
                _LEFTOVERS,
                "                    if is_unseen((held.bucket, held.key))\n",
                "                    if False\n",
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
        "forgotten-ails",
        "heal waits for ever for a head that was not decided when it heard of it, and is forgotten now",
        (
            Edit(
                "node/holdfast_node/services/heal_hands.py",
                "(reading.ballot or reading.floor or NO_BALLOT)",
                "(reading.ballot or NO_BALLOT)",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "strangers-believed",
        "a store that was a home once keeps manifests of a key that is forgotten",
        (
            Edit(
                "node/holdfast_node/services/collection.py",
                "if topology.scope(facts.pool, partition) in topology.kept_by(self._path.me):",
                "if topology.scope(facts.pool, partition) is not None:",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "partition-facts-at-once",
        "two that change the record of a partition undo each other",
        (
            Edit(
                _FACTS,
                "        async with self._turn:\n            if self._writing",
                "        if True:\n            if self._writing",
            ),
        ),
        "tests/unit/test_partition_facts.py",
    ),
    Mutant(
        "partition-facts-cancelled",
        "who stops waiting for the record of a partition lets the next one undo it",
        (Edit(_FACTS, "if self._writing is not None:", "if False:"),),
        "tests/unit/test_partition_facts.py",
    ),
)
