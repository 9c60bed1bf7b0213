"""Some damaged stores and clusters with every run, and the planted bugs."""

from __future__ import annotations

import pytest

from tests.corruption.__main__ import damage_stores
from tests.corruption.clusters import damage_cluster
from tests.corruption.plants import PLANTS

QUICK_PLANT_STORES = 200


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_store_answers_rightly_or_not_at_all(seed: int) -> None:
    outcome = damage_stores(seed, 60)
    assert not outcome.failed
    assert outcome.unharmed < 10
    assert outcome.refused < 20


@pytest.mark.parametrize("plant", ["cells-unchecked", "bodies-unchecked", "rot-forgotten"])
def test_a_check_left_out_is_seen(plant: str) -> None:
    assert plant in PLANTS
    assert damage_stores(0, QUICK_PLANT_STORES, plant, stop=True).failed


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_cluster_is_read_whole(seed: int) -> None:
    damaged = damage_cluster(seed)
    assert not damaged.wrong
    assert damaged.strikes > 30
