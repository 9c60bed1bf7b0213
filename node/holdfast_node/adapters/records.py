"""Record bodies in protobuf, to and from types of the core."""
