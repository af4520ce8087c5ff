"""A conversation over HTTP that is held like one over a pipe, a message at a time.

So a server is probed in the same words whatever it listens on. Each message that is sent is a POST
of its own; what comes back on any of them is received in the order in which it comes.

Source: MCP 2026-07-28 and 2025-11-25, Streamable HTTP.
"""

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self, TypeGuard, cast, final

import anyio
import orjson
from anyio.abc import TaskGroup
from typing_extensions import override

from orchestrator.errors import (
    AgentsError,
    MalformedMessageError,
    UpstreamProtocolError,
    WorkloadNotReadyError,
)
from orchestrator.model.base import Json, JsonObject
from orchestrator.protocol import jsonrpc
from orchestrator.protocol.header_writer import HeaderWriter
from orchestrator.protocol.sse import EventStream
from orchestrator.runtimes import http1
from orchestrator.runtimes.address import HOST, Address
from orchestrator.runtimes.channel import LINE_LIMIT_BYTES
from orchestrator.runtimes.http1 import Exchange, HttpClient

_LOOK_SECONDS: Final = 0.02
_BUSY_SECONDS: Final = 0.2
_END_SECONDS: Final = 1.0
_OK: Final = 200
_BAD: Final = 400
_BROKEN: Final = 500
_BUSY: Final = 503
# Of no meaning of its own: the gateway never sees it.
_REFUSED: Final = -32000
_POSTED: Final = (
    ("content-type", "application/json"),
    ("accept", "application/json, text/event-stream"),
)


