"""Which files of the record are too old, and their removal."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.audit.chain import digest
from orchestrator.audit.reader import parse
from orchestrator.audit.record import Fields
from orchestrator.files import sync_directory
from orchestrator.journal import segments

_BLOCK: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Old:
    """A file whose lines are all too old.

    Attributes:
        path: The file.
        first: Number of its first line.
        last: Number of its last line.
        hash: Of its last line.
    """

    path: Path
    first: int
    last: int
    hash: str

    def tombstone(self, reason: str) -> Fields:
        """Tell what is removed, and why."""
        return {
            "event": "tombstone",
            "first": self.first,
            "hash": self.hash,
            "last": self.last,
            "reason": reason,
        }


def find_old(directory: Path, limit: str) -> list[Old]:
    """Tell the files that end before a moment, the oldest first; never the newest file.

    A file that cannot be read stays, and with it all behind it: somebody may want to look at it.
    """
    found: list[Old] = []
    for path in segments(directory)[:-1]:
        old = _look(path, limit)
        if old is None:
            break
        found.append(old)
    return found


def _look(path: Path, limit: str) -> Old | None:
    with path.open("rb") as file:
        begin = parse(file.readline().rstrip(b"\n"))
        size = file.seek(0, os.SEEK_END)
        _ = file.seek(max(0, size - _BLOCK))
        line = file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
    end = parse(line)
    if begin is None or end is None:
        return None
    first, last, time = begin.get("seq"), end.get("seq"), end.get("time")
    if not (isinstance(first, int) and isinstance(last, int) and isinstance(time, str)):
        return None
    return Old(path, first, last, digest(line)) if time < limit else None


def remove(old: list[Old]) -> None:
    """Remove files, the oldest first, durably; blocks.

    Raises:
        OSError: One cannot be removed; those before it are gone.
    """
    for one in old:
        one.path.unlink(missing_ok=True)
        with suppress(OSError):  # what a crash left of a line, if one did
            one.path.with_suffix(".torn").unlink()
        sync_directory(one.path.parent)
