"""What is decided. Pure: no input or output, no clock, no log."""
