"""The demonstration: a real cluster loses a SAN while it is written to, and nothing that was acknowledged is lost."""
