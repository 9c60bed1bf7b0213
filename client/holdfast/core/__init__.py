"""The SDK's decisions: what to send, what an answer means, whether to try again. No sockets, no clock, no loop."""
