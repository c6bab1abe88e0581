"""Another host that gets copies and results: the commands for ssh and rsync, and what their answers mean.

Nothing is run here. Every path reaches the other side quoted (ssh) or without a shell in between (rsync's `-s`,
names on standard input), so that names mean nothing but themselves.
"""

import re
import shlex
from collections.abc import Iterable, Mapping

import msgspec

from srctd.core.errors import (
    DigestMismatch,
    HoldError,
    NotPermitted,
    RemoteUnavailable,
    SrctdError,
    StorageUnavailable,
)

CONNECT_SECONDS = 10
ALIVE_SECONDS = 5
ALIVE_COUNT = 3
"""A host that is silent for so many times `ALIVE_SECONDS` is gone."""
SILENT_SECONDS = 600
"""A transfer in which nothing moves for so long ends, and is tried again."""
NOT_THERE, NOT_MADE, TAKEN, NO_PROGRAM = 41, 42, 43, 44
"""Exit statuses of our own scripts."""
SSH_FAILED = 255


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where to, and how to get in."""

    login: str
    """`user@host`, or a host alone."""
    folder: str
    """Absolute; account folders are made in it."""
    port: int = 22
    identity_file: str = ""
    known_hosts_file: str = ""
    file_mode: str = "0640"
    folder_mode: str = "0750"

    @property
    def name(self) -> str:
        """What sentences call it."""
        return f"{self.login}:{self.folder}" + (f" (port {self.port})" if self.port != 22 else "")

    def ssh(self) -> list[str]:
        """The words of ssh before the host: it asks nothing, believes no unknown host, waits for no dead one."""
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "ControlMaster": "no",
            "LogLevel": "ERROR",
            "ConnectTimeout": str(CONNECT_SECONDS),
            "ServerAliveInterval": str(ALIVE_SECONDS),
            "ServerAliveCountMax": str(ALIVE_COUNT),
        }
        if self.identity_file:
            options |= {"IdentitiesOnly": "yes", "IdentityFile": _ssh_path(self.identity_file)}
        if self.known_hosts_file:
            options |= {"UserKnownHostsFile": _ssh_path(self.known_hosts_file)}
            options |= {"GlobalKnownHostsFile": "/dev/null"}
        words = ["ssh", "-T", "-p", str(self.port)]
        for name, value in options.items():
            words += ["-o", f"{name}={value}"]
        return words

    def script(self, *lines: str) -> list[str]:
        """The command that runs lines of a shell in the target folder, whatever shell the account has."""
        text = "; ".join((f"cd {shlex.quote(self.folder)} || exit {NOT_THERE}", "export LC_ALL=C", *lines))
        return [*self.ssh(), "--", _bare(self.login), f"exec sh -c {shlex.quote(text)}"]

    def rsync(self, source: str, place: str, *options: str, through: Iterable[str] = ()) -> list[str]:
        """Command for the files named on standard input, each ended by NUL, from a folder here to one there.

        `through`: a command that rsync starts ssh by. Files grow in place, for the folder is hidden until all of it
        is proven: however a transfer ends, the next one finds every byte that came over.
        """
        shell = " ".join(f"'{word}'" for word in (w.replace("'", "''") for w in (*through, *self.ssh())))
        return [
            *("rsync", "-s", "--files-from=-", "--from0", f"--timeout={SILENT_SECONDS}"),
            *("-e", shell, *options, f"{source}/", f"{self.login}:{self.folder}/{place}/"),
        ]

    def sending(self, megabytes_per_second: float) -> list[str]:
        """Options of a transfer, at most so fast (1e6 bytes; 0: no limit)."""
        limit = [f"--bwlimit={max(1, round(megabytes_per_second * 1e6 / 1024))}"] * (megabytes_per_second > 0)
        modes = f"--chmod=D{self.folder_mode},F{self.file_mode}"
        return ["--times", "--omit-dir-times", "--perms", modes, "--inplace", "--stats", *limit]


def _bare(login: str) -> str:
    """Without the brackets around an IPv6 address, which ssh does not want."""
    return re.sub(r"\[(.*)\]$", r"\1", login)


def _ssh_path(path: str) -> str:
    """A path as the value of an option of ssh, which knows quotes and percent signs."""
    return '"' + path.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"') + '"'


COMPARING = ("--dry-run", "--checksum", "--8-bit-output", "--out-format=%n")
"""rsync then names the files that differ; by the best digest that both sides know (xxh128 where both are 3.2)."""


# --- lines of scripts -------------------------------------------------------------------------------------


def look(place: str, part: str, after: str, mode: str, *, whole: bool) -> list[str]:
    """Lines that say what is there and make the hidden folder; `read_look` understands the answer.

    Nothing is made where `after` is named and not there, where the folder is there that shall appear `whole`, or is
    not there that files shall join.
    """
    here, hidden = _quoted(place), _quoted(part)
    account = _quoted(_parent(place))
    there = f"test -e {here} && {{ echo there; {'exit 0' if whole else ':'}; }}"
    lines = [there if whole else f"{there} || exit 0"]
    if after:
        lines += [f"test -d {_quoted(after)} || {{ echo early; exit 0; }}"]
    lines += [
        f"test -d {folder} || mkdir -m {mode} {folder} || exit {NOT_MADE}" for folder in (account, hidden)
    ]
    return [*lines, f"du -sk {hidden}", "df -Pk ."]


def clear(part: str) -> list[str]:
    """Lines that remove a hidden folder."""
    return [f"rm -rf {_quoted(part)}"]


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What was there before anything was sent."""

    there: bool
    early: bool
    part_bytes: int
    free_bytes: int | None
    """None: the host did not say."""


