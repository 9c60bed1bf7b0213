"""Bytes that change behind the back of a store, a cluster, a directory: right answers or errors, nothing else."""
