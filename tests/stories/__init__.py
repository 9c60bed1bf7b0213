"""Golden transcripts of the protocols, as text files anyone can read."""
