"""HTTP/1.1 to one server, on connections that are kept.

A request is one object, an `Exchange`, which hears the response piece by piece: no task, no
future and no queue stands between the socket and whoever asked. A connection carries one request
at a time. Redirects are not followed and cookies are not kept.

A kept connection may be closed by the server just as a request goes out. A request of which
nothing left this process is sent again on a new connection; any other may have been carried out,
and ends as lost. That this is rare is seen to by closing connections that were idle for a few
seconds, which is sooner than servers do it, and by looking at those that were idle for one.

Source: RFC 9112; RFC 9110, section 9.2.2, on what may be sent again.
"""

import asyncio
import select
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final, cast, final

import anyio
import httptools
from typing_extensions import override

from orchestrator.errors import (
    AgentsError,
    TargetLostError,
    TargetUnavailableError,
    UpstreamProtocolError,
)
from orchestrator.runtimes.address import HOST, Address
from orchestrator.runtimes.ports import check_listener, check_own

# A response's head; also what may come between two pieces of a body.
HEAD_LIMIT_BYTES: Final = 65_536
MAX_CONNECTIONS: Final = 512
MAX_IDLE: Final = 128
# What may wait for a connection, or to be read by a server that does not read.
MAX_UNSENT_BYTES: Final = 64 * 1024 * 1024
_CONNECT_SECONDS: Final = 5.0
_BACKLOG_SECONDS: Final = 0.005
# An idle connection is closed at the second tick: after two to four seconds. uvicorn and Node.js
# close theirs after five.
_TICK_SECONDS: Final = 2.0
_TICKS: Final = 2
# One that is no larger fits into the empty buffer of an idle connection, whole or not at all.
_WHOLE_BYTES: Final = 65_536
_FIRST_FINAL_STATUS: Final = 200
_WITHOUT_BODY: Final = frozenset({204, 304})


class Exchange(ABC):
    """One request; a subclass hears the response. What it does then must not raise or block.

    Attributes:
        request: The whole request; whoever needs it no longer may empty it once the head is there.
        carrier: The connection that carries it, None before and after.
        is_given_up: Whether nobody wants to hear anything more.
    """

    __slots__ = ("carrier", "is_given_up", "request")

    def __init__(self, request: bytes) -> None:
        """Keep the request; `HttpClient.send` sends it."""
        self.request = request
        self.carrier: _Connection | None = None
        self.is_given_up = False

    @abstractmethod
    def took_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """Hear status and headers, names in lower case."""

    @abstractmethod
    def took_piece(self, piece: bytes) -> None:
        """Hear a piece of the body."""

    @abstractmethod
    def ended(self) -> None:
        """Hear that the response was whole."""

    @abstractmethod
    def failed(self, error: AgentsError) -> None:
        """Hear that there is no response, or no more of it.

        Args:
            error: A `TargetUnavailableError` if nothing was sent, else a `TargetLostError` or an
                `UpstreamProtocolError`.
        """

    def give_up(self) -> None:
        """Hear nothing more. If the request is under way, its connection is closed."""
        self.is_given_up = True
        if self.carrier is not None:
            self.carrier.drop()

    def linger(self) -> None:
        """Let the response end within a few seconds, or close the connection."""
        if self.carrier is not None:
            self.carrier.linger()


