"""Each rule sees the violation planted for it, and lets the innocent pass."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.tidy import rules
from tests.tidy.rules import MODULE_RULES, TEXT_RULES, Module

ROOT = Path(__file__).resolve().parents[2]
RUFF = Path(sys.executable).with_name("ruff")

GOOD = '''"""A module."""

import asyncio


def function(self, a, b, *, c, d, e, f, option=None, other=False):
    queue = asyncio.Queue(8)
    lock = asyncio.Semaphore(value=2)
    asyncio.sleep(0)
'''

BAD: list[tuple[Callable[[Module], Iterator[str]], str]] = [
    (rules.functions_are_short, "async def f():\n" + "    x = 1\n" * 70),
    (rules.parameters_are_few, "class C:\n    def f(self, a, b, c, /, d, *, e, f, g): ..."),
    (rules.modules_are_short, "x = 1\n" * 501),
    (rules.modules_say_what_they_are, "x = 1"),
    (rules.modules_say_what_they_are, '"""  """'),
    (rules.queues_have_a_number, "q = asyncio.Queue()"),
    (rules.queues_have_a_number, "q = asyncio.Queue[int]()"),
    (rules.queues_have_a_number, "s = Semaphore()"),
    (rules.tests_do_not_sleep, "time.sleep(1)"),
    (rules.tests_do_not_sleep, "async def f(): await asyncio.sleep(0.1)"),
    (rules.tests_do_not_sleep, "from time import sleep as nap\nnap(1)"),
    (rules.nothing_is_mocked, "from unittest import mock"),
    (rules.nothing_is_mocked, "import unittest.mock"),
    (rules.nothing_is_mocked, "from unittest.mock import MagicMock"),
    (rules.names_use_our_words, "class ShardFragments: ..."),
    (rules.names_use_our_words, "def f(commit_timestamp): ..."),
    (rules.names_use_our_words, "master_node: int = 1"),
]


@pytest.mark.parametrize(("rule", "text"), BAD, ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_violation_is_seen(rule: Callable[[Module], Iterator[str]], text: str) -> None:
    (found,) = rule(Module("tests/unit/bad.py", text))
    assert found.startswith("tests/unit/bad.py:")


def test_every_rule_has_a_bad_sample() -> None:
    assert {rule for rule, _ in BAD} == set(MODULE_RULES)


@pytest.mark.parametrize("rule", MODULE_RULES, ids=lambda rule: rule.__name__)
def test_the_innocent_pass(rule: Callable[[Module], Iterator[str]]) -> None:
    assert not list(rule(Module("tests/unit/good.py", GOOD)))


@pytest.mark.parametrize(
    "path", ["tests/sim/loop.py", "tests/faults/support/wait.py", "node/holdfast_node/app.py"]
)
def test_sleep_is_for_those_who_wait_for_conditions(path: str) -> None:
    assert not list(rules.tests_do_not_sleep(Module(path, "time.sleep(1)")))


@pytest.mark.parametrize("name", ["string", "ringing", "mastering", "bring", "frag"])
def test_a_word_within_a_word_is_another_word(name: str) -> None:
    assert not list(rules.names_use_our_words(Module("x.py", f"def {name}(): ...")))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (rules.no_registry_is_named, "--index-url https://" + "pypi" + ".org/simple"),
        (rules.no_registry_is_named, "https://files.python" + "hosted.org/x"),
        (rules.the_project_stands_alone, "written with Clau" + "de"),
        (rules.the_project_stands_alone, "see ../shared/" + "design/README.md"),
    ],
)
def test_a_planted_name_is_seen(rule: Callable[[str, str], Iterator[str]], text: str) -> None:
    assert rule in TEXT_RULES
    (found,) = rule("docs/x.md", f"fine\n{text}\n")
    assert found.startswith("docs/x.md:2: ")


def test_a_hidden_module_is_seen() -> None:
    (found,) = rules.one_module_one_name(["a/x/__init__.py", "a/x.py", "a/y.py", "a/__init__.py"])
    assert found.startswith("a/x.py: ")


BANNED = [
    ("import asyncio\nasyncio.create_task(f())", "TaskGroup"),
    ("import asyncio\nasyncio.ensure_future(f())", "TaskGroup"),
    ("import asyncio\nasyncio.to_thread(f)", "ports.Offload"),
    ("import time\ntime.monotonic()", "ports.Clock"),
    ("from time import time\ntime()", "ports.Clock"),
    ("import random\nrandom.random()", "ports.Entropy"),
    ("import os\nos.urandom(16)", "ports.Entropy"),
    ("import uuid\nuuid.uuid4()", "ports.Entropy"),
]


@pytest.mark.parametrize(("text", "replacement"), BANNED)
@pytest.mark.parametrize("layer", ["core", "services", "services/log"])
def test_what_the_simulator_cannot_replay_is_banned(text: str, replacement: str, layer: str) -> None:
    found = ruff(f"node/holdfast_node/{layer}/x.py", text)
    assert replacement in found


@pytest.mark.parametrize(
    "path", ["node/holdfast_node/adapters/x.py", "client/holdfast/x.py", "tests/unit/x.py"]
)
def test_the_bans_end_where_the_world_begins(path: str) -> None:
    assert ruff(path, "import time\ntime.monotonic()") == ""


def ruff(path: str, text: str) -> str:
    """What ruff says of the bans, under the tree's own settings, if the file were there."""
    command: list[str] = [
        str(RUFF),
        "check",
        "--no-cache",
        "--quiet",
        "--select",
        "TID251",
        "--stdin-filename",
        path,
        "-",
    ]
    return subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, check=False).stdout
