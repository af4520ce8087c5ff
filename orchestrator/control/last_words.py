"""What a process wrote to its log last, so that a crash can say why."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from orchestrator.secrets.redact import redact

_TAIL_BYTES: Final = 4096
_SHOWN: Final = 300


def end_of(log: Path) -> int:
    """Tell where a log ends now, in bytes; 0 when there is none."""
    try:
        return log.stat().st_size
    except OSError:
        return 0


def last_words(log: Path, since: int, secrets: Iterable[SecretStr]) -> str:
    """Give the last line that was written to a log.

    Args:
        log: The log.
        since: Only what was written after this many bytes counts.
        secrets: Values that must not be shown.

    Returns:
        The line, shortened, without secrets and control characters; empty if there is none.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            # A rotated log is shorter than it was: all of it is new.
            begin = max(since if since <= size else 0, size - _TAIL_BYTES)
            _ = file.seek(begin)
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    words = next((line for line in reversed(lines) if line.strip()), "")
    shown = "".join(letter if letter.isprintable() else " " for letter in redact(words, secrets))
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
