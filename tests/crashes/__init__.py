"""Every state that a power cut can leave of a store, as many as one has time for."""
