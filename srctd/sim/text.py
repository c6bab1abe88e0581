"""Numbers and times as logs write them."""

from datetime import UTC, datetime


def setting_text(value: float) -> str:
    """A setting with three digits after the point, or more where it needs them: none is set to what it is not."""
    short = f"{value:.3f}"
    return short if float(short) == value else f"{value:.10g}"


def now_text() -> str:
    """The time, as NeXus and DataExchange write it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
