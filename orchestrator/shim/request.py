"""One HTTP request to the gateway on this machine, on a connection of its own.

No connection is used twice: one that was kept may be closed by the other side just as a call goes
out, and nobody could tell whether the call arrived. To this machine a new one costs next to
nothing, and closing it takes a call back.
"""

import os
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal, Self, TypeAlias, cast, final
from urllib.parse import urlsplit

import anyio
import httptools

from orchestrator.errors import (
    SettingsError,
    TargetLostError,
    TargetUnavailableError,
    UpstreamProtocolError,
)
from orchestrator.runtimes.ports import listeners

# No message is longer, in either direction: more than the gateway takes from any server.
LONGEST_BYTES: Final = 72 * 1024 * 1024

_CONNECT_SECONDS: Final = 5.0
_CHUNK_BYTES: Final = 262_144
_LARGE_BYTES: Final = 262_144
# Source: RFC 9110, section 10.1.1: a server may never give leave.
_LEAVE_SECONDS: Final = 2.0
_FIRST_FINAL_STATUS: Final = 200
_STREAM: Final = "text/event-stream"

Verb: TypeAlias = Literal["POST", "GET", "DELETE"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a role is reached.

    Attributes:
        host: An address of this machine.
        port: The port.
        path: The path.
    """

    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL.

        Raises:
            SettingsError: It leads to another machine, where a token must not go without TLS.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
            if port is not None and parts.scheme == "http" and ip_address(host).is_loopback:
                return cls(host, port, parts.path)
        except ValueError:
            pass
        raise SettingsError(f"{url!r} is no address of this machine")

    @property
    def authority(self) -> str:
        """The `Host` header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@final
class Answer:
    """An HTTP response that is on its way.

    Attributes:
        status: The status.
        headers: Headers, names in lower case.
    """

    def __init__(self, connection: socket.socket) -> None:
        """Read from a connection on which a request was sent."""
        self.status = 0
        self.headers: dict[str, str] = {}
        self._connection = connection
        self._parser = httptools.HttpResponseParser(self)
        self._pieces: list[bytes] = []
        self._held_bytes = 0
        self._may_go_on = False
        self._has_head = False
        self._is_complete = False

    @property
    def media(self) -> str:
        """What the body is, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def is_stream(self) -> bool:
        """Whether the body is an event stream."""
        return self.media == _STREAM

    @property
    def length(self) -> int:
        """How long the body will be; 0 if that is not told."""
        told = self.headers.get("content-length", "")
        return int(told) if told.isdigit() else 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header from the parser."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Hear from the parser that the body begins."""
        self.status = self._parser.get_status_code()
        self._has_head = self.status >= _FIRST_FINAL_STATUS

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body from the parser."""
        self._pieces.append(body)
        self._held_bytes += len(body)

    def on_message_complete(self) -> None:
        """Hear from the parser that this is all, or that the body of the request may come."""
        if self._has_head:
            self._is_complete = True
        else:
            self._may_go_on = True
            self.headers.clear()

    async def wants_body(self) -> bool:
        """Wait for leave to send the body; False if the request was answered without it."""
        with anyio.move_on_after(_LEAVE_SECONDS):
            while not self._has_head and not self._may_go_on:
                await self._read()
        return not self._has_head

    async def read_head(self) -> None:
        """Read status and headers."""
        while not self._has_head:
            await self._read()

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Read the body, piece by piece as it comes."""
        while True:
            pieces, self._pieces, self._held_bytes = self._pieces, [], 0
            for piece in pieces:
                yield piece
            if self._is_complete:
                return
            await self._read()

    async def body(self) -> bytes:
        """Read the whole body."""
        while not self._is_complete:
            if max(self.length, self._held_bytes) > LONGEST_BYTES:
                raise UpstreamProtocolError(
                    f"the gateway's answer is longer than {LONGEST_BYTES} bytes"
                )
            await self._read()
        return b"".join(self._pieces)

    async def _read(self) -> None:
        while True:
            try:
                data = self._connection.recv(_CHUNK_BYTES)
                break
            except BlockingIOError:
                await anyio.wait_readable(self._connection)
            except OSError as error:
                raise TargetLostError("the connection to the gateway broke") from error
        if not data:
            raise TargetLostError("the gateway went away before it answered")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise UpstreamProtocolError(
                "what answers at the gateway's address is no HTTP"
            ) from error


@asynccontextmanager
async def request(
    endpoint: Endpoint, verb: Verb, headers: Sequence[tuple[str, str]], body: bytes = b""
) -> AsyncGenerator[Answer]:
    """Send one request; leaving the block early hangs up.

    Args:
        endpoint: Where to.
        verb: The HTTP method.
        headers: Headers; printable ASCII, as whoever gives them has checked.
        body: The body, of a POST.

    Yields:
        The answer, its head read.

    Raises:
        TargetUnavailableError: Nobody listens; nothing was sent.
        TargetLostError: The connection broke; what was sent may have arrived.
        UpstreamProtocolError: The answer is no HTTP.
    """
    head = [
        f"{verb} {endpoint.path} HTTP/1.1",
        f"host: {endpoint.authority}",
        "connection: close",
        *(f"{name}: {value}" for name, value in headers),
    ]
    if verb == "POST":
        head += [
            "content-type: application/json",
            f"accept: application/json, {_STREAM}",
            f"content-length: {len(body)}",
        ]
    else:
        head.append(f"accept: {_STREAM}")
    with closing(await _connect(endpoint)) as connection:
        answer = Answer(connection)
        if len(body) > _LARGE_BYTES:
            # Who refuses a request closes the connection before all of the body is read, and
            # that may destroy the answer on its way: so ask first.
            await _send(connection, _join([*head, "expect: 100-continue"]))
            if await answer.wants_body():
                await _send(connection, body)
        else:
            await _send(connection, _join(head) + body)
        await answer.read_head()
        yield answer


def _join(head: Sequence[str]) -> bytes:
    return "\r\n".join((*head, "", "")).encode("ascii")


async def _connect(endpoint: Endpoint) -> socket.socket:
    family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(0)
        with anyio.fail_after(_CONNECT_SECONDS):
            try:
                connection.connect((endpoint.host, endpoint.port))
            except BlockingIOError:
                await anyio.wait_writable(connection)
        _check_connected(connection)
        _check_owner(endpoint)
    except OSError as error:
        connection.close()
        raise TargetUnavailableError(
            "the gateway cannot be reached; nothing was sent", hint="See `agents status`."
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _check_connected(connection: socket.socket) -> None:
    failure = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if failure:
        raise OSError(failure, os.strerror(failure))
    # Where nobody listens, the kernel may give the connection the same port at both ends.
    if cast("object", connection.getsockname()) == cast("object", connection.getpeername()):
        raise ConnectionRefusedError


def _check_owner(endpoint: Endpoint) -> None:
    """Make sure that no other user of this machine took the port while the gateway was away.

    Raises:
        TargetUnavailableError: Somebody did; the token is not for them.
    """
    table = Path("/proc/net/tcp6" if ":" in endpoint.host else "/proc/net/tcp")
    try:
        found = listeners(table.read_text("ascii"), endpoint.port)
    except OSError:
        return  # no Linux
    if not {each.uid for each in found} <= {0, os.geteuid()}:
        raise TargetUnavailableError(
            f"port {endpoint.port} belongs to another user now; nothing was sent",
            hint="See `agents status`.",
        )


async def _send(connection: socket.socket, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[connection.send(rest) :]
        except BlockingIOError:
            await anyio.wait_writable(connection)
        except OSError:
            # Whoever refuses a request does not read all of it: the answer may be there already.
            return
