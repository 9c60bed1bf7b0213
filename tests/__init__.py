"""Tests of Holdfast. Packages, so that helpers can be imported by full name: `tests.sim.run`."""