def read_look(text: str) -> Look:
    """The answer to `look`."""
    lines = text.splitlines()
    part = re.search(r"^(\d+)\s", text, re.MULTILINE)
    return Look(
        there="there" in lines,
        early="early" in lines,
        part_bytes=int(part[1]) * 1024 if part else 0,
        free_bytes=read_free(text),
    )


def read_free(text: str) -> int | None:
    """Free bytes by `df -Pk`; None where it says none."""
    free = re.search(r"\s(\d+)\s+(?:\d+%|-)\s", text)
    return int(free[1]) * 1024 if free else None


def digest(place: str) -> list[str]:
    """Lines that print the xxh3-128 of files below a place; their names on standard input, each ended by NUL."""
    return [
        f"command -v xxh128sum >/dev/null || exit {NO_PROGRAM}",
        f"cd {_quoted(place)} || exit {NOT_THERE}",
        "exec xargs -0 xxh128sum",
    ]


def read_digests(text: str) -> dict[str, str]:
    """Digest of each file, by name; what could not be read is missing."""
    found = (re.fullmatch(r"([0-9a-f]{32})  (.*)", line) for line in text.split("\n"))
    return {match[2]: match[1] for match in found if match}


def appear(place: str, part: str) -> list[str]:
    """Lines by which a hidden folder becomes the one, durably."""
    here, hidden = _quoted(place), _quoted(part)
    return [
        _durable(hidden),
        f"test ! -e {here} || exit {TAKEN}",
        f"mv {hidden} {here}",
        *_end(_parent(place)),
    ]


def join(place: str, part: str, mode: str) -> list[str]:
    """Lines by which files of a hidden folder take their names in one that is there, in the order of the names on
    standard input, each ended by NUL.
    """
    one = (
        f'd=$(dirname "./$1"); test -d "$d" || mkdir -p -m {mode} "$d" || exit 255; '
        'mv -f "$0/$1" "./$1" || exit 255'
    )
    hidden = _quoted(part)
    return [
        _durable(hidden),
        f"p=$(cd {hidden} && pwd) || exit {NOT_THERE}",
        f"cd {_quoted(place)} || exit {NOT_THERE}",
        f'xargs -0 -n 1 sh -c {shlex.quote(one)} "$p" || exit {NOT_MADE}',
        'rm -rf "$p"',
        *_end("."),
    ]


def describe() -> list[str]:
    """Lines that say what the host has."""
    return ["test -w . || echo closed", "rsync --version | head -n 1", "command -v xxh128sum", "df -Pk ."]


def read_describe(text: str) -> tuple[bool, str]:
    """Whether all is well, and a sentence about it."""
    version = re.search(r"^rsync +version +(\S+)", text, re.MULTILINE)
    free = read_free(text)
    parts = [
        f"rsync {version[1]} there" if version else "rsync is not installed there",
        "proof by xxh128sum" if "xxh128sum" in text else "proof by rsync's own checksums, no xxh128sum there",
        f"{free / 1e9:.1f} GB free" if free is not None else "free space unknown",
    ]
    closed = "closed" in text.splitlines()
    parts += ["the folder is closed to this user"] * closed
    return bool(version) and not closed, ", ".join(parts)


def _durable(folder: str) -> str:
    return f"sync -f {folder} 2>/dev/null || sync"


