"""Pure machines: events in, effects out, tuples compared. Microseconds each."""
