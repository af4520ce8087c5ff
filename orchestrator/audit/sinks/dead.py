"""What a receiver refused for good, so that nobody has to believe that it took everything."""

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import orjson

from orchestrator.files import PRIVATE_FILE, sync_directory

# A pipe does not keep us waiting for its reader.
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def bury(path: Path, lines: Iterable[tuple[int, bytes]], reason: str, time: str) -> None:
    """Keep refused lines, durably.

    Args:
        path: The file of a sink's refused lines.
        lines: The lines, with their numbers; 0 for what has none.
        reason: Why they were refused.
        time: When that was.

    Raises:
        OSError: They cannot be kept; none of them is.
    """
    data = b"".join(
        orjson.dumps(
            {"line": line.decode("utf-8", "replace"), "reason": reason, "seq": seq, "time": time}
        )
        + b"\n"
        for seq, line in lines
    )
    append(path, data)


def append(path: Path, data: bytes, head: bytes = b"") -> None:
    """Append whole lines to a file, durably, or nothing of them.

    What a crash left of a line gets its end first.

    Args:
        path: The file; made if there is none.
        data: The lines.
        head: What stands in the file before the first line.

    Raises:
        OSError: They cannot be written, or it is no plain file.
    """
    descriptor = os.open(path, _FLAGS, PRIVATE_FILE)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if not size:
            data = head + data
        elif os.pread(descriptor, 1, size - 1) != b"\n":
            data = b"\n" + data
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
    if not size:
        sync_directory(path.parent)
