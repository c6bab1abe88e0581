"""A detector that writes scans as a real one would."""
