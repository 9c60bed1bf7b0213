"""How many files a node may open: as many as it is allowed, and it says when those are few."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from holdfast_node import app
from holdfast_node.adapters.system import raise_open_files
from holdfast_node.config import load
from tests.sim.entropy import SimEvents

EXAMPLE: Final = Path(__file__).parents[2] / "cluster.example.toml"


@pytest.fixture(autouse=True)
def limits() -> Iterator[tuple[int, int]]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield soft, hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_node_may_open_as_many_files_as_it_is_allowed(limits: tuple[int, int]) -> None:
    soft, hard = limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - 1), hard))
    app.claim_files(load(EXAMPLE), SimEvents())
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


def test_a_node_that_may_not_raise_its_limit_goes_on_with_what_it_has(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int]
) -> None:
    """As where the kernel's own limit was lowered since, or in a sandbox."""

    def forbidden(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", forbidden)
    assert raise_open_files() == limits[0]
    monkeypatch.undo()


@pytest.mark.parametrize(("allowed", "told"), [(900, ["few_open_files"]), (1024, [])])
def test_a_node_says_when_it_is_allowed_few(
    monkeypatch: pytest.MonkeyPatch, allowed: int, told: list[str]
) -> None:
    def few() -> int:
        return allowed

    monkeypatch.setattr(app, "raise_open_files", few)
    events = SimEvents()
    app.claim_files(load(EXAMPLE), events)
    assert [event for event, _ in events.seen] == told
