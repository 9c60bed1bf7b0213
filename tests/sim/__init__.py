"""Whole clusters in one thread under one seed: virtual time, lossy network, disks that crash truthfully."""