@final
class _Connection(asyncio.Protocol):
    """One connection; an idle one has no exchange."""

    __slots__ = (
        "_client",
        "_exchange",
        "_has_head",
        "_headers",
        "_is_done",
        "_is_fresh",
        "_is_silent",
        "_is_spoiled",
        "_keeps",
        "_parser",
        "_transport",
        "_unheard",
        "_until_end",
        "lingers",
        "tick",
    )

    def __init__(self, client: "HttpClient") -> None:
        self.tick = 0
        self.lingers = False
        self._client = client
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._headers: dict[bytes, bytes] = {}
        self._has_head = False
        self._is_done = False
        self._is_fresh = True
        self._is_silent = True
        self._is_spoiled = False
        self._keeps = False
        self._until_end = False
        self._unheard = 0

    @property
    def is_idle(self) -> bool:
        return self._exchange is None

    def is_stale(self) -> bool:
        """Tell whether something came that the loop did not see yet: an end, as nothing is due."""
        if self._transport is None:
            return True
        connection = cast("socket.socket", self._transport.get_extra_info("socket"))
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def send(self, exchange: Exchange) -> None:
        transport = self._transport
        if transport is None:
            raise AssertionError("not connected")
        self._exchange = exchange
        exchange.carrier = self
        self._is_silent = True
        transport.write(exchange.request)

    def unsent(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def drop(self) -> None:
        """Close at once; the exchange hears nothing of it."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.carrier = None
        self._client.unlist(self)
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close when all that was written has gone out."""
        exchange, self._exchange = self._exchange, None
        if self._transport is not None:
            self._transport.close()
        if exchange is not None:
            exchange.carrier = None
            exchange.failed(TargetLostError("The connection to the instance was closed"))

    def linger(self) -> None:
        self.lingers = True
        self._client.watch(self)

    # What the transport tells.

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Streams have this one; the loops' own classes differ.
        self._transport = cast("asyncio.Transport", transport)

    @override
    def data_received(self, data: bytes) -> None:
        client = self._client
        client.heard = client.monotonic()
        if self._exchange is None:
            self.drop()  # it says something that nobody asked for
            return
        self._is_silent = False
        self._unheard += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # a mistake of ours
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(UpstreamProtocolError("The instance's answer is no HTTP"))
            return
        if self._is_done:
            self._finish()
        elif self._unheard > HEAD_LIMIT_BYTES:
            self._fail(UpstreamProtocolError("The instance's answer has too large a head"))

    @override
    def eof_received(self) -> None:
        self._client.unlist(self)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._client.forget(self)
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        exchange.carrier = None
        if self._has_head and self._until_end and exc is None:
            exchange.ended()
        elif (
            # The server had closed it before; not one byte of the request was taken.
            self._is_silent
            and isinstance(exc, BrokenPipeError)
            and len(exchange.request) <= _WHOLE_BYTES
        ):
            if self._is_fresh:
                exchange.failed(TargetUnavailableError("The instance takes no requests"))
            else:
                self._client.send_anew(exchange)
        else:
            exchange.failed(TargetLostError("The connection to the instance broke"))

    # What the parser tells.

    def on_message_begin(self) -> None:
        """Hear that a response begins; a second one is none that anybody asked for."""
        self._is_spoiled = self._is_done

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those after the body are passed over."""
        if not self._has_head:
            self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Hear that the head is whole, unless it is of an interim response."""
        status = self._parser.get_status_code()
        headers, self._headers = self._headers, {}
        if status < _FIRST_FINAL_STATUS or self._is_done:
            return
        self._has_head = True
        self._unheard = 0
        self._until_end = not (
            b"content-length" in headers
            or b"transfer-encoding" in headers
            or status in _WITHOUT_BODY
        )
        if self._exchange is not None:
            self._exchange.took_head(status, headers)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._unheard = 0
        if self._exchange is not None and not self._is_done:
            self._exchange.took_piece(body)

    def on_message_complete(self) -> None:
        """Hear that the response is whole, unless it is an interim one."""
        if self._has_head and not self._is_done:
            self._is_done = True
            self._keeps = self._parser.should_keep_alive()

    def _finish(self) -> None:
        exchange, self._exchange = self._exchange, None
        self._has_head = self._is_done = self._is_fresh = self.lingers = False
        self._unheard = 0
        if exchange is None:  # given up on the way; the connection is closed
            return
        exchange.carrier = None
        if self._keeps and not self._is_spoiled:
            self._client.release(self)
        else:
            self.close()
        exchange.ended()

    def _fail(self, error: AgentsError) -> None:
        exchange = self._exchange
        self.drop()
        if exchange is not None:
            exchange.failed(error)


@final
class HttpClient:
    """All connections to one server.

    Attributes:
        heard: Monotonic seconds at which something last came.
        monotonic: Where these come from.
    """

    def __init__(self, address: Address, monotonic: Callable[[], float], group: int = 0) -> None:
        """Keep the address; nothing is opened before `run`.

        Args:
            address: Where the server listens.
            monotonic: Where times come from.
            group: The server's process group, which has to hold the port; 0 if it is not known.
        """
        self.heard = monotonic()
        self.monotonic = monotonic
        self._address = address
        self._group = group
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._waiting: deque[Exchange] = deque()
        self._waiting_bytes = 0
        self._opening = 0
        self._wake = asyncio.Event()
        self._tick = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def run(self) -> None:
        """Open connections as they are needed, until cancelled."""
        async with anyio.create_task_group() as group:
            while True:
                room = MAX_CONNECTIONS - len(self._all) - self._opening
                for _ in range(min(len(self._waiting) - self._opening, room)):
                    self._opening += 1
                    group.start_soon(self._open_for_waiting)
                self._wake.clear()
                _ = await self._wake.wait()

    async def warm(self) -> None:
        """Have a connection at hand, so that the next request goes out at once.

        Raises:
            OSError: Nobody listens.
            TargetUnavailableError: Somebody else does.
        """
        if not self._idle:
            self.release(await self._connect())

    def send(self, exchange: Exchange) -> None:
        """Send a request at once, or as soon as there is a connection.

        Raises:
            TargetUnavailableError: It is not sent at all: too much waits, or all was closed.
        """
        if self._is_closed:
            raise TargetUnavailableError("The instance is gone")
        if len(exchange.request) > _WHOLE_BYTES:
            self._check_room(len(exchange.request))
        while self._idle:
            connection = self._idle.pop()
            if connection.tick == self._tick or not connection.is_stale():
                connection.send(exchange)
                return
            connection.drop()
        if len(exchange.request) + self._waiting_bytes > MAX_UNSENT_BYTES:
            raise TargetUnavailableError("The instance does not read what it is sent")
        self._waiting.append(exchange)
        self._waiting_bytes += len(exchange.request)
        self._wake.set()

    def close(self) -> None:
        """Close everything; what is under way ends as lost, what waits as not sent."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, deque()
        for exchange in waiting:
            exchange.failed(TargetUnavailableError("The connection to the instance was closed"))
        for connection in tuple(self._all):
            connection.close()

    async def _open_for_waiting(self) -> None:
        try:
            connection = await self._connect()
        except (OSError, TargetUnavailableError) as error:
            self._opening -= 1
            known = error if isinstance(error, TargetUnavailableError) else None
            self._refuse_one(known or TargetUnavailableError("The instance does not listen"))
            return
        self._opening -= 1
        self.release(connection)

    async def _connect(self) -> _Connection:
        loop, address = asyncio.get_running_loop(), self._address
        with anyio.fail_after(_CONNECT_SECONDS):
            while True:
                try:
                    if address.socket:
                        transport, connection = await loop.create_unix_connection(
                            lambda: _Connection(self), address.socket
                        )
                        check_listener(transport, self._group)
                    else:
                        if not address.host:
                            check_own(address.port, self._group)
                        _, connection = await loop.create_connection(
                            lambda: _Connection(self), address.host or HOST, address.port
                        )
                except BlockingIOError:  # more connect at this moment than the socket queues
                    await anyio.sleep(_BACKLOG_SECONDS)
                else:
                    self._all.add(connection)
                    return connection

    def _refuse_one(self, error: TargetUnavailableError) -> None:
        while self._waiting:
            exchange = self._waiting.popleft()
            self._waiting_bytes -= len(exchange.request)
            if not exchange.is_given_up:
                exchange.failed(error)
                return

    def _check_room(self, size: int) -> None:
        """Bound what a server that does not read can make this process keep."""
        unsent = sum(connection.unsent() for connection in self._all)
        if unsent + self._waiting_bytes + size > MAX_UNSENT_BYTES:
            raise TargetUnavailableError("The instance does not read what it is sent")

    # What connections do.

    def release(self, connection: _Connection) -> None:
        """Take back a connection that is free again."""
        while self._waiting:
            exchange = self._waiting.popleft()
            self._waiting_bytes -= len(exchange.request)
            if not exchange.is_given_up:
                connection.send(exchange)
                return
        if self._is_closed or len(self._idle) >= MAX_IDLE:
            connection.close()
            return
        self._idle.append(connection)
        self.watch(connection)

    def send_anew(self, exchange: Exchange) -> None:
        """Send a request on a new connection, before those that wait already."""
        if self._is_closed:
            exchange.failed(TargetUnavailableError("The connection to the instance was closed"))
            return
        self._waiting.appendleft(exchange)
        self._waiting_bytes += len(exchange.request)
        self._wake.set()

    def unlist(self, connection: _Connection) -> None:
        """Send nothing more on a connection."""
        if connection in self._idle:
            self._idle.remove(connection)

    def forget(self, connection: _Connection) -> None:
        """Hear that a connection is gone."""
        self.unlist(connection)
        self._all.discard(connection)
        if self._waiting:
            self._wake.set()

    def watch(self, connection: _Connection) -> None:
        """Close a connection in a few seconds, if it is idle or lingers until then."""
        connection.tick = self._tick
        if self._timer is None and not self._is_closed:
            self._timer = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._on_tick)

    def _on_tick(self) -> None:
        self._timer = None
        self._tick += 1
        watched = [each for each in self._all if each.is_idle or each.lingers]
        for connection in watched:
            if connection.tick <= self._tick - _TICKS:
                self.unlist(connection)
                connection.close()
        if watched:
            self._timer = asyncio.get_running_loop().call_later(_TICK_SECONDS, self._on_tick)


def head(method: str, address: Address, headers: Iterable[tuple[str, str]]) -> bytes:
    """Write the head of a request, without its end.

    Args:
        method: The HTTP method.
        address: Where it goes.
        headers: Headers beside `Host`; printable ASCII, as whoever gives them has checked.
    """
    lines = [
        f"{method} {address.path} HTTP/1.1",
        f"host: {address.authority}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join((*lines, "")).encode("ascii")


def with_body(begun: bytes, body: bytes) -> bytes:
    """End a head, and add a body."""
    return b"%bcontent-length: %d\r\n\r\n%b" % (begun, len(body), body)


def without_body(begun: bytes) -> bytes:
    """End a head."""
    return begun + b"\r\n"


def body_of(request: bytes) -> bytes:
    """Tell the body of a request."""
    return request.partition(b"\r\n\r\n")[2]
