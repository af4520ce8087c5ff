"""Lines on file descriptors, without threads, so that a signal or a cancel is never kept waiting.

The descriptors stay in blocking mode: it belongs to the open file, which others may share.
"""

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

_CHUNK_BYTES: Final = 65_536
# A pipe that is writable takes this much at once, without blocking. Source: POSIX, PIPE_BUF.
_WRITE_BYTES: Final = 4_096


async def read_lines(descriptor: int, limit_bytes: int) -> AsyncGenerator[bytes | None]:
    """Read lines until the end; the last one may lack its newline.

    Args:
        descriptor: Where to read.
        limit_bytes: How long a line may be; the rest of a longer one is not kept.

    Yields:
        Each line, without its newline; None for one that is too long.
    """
    pieces: list[bytes] = []
    size = 0
    while True:
        await _wait(anyio.wait_readable, descriptor)
        try:
            data = os.read(descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            continue
        except OSError:
            data = b""  # a terminal that went away
        if not data:
            break
        *ends, rest = data.split(b"\n")
        for end in ends:
            pieces.append(end)
            yield b"".join(pieces) if size + len(end) <= limit_bytes else None
            pieces.clear()
            size = 0
        size += len(rest)
        if size <= limit_bytes:
            pieces.append(rest)
        else:
            pieces.clear()
    if size:
        yield b"".join(pieces) if size <= limit_bytes else None


async def write_line(descriptor: int, line: bytes) -> None:
    """Write a line; whoever cancels this leaves half a line behind.

    Raises:
        OSError: Nobody reads any more.
    """
    rest = memoryview(line + b"\n")
    while rest:
        await _wait(anyio.wait_writable, descriptor)
        try:
            rest = rest[os.write(descriptor, rest[:_WRITE_BYTES]) :]
        except BlockingIOError:
            continue


async def _wait(until: Callable[[int], Awaitable[None]], descriptor: int) -> None:
    try:
        await until(descriptor)
    except PermissionError:
        # A regular file or /dev/null: it cannot be waited for, and never blocks.
        await checkpoint()
