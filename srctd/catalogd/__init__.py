"""The embedded catalogue: SciCat's API on SQLite."""
