"""Many requests over few streams: frames, request ids, batches, credits, heartbeats. Does not know its carrier."""
