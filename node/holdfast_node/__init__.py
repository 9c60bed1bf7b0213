"""The node: one process, one store, one address."""
