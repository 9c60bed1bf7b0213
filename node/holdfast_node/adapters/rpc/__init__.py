"""gRPC: the only home of grpc in the node. Messages become types of the core here and nowhere above."""
