"""Whether and when a failed step is tried again."""

from srctd.core.errors import TransientError

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 900.0


def decide(error: BaseException, attempts: int, now: float, jitter: float) -> float | None:
    """UTC timestamp of the next attempt, or None to hold the scan.

    `attempts` counts the failures before this one; the pause doubles from 2 s up to 15 min and never ends
    (a catalogue may be down for days). `jitter`, 0 to 1, spreads the scans that wait for the same thing.
    """
    if not isinstance(error, TransientError):
        return None
    pause = min(FIRST_SECONDS * 2.0 ** min(attempts, 20), LONGEST_SECONDS)
    return now + pause * (0.75 + 0.5 * jitter)
