"""Which files beside a scan a site means: marker files, and those that must be there."""

import fnmatch
import posixpath
from collections.abc import Iterable, Sequence


def fitting(names: Iterable[str], patterns: Sequence[str], own: str) -> list[str]:
    """Those names whose last part fits one of the wildcards; `{name}` in a wildcard is the scan's `own` name."""
    wanted = [pattern.replace("{name}", _escaped(own)) for pattern in patterns]
    return [
        name
        for name in names
        if any(fnmatch.fnmatchcase(posixpath.basename(name), pattern) for pattern in wanted)
    ]


def _escaped(name: str) -> str:
    """A name in which nothing is a wildcard."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
