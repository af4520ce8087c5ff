"""JSON logs on stderr, one object a line.

A record carries an event name and a few labels. It never carries addresses, transaction
parameters or secrets, and so neither the text of foreign log records nor that of exceptions.
"""

import json
import logging
import time
from typing import Final, cast

from typing_extensions import override

_LABELS: Final = "labels"

logger: Final = logging.getLogger("walletserver")


class JsonFormatter(logging.Formatter):
    """Writes our own events with their labels, and of foreign records only where they are from."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        """Return one JSON object without a line break."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
        }
        if record.name == logger.name:
            line["event"] = record.msg
            labels: object = record.__dict__.get(_LABELS)
            if isinstance(labels, dict):
                line.update(cast("dict[str, object]", labels))
        else:
            # Library messages may quote a request; their place of origin is enough to find them.
            line |= {"event": "library", "logger": record.name, "line": record.lineno}
            if record.exc_info and record.exc_info[0] is not None:
                line["error"] = record.exc_info[0].__name__
        return json.dumps(line, separators=(",", ":"), default=str)


def configure_logging() -> None:
    """Send everything to stderr as JSON: our events from INFO, libraries from WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logger.setLevel(logging.INFO)


def log_event(event: str, *, level: int = logging.INFO, **labels: str | float | None) -> None:
    """Write one event.

    Args:
        event: Its constant name, snake case.
        level: A `logging` level.
        **labels: Short values that are safe to keep; None leaves a label out.
    """
    present = {name: value for name, value in labels.items() if value is not None}
    logger.log(level, event, extra={_LABELS: present})


def where(error: BaseException) -> str:
    """Name an exception's type and the innermost place it passed, without its text."""
    place = "unknown"
    trace = error.__traceback__
    while trace is not None:
        place = f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__} at {place}"
