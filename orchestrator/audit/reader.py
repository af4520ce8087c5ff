"""Reads the record while it is being written; a line that is not whole yet waits."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import orjson

from orchestrator.journal import segments

if TYPE_CHECKING:
    from orchestrator.model.base import JsonObject

LOOK_SECONDS: Final = 0.2
_BLOCK: Final = 64 * 1024


def parse(line: bytes) -> "JsonObject | None":
    """Read one line; None if it is none of the record's."""
    try:
        value = cast("object", orjson.loads(line))
    except ValueError:
        return None
    return cast("JsonObject", value) if isinstance(value, dict) else None


def newest_first(directory: Path) -> Iterator[bytes]:
    """Give the lines, the newest first, reading no more of the files than is asked for."""
    for path in reversed(segments(directory)):
        with path.open("rb") as file:
            place = file.seek(0, os.SEEK_END)
            later = b""
            is_last = True
            while place:
                start = max(0, place - _BLOCK)
                _ = file.seek(start)
                pieces = (file.read(place - start) + later).split(b"\n")
                later = pieces.pop(0)
                if is_last and pieces:
                    _ = pieces.pop()  # behind the last line end
                    is_last = False
                yield from reversed(pieces)
                place = start
            if later and not is_last:
                yield later


def since(directory: Path, moment: str) -> Iterator[bytes]:
    """Give the lines from a moment on, the oldest first.

    Args:
        directory: Where the record lies.
        moment: UTC, written as in the lines.
    """
    paths = segments(directory)
    first = 0
    for place, path in enumerate(paths):
        with path.open("rb") as file:
            line = parse(file.readline())
        if line is not None and str(line.get("time", "")) <= moment:
            first = place
    for path in paths[first:]:
        with path.open("rb") as file:
            for line in file:
                told = parse(line) if line.endswith(b"\n") else None
                if told is not None and str(told.get("time", "")) >= moment:
                    yield line.rstrip(b"\n")


def end(directory: Path) -> tuple[Path, int] | None:
    """Tell where the record ends now, for `follow`; None if there is none."""
    paths = segments(directory)
    if not paths:
        return None
    with paths[-1].open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - _BLOCK)
        _ = file.seek(start)
        return paths[-1], start + file.read(size - start).rfind(b"\n") + 1


def follow(directory: Path, place: tuple[Path, int] | None) -> Iterator[bytes]:
    """Give the lines that are written behind a place, for ever, also those of later segments."""
    while True:
        # Looked for first: when there is a later segment, nothing more comes into this one.
        known = segments(directory)
        if place is not None and place[0] in known:
            path, offset = place
            with path.open("rb") as file:
                _ = file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    offset += len(line)
                    yield line.rstrip(b"\n")
            place = path, offset
            known = known[known.index(path) + 1 :]
        if known:
            place = known[0], 0
        else:
            time.sleep(LOOK_SECONDS)
