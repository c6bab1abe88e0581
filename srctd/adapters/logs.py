"""Where log lines go: to the journal under systemd, in color to a terminal, else as JSON lines to stderr.

Events are constant dotted names (`scan.completed`), data are keys with units. What libraries log through `logging`
takes the same way.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""syslog's, as the journal reads them from `<N>` at the beginning of a line (sd-daemon(3))."""


def configure(
    level: str = "info", *, stream: TextIO | None = None, environment: Mapping[str, str] = os.environ
) -> None:
    """Set up structlog and `logging` for the whole process; a later call replaces an earlier one."""
    stream = stream if stream is not None else sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler, last = _outlet(stream, environment)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _outlet(stream: TextIO, environment: Mapping[str, str]) -> tuple[logging.Handler, list[Processor]]:
    """The handler, and the processors that make a line for it."""
    if stream.isatty():
        console = structlog.dev.ConsoleRenderer(
            colors="NO_COLOR" not in environment, exception_formatter=structlog.dev.plain_traceback
        )
        return logging.StreamHandler(stream), [console]
    journal = _journal_handler() if _is_journal(stream, environment) else None
    last = _json_line if journal else _json_line_with_priority
    return journal or logging.StreamHandler(stream), [structlog.processors.format_exc_info, last]


def _is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether the stream leads to the journal: a child inherits JOURNAL_STREAM, but not always the stream."""
    try:
        stat = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


def _journal_handler() -> logging.Handler | None:
    """systemd-python's, where it is installed: the journal's own protocol has no limit on the line."""
    try:
        from systemd.journal import JournalHandler
    except ImportError:
        return None
    handler: logging.Handler = JournalHandler(SYSLOG_IDENTIFIER="srctd")
    return handler


def _json_line(_logger: Any, _name: str, event: EventDict) -> str:
    return json.dumps(event, ensure_ascii=False, default=str)


def _json_line_with_priority(_logger: Any, _name: str, event: EventDict) -> str:
    return f"<{PRIORITIES.get(event['level'], 6)}>" + json.dumps(event, ensure_ascii=False, default=str)
