"""Keeps the logs of instances from growing without end.

Instances append to their logs themselves, so that they outlive the engine. A log that is too large
is copied and emptied: whoever has it open goes on at its new beginning.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

LIMIT_BYTES: Final = 10 * 1024 * 1024
KEPT: Final = 3
# A server may write anywhere in its log: what it made of it may be longer than any disk.
_MOST: Final = 4
_PIECE_BYTES: Final = 1024 * 1024


def rotate(log: Path, limit: int = LIMIT_BYTES, kept: int = KEPT) -> bool:
    """Keep a copy of a log that is too large, and empty it; of one far too large, of its end.

    Lines that are written in the moment between the copy and the emptying are lost.

    Args:
        log: The log; there may be none.
        limit: The size in bytes up to which it is left alone.
        kept: How many copies are kept: `.1` is the newest.

    Returns:
        Whether it was emptied.
    """
    try:
        if log.stat().st_size <= limit:
            return False
    except FileNotFoundError:
        return False
    for number in range(kept - 1, 0, -1):
        with suppress(FileNotFoundError):
            _ = _copy_of(log, number).rename(_copy_of(log, number + 1))
    fresh = _copy_of(log, 0)
    with log.open("rb") as old, fresh.open("wb") as copy:
        most = _MOST * limit
        _ = old.seek(max(0, old.seek(0, os.SEEK_END) - most))
        while most > 0 and (piece := old.read(min(most, _PIECE_BYTES))):
            most -= copy.write(piece)
    fresh.chmod(0o600)
    _ = fresh.rename(_copy_of(log, 1))
    with log.open("r+b") as file:
        _ = file.truncate(0)
    return True


def _copy_of(log: Path, number: int) -> Path:
    return log.with_name(f"{log.name}.{number}")
