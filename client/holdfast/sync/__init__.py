"""The synchronous shell: every call runs on the client's own event-loop thread and is waited for."""
