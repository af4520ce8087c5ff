"""Files only this user may read, made and replaced without following links."""

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import Final

PRIVATE_FILE: Final = 0o600
PRIVATE_DIRECTORY: Final = 0o700


def ensure_directory(directory: Path) -> None:
    """Create a directory and its missing parents, each for this user alone.

    Raises:
        OSError: It cannot be made.
    """
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        # Two instances may start at once; whoever comes second finds it there.
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=PRIVATE_DIRECTORY)


def open_private(path: Path, flags: int) -> int:
    """Open a file of mode 0600, creating it and its directory; a link in its place is refused.

    Raises:
        OSError: It cannot be opened, or is a symbolic link.
    """
    ensure_directory(path.parent)
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)


def replace_private(path: Path, content: bytes) -> None:
    """Put a whole new file in place, durable when this returns.

    Whoever reads the path sees either the old file or the new one.

    Raises:
        OSError: It cannot be written, or the path is a symbolic link.
    """
    ensure_directory(path.parent)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if path.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        temporary = f".{path.name}.{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(temporary, flags, PRIVATE_FILE, dir_fd=directory)
        try:
            with os.fdopen(file, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            raise
        os.fsync(directory)
    finally:
        os.close(directory)
