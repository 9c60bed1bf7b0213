"""The Holdfast SDK: put, get, list and delete blobs. It knows the wire and nothing of the node."""
