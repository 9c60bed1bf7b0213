"""Version 1 of the wire and of record bodies. Everything beside the .proto files is generated."""
