"""Measurements of a local cluster; `make bench` prints the table."""
