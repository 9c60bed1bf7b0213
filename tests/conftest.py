"""What all tests share. Fixtures of one kind of test live beside them."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Two machines with different speed must agree: no deadlines, and CI derives every example from the test itself, so a
# red run is red again. `HYPOTHESIS_PROFILE=long` searches for an evening.
settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "long", deadline=None, max_examples=20_000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
