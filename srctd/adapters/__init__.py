"""The outside world: one file per neighbor, none imports another."""
