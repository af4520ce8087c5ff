"""What goes to a server over HTTP, each with what it makes of the response.

Source: MCP 2026-07-28 and 2025-11-25, Streamable HTTP.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Final, Protocol, TypeAlias, final

from typing_extensions import override

from orchestrator.errors import (
    AgentsError,
    ProtocolError,
    TargetLostError,
    TargetUnavailableError,
    UpstreamProtocolError,
)
from orchestrator.gateway.upstream.attribution import exchange_token
from orchestrator.gateway.upstream.base import Outgoing
from orchestrator.protocol import jsonrpc
from orchestrator.protocol.sse import EventStream
from orchestrator.runtimes.http1 import Exchange

# One JSON body, or one event. A result of 64 MiB passes, with what stands around it.
BODY_LIMIT_BYTES: Final = 65 * 1024 * 1024
# A session's or an event's id, that can go into a header.
WORD: Final = re.compile(rb"[\x21-\x7e]{1,1024}")
_AGAIN_SECONDS: Final = 1.0
_AGAIN_LEAST_SECONDS: Final = 0.1
AGAIN_MOST_SECONDS: Final = 30.0

_OK: Final = 200
_BAD: Final = 400
_NOT_FOUND: Final = 404
_BROKEN: Final = 500
# A stream that the server still holds open for us, and too many requests.
_LATER: Final = frozenset({409, 429})
_JSON: Final = b"application/json"
_EVENTS: Final = b"text/event-stream"

# What a server says or asks, beside answers.
Said: TypeAlias = jsonrpc.Request | jsonrpc.Notification


def _read(data: bytes) -> jsonrpc.Message:
    """Read a message of a server.

    Raises:
        ProtocolError: It is none, or holds more than is read.
    """
    if len(data) > jsonrpc.MAX_VALUES:  # a value takes a byte at least
        jsonrpc.check_breadth(data, jsonrpc.MAX_ANSWER_VALUES)
    return jsonrpc.parse(jsonrpc.decode(data))


def again_seconds(stream: EventStream) -> float:
    """Tell when a stream that ended may be asked for again."""
    asked = _AGAIN_SECONDS if stream.retry_ms is None else stream.retry_ms / 1_000
    return min(max(asked, _AGAIN_LEAST_SECONDS), AGAIN_MOST_SECONDS)


class Owner(Protocol):
    """Whose the calls are."""

    def forget(self, identity: str, /) -> bool:
        """Let go of a call that is over; False if that was done before."""
        ...

    def hear(self, said: Said, call: "Call | None", /) -> None:
        """Take what the server says or asks on a call's way, or on a session's own stream."""
        ...

    def resume(self, call: "Call", last_id: bytes, seconds: float, /) -> bool:
        """Ask for the rest of a call's stream, after a while; False if that cannot be done."""
        ...

    def lose_session(self, call: "Call", /) -> None:
        """Hear that the server does not know the session of a call."""
        ...


