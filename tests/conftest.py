"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("SRCTD_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def data() -> Path:
    """Real scans; tests that need them skip, visibly, where they are not at hand."""
    if not DATA.is_dir():
        pytest.skip(f"no real scans at {DATA}; SRCTD_TEST_DATA names another place")
    return DATA
