"""Bytes from disk and wire that mean nothing, in front of everything that reads such bytes."""
