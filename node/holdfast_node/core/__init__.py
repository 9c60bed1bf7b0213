"""Decisions: synchronous, deterministic and payload-free. No I/O, no clock, no randomness comes in here."""
