"""Reads the record from where a sink stopped, in batches, each on disk before it is given."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

from orchestrator.audit.chain import digest
from orchestrator.audit.reader import newest_first, parse
from orchestrator.audit.sinks.base import Entry, gently
from orchestrator.audit.sinks.cursor import Cursor
from orchestrator.journal import segments

# A batch is no longer than this, unless one line is.
BATCH_BYTES: Final = 1024 * 1024
_LONGEST_LINE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines, and what is behind the sink when it is done with them.

    Attributes:
        entries: The lines, in their order.
        unread: What lies there and is no line of the record.
        missed: How many lines are gone before them.
        then: What to keep when they are brought.
    """

    entries: tuple[Entry, ...]
    unread: tuple[bytes, ...]
    missed: int
    then: Cursor


def find_place(directory: Path, kept: Cursor | None) -> tuple[Cursor, str]:
    """Find where a sink goes on.

    Args:
        directory: Where the record lies.
        kept: What it kept; None if it is new, which begins with the first line there is.

    Returns:
        The place, and what a person should know of it; empty if all is well.
    """
    if kept is None:
        first = next((each for _, _, each in _lines(directory)), None)
        return Cursor(seq=first.seq - 1 if first is not None else 0), ""
    if not kept.hash or _is_right(directory, kept) or not (directory / kept.file).exists():
        return kept, ""
    # Somebody put another record there, or an older copy of this one.
    last = _last_seq(directory)
    if last <= kept.seq:
        why = f"the record ends with line {last}, before line {kept.seq}, which was brought already"
        path, size = _end(directory)
        return replace(kept, file=path, offset=size, seq=last, hash=""), why
    why = f"line {kept.seq} of the record is another one than was brought before"
    for path, offset, entry in _lines(directory):
        if entry.seq > kept.seq:
            return replace(kept, file=path.name, offset=offset, hash=""), why
    raise AssertionError("there is a later line")


def _is_right(directory: Path, cursor: Cursor) -> bool:
    """Whether the last line that was read is where it was."""
    try:
        with (directory / cursor.file).open("rb") as file:
            start = max(0, cursor.offset - _LONGEST_LINE)
            _ = file.seek(start)
            data = file.read(cursor.offset - start)
    except OSError:
        return False
    if start + len(data) < cursor.offset:
        return False
    return digest(data[:-1].rpartition(b"\n")[2]) == cursor.hash


def _last_seq(directory: Path) -> int:
    for line in newest_first(directory):
        if (entry := _entry(line)) is not None:
            return entry.seq
    return 0


def _end(directory: Path) -> tuple[str, int]:
    paths = segments(directory)
    if not paths:
        return "", 0
    return paths[-1].name, paths[-1].read_bytes().rfind(b"\n") + 1


def _lines(directory: Path) -> Iterator[tuple[Path, int, Entry]]:
    """Give all lines that can be read, each with its place."""
    for path in segments(directory):
        offset = 0
        with path.open("rb") as file:
            for line in file:
                entry = _entry(line[:-1]) if line.endswith(b"\n") else None
                if entry is not None:
                    yield path, offset, entry
                offset += len(line)


def _entry(line: bytes) -> Entry | None:
    told = parse(line)
    seq = None if told is None else told.get("seq")
    return Entry(line, told, seq) if told is not None and isinstance(seq, int) else None


@final
class Tail:
    """Reads on from a place. Used by one thread."""

    def __init__(self, directory: Path, cursor: Cursor) -> None:
        """Go on there.

        Args:
            directory: Where the record lies.
            cursor: The place.
        """
        self._directory = directory
        self.cursor = cursor

    def take(self, most: int) -> Batch | None:
        """Read on; None if there is nothing new. The next one begins when `cursor` is set.

        Args:
            most: How many lines.

        Raises:
            OSError: The record cannot be read, or not put on disk.
        """
        # Looked for first: when there is a later file, nothing more comes into this one.
        known = segments(self._directory)
        cursor = self.cursor
        for path in known:
            if cursor.file and _number(path.name) < _number(cursor.file):
                continue
            offset = cursor.offset if path.name == cursor.file else 0
            if found := self._read(path, offset, most):
                return found
        return None

    def _read(self, path: Path, offset: int, most: int) -> Batch | None:
        cursor = self.cursor
        entries: list[Entry] = []
        unread: list[bytes] = []
        missed, seq, read, last = 0, cursor.seq, 0, b""
        try:
            file = path.open("rb")
        except FileNotFoundError:  # removed meanwhile
            return None
        with file:
            _ = file.seek(offset)
            for line in gently(file):
                # What has no end is not whole yet, or never will be.
                if not line.endswith(b"\n"):
                    break
                if len(entries) + len(unread) >= most or (read and read + len(line) > BATCH_BYTES):
                    break
                read += len(line)
                last = line[:-1]
                entry = _entry(last)
                if entry is None:
                    unread.append(last)
                    continue
                missed += max(0, entry.seq - seq - 1)
                seq = entry.seq
                entries.append(entry)
            if not read:
                return None
            # What others have read is not to be gone after a power failure.
            os.fdatasync(file.fileno())
        then = Cursor(
            file=path.name,
            offset=offset + read,
            seq=seq,
            hash=digest(last),
            refused=cursor.refused,
            missed=cursor.missed + missed,
        )
        return Batch(tuple(entries), tuple(unread), missed, then)


def _number(name: str) -> int:
    return int(name.partition(".")[0])
