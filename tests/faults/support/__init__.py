"""Helpers of the fault tests; the only place outside the simulator that may wait by sleeping."""