def _end(folder: str) -> list[str]:
    return [f"e=$?; {_durable(_quoted(folder))}; exit $e"]


def _parent(place: str) -> str:
    return place.rsplit("/", 1)[0]


def _quoted(place: str) -> str:
    """A path relative to the target folder; never taken for an option."""
    return shlex.quote(f"./{place}")


# --- answers ----------------------------------------------------------------------------------------------

_SIGNS: tuple[tuple[str, type[SrctdError], str, str], ...] = (
    (
        r"cannot be run: No such file|Failed to exec",
        HoldError,
        "ssh or rsync is not installed on this machine",
        "install both",
    ),
    (
        r"Host key verification failed|HOST IDENTIFICATION HAS CHANGED|host key is known",
        NotPermitted,
        "its host key is not the one that is known",
        "is it the right host? Put its key into remote.known_hosts_file, then release the scan",
    ),
    (
        r"UNPROTECTED PRIVATE KEY FILE",
        NotPermitted,
        "ssh does not use a key that others may read",
        "chmod 600 the file remote.identity_file, then release the scan",
    ),
    (
        r"Permission denied \([a-z]|Too many authentication failures|No supported authentication",
        NotPermitted,
        "it does not accept the key",
        "put the public half of remote.identity_file into authorized_keys there, then release the scan",
    ),
    (
        r"rsync: \[sender\] .*Permission denied",
        NotPermitted,
        "a file cannot be read on this side",
        "let the daemon's user read it, then release the scan",
    ),
    (
        r"rsync: \[sender\] .*failed|rsync: \[sender\] read errors|file has vanished",
        StorageUnavailable,
        "a file cannot be read on this side",
        "check shared storage; it is tried again by itself",
    ),
    (
        r"No space left on device|Disk quota exceeded",
        RemoteUnavailable,
        "its disk is full",
        "make room there; it is tried again by itself",
    ),
    (
        r"Permission denied|Operation not permitted",
        NotPermitted,
        "the folder is closed to the user",
        "let that user write there, then release the scan",
    ),
    (
        r"rsync: (?:command )?not found|rsync: No such file|Unknown command:? rsync|protocol version mismatch"
        r"|unknown option|unrecognized option|is your shell clean",
        HoldError,
        "no rsync answers there, or one that this one does not understand",
        "install rsync 3 there, and let the login print nothing; then release the scan",
    ),
)
"""Sign in the error output, error, what is the matter, what to do. The first that is found counts."""
_FAULTY = frozenset({1, 2, 4, 6, 14})
"""Exit statuses of rsync for which trying again is no use: wrong usage, protocol, unsupported action."""
_FAR: Mapping[int, tuple[type[SrctdError], str, str]] = {
    NOT_THERE: (
        RemoteUnavailable,
        "the folder is not there",
        "is it mounted there? It is tried again by itself",
    ),
    NOT_MADE: (RemoteUnavailable, "a folder or file cannot be made", "it is tried again by itself"),
    TAKEN: (
        DigestMismatch,
        "the scan's folder exists and is not this scan",
        "move it away, then release the scan",
    ),
}


def trouble(target: str, status: int, errors: str) -> SrctdError:
    """What a command that failed means, in one sentence that names the host."""
    said = _gist(errors)
    for sign, error, matter, hint in _SIGNS:
        if re.search(sign, errors):
            return error(f"{target}: {matter}: {said}", hint=hint)
    if status in _FAR:
        error, matter, hint = _FAR[status]
        return error(f"{target}: {matter}" + (f": {said}" if said else ""), hint=hint)
    if status in _FAULTY:
        return HoldError(
            f"{target}: rsync refused: {said or f'status {status}'}", hint="see the daemon's log"
        )
    return RemoteUnavailable(
        f"{target} cannot be reached, or broke off (status {status})" + (f": {said}" if said else ""),
        hint="it is tried again by itself",
    )


def _gist(errors: str) -> str:
    """The line of an error output that says most: the first that names a program or a fault, else the last."""
    lines = [line.strip().rstrip(".") for line in errors.splitlines() if line.strip(" @\t")]
    telling = [
        line
        for line in lines
        if re.match(r"(rsync|ssh|sh|mkdir|mv|kex|client)\b.*:|.*(denied|failed|closed)", line)
    ]
    chosen = telling[0] if telling else (lines or [""])[-1]
    return "".join(char if char.isprintable() else "?" for char in chosen)[:300]
