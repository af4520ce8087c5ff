"""The audit file: append, sync, and never without the chain.

Writers take turns by a lock on the file, held for one append, so that two instances that overlap
during a rotation keep one unbroken chain. A line is on disk before the signature it tells of
leaves the process.
"""

import fcntl
import os
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from walletserver.codes import Code
from walletserver.custody.receipts import Draft, chain_line, entry_hash_of
from walletserver.errors import FlowError
from walletserver.logs import log_event, where
from walletserver.private_files import open_private

_LOCK_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 0.005
_TAIL_BYTES: Final = 64 * 1024


class AuditTrail:
    """Appends receipts to one file."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        """Keep the path; the file is created when it is first needed.

        Args:
            path: The JSONL file.
            now: Wall clock, in seconds since the epoch.
        """
        self._path = path
        self._now = now

    def check(self) -> None:
        """Make sure the file can be opened for appending.

        Raises:
            FlowError: It cannot; nothing may be signed.
        """
        try:
            os.close(self._open())
        except OSError as error:
            raise _unavailable(error) from error

    def append(self, draft: Draft, elapsed_ms: int) -> None:
        """Write one receipt, durable when this returns.

        Raises:
            FlowError: It could not be written; what it tells of must not happen.
        """
        moment = datetime.fromtimestamp(self._now(), UTC)
        timestamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        content = draft.content(f"rcpt_{secrets.token_hex(12)}", timestamp, elapsed_ms)
        try:
            file = self._open()
            try:
                _lock(file)
                _append(file, content)
            finally:
                # Closing gives the lock back.
                os.close(file)
        except (OSError, ValueError) as error:
            raise _unavailable(error) from error

    def _open(self) -> int:
        return open_private(self._path, os.O_RDWR | os.O_APPEND)


def _lock(file: int) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)
        else:
            return


def _append(file: int, content: dict[str, object]) -> None:
    size = os.fstat(file).st_size
    tail = os.pread(file, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
    whole = tail.rfind(b"\n") + 1
    if size > _TAIL_BYTES and not whole:
        raise ValueError
    if whole < len(tail):
        # A writer died in the middle of a line. Its call was never answered, so cutting the
        # torn line off loses nothing that anyone was told.
        size -= len(tail) - whole
        os.ftruncate(file, size)
        tail = tail[:whole]
        log_event("audit_tail_repaired")
    lines = tail.splitlines()
    line = chain_line(content, entry_hash_of(lines[-1]) if lines else None)
    is_whole = False
    try:
        is_whole = os.write(file, line) == len(line)
        os.fsync(file)
    finally:
        if not is_whole:
            os.ftruncate(file, size)
    if not is_whole:
        raise OSError


def _unavailable(error: Exception) -> FlowError:
    log_event("audit_unavailable", error=where(error))
    return FlowError(
        Code.AUDIT_UNAVAILABLE,
        "The audit trail cannot be written, so nothing is signed.",
        "Make the file named by WALLETSUITE_AUDIT_PATH writable for the server, with free space"
        " and an intact last line.",
    )
