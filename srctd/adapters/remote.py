"""Sending task folders to another host, over ssh by rsync.

What is sent grows in a hidden folder there, is proven there, and appears by a rename. Every call may be repeated:
it looks at what is there and does what is missing. No process that is started here outlives the daemon.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from srctd.adapters.parent_bound import bound
from srctd.core import remote
from srctd.core.errors import DigestMismatch, HoldError, RemoteUnavailable
from srctd.core.remote import Look, Target
from srctd.core.scan import FileEntry

log = structlog.get_logger()

XARGS_MISSED = frozenset({0, 1, 123})
"""Exit statuses of xargs when all, or not all, files could be read."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What is sent of a task folder."""

    source: str
    """The task folder here, absolute."""
    place: str
    """The task folder there: `account/task`."""
    files: tuple[FileEntry, ...]
    """What is sent, by names in the task folder, with digests; the last one appears last."""
    whole: bool
    """The folder appears with all of it; else the files join a folder that is there."""
    links: tuple[str, ...] = ()
    """Symbolic links that are sent as such. Files behind a link to their folder are sent as files."""
    after: str = ""
    """A folder that must be there before."""
    megabytes_per_second: float = 0.0
    """1e6 bytes; 0: no limit."""

    @property
    def part(self) -> str:
        """The hidden folder there."""
        account, task = self.place.rsplit("/", 1)
        return f"{account}/.{task}.part" if self.whole else f"{account}/.{task}.results.part"


class _Ended(NamedTuple):
    status: int
    output: str
    errors: str


