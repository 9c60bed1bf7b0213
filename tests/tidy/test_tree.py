"""Every rule, on every file of the tree that is ours."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.tidy.rules import MODULE_RULES, TEXT_RULES, Module, one_module_one_name

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


@cache
def files() -> tuple[str, ...]:
    """Paths from the root of what is, or is about to be, in the repository; generated code excluded."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    return tuple(
        sorted(path for path in listed if path and (ROOT / path).is_file() and not path.endswith(GENERATED))
    )


@cache
def modules() -> tuple[Module, ...]:
    return tuple(Module(path, (ROOT / path).read_text()) for path in files() if path.endswith(".py"))


@pytest.mark.parametrize("rule", MODULE_RULES, ids=lambda rule: rule.__name__)
def test_modules(rule: Callable[[Module], Iterator[str]]) -> None:
    found = [violation for module in modules() for violation in rule(module)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("rule", TEXT_RULES, ids=lambda rule: rule.__name__)
def test_texts(rule: Callable[[str, str], Iterator[str]]) -> None:
    found = [
        violation
        for path in files()
        for violation in rule(path, (ROOT / path).read_bytes().decode(errors="replace"))
    ]
    assert not found, "\n".join(found)


def test_no_module_hides_another() -> None:
    found = list(one_module_one_name(list(files())))
    assert not found, "\n".join(found)


def test_the_tree_is_seen_at_all() -> None:
    assert {"pyproject.toml", "proto/generate.py", "node/holdfast_node/config/schema.py"} <= set(files())
