"""One request and its reply, between a connection and the ASGI application.

A reply of known length leaves in one write, head and body together; of unknown length, its head
leaves at once and each piece by itself.
"""

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, Protocol, TypeAlias, final

from orchestrator.gateway.asgi import Body, Receive, Received, Scope, Send, Start
from orchestrator.gateway.head import Head
from orchestrator.gateway.log import get_log

# How much of a body is kept for an application that does not read it yet.
_BODY_AT_ONCE: Final = 64 * 1024
_CHUNKED: Final = -1
_UNTIL_CLOSE: Final = -2
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_FAILED: Final = (
    b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
)
_DISCONNECT: Final = Received(type="http.disconnect")

App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class Line(Protocol):
    """What a cycle needs of its connection.

    Attributes:
        drained: Is set when the other end has read enough; None if it has.
    """

    drained: asyncio.Event | None

    def write(self, data: bytes, /) -> None:
        """Send bytes."""
        ...

    def close(self) -> None:
        """End the connection when all is sent."""
        ...

    def abort(self) -> None:
        """End the connection now."""
        ...

    def pause_reading(self) -> None:
        """Let what comes in wait."""
        ...

    def resume_reading(self) -> None:
        """Let it come in again."""
        ...

    def complete(self) -> None:
        """The reply of the cycle has been handed over."""
        ...

    def forget(self, task: "asyncio.Task[None]", /) -> None:
        """The application is done with the cycle."""
        ...


@final
class Cycle:
    """One request.

    Attributes:
        scope: What ASGI tells of it.
        head: The same.
        keep_alive: Whether the connection outlives it.
        is_started: Whether the application knows of it.
        is_whole: Whether its body has come to the end.
        is_begun: Whether bytes of the reply were sent.
        is_complete: Whether the reply was handed over.
        task: Runs it.
    """

    __slots__ = (
        "_body",
        "_gone",
        "_head",
        "_is_given",
        "_is_old",
        "_left",
        "_line",
        "_news",
        "head",
        "is_begun",
        "is_complete",
        "is_started",
        "is_whole",
        "keep_alive",
        "scope",
        "task",
    )

    def __init__(
        self,
        line: Line,
        scope: Scope,
        head: Head,
        keep_alive: bool,  # noqa: FBT001 - names cost as much as the rest
        is_old: bool,  # noqa: FBT001 - the same
    ) -> None:
        """Begin with the head.

        Args:
            line: The connection.
            scope: The head.
            head: The same.
            keep_alive: Whether the connection outlives the cycle.
            is_old: Whether the caller speaks HTTP/1.0 and does not know chunks.
        """
        self.scope = scope
        self.head = head
        self.keep_alive = keep_alive and not is_old
        self.is_started = False
        self.is_whole = False
        self.is_begun = False
        self.is_complete = False
        self.task: asyncio.Task[None] | None = None
        self._line = line
        self._is_old = is_old
        self._body = b""
        self._is_given = False
        self._gone = False
        self._head: bytes | None = None
        self._left = 0
        self._news: asyncio.Event | None = None

    def take(self, body: bytes) -> None:
        """Take a piece of the body; after the reply nobody wants it any more."""
        if self.is_complete:
            return
        self._body = self._body + body if self._body else body
        if len(self._body) > _BODY_AT_ONCE:
            self._line.pause_reading()
        self._tell()

    def finish_body(self) -> None:
        """Take the end of the body."""
        self.is_whole = True
        self._tell()

    def lose(self) -> None:
        """The caller is gone."""
        self._gone = True
        self._tell()

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()

    async def run(self, app: App) -> None:
        """Have the application answer."""
        try:
            # The scope is others', too; and one of this cycle's own would be a ring.
            scope: Scope = {**self.scope, "direct": self}
            await app(scope, self._receive, self._send)
        except Exception as error:  # noqa: BLE001 - the top: told once
            _ = get_log(__name__).error(
                "unexpected_error",
                error=type(error).__name__,
                where=traceback.format_tb(error.__traceback__),
            )
        finally:
            if not self.is_complete and not self._gone:
                self._break_off()
            # Here and not by a callback, which takes another turn of the loop.
            if self.task is not None:
                self._line.forget(self.task)
                self.task = None

    def _break_off(self) -> None:
        """End a reply that will not come to its end, so that nobody takes it for whole."""
        if self.is_begun:
            self._line.abort()
        else:
            self._line.write(_FAILED)
            self._line.close()

    def take_whole(self) -> bytes | None:
        """Take the whole body, as `receive` would give it; None if not all of it has come."""
        if not self.is_whole or self._is_given or self._gone:
            return None
        self._is_given = True
        body, self._body = self._body, b""
        self._line.resume_reading()
        return body

    def reply(self, status: int, lines: bytes, body: bytes) -> bool:
        """Send a whole reply at once; False if it has to go by `send`."""
        if (
            self._line.drained is not None
            or self._head is not None
            or not self.keep_alive
            or self._gone
            or self.head.method == "HEAD"
        ):
            return False
        self._head = _STATUS_LINES[status] + lines + b"\r\n"
        self.is_begun = self.is_complete = True
        self._line.write(self._head + body)
        self._tell()
        self._line.complete()
        return True

    async def _receive(self) -> Received:
        """Give what has come of the body; after its end, wait for the caller to go away."""
        if not self._is_given:
            if not self._body and not self.is_whole:
                await self._await_body()
            if not self._gone:
                body, self._body = self._body, b""
                self._is_given = self.is_whole
                self._line.resume_reading()
                return {"type": "http.request", "body": body, "more_body": not self.is_whole}
        while not self._gone and not self.is_complete:
            await self._await_news()
        return _DISCONNECT

    async def _await_body(self) -> None:
        headers = self.scope["headers"]
        if any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers):
            headers[:] = [header for header in headers if header[0] != b"expect"]
            self._line.write(_CONTINUE)
        self._line.resume_reading()
        while not self._body and not self.is_whole and not self._gone:
            await self._await_news()

    async def _await_news(self) -> None:
        if self._news is None:
            self._news = asyncio.Event()
        self._news.clear()
        _ = await self._news.wait()

    async def _send(self, message: Start | Body) -> None:
        while (drained := self._line.drained) is not None:
            _ = await drained.wait()
        if self._gone:
            return
        if message["type"] == "http.response.start":
            self._begin(message)
        else:
            self._go_on(message["body"], more=message["more_body"])

    def _begin(self, message: Start) -> None:
        if self._head is not None:
            raise ValueError("a reply has one head")
        lines = [_STATUS_LINES[message["status"]]]
        left = _UNTIL_CLOSE if self._is_old else _CHUNKED
        if message["status"] in {204, 304}:
            left = 0
        for name, value in message["headers"]:
            lines.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-length":
                left = int(value)
        if left == _CHUNKED:
            lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        head = b"".join(lines)
        if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
            raise ValueError("a header holds a line end")
        self._head, self._left = head, left
        if left < 0:
            # Whoever reads a stream waits for its head first.
            self._line.write(head)
            self.is_begun = True

    def _go_on(self, body: bytes, *, more: bool) -> None:
        if self._head is None or self.is_complete:
            raise ValueError("a piece of a body has its place between head and end")
        if self.scope["method"] == "HEAD":
            body, self._left = b"", 0
        if self._left >= 0:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise ValueError("a body has the length that its head tells")
        elif self._left == _CHUNKED:
            body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            if not more:
                body += b"0\r\n\r\n"
        if not self.is_begun:
            self.is_begun = True
            body = self._head + body
        if body:
            self._line.write(body)
        if not more:
            self.is_complete = True
            self._tell()
            self._line.complete()
