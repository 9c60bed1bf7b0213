"""The testing kit: real clusters on this machine, for the tests of whoever uses Holdfast."""
