"""Bugs planted in the source on purpose: each undoes one rule, and some test must go red."""
