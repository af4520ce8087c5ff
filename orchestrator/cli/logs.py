"""`agents logs`: the end of a log, and what follows."""

import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import BinaryIO, Final

from orchestrator.cli.output import note
from orchestrator.cli.places import find_paths
from orchestrator.errors import NotRunningError, SettingsError

LOOK_SECONDS: Final = 0.2


def logs(project: Path | None, role: str | None, *, follow: bool, lines: int, daemon: bool) -> None:
    """Print a log.

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
    try:
        with path.open("rb") as file:
            for line in deque(file, maxlen=lines):
                _print(line)
            if follow:
                _follow(path, file)
    except FileNotFoundError as error:
        raise NotRunningError("there is no log yet", hint="Start with `agents up`.") from error
    except KeyboardInterrupt:
        note("")


def _follow(path: Path, file: BinaryIO) -> None:
    """Print what is added; goes on with the new file when the log was rotated."""
    begun = b""
    while True:
        begun = _print_new(file, begun)
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
        begun = _print_new(file, begun)
        file.close()
        file = newer


def _print_new(file: BinaryIO, begun: bytes) -> bytes:
    """Print the lines that were added; return the beginning of one that is not whole yet."""
    for line in file:
        begun += line
        if begun.endswith(b"\n"):
            _print(begun)
            begun = b""
    return begun


def _print(line: bytes) -> None:
    """Print a line; control characters of a server must not reach the terminal."""
    text = line.decode("utf-8", "replace").rstrip("\n")
    if sys.stdout.isatty():
        text = "".join(letter if letter.isprintable() or letter == "\t" else "?" for letter in text)
    _ = sys.stdout.write(text + "\n")
    sys.stdout.flush()
