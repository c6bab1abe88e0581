"""What is known of files before they are a scan: of each group of them, and of the watched root they lie below."""

from dataclasses import dataclass

from srctd.adapters.listing import Listed, Listing
from srctd.adapters.watch import FileSystem
from srctd.config import WatchSection
from srctd.core.completion import Probe, Rule, State, Verdict
from srctd.core.settling import Settling
from srctd.formats.protocol import ReadOptions


@dataclass(kw_only=True)
class Arrival:
    """Files that are no scan with a verdict yet, or no scan at all."""

    listed: Listed
    root: str
    first_seen_at: float
    """UTC timestamp."""
    changed_at: float
    """Monotonic: when the listing first saw the files as they are."""
    pause_seconds: float = 0.0
    """The longest time between two changes."""
    quiet_seconds: float = 0.0
    probed: Probe | None = None
    probe_allowed_at: float = 0.0
    """Monotonic: a scan that changes all the while is not read all the while."""
    look_allowed_at: float = 0.0
    """The same for looks at files that are still written."""
    probe_again_at: float = 0.0
    """Monotonic; a piece that is missing may come without a change of these files."""
    copied_ahead: bool = False
    """Whether a copy of the files as they are was begun."""
    settling: Settling | None = None
    """What does not change any more while the rest is acquired; None where that is not copied."""
    settling_seen: str = ""
    """The fingerprint of the files that it saw last."""
    tomography: bool = False
    """Whether a look into the files, perhaps a while ago, saw the beginning of a scan."""
    expected_bytes: int = 0
    """Of all files when it is complete, if somebody said how many frames there will be."""
    scan: str = ""
    """What it is called in the books of copies, once something was copied of it."""
    verdict: Verdict | None = None

    @property
    def path(self) -> str:
        """What is opened: a file or a folder."""
        return self.listed.path

    @property
    def files(self) -> int:
        """How many there are."""
        return self.listed.files

    @property
    def bytes(self) -> int:
        """Of all files."""
        return self.listed.bytes

    @property
    def foreign(self) -> bool:
        """Whether it was found to be no tomography."""
        return self.verdict is not None and self.verdict.state is State.FOREIGN

    def see(self, listed: Listed, looked_at: float) -> bool:
        """Take note of a look at the files; return whether they had changed."""
        changed = listed.fingerprint != self.listed.fingerprint
        if changed:
            self.pause_seconds = max(self.pause_seconds, looked_at - self.changed_at)
            self.changed_at = looked_at
            self.probed = None
            self.copied_ahead = False
        self.listed = listed
        self.quiet_seconds = max(0.0, looked_at - self.changed_at)
        return changed

    def settle(self, listing: Listing, looked_at: float) -> bool:
        """Find out what has settled since the last look; return whether anything has."""
        if self.settling is None:
            return False
        if self.settling_seen == self.listed.fingerprint:
            self.settling.wait(looked_at)
        elif entries := listing.entries(self.listed):
            self.settling.look(entries, looked_at)
            self.settling_seen = self.listed.fingerprint
        return self.settling.due


@dataclass(kw_only=True)
class Site:
    """A watched root with what is known of it."""

    root: WatchSection
    listing: Listing
    rule: Rule
    options: ReadOptions
    system: FileSystem
    in_place: bool = False
    """Whether it lies on shared storage: nothing of it is copied."""
    bell_problem: str = ""
    only: str = ""
    """Of a scan that was submitted from elsewhere: the one path that is meant."""
    problems: tuple[str, ...] = ()

    @property
    def follows(self) -> bool:
        """Whether scans are copied before their verdict."""
        return self.root.copy_while_acquiring and not self.in_place

    def groups(self) -> list[Listed]:
        """What may be scans, the newest first: a thousand old ones must not keep it waiting."""
        groups = self.listing.groups.values()
        meant = [listed for listed in groups if self.only in ("", listed.path, listed.folder)]
        return sorted(meant, key=lambda listed: -listed.newest_ns)
