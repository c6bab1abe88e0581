"""Names of files in a copy: those that some file systems cannot hold, or cannot tell apart, get another one."""

from collections.abc import Mapping


class StoredNames:
    """What the files of one scan are called in its copy: the same whenever it is asked, also after a restart."""

    def __init__(self, stored: Mapping[str, str], *, portable: bool) -> None:
        """`stored`: path -> name in the copy, of files that were copied before. Not `portable`: names stay."""
        self._stored = dict(stored)
        self._portable = portable

    def of(self, path: str) -> str:
        """Name in the copy of a file, by its path relative to the scan's folder."""
        return self._stored.setdefault(path, path)