@final
class Call(Exchange):
    """One request and its answer: one JSON body, or a stream of events with the answer in it.

    Attributes:
        id: The request's id, also its progress token.
        method: Its method.
        caller: Who hears what the server says meanwhile.
        token: The caller's own progress token, None without one.
        sent_at: Monotonic seconds at which it was made.
        future: Receives the answer.
        session: The session that it is sent in; empty without one.
        opens: The session that its answer opens, as the server names it.
        is_resent: Whether it was sent again in another session.
        stream: The events, once there are some.
    """

    __slots__ = (
        "_body",
        "_last_id",
        "_owner",
        "_status",
        "caller",
        "future",
        "id",
        "is_resent",
        "method",
        "opens",
        "sent_at",
        "session",
        "stream",
        "token",
    )

    def __init__(self, owner: Owner, identity: str, out: Outgoing, sent_at: float) -> None:
        """Take what is needed of a request; it is written with the token that this gives it.

        Args:
            owner: Hears what the server says meanwhile.
            identity: The request's id.
            out: The request; its progress token becomes the id.
            sent_at: Monotonic seconds.
        """
        super().__init__(b"")
        self.id = identity
        self.method = out.method
        self.caller = out.caller
        self.token = exchange_token(out.params, identity)
        self.sent_at = sent_at
        self.future: asyncio.Future[jsonrpc.Response] = asyncio.get_running_loop().create_future()
        self.session = b""
        self.opens = b""
        self.is_resent = False
        self.stream: EventStream | None = None
        self._owner = owner
        self._status = 0
        self._body: bytes | bytearray | None = None
        self._last_id = b""

    @override
    def took_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        kind = headers.get(b"content-type", b"").lower()
        if self.stream is not None:
            if status != _OK or not kind.startswith(_EVENTS):
                self._fail(TargetLostError("The instance gave no more of its answer"))
            self.stream = EventStream(BODY_LIMIT_BYTES)
            return
        if status == _NOT_FOUND and self.session:
            self._owner.lose_session(self)
            return
        self.request = b""
        self._status = status
        self.opens = headers.get(b"mcp-session-id", b"")
        if kind.startswith(_JSON) and (status == _OK or status >= _BAD):
            self._body = b""
        elif kind.startswith(_EVENTS) and status == _OK:
            self.stream = EventStream(BODY_LIMIT_BYTES)
        else:
            self._refuse()

    @override
    def took_piece(self, piece: bytes) -> None:
        if self.future.done():
            return
        if self.stream is not None:
            self._take_events(self.stream, piece)
        elif self._body is not None:
            if not self._body:
                self._body = piece
            elif isinstance(self._body, bytearray):
                self._body += piece
            else:
                self._body = bytearray(self._body) + piece
            if len(self._body) > BODY_LIMIT_BYTES:
                self._fail(
                    UpstreamProtocolError(f"An answer of more than {BODY_LIMIT_BYTES} bytes")
                )

    @override
    def ended(self) -> None:
        if self.future.done():
            return
        if self.stream is not None:
            if not self._resume():
                self._fail(UpstreamProtocolError("The stream ended without an answer"))
            return
        try:
            message = _read(bytes(self._body or b""))
        except ProtocolError:
            self._refuse()
            return
        if (
            isinstance(message, jsonrpc.Response)
            and message.id == self.id
            and (self._status == _OK or message.result is None)
        ):
            self._resolve(message)
        else:
            self._refuse()

    @override
    def failed(self, error: AgentsError) -> None:
        if isinstance(error, TargetLostError) and self._resume():
            return
        if isinstance(error, TargetUnavailableError) and self.stream is not None:
            # It was sent once, whatever became of the attempt to hear more of its answer.
            error = TargetLostError("The connection to the instance broke")
        self._fail(error)

    def give_up_unless_done(self) -> None:
        """Let go of the connection of a call that nobody waits for any more."""
        if not self.future.done() or self.future.cancelled():
            self.give_up()

    def _resolve(self, response: jsonrpc.Response) -> None:
        _ = self._owner.forget(self.id)
        if not self.future.done():
            self.future.set_result(response)

    def _fail(self, error: AgentsError) -> None:
        self.give_up()
        _ = self._owner.forget(self.id)
        if not self.future.done():
            self.future.set_exception(error)

    def _refuse(self) -> None:
        self._fail(
            UpstreamProtocolError(f"The answer, of HTTP status {self._status}, is no answer")
        )

    def _take_events(self, stream: EventStream, piece: bytes) -> None:
        try:
            events = stream.feed(piece)
        except UpstreamProtocolError as error:
            self._fail(error)
            return
        for data in events:
            if self.future.done():
                return
            try:
                message = _read(data)
            except ProtocolError:
                self._fail(UpstreamProtocolError("The stream holds what is no message"))
                return
            if not isinstance(message, jsonrpc.Response):
                self._owner.hear(message, self)
            elif message.id == self.id:
                self._resolve(message)
                self.linger()

    def _resume(self) -> bool:
        """Ask for the rest of the stream, if the server gave something to ask with.

        Source: MCP 2025-11-25, Transports: a server may end the connection before the answer.
        """
        stream = self.stream
        if stream is None or self.is_given_up or self.future.done():
            return False
        self._last_id = stream.last_id or self._last_id
        if not WORD.fullmatch(self._last_id):
            return False
        return self._owner.resume(self, self._last_id, again_seconds(stream))


@final
class Note(Exchange):
    """A message that gets no answer but a status; whatever else comes is passed over."""

    __slots__ = ("_after", "_taken")

    def __init__(
        self,
        request: bytes,
        taken: "asyncio.Future[int] | None" = None,
        after: Exchange | None = None,
    ) -> None:
        """Keep the request.

        Args:
            request: The request.
            taken: Receives the HTTP status.
            after: Is given up when the message has been taken, or cannot be.
        """
        super().__init__(request)
        self._taken = taken
        self._after = after

    @override
    def took_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self.linger()
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(status)
        self._let_go()

    @override
    def took_piece(self, piece: bytes) -> None:
        pass

    @override
    def ended(self) -> None:
        pass

    @override
    def failed(self, error: AgentsError) -> None:
        if self._taken is not None and not self._taken.done():
            self._taken.set_exception(error)
        self._let_go()

    def _let_go(self) -> None:
        if self._after is not None:
            self._after.give_up()


@final
class Listening(Exchange):
    """The stream of a session for what belongs to no request.

    Attributes:
        stream: Its events.
        is_offered: Whether the server has such a stream, as far as is known.
        is_over: Is done when it ended.
    """

    __slots__ = ("_begun", "_is_open", "_owner", "is_offered", "is_over", "stream")

    def __init__(self, owner: Owner, request: bytes, begun: asyncio.Event) -> None:
        """Keep the request.

        Args:
            owner: Hears what the server says.
            request: The request.
            begun: Is set when the response begins, whatever it is.
        """
        super().__init__(request)
        self._owner = owner
        self._begun = begun
        self.stream = EventStream(BODY_LIMIT_BYTES)
        self.is_offered = True
        self._is_open = False
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @override
    def took_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        kind = headers.get(b"content-type", b"").lower()
        self._is_open = status == _OK and kind.startswith(_EVENTS)
        self.is_offered = self._is_open or status in _LATER or status >= _BROKEN
        if not self._is_open:
            self.linger()
        self._begun.set()

    @override
    def took_piece(self, piece: bytes) -> None:
        if not self._is_open:
            return
        try:
            for data in self.stream.feed(piece):
                message = _read(data)
                if not isinstance(message, jsonrpc.Response):
                    self._owner.hear(message, None)
        except (ProtocolError, UpstreamProtocolError):
            self.give_up()
            self.ended()

    @override
    def ended(self) -> None:
        if not self.is_over.done():
            self.is_over.set_result(None)

    @override
    def failed(self, error: AgentsError) -> None:
        self.ended()
