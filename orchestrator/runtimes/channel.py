"""Lines to and from a stdio server, over its two FIFOs.

The server holds both FIFOs read-write and so do we: neither end ever sees the other go, and what
is under way outlives either. So the end of the server is not seen here, but in the engine's feed.
"""

import asyncio
import fcntl
import json
import os
import stat
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self, cast, final

import anyio
from anyio.lowlevel import checkpoint

from orchestrator.errors import TargetUnavailableError, UpstreamProtocolError

LINE_LIMIT_BYTES = 32 * 1024 * 1024
PIPE_BYTES = 1024 * 1024
# As much as is cut into lines in one go: nothing but line ends takes 20 ms.
_READ_BYTES = 128 * 1024
# What is pushed in one turn of the loop is written at once, in pieces of about this size: so the
# server wakes up once for all of it.
_PIECE_BYTES = 64 * 1024
# How many lines are given out before others get a turn; one read may bring many thousands.
_LINES_AT_ONCE = 32
_BROKEN = (OSError, anyio.ClosedResourceError, UpstreamProtocolError)


@final
class Channel:
    """One open pair of FIFOs; any number of senders, one receiver at a time."""

    def __init__(
        self, directory: str | Path, *, resume: bool = False, limit_bytes: int = LINE_LIMIT_BYTES
    ) -> None:
        """Open the FIFOs.

        Args:
            directory: Holds `in`, which the server reads, and `out`, which it writes.
            resume: Whether somebody else used them before, and may have stopped in mid-line: the
                first thing written is a newline, and the rest of a line that was half read is
                dropped.
            limit_bytes: Longest line that is taken.

        Raises:
            TargetUnavailableError: They are not there, or are not ours.
        """
        self._directory = Path(directory)
        self._limit = limit_bytes
        self._inlet = _open(self._directory / "in")
        try:
            self._outlet = _open(self._directory / "out")
        except BaseException:
            os.close(self._inlet)
            raise
        self._closed = False
        self._lock = anyio.Lock(fast_acquire=True)
        self._unsent: bytes | memoryview = b"\n" if resume else b""
        self._lines: deque[bytes] = deque()
        self._given = 0
        self._begun: list[bytes] = []
        self._begun_bytes = 0
        self._in_doubt = resume
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pushed: deque[bytes] = deque()
        self._pushed_bytes = 0
        self._piece_bytes = 0  # of it, what `_unsent` holds
        self._is_due = False
        self._awaits_room = False
        self._reads_on = False
        self._on_line: Callable[[bytes], None] | None = None
        self._on_broken: Callable[[Exception], None] | None = None

    def __enter__(self) -> Self:
        """Keep it open for the length of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close both FIFOs; whoever waits on them gets `anyio.ClosedResourceError`."""
        if not self._closed:
            if self._is_due:
                self._write_some()
            self._closed = True
            if self._loop is not None:
                _ = self._loop.remove_reader(self._outlet)
                _ = self._loop.remove_writer(self._inlet)
            for descriptor in (self._inlet, self._outlet):
                anyio.notify_closing(descriptor)
                os.close(descriptor)

    # One owner that takes what comes, and never waits: no task has to run for a line.

    def attach(
        self, on_line: Callable[[bytes], None], on_broken: Callable[[Exception], None]
    ) -> None:
        """Hand over lines from now on; `send` and `receive` are not to be used any more.

        Args:
            on_line: Takes each line.
            on_broken: Is told, at most once, that no more lines will come, and why.
        """
        self._loop = asyncio.get_running_loop()
        self._on_line = on_line
        self._on_broken = on_broken
        self._loop.add_reader(self._outlet, self._read_some)
        if self._pushed:
            self._write_some()

    @property
    def unsent_bytes(self) -> int:
        """How much of what was pushed waits for the server to read."""
        return self._pushed_bytes

    def push(self, line: bytes) -> None:
        """Write one line at the end of this turn of the loop, or as soon as the server reads.

        Raises:
            ClosedResourceError: The channel was closed.
        """
        self._require_open()
        self._pushed.append(line)
        self._pushed_bytes += len(line)
        if self._loop is not None and not self._awaits_room and not self._is_due:
            self._is_due = True
            _ = self._loop.call_soon(self._write_some)

    def _write_some(self) -> None:
        self._is_due = False
        if self._closed or self._loop is None:
            return
        try:
            while self._unsent or self._pushed:
                if not self._unsent:
                    self._unsent = self._take_piece()
                written = os.write(self._inlet, self._unsent)
                if written < len(self._unsent):
                    self._unsent = memoryview(self._unsent)[written:]
                    continue
                self._unsent = b""
                self._pushed_bytes -= self._piece_bytes
                self._piece_bytes = 0
        except BlockingIOError:
            if not self._awaits_room:
                self._awaits_room = True
                self._loop.add_writer(self._inlet, self._write_some)
            return
        except OSError as error:
            self._break(error)
            return
        if self._awaits_room:
            self._awaits_room = False
            _ = self._loop.remove_writer(self._inlet)

    def _take_piece(self) -> bytes:
        """Take the next lines that are written together: one, or as many as are short."""
        lines = [self._pushed.popleft()]
        self._piece_bytes = len(lines[0])
        while self._pushed and self._piece_bytes + len(self._pushed[0]) <= _PIECE_BYTES:
            lines.append(self._pushed.popleft())
            self._piece_bytes += len(lines[-1])
        lines.append(b"")
        return b"\n".join(lines)

    def _read_on(self) -> None:
        self._reads_on = False
        self._read_some()

    def _read_some(self) -> None:
        if self._closed or self._on_line is None or self._loop is None:
            return
        try:
            if not self._lines:
                self._take(os.read(self._outlet, _READ_BYTES))
            for _ in range(_LINES_AT_ONCE):
                if not self._lines or self._closed:
                    return
                self._on_line(self._lines.popleft())
        except BlockingIOError:
            return
        except _BROKEN as error:
            self._break(error)
            return
        except Exception as error:  # noqa: BLE001 - else nobody would read on, and all would wait
            broken = UpstreamProtocolError("the server sent a line that was not foreseen")
            broken.__cause__ = error
            self._break(broken)
            return
        # A server that writes without end must not keep everybody else from running.
        if not self._reads_on:
            self._reads_on = True
            _ = self._loop.call_soon(self._read_on)

    def _break(self, error: Exception) -> None:
        if self._loop is not None:
            _ = self._loop.remove_reader(self._outlet)
            _ = self._loop.remove_writer(self._inlet)
        if self._on_broken is not None:
            self._on_broken(error)

    async def send(self, line: bytes) -> None:
        """Write one line; returns when all of it is in the pipe.

        Lines of several senders never mix. A sender that is cancelled in mid-line leaves the rest
        to the next one, so the server still reads whole lines.

        Args:
            line: Without its newline.

        Raises:
            ClosedResourceError: The channel was closed.
        """
        if b"\n" in line:
            raise ValueError("a line contains no newline")
        async with self._lock:
            if self._unsent:
                await self._flush()
            self._unsent = line + b"\n"
            size = len(self._unsent)
            try:
                await self._flush()
            except BaseException:
                if len(self._unsent) == size:  # nothing of it was written: it was never sent
                    self._unsent = b""
                raise

    async def _flush(self) -> None:
        while self._unsent:
            self._require_open()
            try:
                written = os.write(self._inlet, self._unsent)
            except BlockingIOError:
                await anyio.wait_writable(self._inlet)
            else:
                if written == len(self._unsent):
                    self._unsent = b""
                else:
                    self._unsent = memoryview(self._unsent)[written:]

    async def receive(self) -> bytes:
        """Read the next line that is not blank, without its newline.

        Raises:
            ClosedResourceError: The channel was closed.
            UpstreamProtocolError: The line is longer than the limit; the channel is of no more use.
        """
        self._given += 1
        if self._given % _LINES_AT_ONCE == 0:
            await checkpoint()
        while not self._lines:
            self._require_open()
            try:
                data = os.read(self._outlet, _READ_BYTES)
            except BlockingIOError:
                await anyio.wait_readable(self._outlet)
            else:
                self._take(data)
                # A server that writes without end must not keep everybody else from running.
                await checkpoint()
        return self._lines.popleft()

    def _take(self, data: bytes) -> None:
        """Cut what was read into lines; each byte is looked at once, however long a line gets."""
        first, *rest = data.split(b"\n")
        self._begun.append(first)
        self._begun_bytes += len(first)
        if rest:
            self._finish(b"".join(self._begun))
            for line in rest[:-1]:
                self._finish(line)
            self._begun = [rest[-1]]
            self._begun_bytes = len(rest[-1])
        if self._begun_bytes > self._limit:
            raise UpstreamProtocolError(f"the server sent a line of more than {self._limit} bytes")

    def _finish(self, line: bytes) -> None:
        if len(line) > self._limit:
            raise UpstreamProtocolError(f"the server sent a line of more than {self._limit} bytes")
        if self._in_doubt:
            self._in_doubt = False
            # The rest of a JSON object's text is never a JSON object itself: it closes one brace
            # more than it opens.
            if not _is_object(line):
                return
        if line and not line.isspace():
            self._lines.append(line)

    def _require_open(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError


def _is_object(line: bytes) -> bool:
    try:
        # As leniently as a rest can be told: what is no proper JSON may still answer a call.
        return isinstance(cast("object", json.loads(line)), dict)
    except (ValueError, RecursionError):
        return False


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise TargetUnavailableError(f"{path} cannot be opened: {error.strerror}") from error
    facts = os.fstat(descriptor)
    if not stat.S_ISFIFO(facts.st_mode) or facts.st_uid != os.geteuid():
        os.close(descriptor)
        raise TargetUnavailableError(f"{path} is not a FIFO of ours")
    with suppress(OSError):  # beyond what the user may have; the size that it has works, too
        _ = fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return descriptor
