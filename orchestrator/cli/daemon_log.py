"""The daemon's log: one JSON object a line on standard error."""

import logging
import os
import sys
from contextlib import suppress
from io import TextIOBase
from pathlib import Path
from typing import Final, TextIO, cast, final

import structlog
from typing_extensions import override

from orchestrator.files import PRIVATE_FILE
from orchestrator.secrets.redact import LIVE

_WRITE: Final = structlog.processors.JSONRenderer(sort_keys=False)
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


@final
class _LastingLog(TextIOBase):
    """Standard error for as long as the engine reads it, then the log file itself.

    A daemon whose engine was killed serves on, and must neither end nor fall silent by the first
    line that it writes.
    """

    def __init__(self, first: TextIO, path: Path) -> None:
        self._stream = first
        self._path = path

    @override
    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            try:
                _ = self._stream.write(text)
                self._stream.flush()
            except OSError:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(self._path, flags, PRIVATE_FILE)
                self._stream = os.fdopen(descriptor, "a", encoding="utf-8")
                _ = self._stream.write(text)
                self._stream.flush()
        return len(text)


def _render(logger: object, name: str, event: structlog.typing.EventDict) -> str:
    """Write a line of JSON without any value that this process has resolved."""
    return LIVE.clean(str(_WRITE(logger, name, event)))


def configure_log(level: str, path: Path) -> None:
    """Set structlog up for this process.

    Tracebacks carry no local variables: those may hold secrets.

    Args:
        level: The least severe level that is written.
        path: Where lines go when nobody reads standard error any more.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        # structlog writes and flushes, and asks no more of it than that.
        logger_factory=structlog.WriteLoggerFactory(
            file=cast("TextIO", _LastingLog(sys.stderr, path))
        ),
        cache_logger_on_first_use=True,
    )
