"""Bugs in what the client and the command lines tell of what they did, and in how they end."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

_ADMIN: Final = "client/holdfast/admin.py"
_COPYING: Final = "client/holdfast/cli/copying.py"
_COMMANDS: Final = "client/holdfast_ctl/commands.py"

_REQUESTS: Final = "client/holdfast/core/requests.py"
_SHELL: Final = "client/holdfast/cli/shell.py"
_SOURCES: Final = "client/holdfast/aio/sources.py"
_PORTAL: Final = "client/holdfast/sync/portal.py"
_UPLOADS: Final = "client/holdfast/aio/uploads.py"

_TEST_ADMIN: Final = "tests/unit/test_sdk_admin.py"
_TEST_CLI: Final = "tests/unit/test_cli.py"
_TEST_CLOSING: Final = "tests/unit/test_sdk_closing.py"
_TEST_ENDINGS: Final = "tests/unit/test_cli_endings.py"
_TEST_SOURCES: Final = "tests/unit/test_sdk_sources.py"

MUTANTS: Final = (
    Mutant(
        "waits-for-the-frozen",
        "an operator's call stays with a node that stands still",
        (Edit(_ADMIN, "(PeerUnreachable, DeadlineExceeded)", "(PeerUnreachable,)"),),
        _TEST_ADMIN,
    ),
    Mutant(
        "change-asked-twice",
        "a change whose answer was lost is sent to another node",
        (Edit(_ADMIN, "            elif sent:", "            elif False:"),),
        _TEST_ADMIN,
    ),
    Mutant(
        "half-a-proof",
        "a proof that was cut short is taken for a whole one",
        (Edit(_ADMIN, "        if not finished:", "        if False:"),),
        _TEST_ADMIN,
    ),
    Mutant(
        "proof-without-end",
        "a proof names everything it found, however much",
        (Edit(_COMMANDS, "if session.output.as_json else report.ROWS_MAX", "if True else report.ROWS_MAX"),),
        _TEST_ADMIN,
    ),
    Mutant(
        "closed-means-unavailable",
        "a write under which its client was closed is told as one that was not made",
        (Edit(_PORTAL, "    client.transport.shut()\n", ""),),
        _TEST_CLOSING,
    ),
    Mutant(
        "closing-cancels-callers",
        "a client that is closed cancels the tasks that write with it",
        (
            Edit(
                _UPLOADS,
                "                with self._transport.until_shut():\n",
                "                if True:\n",
            ),
        ),
        _TEST_CLOSING,
    ),
    Mutant(
        "silence-holds-the-end-up",
        "a program does not end as long as nothing comes out of the pipe it reads",
        (Edit(_SOURCES, 'name="holdfast source", daemon=True', 'name="holdfast source", daemon=False'),),
        _TEST_ENDINGS,
    ),
    Mutant(
        "terminated-half-way",
        "SIGTERM leaves half of a download in the target's directory",
        (Edit(_SHELL, "(signal.SIGTERM, signal.SIGHUP)", "()"),),
        _TEST_ENDINGS,
    ),
    Mutant(
        "copies-of-copies",
        "`cp -r` copies a prefix into itself, and then its copies",
        (Edit(_COPYING, "_folder(target.key).startswith(_folder(source.key))", "False"),),
        _TEST_CLI,
    ),
    Mutant(
        "numbers-without-end",
        "a number that no message can hold is called a mistake of the program",
        (Edit(_REQUESTS, "if not 1 <= version <= NUMBER_MAX:", "if version < 1:"),),
        _TEST_CLI,
    ),
    Mutant(
        "not-utf8-is-a-bug",
        "an argument that is not UTF-8 is called a mistake of the program",
        (Edit(_SHELL, "if isinstance(error, UnicodeEncodeError) and any(", "if False and any("),),
        _TEST_CLI,
    ),
    Mutant(
        "tags-that-break-the-file",
        "a tag that is not UTF-8 is written into a local cluster's file, which cannot be read any more",
        (Edit("client/holdfast/testing/layout.py", '        utf8(text, "the tag")\n', "        pass\n"),),
        "tests/unit/test_local_layout.py",
    ),
    Mutant(
        "next-in-another-cluster",
        "what comes after `local lose` is said without the directory it was said with",
        (Edit("client/holdfast_ctl/local.py", '*(["--dir", root] if root else [])', "*[]"),),
        "tests/unit/test_local_hints.py",
    ),
    Mutant(
        "source-ends-the-loop",
        "what a source raises may end the loop that others use, or leave its caller waiting for ever",
        (Edit(_SOURCES, "future.set_exception, _bearable(error)", "future.set_exception, error"),),
        _TEST_SOURCES,
    ),
    Mutant(
        "source-blames-a-node",
        "what a source raises is taken for what a node said",
        (Edit(_UPLOADS, "        raise _SourceError(error) from error\n", "        raise\n"),),
        _TEST_SOURCES,
    ),
    Mutant(
        "gone-source-means-not-stored",
        "a source that cannot be read again hides that an earlier try may have been applied",
        (
            Edit(
                _UPLOADS,
                "if course.uncertain:\n                    raise",
                "if False:\n                    raise",
            ),
        ),
        _TEST_SOURCES,
    ),
    Mutant(
        "announced-is-not-sent",
        "an upload that was cut after its last byte is told as one that stored nothing",
        (Edit(_UPLOADS, "self._sent_all = 0 <= self._wanted.size <= sent.size", "pass"),),
        _TEST_SOURCES,
    ),
    Mutant(
        "hung-up-terminal-changes-status",
        "a command that ends with its terminal has another exit status",
        (Edit(_SHELL, "suppress(OSError):\n        sys", "suppress(KeyError):\n        sys"),),
        _TEST_ENDINGS,
    ),
)
