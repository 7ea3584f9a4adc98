"""The format of log records. Code uses `logging`, with a short fixed phrase and fields in ``extra``."""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType
from typing import Literal

import structlog


def configure_logs(level: str = "info", log_format: Literal["text", "json"] = "text", *, access: bool = True) -> None:
    """Write every log record of this process to standard error, one line each, as text or as a JSON object.

    As JSON, Python's warnings and exceptions that nobody handles are records, too. The fields in ``extra={...}`` follow
    the phrase. A second call replaces the configuration of the first.

    Args:
        access: log each request. If False, only requests that failed (5xx) are logged.
    """
    renderer: structlog.typing.Processor
    before: list[structlog.typing.Processor] = []
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
        before = [structlog.processors.format_exc_info]
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=28
        )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *before, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("pygrid.access").setLevel(root.level if access else max(logging.WARNING, root.level))
    if log_format == "json":
        logging.captureWarnings(True)
        sys.excepthook = _log_exception
        threading.excepthook = lambda ended: _log_exception(ended.exc_type, ended.exc_value, ended.exc_traceback)
    # Alembic logs at INFO that it reads a database. `migrate` logs what it changes.
    logging.getLogger("alembic").setLevel(max(logging.WARNING, root.level))


def _log_exception(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    """Log an exception that nobody handles; Ctrl-C ends the process without a word."""
    if error is not None and not issubclass(kind, KeyboardInterrupt | SystemExit):
        logging.getLogger("pygrid").critical("unhandled exception", exc_info=(kind, error, trace))
