"""Keeps the logs of instances from growing without end.

Instances append to their logs themselves, so that they outlive the engine. A log that is too large
is copied and emptied: whoever has it open goes on at its new beginning.
"""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

LIMIT_BYTES: Final = 10 * 1024 * 1024
KEPT: Final = 3


def rotate(log: Path, limit: int = LIMIT_BYTES, kept: int = KEPT) -> bool:
    """Keep a copy of a log that is too large, and empty it.

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
    _ = shutil.copyfile(log, fresh)
    fresh.chmod(0o600)
    _ = fresh.rename(_copy_of(log, 1))
    with log.open("r+b") as file:
        _ = file.truncate(0)
    return True


def _copy_of(log: Path, number: int) -> Path:
    return log.with_name(f"{log.name}.{number}")
