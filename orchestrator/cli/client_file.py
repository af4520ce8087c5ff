"""Files of clients, which belong to others: read as they are, replaced whole or not at all."""

import os
import stat
from pathlib import Path
from typing import Final

from orchestrator.errors import ConfigError
from orchestrator.files import read_regular, write_atomically

_LONGEST_FILE_BYTES: Final = 16 * 1024 * 1024


def read_client_file(real: Path, path: Path) -> tuple[str, int] | None:
    """Read a client's file.

    Args:
        real: The file itself, all links followed.
        path: What people call it.

    Returns:
        Its text and mode, None if there is none.

    Raises:
        ConfigError: It cannot be read, or changed later.
    """
    try:
        content, facts = read_regular(real, _LONGEST_FILE_BYTES, follow=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if facts.st_uid != os.geteuid():
        raise ConfigError(f"{path} belongs to another user; nothing was changed")
    if len(content) > _LONGEST_FILE_BYTES:
        raise ConfigError(f"{path} is too long; nothing was changed")
    try:
        return content.decode(), stat.S_IMODE(facts.st_mode)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no UTF-8 text; nothing was changed") from error


def write_client_file(
    real: Path, path: Path, new: str, mode: int, *, before: tuple[str, int] | None
) -> None:
    """Replace a client's file, if it is still as it was read.

    Args:
        real: The file itself, all links followed.
        path: What people call it.
        new: Its new text.
        mode: Its mode.
        before: What was read.

    Raises:
        ConfigError: It cannot be written, or somebody else changed it; it stays as it is.
    """
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        if read_client_file(real, path) != before:
            raise ConfigError(f"{path} was changed just now by its client", hint="Try again.")
        write_atomically(real, new.encode(), mode)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}; nothing was changed"
        ) from error
