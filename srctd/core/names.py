"""Names of files in a copy: those that some file systems cannot hold, or cannot tell apart, get another one.

A copy is read from Windows and from a Mac as well, over SMB or from a disk that was carried away. There some
characters and names are forbidden, upper and lower case are one, and so are two spellings of one letter in Unicode.
"""

import hashlib
import itertools
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from unicodedata import is_normalized, normalize

LONGEST_WORD = 255
"""Bytes of a name, without the folders, that file systems take."""
LONGEST_SUFFIX = 32
"""Bytes of what is taken for a suffix, its point included."""
_FORBIDDEN = re.compile('[<>:"|?*\\\\\x00-\x1f\x7f-\x9f\ud800-\udfff]')
_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|COM[0-9¹²³]|LPT[0-9¹²³]|CONIN\$|CONOUT\$) *(\.|\Z)", re.IGNORECASE)


@dataclass(slots=True)
class _Folder:
    """The names in one folder of the scan."""

    prefix: str
    """Where it is in the copy, with a slash at the end; empty for the scan's own folder."""
    holders: dict[str, str] = field(default_factory=dict)
    """Which name of the scan took a name in the copy, by the copy's name as `caseless` has it."""
    renamed: dict[str, str] = field(default_factory=dict)
    """Name in the copy of those that got another one."""

    def keep(self, word: str, stored: str) -> bool:
        """Store a name as this from now on; False if another one has that name already."""
        if self.holders.setdefault(caseless(stored), word) != word:
            return False
        if stored != word:
            self.renamed[word] = stored
        return True

    def known(self, word: str) -> str | None:
        """What a name is stored as; None if nothing was decided."""
        return self.renamed.get(word) or (word if self.holders.get(caseless(word)) == word else None)


class StoredNames:
    """What the files of one scan are called in its copy: the same whenever it is asked, also after a restart.

    A name is kept if it can be. Where it must be changed, the new one depends on nothing but the old one, unless
    that is taken. No two files ever get one name, and what lies in one folder stays in one.
    """

    def __init__(self, stored: Mapping[str, str], *, portable: bool) -> None:
        """`stored`: path -> name in the copy, of files that were copied before. Not `portable`: names stay."""
        self._portable = portable
        self._folders = {"": _Folder("")}
        for path, name in sorted(stored.items()) if portable else ():
            self._remember(path, name)

    def of(self, path: str) -> str:
        """Name in the copy of a file, by its path relative to the scan's folder."""
        if not self._portable:
            return path
        folder, _, word = path.rpartition("/")
        holder = self._folders.get(folder) or self._folder(folder)
        return holder.prefix + _stored(holder, word)

    def _folder(self, path: str) -> _Folder:
        """A folder of the scan, with those it lies in."""
        here, holder = "", self._folders[""]
        for word in path.split("/"):
            here, above = _joined(here, word), holder
            if here not in self._folders:
                self._folders[here] = _Folder(f"{above.prefix}{_stored(above, word)}/")
            holder = self._folders[here]
        return holder

    def _remember(self, path: str, name: str) -> None:
        """Take over what was decided before, as far as it can stay: it may stem from another configuration."""
        words, stored = path.split("/"), name.split("/")
        here, holder = "", self._folders[""]
        for word, wanted in zip(words, stored, strict=False):
            known = holder.known(word)
            if known not in (None, wanted) or not is_portable(wanted) or not holder.keep(word, wanted):
                return
            here = _joined(here, word)
            holder = self._folders.setdefault(here, _Folder(f"{holder.prefix}{wanted}/"))


def may_change(paths: Iterable[str]) -> frozenset[str]:
    """Those of a scan's files that get, or in another order of copying could get, another name in the copy."""
    ordered = sorted(paths)
    changed = set()
    for order in (ordered, ordered[::-1]):
        names = StoredNames({}, portable=True)
        changed |= {path for path in order if names.of(path) != path}
    return frozenset(changed)


def is_portable(word: str) -> bool:
    """Whether every usual file system can hold a name as it is."""
    if word.isascii():
        fits = len(word) <= LONGEST_WORD
    else:
        fits = is_normalized("NFC", word) and len(word.encode(errors="surrogatepass")) <= LONGEST_WORD
    return (
        fits
        and bool(word)
        and word[-1] not in ". "
        and not _FORBIDDEN.search(word)
        and not _DEVICE.match(word)
    )


def caseless(word: str) -> str:
    """The same for all names that some file system takes for one (Unicode, compatibility caseless match)."""
    if word.isascii():
        return word.lower()
    folded = normalize("NFKD", normalize("NFD", word).casefold()).casefold()
    return normalize("NFKD", folded)


def _stored(folder: _Folder, word: str) -> str:
    known = folder.known(word)
    return known or next(name for name in _candidates(word) if folder.keep(word, name))


def _candidates(word: str) -> Iterator[str]:
    """Names that a name may get in the copy, the best one first; there is no end of them."""
    composed = normalize("NFC", word)
    if is_portable(composed):
        yield composed
    clean = _FORBIDDEN.sub("_", composed).rstrip(". ")
    if _DEVICE.match(clean):
        clean = f"_{clean}"
    stem, suffix = posixpath.splitext(clean)
    if len(suffix.encode()) > LONGEST_SUFFIX:
        stem, suffix = clean, ""
    for attempt in itertools.count():
        seed = f"{attempt or ''}{word}".encode(errors="surrogatepass")
        tag = f"~{hashlib.blake2b(seed, digest_size=3).hexdigest()[: 6 if attempt else 4]}"
        room = LONGEST_WORD - len(tag) - len(suffix.encode())
        yield f"{stem.encode()[:room].decode(errors='ignore')}{tag}{suffix}"


def _joined(folder: str, word: str) -> str:
    return f"{folder}/{word}" if folder else word
