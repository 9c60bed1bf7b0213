"""The log of one store: volumes, the one writer, and reading it all back. Records are opaque here."""
