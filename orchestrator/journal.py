"""An append-only file of lines: in the kernel at once, on disk for many waiters at a time.

What is appended survives the death of this process; what `durable` has reported survives the death
of the machine. A journal has one writer, who calls it from one thread; readers may come and go.

It lies in a directory as segments `00000001.jsonl`, `00000002.jsonl`, ...; one that is called
`00000003.base.jsonl` replaces all before it. Beside them may be `NNNNNNNN.torn`, which is what
crashes left of unfinished lines, and `reserve`.
"""

import asyncio
import errno
import os
import re
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, final

from orchestrator.errors import StateUnwritableError
from orchestrator.files import (
    PRIVATE_FILE,
    make_private_directory,
    sync_directory,
    write_atomically,
)

# After a failed sync nobody can tell what is on disk, so the next line begins a new segment; not
# for every call while the disk stays as it is.
RETRY_SECONDS: Final = 1.0
_SEGMENT: Final = re.compile(r"[0-9]{8,}(\.base)?\.jsonl")
_BLOCK: Final = 64 * 1024
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def segments(directory: Path) -> list[Path]:
    """Tell a journal's segments, the oldest first; none if there is no journal."""
    return _divide(directory)[1]


def _divide(directory: Path) -> tuple[list[Path], list[Path]]:
    """Tell the segments that were replaced and are still there, and those that count."""
    try:
        every = [path for path in directory.iterdir() if _SEGMENT.fullmatch(path.name)]
    except FileNotFoundError:
        return [], []
    every.sort(key=_number)
    bases = [place for place, path in enumerate(every) if path.name.endswith(".base.jsonl")]
    first = bases[-1] if bases else 0
    return every[:first], every[first:]


def _number(path: Path) -> int:
    return int(path.name.partition(".")[0])


