"""What two processes must agree about. Generated code beside its .proto files; never edited."""
