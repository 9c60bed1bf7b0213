"""Bugs in what a register becomes and what a caller is told: requests, versions, floors, lists, failed attempts."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Aim, Edit, Mutant

_ACCEPTANCE: Final = "node/holdfast_node/core/acceptance.py"
_LISTING: Final = "node/holdfast_node/core/listing.py"
_PROPOSAL: Final = "node/holdfast_node/core/proposal.py"
_PUT: Final = "node/holdfast_node/services/put.py"
_READING: Final = "node/holdfast_node/services/reading.py"
_REGISTER: Final = "node/holdfast_node/core/register.py"
_REGISTERS: Final = "node/holdfast_node/services/registers.py"

_TEST_ACCEPTANCE: Final = "tests/unit/test_register_acceptance.py"
_TEST_ASKING: Final = "tests/unit/test_asking.py"
_TEST_PROPOSAL: Final = "tests/unit/test_register_proposal.py"
_TEST_REGISTER: Final = "tests/unit/test_register.py"
_TEST_SERVICES: Final = "tests/properties/test_register_services.py"

_MESSAGES: Final = Aim(("messages", "partition", "crash", "pause"))
_LATE: Final = Aim(("messages", "partition", "crash", "pause", "late"), clients=6, keys=1, rounds=20)

_ASKING_RULES: Final = (
    Mutant(
        "mistake-waits-for-ever",
        "who asked is not told that an answer could not be taken in",
        (
            Edit(
                "node/holdfast_node/services/fanout.py",
                "            if asker.done():\n                raise\n            asker.set_exception(error)\n",
                "            raise error\n",
            ),
        ),
        _TEST_ASKING,
    ),
    Mutant(
        "sent-and-unread-is-nothing",
        "a promise that cannot be read ends a write as if nothing had been sent before",
        (
            Edit(
                _REGISTERS,
                "operation, effects)\n        except HoldfastError as error:\n            raise self._give_up(error)",
                "operation, effects)\n        except HoldfastError as error:\n            raise error",
            ),
        ),
        _TEST_ASKING,
    ),
    Mutant(
        "unreadable-is-unanswered",
        "an answer that cannot be read for a reason nobody foresaw is none",
        (
            Edit(
                "node/holdfast_node/services/link/outbound.py",
                "            return Failed(request.store, InternalError(what))",
                "            raise",
            ),
        ),
        "tests/unit/test_link_streams.py",
    ),
)

_OPERATION_RULES: Final = (
    Mutant(
        "skip-r5",
        "a request is not looked for among those applied",
        (Edit(_REGISTER, "for applied in current.recent:", "for applied in current.recent[:0]:"),),
        _TEST_REGISTER,
        _MESSAGES,
    ),
    Mutant(
        "dedupe-last",
        "only the last applied write is remembered",
        (Edit(_REGISTER, "for applied in current.recent:", "for applied in current.recent[-1:]:"),),
        _TEST_REGISTER,
        _MESSAGES,
    ),
    Mutant(
        "no-recent",
        "applied writes are not written down",
        (Edit(_REGISTER, "        recent=recent,\n", "        recent=(),\n"),),
        _TEST_REGISTER,
        _MESSAGES,
    ),
    Mutant(
        "condition-before-request",
        "the condition is looked at before the request: its own retry fails it",
        (
            Edit(
                _REGISTER,
                "    for applied in current.recent:\n",
                "    if (early := _condition(current, operation)) is not None:\n"
                "        return Refuse(early, settled=True)\n"
                "    for applied in current.recent:\n",
            ),
        ),
        _TEST_REGISTER,
    ),
    Mutant(
        "recent-forgotten-early",
        "an applied write is forgotten once one home, not a majority, refuses its stamp",
        (Edit(_PROPOSAL, "era=eras[self._roster.quorum - 1]", "era=eras[0]"),),
        _TEST_PROPOSAL,
    ),
    Mutant(
        "no-stamp-check",
        "homes take operations of any era",
        (Edit(_ACCEPTANCE, "if refused(request.stamp, standing.era):", "if False:"),),
        _TEST_ACCEPTANCE,
    ),
    Mutant(
        "stamp-off-by-one",
        "the stamp just before the current era is refused, too",
        (Edit(_REGISTER, "return stamp < era - 1", "return stamp < era"),),
        _TEST_ACCEPTANCE,
    ),
    Mutant(
        "version-floor-ignored",
        "an absent key begins at version 1 again",
        (
            Edit(
                _REGISTER,
                "Version(max(current.version, floor) + 1)",
                "Version(current.version + 1)",
            ),
        ),
        _TEST_REGISTER,
    ),
    Mutant(
        "version-stands-still",
        "an overwrite keeps the version",
        (Edit(_REGISTER, "current.version, floor) + 1)", "current.version, floor, 1))"),),
        _TEST_REGISTER,
    ),
    Mutant(
        "fence-off-by-one",
        "a base at the fence is not above it and is let through",
        (Edit(_REGISTER, "operation.base <= current.fence", "operation.base < current.fence"),),
        _TEST_REGISTER,
    ),
    Mutant(
        "floor-off-by-one",
        "a base at the partition's floor is let through",
        (Edit(_REGISTER, "operation.base <= facts.ballot_floor", "operation.base < facts.ballot_floor"),),
        _TEST_REGISTER,
    ),
    Mutant(
        "ballot-floor-off-by-one",
        "an accept at the ballot floor of a forgotten key is taken",
        (Edit(_ACCEPTANCE, "request.ballot <= floor", "request.ballot < floor"),),
        _TEST_ACCEPTANCE,
    ),
    Mutant(
        "prepare-ignores-floor",
        "a prepare under the ballot floor of a forgotten key is promised",
        (Edit(_ACCEPTANCE, "for b in (promised, standing.ballot_floor)", "for b in (promised,)"),),
        _TEST_ACCEPTANCE,
    ),
    Mutant(
        "condition-ignored",
        "put-if-absent overwrites",
        (Edit(_REGISTER, "if operation.if_absent and current.kind", "if False and current.kind"),),
        _TEST_REGISTER,
    ),
    Mutant(
        "no-tombstone",
        "a delete forgets the key",
        (
            Edit(
                _REGISTER,
                "    put = operation.kind is OperationKind.PUT\n",
                "    put = operation.kind is OperationKind.PUT\n"
                "    if not put:\n"
                "        return Change(ABSENT_HEAD)\n",
            ),
            Edit(_REGISTER, "import Applied, Ballot,", "import ABSENT_HEAD, Applied, Ballot,"),
        ),
        _TEST_REGISTER,
        _MESSAGES,
    ),
    Mutant(
        "absence-is-no-difference",
        "a key that one home of a LIST lacks is not settled",
        (Edit(_LISTING, "if alike and len(rows) == reporters.get(first.partition) else", "if alike else"),),
        "tests/unit/test_listing.py",
    ),
    Mutant(
        "list-believes-the-first",
        "homes of a LIST that disagree about a key are not settled",
        (Edit(_LISTING, "first if alike and len(rows)", "first if len(rows)"),),
        "tests/unit/test_listing.py",
    ),
    Mutant(
        "list-beyond-the-page",
        "a LIST believes absence beyond the end of an unfinished page",
        (Edit(_LISTING, "last = min(ends, default=None)", "last = max(ends, default=None)"),),
        "tests/unit/test_listing.py",
    ),
    Mutant(
        "list-shows-the-deleted",
        "a LIST shows tombstones",
        (Edit(_LISTING, "if row.kind != HeadKind.BLOB:", "if row.kind == HeadKind.ABSENT:"),),
        "tests/unit/test_listing.py",
    ),
)

_ATTEMPT_RULES: Final = (
    Mutant(
        "readers-time-counts",
        "the time a reader takes for what it was given counts as a node's silence",
        (
            Edit(
                "client/holdfast/aio/downloads.py",
                "        self._course.waited(self._transport.now() - self._given_at)\n",
                "",
            ),
        ),
        "tests/unit/test_sdk_retry.py",
    ),
    Mutant(
        "sources-time-counts",
        "the time a source takes for its next bytes counts as a node's silence",
        (
            Edit(
                "client/holdfast/aio/uploads.py",
                "            course.waited(self._transport.now() - asked_at)\n",
                "",
            ),
        ),
        "tests/unit/test_sdk_retry.py",
    ),
    Mutant(
        "rest-of-a-pipe",
        "a pipe under a path is opened again after a failed try, and its rest taken for all of it",
        (
            Edit(
                "client/holdfast/aio/sources.py", "self.rewindable = path.is_file()", "self.rewindable = True"
            ),
        ),
        "tests/unit/test_careful_files.py",
    ),
    Mutant(
        "nothing-yet-is-the-end",
        "a file without anything to read now is taken for one that has ended",
        (
            Edit(
                "client/holdfast/aio/sources.py",
                'await aside(self._read)) != b"":',
                "await aside(self._read)):",
            ),
        ),
        "tests/unit/test_careful_files.py",
    ),
    Mutant(
        "part-opened-late",
        "a download that was cancelled while its file was being made leaves it",
        (Edit("client/holdfast/aio/files.py", "            if not self._left:\n", "            if True:\n"),),
        "tests/unit/test_careful_files.py",
    ),
    Mutant(
        "anybodys-directories",
        "a local cluster that cannot be made removes directories that were there before",
        (Edit("client/holdfast/testing/local.py", "                self._refuse_what_is_there()\n", ""),),
        "tests/unit/test_careful_files.py",
    ),
    Mutant(
        "undo-window-unread",
        "the undo window of the configuration file is checked and not used",
        (Edit("node/holdfast_node/app.py", "            undo_seconds=self._config.undo.window_s,\n", ""),),
        "tests/unit/test_careful_files.py",
    ),
    Mutant(
        "drop-after-failure",
        "staged shards are dropped after a failure although an accept was sent",
        (Edit(_PUT, "if not staged.attempt.accept_sent:", "if True:"),),
        "tests/unit/test_put_outcomes.py",
        _LATE,
    ),
    Mutant(
        "drop-after-handing-on",
        "staged shards are dropped although a steward that was asked may still name them",
        (
            Edit(
                _REGISTERS,
                "return self._proposal.accept_sent or self._forwarded",
                "return self._proposal.accept_sent",
            ),
        ),
        "tests/unit/test_forwarding.py",
    ),
    Mutant(
        "certain-after-accept",
        "a failure after an accept was sent is told as certain",
        (Edit(_PROPOSAL, "if not self.accept_sent:", "if True:"),),
        _TEST_PROPOSAL,
    ),
    Mutant(
        "refusal-is-final",
        "a refusal is told as certain although a steward may still carry the write out",
        (Edit(_REGISTERS, "raise self._refusal(rest.error)", "raise rest.error"),),
        "tests/sim/test_found_bugs.py",
    ),
    Mutant(
        "read-without-finishing",
        "a value that too few homes show is answered without being finished",
        (
            Edit(
                _READING,
                "            polls += 1\n",
                "            shown = [view for view in poll.views.values() if view.head]\n"
                "            if shown:\n"
                "                seen = self._codec.decode(Head, shown[0].head)\n"
                "                return Reading(seen, shown[0].ballot, {}, frozenset())\n"
                "            polls += 1\n",
            ),
        ),
        _TEST_SERVICES,
    ),
    Mutant(
        "closed-door-hidden",
        "whoever has lost its quorum does not wait for who may say that the bucket is closed",
        (
            Edit(
                "node/holdfast_node/core/proposal.py",
                "            if refusals and self._outstanding():\n                return None\n",
                "",
            ),
        ),
        "tests/unit/test_register_proposal.py",
    ),
    Mutant(
        "nothing-unread",
        "a reader takes an absent head that was decided once more for one that nobody has sent",
        (Edit(_READING, "is None or agreed.head_hash == _HASH_OF_NOTHING:", "is None:"),),
        "tests/unit/test_broken_registers.py",
    ),
    Mutant(
        "unread-base",
        "a long upload does not read its register first: its base is under a fence",
        (
            Edit(
                _PUT,
                "            await self._path.registers.read(place.pool, place.bucket, place.key)\n"
                "            staged = self._putter.begin",
                "            staged = self._putter.begin",
            ),
        ),
        "tests/unit/test_put_outcomes.py",
    ),
)

MUTANTS: Final = (*_OPERATION_RULES, *_ATTEMPT_RULES, *_ASKING_RULES)
