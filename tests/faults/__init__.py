"""The same processes killed, wiped, corrupted and filled while a checked workload runs."""
