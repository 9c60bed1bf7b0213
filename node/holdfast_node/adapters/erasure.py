"""The erasure codes: the only home of pyeclib."""
