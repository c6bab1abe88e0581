"""Errors, named by what the daemon does next.

===================  =======================================================
`TransientError`     the step is tried again later, by itself
`HoldError`          the scan is held with this sentence until it is released
`FatalError`         the process ends (systemd restarts it, or not: exit 78)
===================  =======================================================

Anything else that escapes a step is a bug in that step: the scan is held, the daemon lives on.
A message is one sentence naming the file and the value; `hint` says what to do about it.
"""


class SrctdError(Exception):
    """Base of all errors that carry a sentence for a person."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def sentence(self) -> str:
        """The message and, where there is one, what to do."""
        return f"{self} ({self.hint})" if self.hint else str(self)


class TransientError(SrctdError):
    """Nothing is wrong with the scan; something it needs is out of reach for now."""


class StorageUnavailable(TransientError):
    """A file system answered with an error that may heal (EIO, ESTALE, timeout)."""


class SourceChanged(TransientError):
    """The source changed while it was read; the step starts over."""


class RemoteUnavailable(TransientError):
    """The host that gets copies is down, unreachable or full, or broke off."""


class CatalogUnavailable(TransientError):
    """The catalogue is down, unreachable, or failing in a way that may heal."""


class HoldError(SrctdError):
    """The scan cannot go on until a person, or new data, changes something."""


class ScanUnreadable(HoldError):
    """The scan's files cannot be understood: truncated, wrong rank, missing pieces."""


class NoSpace(HoldError):
    """The target has not enough space; nothing was written. The scan goes on by itself when there is room."""

    def __init__(self, message: str, *, hint: str = "", needs: int = 0, of_files: bool = False) -> None:
        """`needs`: bytes that must be free before it is worth another try; 0: not known. `of_files`: what lacks is
        not bytes, but files that can still be made.
        """
        super().__init__(message, hint=hint)
        self.needs = needs
        self.of_files = of_files


class NotPermitted(HoldError):
    """A file or directory that the daemon must read or write is closed to it."""


class DigestMismatch(HoldError):
    """A copy differs from its source."""


class CatalogRejected(HoldError):
    """The catalogue refused a document for good, in its own words."""


class ReconstructionFailed(HoldError):
    """A worker reported that this scan cannot be reconstructed."""


class FatalError(SrctdError):
    """The process cannot go on."""

    exit_code = 1


class ConfigError(FatalError):
    """The configuration is wrong; starting again does not help (EX_CONFIG)."""

    exit_code = 78


class JournalError(FatalError):
    """The journal cannot be opened or written."""
