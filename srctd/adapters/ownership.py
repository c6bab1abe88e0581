"""To whom copies and results belong: user, group, modes, access control lists.

What is finished is handed over, by its descriptor, before it appears under its name. The task folder and the
account's folder get the scan's group, modes and list as well, but stay with the daemon's user: so a later run can
write beside the results of the first, and nobody else can rename what the catalogue names.

Needed for that: to hand over to a group, the daemon's membership in it; to another user, three capabilities.
"""

import errno
import grp
import os
import pwd
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter

from srctd.config import OwnershipSection
from srctd.core import permissions
from srctd.core.errors import ConfigError, HoldError, NotPermitted
from srctd.core.permissions import Granted, Kind
from srctd.core.scan import Owner

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"
SAME = -1
"""User or group as the file was made with."""
CAPABILITIES = {"CAP_CHOWN": 0, "CAP_DAC_OVERRIDE": 1, "CAP_FOWNER": 3}
"""Bits of what it takes to hand files over to another user, and to go on with them after an interruption."""
_REFUSED = frozenset({errno.EPERM, errno.EACCES, errno.EOPNOTSUPP})
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True)
class Belonging:
    """To whom the files of one scan belong. All calls block, and may be repeated."""

    user: int = SAME
    group: int = SAME
    file_mode: int
    folder_mode: int
    granted: tuple[Granted, ...] = ()

    def give(self, descriptor: int) -> None:
        """Hand a file or folder over, and see that it took. Raises `NotPermitted`."""
        try:
            self._give(descriptor, os.fstat(descriptor))
        except OSError as exc:
            if exc.errno not in _REFUSED:
                raise
            raise NotPermitted(
                f"{_path(descriptor)} cannot be handed over to {self._whom}: {exc.strerror}",
                hint="let its file system, the daemon's user and its service (units/srctd.service) do so, or "
                "correct [ownership]",
            ) from exc

    def _give(self, descriptor: int, now: os.stat_result) -> None:
        folder = stat.S_ISDIR(now.st_mode)
        mode = self.folder_mode if folder else self.file_mode
        granted = self.granted if folder else permissions.for_files(self.granted, mode)
        shown = permissions.shown_mode(mode, granted)
        # Modes first: once a file is another user's, only a privileged process may change them.
        if stat.S_IMODE(now.st_mode) != shown:
            os.fchmod(descriptor, mode)
        _grant(descriptor, ACCESS, permissions.access_list(mode, granted))
        if folder:
            _grant(descriptor, DEFAULT, permissions.access_list(mode & 0o777, granted))
        if self.user not in (SAME, now.st_uid) or self.group not in (SAME, now.st_gid):
            os.fchown(descriptor, self.user, self.group)
        self._check(descriptor, shown)

    def _check(self, descriptor: int, shown: int) -> None:
        """Some file systems, mounted with fixed modes or owners, take everything and keep nothing of it."""
        now = os.fstat(descriptor)
        mode = stat.S_IMODE(now.st_mode)
        if mode != shown:
            raise NotPermitted(
                f"{_path(descriptor)} has mode {mode:04o} after {shown:04o} was set: its file system, or the "
                "daemon's user, cannot set that",
                hint="set ownership.file_mode and folder_mode to what can be set there",
            )
        if self.user not in (SAME, now.st_uid) or self.group not in (SAME, now.st_gid):
            raise NotPermitted(
                f"{_path(descriptor)} belongs to {now.st_uid}:{now.st_gid} after it was handed over to "
                f"{self._whom}: its file system keeps no owners",
                hint="leave ownership.user and group empty there",
            )

    def give_tree(self, top: Path) -> None:
        """Hand over a finished folder and all that is in it, itself last. Raises `NotPermitted`, `OSError`."""
        for _, _, files, folder in os.fwalk(top, topdown=False):
            for name in files:
                self._give_at(name, folder)
            self.give(folder)

    def give_own(self, descriptor: int) -> None:
        """Give a folder that stays with the daemon's user its group, modes and list. Raises as `give` does."""
        replace(self, user=SAME).give(descriptor)

    def give_folder(self, path: Path) -> None:
        """The same by its name."""
        replace(self, user=SAME)._give_at(str(path))

    def _give_at(self, name: str, folder: int | None = None) -> None:
        descriptor = os.open(name, _OPEN, dir_fd=folder)
        try:
            self.give(descriptor)
        finally:
            os.close(descriptor)

    @property
    def _whom(self) -> str:
        user = "its user" if self.user == SAME else f"user {self.user}"
        group = "its group" if self.group == SAME else f"group {self.group}"
        return f"{user} and {group}"