@final
class HttpWire:
    """One conversation; enter it before use."""

    def __init__(self, address: Address, group: int = 0) -> None:
        """Keep the address; nothing is sent yet.

        Args:
            address: Where the server will listen.
            group: The server's process group, which has to hold the port; 0 if it is not known.
        """
        self.writer = HeaderWriter()
        self._address = address
        self._client = HttpClient(address, time.monotonic, group)
        self._group: TaskGroup | None = None
        self._lines: deque[bytes] = deque()
        self._again: deque[_Post] = deque()
        self._is_wanted_again = asyncio.Event()
        self._news = anyio.Event()
        self._problem: AgentsError | None = None
        self._was_reached = False

    async def __aenter__(self) -> Self:
        """Be ready to connect."""
        self._group = anyio.create_task_group()
        _ = await self._group.__aenter__()
        self._group.start_soon(self._client.run)
        self._group.start_soon(self._send_again)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the session that the server opened, if it did, and all connections."""
        if self._group is not None:
            with anyio.CancelScope(shield=True), anyio.move_on_after(_END_SECONDS):
                await self._end_session()
            self._group.cancel_scope.cancel()
            _ = await self._group.__aexit__(None, None, None)
        self._client.close()
        if isinstance(error, WorkloadNotReadyError) and not self._was_reached:
            raise WorkloadNotReadyError(
                f"the server does not listen on {self._place}",
                hint="Look into its log; it has to listen where its `command` or `env` says so, "
                "within `probe.startup`.",
            ) from error

    @property
    def _place(self) -> str:
        address = self._address
        return address.socket or f"port {address.port} of {address.host or HOST}"

    async def send(self, line: bytes, /) -> None:
        """Send one message, as soon as the server listens; a request's answer is not waited for.

        Raises:
            UpstreamError: Somebody else listens there.
        """
        message = _read(line) or {}
        method, params = message.get("method"), message.get("params")
        headers = self.writer.write(
            method if isinstance(method, str) else None, params if _is_object(params) else {}
        )
        head = http1.head("POST", self._address, (*_POSTED, *headers))
        is_request = "method" in message and "id" in message
        post = _Post(self, message if is_request else {}, http1.with_body(head, line))
        await self._reach()
        self._client.send(post)
        if not is_request:
            # What is sent next may be refused by a server that has not taken this.
            await post.is_over

    async def receive(self) -> bytes:
        """Take the next message that came, on whichever response.

        Raises:
            UpstreamProtocolError: The server failed at a request.
        """
        while not self._lines:
            if self._problem is not None:
                raise self._problem
            await self._news.wait()
        return self._lines.popleft()

    async def _reach(self) -> None:
        while True:
            try:
                await self._client.warm()
            except OSError:
                await anyio.sleep(_LOOK_SECONDS)
            else:
                self._was_reached = True
                return

    async def _end_session(self) -> None:
        headers = self.writer.write("ping", {})
        if any(name == "mcp-session-id" for name, _ in headers):
            request = http1.without_body(http1.head("DELETE", self._address, headers))
            post = _Post(self, {}, request)
            self._client.send(post)
            await post.is_over

    # What the requests tell.

    def take(self, line: bytes) -> None:
        """Take a message."""
        self._lines.append(line)
        self._tell()

    def fail(self, error: AgentsError) -> None:
        """Take the news that a request has no answer."""
        self._problem = self._problem or error
        self._tell()

    def send_again(self, post: "_Post") -> None:
        """Send a request again that the server was too busy for."""
        # Not a task of its own: this is called by the connection, where nothing may be started.
        self._again.append(post)
        self._is_wanted_again.set()

    async def _send_again(self) -> None:
        while True:
            await self._is_wanted_again.wait()
            self._is_wanted_again.clear()
            await anyio.sleep(_BUSY_SECONDS)
            while self._again:
                post = self._again.popleft()
                try:
                    await self._reach()
                    self._client.send(post)
                except AgentsError as error:
                    self.fail(error)

    def _tell(self) -> None:
        event, self._news = self._news, anyio.Event()
        event.set()


@final
class _Post(Exchange):
    """One message, and what comes back on it."""

    __slots__ = (
        "_body",
        "_events",
        "_is_answered",
        "_kind",
        "_message",
        "_session",
        "_status",
        "_wire",
        "is_over",
    )

    def __init__(self, wire: HttpWire, message: JsonObject, request: bytes) -> None:
        """Keep the message; an empty one needs no answer."""
        super().__init__(request)
        self._wire = wire
        self._message = message
        self._status = 0
        self._kind = ""
        self._session = ""
        self._body = bytearray()
        self._events: EventStream | None = None
        self._is_answered = not message
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @override
    def took_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self._status = status
        self._kind = headers.get(b"content-type", b"").decode("latin-1").lower().partition(";")[0]
        self._session = headers.get(b"mcp-session-id", b"").decode("latin-1")
        self._events = None
        if status == _OK and self._kind == "text/event-stream":
            self._events = EventStream(LINE_LIMIT_BYTES)
        self._body.clear()
        if not self._message:
            self._finish()

    @override
    def took_piece(self, piece: bytes) -> None:
        if self._events is None:
            self._body += piece
            if len(self._body) > LINE_LIMIT_BYTES:
                self._fail(f"sent an answer of more than {LINE_LIMIT_BYTES} bytes")
            return
        try:
            for data in self._events.feed(piece):
                self._take(data)
        except UpstreamProtocolError as error:
            self._fail(f"sent {error}")

    @override
    def ended(self) -> None:
        if self._status == _BUSY and not self._is_answered:
            self._wire.send_again(self)
            return
        if not self._is_answered and self._events is None and self._kind == "application/json":
            self._take(self._with_id(bytes(self._body)))
        if not self._is_answered and self._status >= _BROKEN:
            self._fail(f"failed at {self._method} with HTTP status {self._status}")
        if not self._is_answered:
            kind = f" and {self._kind[:40]}" if self._kind and self._status == _OK else ""
            words = f"HTTP status {self._status}{kind}, and no answer"
            error: JsonObject = {"code": _REFUSED, "message": words}
            self._take(_write(self._message["id"], error))
        self._finish()

    @override
    def failed(self, error: AgentsError) -> None:
        if not self._is_answered:
            self._wire.fail(
                UpstreamProtocolError(f"the server ended the connection at {self._method}")
            )
        self._finish()

    @property
    def _method(self) -> str:
        return str(self._message.get("method", "a message"))

    def _fail(self, words: str) -> None:
        self._is_answered = True
        self._wire.fail(UpstreamProtocolError(f"the server {words}"))
        self.give_up()
        self._finish()

    def _finish(self) -> None:
        if not self.is_over.done():
            self.is_over.set_result(None)

    def _take(self, line: bytes) -> None:
        message = _read(line)
        if message is not None and "method" not in message:
            if message.get("id") != self._message.get("id"):
                return  # an answer to nothing that was asked here
            self._is_answered = True
            result = message.get("result")
            if self._message.get("method") == "initialize" and _is_object(result):
                self._wire.writer.learn_opening(result, self._session)
        self._wire.take(line)

    def _with_id(self, body: bytes) -> bytes:
        """Give an error the id of the request that it came for; many servers leave it out."""
        message = _read(body)
        if message is not None and "method" not in message and _is_object(message.get("error")):
            return _write(self._message["id"], message["error"])
        return body


def _write(identity: Json, error: Json) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": identity, "error": error})


def _read(line: bytes) -> JsonObject | None:
    try:
        if len(line) > jsonrpc.MAX_VALUES:  # a value takes a byte at least
            jsonrpc.check_breadth(line, jsonrpc.MAX_ANSWER_VALUES)
        value = cast("Json", orjson.loads(line))
    except (orjson.JSONDecodeError, MalformedMessageError):
        return None
    return value if _is_object(value) else None


def _is_object(value: Json) -> TypeGuard[JsonObject]:
    return isinstance(value, dict)
