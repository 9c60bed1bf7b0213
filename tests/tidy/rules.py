"""The rules of docs/style.md that a machine can hold, each as a function from a module to what is wrong in it.

A rule sees one module's path and syntax tree, or one file's text, and never the disk: so each can be tried on a bad
sample, and `test_rules.py` does that for all of them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

FUNCTION_LINES_MAX: Final = 70
PARAMETERS_MAX: Final = 6
MODULE_LINES_MAX: Final = 500

_BOUNDED: Final = {"Queue", "LifoQueue", "PriorityQueue", "JoinableQueue", "Semaphore", "BoundedSemaphore"}
_MAY_SLEEP: Final = ("tests/sim/", "tests/faults/support/")
_MOCKS: Final = {"mock", "unittest.mock", "pytest_mock", "flexmock"}
_MAY_SPEAK_OTHERWISE: Final = ("node/holdfast_node/adapters/erasure",)
"""The coder's library has words of its own; its home translates them."""

# Words with a better one in docs/glossary.md. `object`, `file` and `repair` are left to review: the language and the
# operating system use them too.
_WORDS: Final = {
    "fragment": "shard or cell",
    "piece": "part, stripe, cell, shard or buffer",
    "master": "steward or voter",
    "ring": "placement",
    "timestamp": "ballot, stamp or store time",
}

# Spelled in halves, so that this file does not break its own rules.
_HOSTS: Final = (
    "pypi" + r"\.org",
    "python" + r"hosted\.org",
    "npm" + r"js\.(?:org|com)",
    "anaconda" + r"\.org",
)
_STRANGERS: Final = (
    "anth" + "ropic",
    "clau" + "de",
    "open" + "ai",
    "chat" + "gpt",
    "co" + "pilot",
    "gem" + "ini",
    "co" + "dex",
    "shared/" + "design",
)
_HOST: Final = re.compile("|".join(_HOSTS), re.IGNORECASE)
_STRANGER: Final = re.compile(rf"\b(?:{'|'.join(_STRANGERS)})\b", re.IGNORECASE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Module:
    """One Python file: its path from the root, with slashes, and its text."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        """The syntax tree; a file that does not parse is pytest's business."""
        return ast.parse(self.text, self.path)


def functions_are_short(module: Module) -> Iterator[str]:
    """Two screens at most: what is longer has a part with a name."""
    for function in _functions(module):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            yield _at(module, function, f"{function.name} has {lines} lines, at most {FUNCTION_LINES_MAX}")


def parameters_are_few(module: Module) -> Iterator[str]:
    """What a call has to supply, without self and cls: values that travel together are a type.

    Options (keyword-only, with a default) do not count: a call that does not need one does not show it.
    """
    for function in _functions(module):
        arguments = function.args
        required = [
            argument
            for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            if default is None
        ]
        named = [*arguments.posonlyargs, *arguments.args, *required]
        count = sum(argument.arg not in {"self", "cls"} for argument in named)
        if count > PARAMETERS_MAX:
            yield _at(module, function, f"{function.name} has {count} parameters, at most {PARAMETERS_MAX}")


def modules_are_short(module: Module) -> Iterator[str]:
    """A longer one knows two things."""
    lines = module.text.count("\n")
    if lines > MODULE_LINES_MAX:
        yield f"{module.path}: {lines} lines, at most {MODULE_LINES_MAX}"


def modules_say_what_they_are(module: Module) -> Iterator[str]:
    """The first docstring says what the module is, and what it refuses to know."""
    if not (ast.get_docstring(module.tree) or "").strip():
        yield f"{module.path}: no docstring at the top of the module"


def queues_have_a_number(module: Module) -> Iterator[str]:
    """Everything has a limit: an unbounded queue is memory that nobody counted."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call) or node.args or node.keywords:
            continue
        name = _called(node).rpartition(".")[2]
        if name in _BOUNDED:
            yield _at(module, node, f"{name}() without a number")


def tests_do_not_sleep(module: Module) -> Iterator[str]:
    """A test waits for a condition, with a limit. `sleep(0)` lets the loop turn and is no wait."""
    if not module.path.startswith("tests/") or module.path.startswith(_MAY_SLEEP):
        return
    slept = {
        alias.asname or alias.name
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.module in {"time", "asyncio"}
        for alias in node.names
        if alias.name == "sleep"
    }
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and _called(node) in {"time.sleep", "asyncio.sleep", *slept}:
            if isinstance(node.args[0], ast.Constant) and node.args[0].value == 0:
                continue
            yield _at(module, node, "sleeps; wait for a condition (tests/faults/support)")


def nothing_is_mocked(module: Module) -> Iterator[str]:
    """Ports have fakes that keep their contract; a mock keeps whatever the test hoped."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            imported = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported = {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        else:
            continue
        if imported & _MOCKS:
            yield _at(module, node, "imports a mock library; write a fake of the port")


def names_use_our_words(module: Module) -> Iterator[str]:
    """One word, one meaning: the glossary's."""
    if module.path.startswith(_MAY_SPEAK_OTHERWISE):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = node.name
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        else:
            continue
        for word in _words(name):
            if word in _WORDS:
                yield _at(module, node, f'"{name}": say {_WORDS[word]}, not {word}')


def no_registry_is_named(path: str, text: str) -> Iterator[str]:
    """Where packages come from is the machine's business, not the tree's."""
    yield from _matches(_HOST, path, text, "names a package registry")


def the_project_stands_alone(path: str, text: str) -> Iterator[str]:
    """The tree tells what the product is, not which tools or papers its makers had at hand."""
    yield from _matches(_STRANGER, path, text, "names something outside the project")


def one_module_one_name(paths: list[str]) -> Iterator[str]:
    """`x.py` beside a package `x` is never imported: the package wins, silently."""
    packages = {str(PurePosixPath(path).parent) for path in paths if path.endswith("/__init__.py")}
    for path in paths:
        if path.removesuffix(".py") in packages:
            yield f"{path}: hidden by the package of the same name"


MODULE_RULES: Final = (
    functions_are_short,
    parameters_are_few,
    modules_are_short,
    modules_say_what_they_are,
    queues_have_a_number,
    tests_do_not_sleep,
    nothing_is_mocked,
    names_use_our_words,
)
TEXT_RULES: Final = (no_registry_is_named, the_project_stands_alone)


def _functions(module: Module) -> Iterator[Function]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _called(call: ast.Call) -> str:
    """`asyncio.Queue` of `asyncio.Queue[int]()`; empty for what is not a plain dotted name."""
    target = call.func.value if isinstance(call.func, ast.Subscript) else call.func
    return ast.unparse(target) if isinstance(target, ast.Name | ast.Attribute) else ""


def _words(name: str) -> list[str]:
    """`StoreTimestamps` -> store, timestamp."""
    return [word.lower().removesuffix("s") for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def _matches(pattern: re.Pattern[str], path: str, text: str, says: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), start=1):
        if found := pattern.search(line):
            yield f"{path}:{number}: {says}: {found[0]}"


def _at(module: Module, node: ast.stmt | ast.expr | ast.arg, says: str) -> str:
    return f"{module.path}:{node.lineno}: {says}"
