"""The types a user of the SDK sees, held by the type checkers."""
