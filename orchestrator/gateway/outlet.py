"""The way to one caller while its request is open: an event stream that begins when it is needed.

Whoever has something to say puts it in and goes on; what the caller does not read in time is
bounded. Most requests never need it.

Source: MCP 2026-07-28, Streamable HTTP; WHATWG HTML, server-sent events.
"""

import asyncio
from collections import deque
from typing import Final, final

from orchestrator.gateway.asgi import Body, Send, Start
from orchestrator.model.base import JsonObject
from orchestrator.protocol import jsonrpc

MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
MAX_WAITING: Final = 1024
_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)
_PING: Final = b": \n\n"


@final
class Outlet:
    """One event stream.

    Attributes:
        is_full: Whether something had to be left out because the caller does not read.
    """

    __slots__ = ("_begun", "_bytes", "_headers", "_queue", "_send", "_writer", "is_full")

    def __init__(self, send: Send, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """Write to this request's connection, with these headers beside the stream's own."""
        self._begun = False
        self.is_full = False
        self._send = send
        self._headers = headers
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._writer: asyncio.Task[None] | None = None

    @property
    def is_used(self) -> bool:
        """Whether the reply is a stream by now."""
        return self._writer is not None

    def begin(self) -> None:
        """Send the head now, although there is no message yet."""
        self._put(b"")

    def push(self, message: JsonObject) -> bool:
        """Put one message in.

        Returns:
            Whether it was taken; not if the caller is too slow, or if it cannot be written.
        """
        if len(self._queue) >= MAX_WAITING or self._bytes > MAX_WAITING_BYTES:
            self.is_full = True
            return False
        try:
            data = jsonrpc.encode(message)
        except (ValueError, RecursionError):
            return False  # nested more deeply than can be written
        self._put(b"event: message\ndata: " + data + b"\n\n")
        return True

    def ping(self) -> None:
        """Show the caller, and whoever is between, that the stream lives."""
        if self._begun and not self._queue:
            self._put(_PING)

    def _put(self, data: bytes) -> None:
        self._queue.append(data)
        self._bytes += len(data)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        if not self._begun:
            self._begun = True
            headers = [*_HEADERS, *self._headers]
            await self._send(Start(type="http.response.start", status=200, headers=headers))
        while self._queue:
            data = self._queue.popleft()
            if data:
                await self._send(Body(type="http.response.body", body=data, more_body=True))
            self._bytes -= len(data)

    async def finish(self, message: bytes) -> None:
        """Write what waits, then a last message if there is one, and end the stream."""
        if self._writer is not None:
            await self._writer
        if message:
            self._put(b"event: message\ndata: " + message + b"\n\n")
        if self._writer is not None:
            await self._writer
        await self._send(Body(type="http.response.body", body=b"", more_body=False))

    def abandon(self) -> None:
        """Stop writing; the request is over."""
        if self._writer is not None and not self._writer.done():
            _ = self._writer.cancel()
