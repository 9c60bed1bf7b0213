"""The world: one library, one home. Adapters implement `ports` and do not know each other."""
