"""Long random walks through scenes too large to exhaust: more homes, more proposers, more ballots, a reader.

Hypothesis chooses the walks; what fails is a seed and the way there.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.properties.register_exploring import check, path
from tests.properties.register_invariants import Violation
from tests.properties.register_model import Rules, Scene, State, beginning, moves
from tests.properties.register_samples import delete, put
from tests.properties.test_register_model import NeverCompletes

WALKS = int(os.environ.get("HOLDFAST_WALKS", "150"))
STEPS_MAX = 200

SCENES = (
    Scene((put("u1"), delete("u2"), put("u3", if_absent=True)), (3, 2, 2), homes=5, losses=4, existing=True),
    Scene((put("u1", "a"), put("u1", "b"), put("u2", if_version=1)), (2, 2, 2), homes=4, existing=True),
    Scene((put("u1"), put("u2"), put("u3"), delete("u4")), (2, 2, 2, 2), homes=6, losses=4, reader=True),
)
SEEDS = st.integers(0, 2**32)


def walk(scene: Scene, seed: int) -> int:
    """Take one of the possible steps after another; every state passed through is checked. How many were taken."""
    chooser = random.Random(seed)
    state = beginning(scene)
    taken = 0
    while taken < STEPS_MAX and (possible := moves(scene, state)):
        following = list(chooser.choice(possible)())
        if not following or (_gives_up(following[0]) and chooser.random() < 0.7):
            if all(answer is not None for answer in state.answers) and not any(state.network):
                break
            taken += 1
            continue
        state = chooser.choice(following)
        taken += 1
        try:
            check(scene, state)
        except Violation as violation:
            raise Violation(f"seed {seed}: {violation}\n{path(state.trail)}") from None
    return taken


def _gives_up(state: State) -> bool:
    return state.trail is not None and "gives the ballot up" in state.trail[1]


@pytest.mark.parametrize("scene", SCENES)
@settings(max_examples=WALKS, deadline=None)
@given(seed=SEEDS)
def test_long_walks_keep_the_promises(scene: Scene, seed: int) -> None:
    assert walk(scene, seed) > 10


def test_walks_find_a_planted_bug() -> None:
    scene = replace(SCENES[2], rules=Rules(proposal=NeverCompletes))

    def search() -> None:
        for seed in range(20_000):
            _ = walk(scene, seed)

    with pytest.raises(Violation):
        search()