@final
class Reserve:
    """Room on the disk that is given up when there is no other, for lines that have to be kept.

    Attributes:
        is_held: Whether the room is there; always if it is to be of no size.
    """

    def __init__(self, path: Path, size: int) -> None:
        """Mean `size` bytes in this file; nothing is taken yet."""
        self.is_held = size == 0
        self._path = path
        self._size = size

    def hold(self) -> None:
        """Take the room.

        Raises:
            OSError: There is none.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, PRIVATE_FILE)
        try:
            os.posix_fallocate(descriptor, 0, self._size)
        finally:
            os.close(descriptor)
        self.is_held = True

    def release(self) -> bool:
        """Give the room up; False if it is not held."""
        if not self.is_held or self._size == 0:
            return False
        self.is_held = False
        with suppress(OSError):
            os.truncate(self._path, 0)
        return True


@final
class Journal:
    """The one writer of a journal.

    Attributes:
        directory: Where the segments are.
        torn_bytes: How much of unfinished lines was cut off and put aside at opening.
    """

    def __init__(
        self, directory: Path, *, segment_bytes: int = sys.maxsize, reserve_bytes: int = 0
    ) -> None:
        """Open a journal, or make one; blocks.

        Args:
            directory: Where it lies.
            segment_bytes: Size from which on a new segment is begun.
            reserve_bytes: Room that is kept for urgent lines.

        Raises:
            StateUnwritableError: It cannot be read, or the disk has no room for a first segment.
            SettingsError: The directory cannot be used.
        """
        make_private_directory(directory)
        self.directory = directory
        self.torn_bytes = 0
        self._segment_bytes = segment_bytes
        self._reserve = Reserve(directory / "reserve", reserve_bytes)
        try:
            replaced, known = _divide(directory)
            for path in replaced:
                path.unlink()
            for path in known:
                self.torn_bytes += _cut_torn_line(path)
            path = known[-1] if known else directory / "00000001.jsonl"
            self._number = _number(path)
            self._file = _open(path)
            sync_directory(directory)
            self._size = os.fstat(self._file).st_size
        except OSError as error:
            raise _unwritable(directory, error) from error
        # Segments that are full and may not be on disk yet.
        self._left: list[int] = []
        self._is_entry_new = False
        # What has to be done before the next line: cut a piece of one off; begin a segment.
        self._is_torn = False
        self._is_over = False
        self._retry_at = 0.0
        # Lines are counted: those appended, and of them those known to be on disk.
        self._appended = 0
        self._durable = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._is_syncing = False
        self._worker = ThreadPoolExecutor(1, "journal")

    def admit(self) -> None:
        """Refuse what would have to be appended later, while there may be no room for it then.

        Raises:
            StateUnwritableError: The disk is full, or cannot be written.
        """
        try:
            if not self._reserve.is_held:
                self._reserve.hold()
            if self._is_torn or self._is_over:
                self._mend()
        except OSError as error:
            raise _unwritable(self.directory, error) from error

    def append(self, line: bytes, *, is_urgent: bool = False) -> None:
        """Append one line; it is in the kernel when this returns.

        Args:
            line: The line, without its end and with no line end in it.
            is_urgent: Whether the reserve may be used for it.

        Raises:
            StateUnwritableError: It could not be written, and nothing of it is there.
        """
        if line.find(b"\n") >= 0:  # `in` takes twice as long
            raise ValueError("a line has no line end in it")
        data = line + b"\n"
        if not is_urgent:
            self.admit()
        try:
            self._put(data)
        except OSError as error:
            if not is_urgent or not self._reserve.release():
                raise _unwritable(self.directory, error) from error
            try:
                self._put(data)
            except OSError as again:
                raise _unwritable(self.directory, again) from again

    def _put(self, data: bytes) -> None:
        if self._is_torn or self._is_over:
            self._mend()
        if self._size and self._size + len(data) > self._segment_bytes:
            self._begin_segment()
        written, size = 0, len(data)
        try:
            while written < size:
                written += os.write(self._file, data[written:] if written else data)
        except OSError:
            self._is_torn = written > 0
            with suppress(OSError):
                self._mend()
            raise
        self._size += size
        self._appended += 1

    def _mend(self) -> None:
        """Repair what an earlier failure left, or fail again."""
        if self._is_torn:
            os.ftruncate(self._file, self._size)
            self._is_torn = False
        if self._is_over:
            if time.monotonic() < self._retry_at:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self._begin_segment()
            self._is_over = False

    def _begin_segment(self) -> None:
        file = _open(self.directory / f"{self._number + 1:08}.jsonl")
        if self._is_over:
            _ = self._worker.submit(os.close, self._file)
        else:
            self._left.append(self._file)
        self._file, self._number, self._size = file, self._number + 1, 0
        self._is_entry_new = True

    @property
    def size(self) -> int:
        """Tell how many bytes the newest segment has."""
        return self._size

    def turn(self) -> None:
        """Begin a new segment, unless the newest one is empty.

        Raises:
            StateUnwritableError: The disk is full or gone; the newest one stays in use.
        """
        try:
            if self._is_torn or self._is_over:
                self._mend()
            if self._size:
                self._begin_segment()
        except OSError as error:
            raise _unwritable(self.directory, error) from error

    def durable(self) -> "asyncio.Future[None]":
        """Tell when every line appended so far is on disk.

        Ask in the same turn of the event loop as the line was appended. All who wait at the same
        time share one sync.

        Returns:
            A future of the caller's own; it fails with `StateUnwritableError` if the lines may not
            be on disk.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if self._durable == self._appended:
            future.set_result(None)
            return future
        self._waiting.append((self._appended, future))
        if not self._is_syncing:
            self._start_sync(loop)
        return future

    def _start_sync(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_syncing = True
        left, self._left = self._left, []
        directory = self.directory if self._is_entry_new else None
        self._is_entry_new = False
        mark, file = self._appended, self._file

        def work() -> None:
            error = _sync(left, file, directory)
            with suppress(RuntimeError):  # the loop ended meanwhile, and with it all who waited
                _ = loop.call_soon_threadsafe(self._synced, loop, mark, error)

        _ = self._worker.submit(work)

    def _synced(
        self, loop: asyncio.AbstractEventLoop, mark: int, error: OSError | None = None
    ) -> None:
        self._is_syncing = False
        waiting, self._waiting = self._waiting, []
        if error is not None:
            # What the kernel could not write it forgets, and the next sync would succeed.
            self._is_over, self._retry_at = True, time.monotonic() + RETRY_SECONDS
            mark = self._appended
        self._durable = mark
        for count, future in waiting:
            if count > mark:
                self._waiting.append((count, future))
            elif future.done():
                pass  # its owner stopped waiting
            elif error is None:
                future.set_result(None)
            else:
                future.set_exception(_unwritable(self.directory, error))
        if self._waiting:
            self._start_sync(loop)

    def sync(self) -> None:
        """Put every line on disk; blocks, so only where no event loop waits.

        Raises:
            StateUnwritableError: They may not be there.
        """
        left, self._left = self._left, []
        directory = self.directory if self._is_entry_new else None
        self._is_entry_new = False
        error = _sync(left, self._file, directory)
        if error is not None:
            self._is_over, self._retry_at = True, time.monotonic() + RETRY_SECONDS
            raise _unwritable(self.directory, error) from error
        self._durable = self._appended

    def load(self) -> list[bytes]:
        """Read all lines, the oldest first; blocks."""
        return [
            line
            for path in segments(self.directory)
            for line in path.read_bytes().split(b"\n")
            if line
        ]

    def compact(self, lines: Iterable[bytes]) -> None:
        """Replace all lines by these, atomically and durably; blocks.

        Raises:
            StateUnwritableError: The disk is full or gone; nothing changed.
        """
        number = self._number + 1
        path = self.directory / f"{number:08}.base.jsonl"
        try:
            write_atomically(path, b"".join(line + b"\n" for line in lines))
        except OSError as error:
            raise _unwritable(self.directory, error) from error
        self._number, self._is_over, self._retry_at = number, True, 0.0
        for replaced in _divide(self.directory)[0]:
            with suppress(OSError):  # nobody reads it any more, and the next start tries again
                replaced.unlink()

    def close(self) -> None:
        """Put everything on disk as far as possible, and let go of it; blocks."""
        waiting, self._waiting = self._waiting, []
        for _, future in waiting:
            _ = future.cancel()
        self._worker.shutdown()
        _ = _sync(self._left, self._file, self.directory if self._is_entry_new else None)
        os.close(self._file)


def _open(path: Path) -> int:
    return os.open(path, _FLAGS, PRIVATE_FILE)


def _sync(left: list[int], file: int, directory: Path | None) -> OSError | None:
    """Put segments on disk, in their order, and close those that were left."""
    first: OSError | None = None
    for one in (*left, file):
        try:
            os.fdatasync(one)
        except OSError as error:
            first = first or error
    for one in left:
        with suppress(OSError):
            os.close(one)
    if directory is not None and first is None:
        try:
            sync_directory(directory)
        except OSError as error:
            first = error
    return first


def _cut_torn_line(path: Path) -> int:
    """Put the bytes behind the last line end aside, and tell how many there were."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end:
            start = max(0, end - _BLOCK)
            _ = file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end == size:
            return 0
        _ = file.seek(end)
        rest = file.read()
        with os.fdopen(_open(path.with_suffix(".torn")), "wb") as torn:
            _ = torn.write(rest + b"\n")
            torn.flush()
            os.fsync(torn.fileno())
        sync_directory(path.parent)
        _ = file.truncate(end)
        os.fsync(file.fileno())
        return size - end


def _unwritable(directory: Path, error: OSError) -> StateUnwritableError:
    is_full = error.errno in {errno.ENOSPC, errno.EDQUOT}
    return StateUnwritableError(
        f"{directory} cannot be written: {error.strerror}",
        hint="Make room on the disk." if is_full else "Look after the disk and its file system.",
    )
