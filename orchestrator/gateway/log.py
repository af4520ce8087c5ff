"""The gateway's log, with a type: structlog's own is not known to checkers."""

from typing import Protocol, cast

import structlog


class Log(Protocol):
    """Writes events with their fields; never a token, an argument or a result."""

    def info(self, event: str, /, **fields: object) -> object:
        """Tell what went as it should."""
        ...

    def warning(self, event: str, /, **fields: object) -> object:
        """Tell what went wrong outside."""
        ...

    def error(self, event: str, /, **fields: object) -> object:
        """Tell what went wrong here."""
        ...


def get_log(name: str) -> Log:
    """Give a log, which takes its configuration when its first line is written."""
    return cast("Log", structlog.get_logger(name))
