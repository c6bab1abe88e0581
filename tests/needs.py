"""What a test needs of the machine: where it is missing the test skips visibly, and with CI=true it fails."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


def program(name: str) -> str:
    """Path of a program."""
    path = shutil.which(name)
    if path is None:
        missing(f"{name} is not installed")
    return str(path)


def root() -> None:
    """The right to mount and to start containers."""
    if os.geteuid() != 0:
        missing("not root")


def missing(what: str) -> None:
    """Skip, or fail where everything is supposed to be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI=true, but {what}")
    pytest.skip(what)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything, so root becomes somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
