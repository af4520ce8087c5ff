"""`agents logs`: the end of a log, and what follows."""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, cast

from orchestrator.cli.output import note
from orchestrator.cli.places import find_paths
from orchestrator.errors import NotRunningError, SettingsError

LOOK_SECONDS: Final = 0.2
# What a server writes is what it likes: a longer line is shown in pieces, each a line.
LONGEST_BYTES: Final = 64 * 1024
# Of a longer log only its end is read; mostly it is emptied long before.
END_BYTES: Final = 64 * 1024 * 1024


def logs(  # noqa: PLR0913  one for each option
    project: Path | None,
    role: str | None,
    *,
    follow: bool,
    lines: int,
    daemon: bool,
    as_json: bool = False,
) -> None:
    """Print a log; as JSON, one object a line: the line itself if it is one, else `{"line": ...}`.

    Raises:
        NotRunningError: There is no such log (yet).
        SettingsError: It was not said which.
    """
    paths = find_paths(project)
    if (role is None) != daemon:
        raise SettingsError("name a role, or give --daemon", hint="Such as `agents logs executor`.")
    path = paths.daemon_log if role is None else paths.log_of(role)
    if role is not None and not path.is_file():
        there = sorted(one.stem for one in paths.logs.glob("*.log") if one.stem != "agentsd")
        raise NotRunningError(
            f"there is no log of {role}", hint=f"There are logs of: {', '.join(there) or 'none'}."
        )
    show = _print_json if as_json else _print
    try:
        with path.open("rb") as file:
            _skip(file)
            for line in deque(_lines(file), maxlen=lines):
                show(line)
            if follow:
                _follow(path, file, show)
    except FileNotFoundError as error:
        raise NotRunningError("there is no log yet", hint="Start with `agents up`.") from error
    except KeyboardInterrupt:
        note("")


def _skip(file: BinaryIO) -> None:
    """Go where the end of a log begins, if it is too long to be read."""
    size = os.fstat(file.fileno()).st_size
    if size > END_BYTES:
        _ = file.seek(size - END_BYTES)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Read lines, the longest in pieces."""
    while line := file.readline(LONGEST_BYTES):
        yield line


def _follow(path: Path, file: BinaryIO, show: Callable[[bytes], None]) -> None:
    """Print what is added; goes on with the new file when the log was rotated."""
    begun = b""
    while True:
        begun = _print_new(file, begun, show)
        time.sleep(LOOK_SECONDS)
        try:
            facts = path.stat()
            if facts.st_ino == os.fstat(file.fileno()).st_ino:
                if facts.st_size < file.tell():  # emptied after a copy of it was kept
                    _ = file.seek(0)
                continue
            newer = path.open("rb")
        except FileNotFoundError:
            continue
        begun = _print_new(file, begun, show)
        file.close()
        file = newer


def _print_new(file: BinaryIO, begun: bytes, show: Callable[[bytes], None]) -> bytes:
    """Print the lines that were added; return the beginning of one that is not whole yet."""
    for line in _lines(file):
        begun += line
        if begun.endswith(b"\n") or len(begun) >= LONGEST_BYTES:
            show(begun)
            begun = b""
    return begun


def _print_json(line: bytes) -> None:
    """Print a line as one JSON object."""
    text = line.decode("utf-8", "replace").rstrip("\n")
    try:
        is_object = isinstance(cast("object", json.loads(text)), dict)
    except ValueError:
        is_object = False
    _ = sys.stdout.write((text if is_object else json.dumps({"line": text})) + "\n")
    sys.stdout.flush()


def _print(line: bytes) -> None:
    """Print a line; control characters of a server must not reach the terminal."""
    text = line.decode("utf-8", "replace").rstrip("\n")
    if sys.stdout.isatty():
        text = "".join(letter if letter.isprintable() or letter == "\t" else "?" for letter in text)
    _ = sys.stdout.write(text + "\n")
    sys.stdout.flush()