class Remote:
    """The other host. Errors: `RemoteUnavailable`, `NotPermitted`, `DigestMismatch`, `HoldError`."""

    def __init__(self, target: Target, at_once: int) -> None:
        self.target = target
        self._places = asyncio.Semaphore(at_once)

    async def deliver(self, parcel: Parcel) -> int:
        """Have a parcel there, proven; return the bytes of files that went over the line for it."""
        async with self._places:
            return await self._deliver(parcel)

    async def describe(self) -> tuple[bool, str]:
        """Whether the host can be used, and a sentence about it."""
        return remote.read_describe(await self._script(*remote.describe()))

    async def _deliver(self, parcel: Parcel) -> int:
        seen = await self._look(parcel)
        files = parcel.files
        if seen.there:
            wrong = await self._wrong(parcel, parcel.place, files)
            if parcel.whole and wrong:
                raise self._taken(parcel, wrong)
            files = tuple(file for file in files if file.path in wrong)
        if not files:
            await self._script(*remote.clear(parcel.part))
            return 0
        self._require_room(parcel, files, seen)
        names = [file.path for file in files]
        sent = await self._send(parcel, (*parcel.links, *names))
        if wrong := await self._wrong(parcel, parcel.part, files):
            log.warning("remote.damaged", place=parcel.place, files=sorted(wrong)[:5])
            sent += await self._send(parcel, wrong, "--ignore-times")
            if wrong := await self._wrong(parcel, parcel.part, files):
                raise self._mismatch(parcel, parcel.part, wrong)
        await self._let_appear(parcel, names)
        log.info("remote.sent", place=parcel.place, sent_bytes=sent)
        return sent

    async def _look(self, parcel: Parcel) -> Look:
        """Say what is there and make the hidden folder; raises where it is too early, or too late."""
        mode = self.target.folder_mode
        answer = await self._script(
            *remote.look(parcel.place, parcel.part, parcel.after, mode, whole=parcel.whole)
        )
        seen = remote.read_look(answer)
        if seen.early:
            raise RemoteUnavailable(
                f"{self.target.name}: {parcel.place} waits for {parcel.after}, whose input it uses",
                hint="it is tried again by itself",
            )
        if not (parcel.whole or seen.there):
            raise HoldError(
                f"{self.target.name}: {parcel.place} is not there any more",
                hint="`srctd retry SCAN --step send` sends all of it again",
            )
        return seen

    def _require_room(self, parcel: Parcel, files: Iterable[FileEntry], seen: Look) -> None:
        needed = sum(file.size for file in files) - seen.part_bytes
        if seen.free_bytes is not None and needed > seen.free_bytes:
            raise RemoteUnavailable(
                f"{self.target.name} has {seen.free_bytes / 1e9:.4f} GB free, and {parcel.place} needs"
                f" {needed / 1e9:.4f} GB",
                hint="make room there; it is tried again by itself",
            )

    async def _send(self, parcel: Parcel, names: Iterable[str], *more: str) -> int:
        options = [*self.target.sending(parcel.megabytes_per_second), *["--links"] * bool(parcel.links)]
        ended = await self._rsync(parcel, parcel.part, names, *options, *more)
        literal = re.search(r"^Literal data: ([\d,.]+)", ended.output, re.MULTILINE)
        return int(re.sub(r"\D", "", literal[1])) if literal else 0

    async def _wrong(self, parcel: Parcel, place: str, files: Sequence[FileEntry]) -> dict[str, str]:
        """Which files there differ from those here, with the digest that they have (empty: absent or not known)."""
        names = [file.path for file in files]
        command = self.target.script(*remote.digest(place))
        ended = await _run((*bound(os.getpid()), *command), _listed(names))
        if ended.status == remote.NO_PROGRAM:
            ended = await self._rsync(parcel, place, names, *remote.COMPARING)
            differing = set(ended.output.split("\n"))
            return {name: "" for name in names if name in differing}
        if ended.status not in XARGS_MISSED:
            raise remote.trouble(self.target.name, ended.status, ended.errors)
        found = remote.read_digests(ended.output)
        return {file.path: found.get(file.path, "") for file in files if found.get(file.path) != file.digest}

    async def _let_appear(self, parcel: Parcel, names: Iterable[str]) -> None:
        if parcel.whole:
            await self._script(*remote.appear(parcel.place, parcel.part))
        else:
            lines = remote.join(parcel.place, parcel.part, self.target.folder_mode)
            await self._script(*lines, data=_listed(names))

    def _taken(self, parcel: Parcel, wrong: Mapping[str, str]) -> DigestMismatch:
        sentence = str(self._mismatch(parcel, parcel.place, wrong))
        return DigestMismatch(sentence, hint="move the folder away there, then release the scan")

    def _mismatch(self, parcel: Parcel, place: str, wrong: Mapping[str, str]) -> DigestMismatch:
        name, found = next(iter(wrong.items()))
        wanted = next(file.digest for file in parcel.files if file.path == name)
        has = f"xxh128 {found}" if found else "another content, or is absent,"
        more = f", and {len(wrong) - 1} files more" if len(wrong) > 1 else ""
        return DigestMismatch(
            f"{self.target.name}/{place}/{name} has {has} instead of {wanted}{more}",
            hint="check the disk there, then release the scan",
        )

    async def _script(self, *lines: str, data: bytes = b"") -> str:
        """Run lines of a shell there; return what they print."""
        ended = await _run((*bound(os.getpid()), *self.target.script(*lines)), data)
        if ended.status:
            raise remote.trouble(self.target.name, ended.status, ended.errors)
        return ended.output

    async def _rsync(self, parcel: Parcel, place: str, names: Iterable[str], *options: str) -> _Ended:
        command = self.target.rsync(parcel.source, place, *options, through=bound(0))
        ended = await _run((*bound(os.getpid()), *command), _listed(names))
        if ended.status:
            raise remote.trouble(self.target.name, ended.status, ended.errors)
        return ended


def _listed(names: Iterable[str]) -> bytes:
    return b"".join(os.fsencode(name) + b"\0" for name in names)


async def _run(command: Iterable[str], data: bytes) -> _Ended:
    """Run a command to its end; canceled, it and all that it started are gone before this returns."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
        start_new_session=True,
    )
    try:
        output, errors = await process.communicate(data)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    status = process.returncode if process.returncode is not None else remote.SSH_FAILED
    return _Ended(status, os.fsdecode(output), errors.decode(errors="replace"))