class Ownership:
    """The section [ownership], applied to one scan's owner after the other."""

    def __init__(self, section: OwnershipSection) -> None:
        self._section = section
        self._entries = tuple(map(permissions.entry, section.default_acl))

    def of(self, owner: Owner) -> Belonging:
        """To whom a scan's files belong. Blocks as long as the machine's directory of users does.

        Raises `HoldError` with the scan's account where a name is unknown, or out of the daemon's reach.
        """
        fill = {"account": owner.account, "owner": owner.owner, "owner_group": owner.owner_group}
        found = self._found(fill, f"account {owner.account!r}")
        if found.group != SAME and not _may_give_to(found.group):
            raise HoldError(
                f"account {owner.account!r}: the daemon's user is no member of the group "
                f"{self._section.group.format_map(fill)!r}, to which results shall belong",
                hint="make it one and start the daemon again, or correct [[accounts]] or [ownership]",
            )
        if found.user != SAME and not _may_enter(found):
            raise HoldError(
                f"account {owner.account!r}: the user {self._section.user.format_map(fill)!r} is no member of the "
                f"group {self._section.group.format_map(fill)!r}, and could not enter the scan's folder",
                hint="make it one, or correct [[accounts]] or [ownership]; then release the scan",
            )
        return found

    def check(self, shared: str) -> str:
        """Say to whom results belong; raises `ConfigError` where that cannot work whatever the scan is."""
        section = self._section
        literal = {name: _literal(getattr(section, name)) for name in ("user", "group")}
        entries = [one for one in self._entries if _literal(one.name)]
        try:
            user = _number("user", literal["user"], "ownership.user") if literal["user"] else SAME
            group = _number("group", literal["group"], "ownership.group") if literal["group"] else SAME
            for one in entries:
                _number(one.kind, one.name, "ownership.default_acl")
        except HoldError as exc:
            raise ConfigError(str(exc), hint=exc.hint) from exc
        lacking = _lacking()
        if section.user and user != os.geteuid() and lacking:
            raise ConfigError(
                f"ownership.user = {section.user!r}: this process lacks {', '.join(lacking)} to hand files over",
                hint="add them to the service (units/srctd.service says how), or leave ownership.user empty",
            )
        if group != SAME and not _may_give_to(group):
            raise ConfigError(
                f"ownership.group = {section.group!r}: the user of this process (uid {os.geteuid()}) is no member",
                hint="make it one (SupplementaryGroups= in the service), or leave ownership.group empty",
            )
        if section.default_acl and not _keeps_lists(shared):
            raise ConfigError(
                f"ownership.default_acl: the file system of {shared} keeps no access control lists",
                hint="mount it with them, or leave ownership.default_acl empty",
            )
        return self._sentence()

    def _sentence(self) -> str:
        section = self._section
        user = f"the user {section.user}" if section.user else "the daemon's user"
        group = f"the group {section.group}" if section.group else "the group that the file system gives"
        lists = f", with {', '.join(section.default_acl)}" if section.default_acl else ""
        modes = f"files {section.file_mode}, folders {section.folder_mode}"
        return f"results belong to {user} and {group}; {modes}{lists}"

    def _found(self, fill: Mapping[str, str], whose: str) -> Belonging:
        section = self._section
        user = _filled("user", section.user, fill, f"{whose}: ownership.user")
        group = _filled("group", section.group, fill, f"{whose}: ownership.group")
        granted = [
            Granted(
                one.kind,
                _filled(one.kind, one.name, fill, f"{whose}: ownership.default_acl"),
                one.permissions,
            )
            for one in self._entries
        ]
        return Belonging(
            user=user,
            group=group,
            file_mode=permissions.file_mode(section.file_mode),
            folder_mode=permissions.folder_mode(section.folder_mode),
            granted=tuple(granted),
        )


# --- names ------------------------------------------------------------------------------------------------


def _literal(template: str) -> str:
    """The name, if nothing is to be filled in; else nothing."""
    return "" if any(field for _, field, _, _ in Formatter().parse(template)) else template.format()


def _filled(kind: Kind, template: str, fill: Mapping[str, str], where: str) -> int:
    """The number of a name with its placeholders filled in; nothing for no name."""
    if not template:
        return SAME
    name = template.format_map(fill)
    number = _number(kind, name, where)
    if number == 0 and not _literal(template):
        raise HoldError(
            f"{where} = {template!r} is {name!r}, which is no {kind} of a scan",
            hint="correct [[accounts]]: a folder's name must not choose the administrator",
        )
    return number


def _number(kind: Kind, name: str, where: str) -> int:
    """User or group id on this machine; raises `HoldError`."""
    with suppress(KeyError, ValueError, UnicodeEncodeError):
        return pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
    raise HoldError(
        f"{where}: this machine knows no {kind} {name!r}",
        hint=f"create the {kind}, or correct [[accounts]] or [ownership]; then release the scan",
    )


# --- rights -----------------------------------------------------------------------------------------------


def _lacking() -> list[str]:
    """Capabilities that this process does not have."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            held = int(line.split()[1], 16)
            return [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    return list(CAPABILITIES)


def _may_give_to(group: int) -> bool:
    return group in (os.getegid(), *os.getgroups()) or "CAP_CHOWN" not in _lacking()


def _may_enter(belonging: Belonging) -> bool:
    """Whether the user may enter folders that stay with the daemon's user and are the group's."""
    granted = any(one[:2] == ("user", belonging.user) for one in belonging.granted)
    if granted or belonging.user == os.geteuid() or belonging.folder_mode & 0o005 == 0o005:
        return True
    account = pwd.getpwuid(belonging.user)
    return belonging.group in os.getgrouplist(account.pw_name, account.pw_gid)


def _keeps_lists(folder: str) -> bool:
    """Whether a folder's file system knows access control lists; true where the folder is not there now."""
    try:
        os.getxattr(folder, ACCESS)
    except OSError as exc:
        return exc.errno != errno.EOPNOTSUPP
    return True


def _grant(descriptor: int, name: str, value: bytes) -> None:
    """Give a file a list, unless it has that already; no list: it keeps what its folder handed on to it."""
    if value and _listed(descriptor, name) != value:
        os.setxattr(descriptor, name, value)


def _listed(descriptor: int, name: str) -> bytes:
    try:
        return os.getxattr(descriptor, name)
    except OSError as exc:
        if exc.errno != errno.ENODATA:
            raise
        return b""


def _path(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")
